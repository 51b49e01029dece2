//! A room on the screen: scrolling back, what is said meanwhile, edits and reactions, files, and encryption.

use anyhow::{Context as _, Result, ensure};
use matrix_sdk::ruma::events::{
    reaction::ReactionEventContent,
    relation::Annotation,
    room::message::{MessageType, ReplacementMetadata, RoomMessageEventContent},
};
use matrix_sdk_ui::timeline::{AttachmentConfig, AttachmentSource};

use crate::{
    Servers,
    people::Account,
    phone::{Phone, body, item, messages, room_of, say, scroll_to_start, tell, texts, timeline},
};

const MESSAGES: usize = 70;

/// Every message once and in order, from the newest to the room's start; then news, an edit and a reaction.
pub(crate) async fn scroll_back(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let old = Phone::start(&bob).await?;
    let room_id = room_of(&alice, &old, "The cave").await?;
    old.accept(&room_id).await?;
    let mut said: Vec<String> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    for text in &said {
        say(&alice, &room_id, text).await?;
    }

    let phone = Phone::start(&bob).await?;
    let view = timeline(&phone.open(&room_id).await?).await?;
    phone.reads(&view, &format!("message {}", MESSAGES - 1)).await?;
    scroll_to_start(&view).await?;
    phone.reads_all(&view, &said).await?;

    let edited = say(&alice, &room_id, "ten paces nroth").await?;
    phone.reads(&view, "ten paces nroth").await?;
    let content = RoomMessageEventContent::text_plain("ten paces north");
    let replaces = ReplacementMetadata::new(edited.clone(), None);
    tell(&alice, &room_id, content.make_replacement(replaces)).await?;
    item(&phone, &view, &edited, |item| body(item) == "ten paces north").await?;
    let reaction = Annotation::new(edited.clone(), "👍".to_owned());
    tell(&alice, &room_id, ReactionEventContent::new(reaction)).await?;
    let has_reaction = |item: &matrix_sdk_ui::timeline::EventTimelineItem| {
        item.content().reactions().is_some_and(|reactions| reactions.contains_key("👍"))
    };
    item(&phone, &view, &edited, has_reaction).await?;
    view.send(RoomMessageEventContent::text_plain("I dig").into()).await?;
    phone.reads(&view, "I dig").await?;
    said.extend(["ten paces north".to_owned(), "I dig".to_owned()]);
    phone.reads_all(&view, &said).await?;

    let late = Phone::start(&bob).await?;
    let view = timeline(&late.open(&room_id).await?).await?;
    late.reads(&view, "I dig").await?;
    scroll_to_start(&view).await?;
    late.reads_all(&view, &said).await?;
    item(&late, &view, &edited, has_reaction).await?;
    Ok(())
}

/// What the phone and another device say is read by each other, with keys that come by a sliding sync of their own.
pub(crate) async fn encrypted_talk(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let phone = Phone::start(&bob).await?;
    let (room_id, view) = meet(&alice, &phone).await?;
    alice.say(&room_id, "the first secret").await?;
    phone.reads(&view, "the first secret").await?;
    view.send(RoomMessageEventContent::text_plain("the answer").into()).await?;
    alice.reads(&room_id, "the answer").await?;

    let tablet = Phone::start(&bob).await?;
    let on_tablet = timeline(&tablet.open(&room_id).await?).await?;
    let tablet_id = tablet.client.device_id().context("logged in")?;
    alice
        .until("the tablet", async || {
            Ok(alice.client.encryption().get_device(&bob.user_id, tablet_id).await?)
        })
        .await?;
    alice.say(&room_id, "for both").await?;
    phone.reads(&view, "for both").await?;
    tablet.reads(&on_tablet, "for both").await?;
    scroll_to_start(&on_tablet).await?;
    ensure!(
        texts(&on_tablet).await == ["for both"],
        "read without a key: {:?}",
        texts(&on_tablet).await
    );
    tablet
        .until("two messages of before the tablet", async || {
            let items = on_tablet.items().await;
            let events = items.iter().filter_map(|item| item.as_event());
            let unreadable = events.filter(|item| item.content().is_unable_to_decrypt()).count();
            Ok((unreadable == 2).then_some(()))
        })
        .await?;
    Ok(())
}

/// Files both ways in an encrypted room.
pub(crate) async fn media(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let phone = Phone::start(&Account::register(&servers.first, "bob").await?).await?;
    let (room_id, view) = meet(&alice, &phone).await?;
    let map = b"ten paces to the north of the palm".repeat(1000);
    alice.send_file(&room_id, "map.txt", map.clone()).await?;
    let seen = phone.reads(&view, "map.txt").await?;
    let message = seen.content().as_message().context("a message")?;
    let MessageType::File(file) = message.msgtype() else { anyhow::bail!("{message:?}") };
    let got = phone.client.media().get_file(file, false).await.context("the download")?;
    ensure!(got.as_ref() == Some(&map), "other bytes than were sent");

    let list = b"one chest, two spades".repeat(500);
    let source = AttachmentSource::Data { bytes: list.clone(), filename: "list.txt".to_owned() };
    let sending = view.send_attachment(source, "text/plain".parse()?, AttachmentConfig::default());
    sending.await.context("the upload")?;
    let sent = phone.reads(&view, "list.txt").await?;
    let event_id = sent.event_id().context("sent")?;
    let file = alice.sees_file(&room_id, event_id).await?;
    let got = alice.client.media().get_file(&file, false).await.context("the download")?;
    ensure!(got.as_ref() == Some(&list), "other bytes than were sent");
    ensure!(messages(&view).await.len() == 2, "{:?}", texts(&view).await);
    Ok(())
}

/// An encrypted room of the two, made by Alice, and the phone's view of it.
async fn meet(
    alice: &crate::people::Device,
    phone: &Phone,
) -> Result<(matrix_sdk::ruma::OwnedRoomId, matrix_sdk_ui::Timeline)> {
    let bob_id = phone.client.user_id().context("logged in")?;
    let room_id = alice.client.create_dm(bob_id).await?.room_id().to_owned();
    let room = phone.accept(&room_id).await?;
    phone
        .until("encryption", async || Ok(room.encryption_state().is_encrypted().then_some(())))
        .await?;
    alice.is_with(&room_id, 2).await?;
    Ok((room_id, timeline(&room).await?))
}
