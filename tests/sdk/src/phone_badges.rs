//! Unread badges: as the server counts, and as the phone does with the server's receipts.

use anyhow::{Context as _, Result};
use matrix_sdk::{
    Room,
    ruma::{
        api::client::receipt::create_receipt::v3::ReceiptType,
        events::{Mentions, room::message::RoomMessageEventContent},
    },
};

use crate::{
    Servers,
    people::Account,
    phone::{Phone, room_of, say, tell, timeline},
};

/// Messages and mentions are counted; what is read on one device is read on the other, and on one that comes later.
pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let (phone, tablet) = (Phone::start(&bob).await?, Phone::start(&bob).await?);
    let room_id = room_of(&alice, &phone, "The cave").await?;
    let on_phone = phone.accept(&room_id).await?;
    let on_tablet = tablet.open(&room_id).await?;

    say(&alice, &room_id, "one").await?;
    say(&alice, &room_id, "two").await?;
    counts(&phone, &on_phone, (2, 0)).await?;
    let call = RoomMessageEventContent::text_plain("Bob, three")
        .add_mentions(Mentions::with_user_ids([bob.user_id.clone()]));
    tell(&alice, &room_id, call).await?;
    for (device, room) in [(&phone, &on_phone), (&tablet, &on_tablet)] {
        counts(device, room, (3, 1)).await?;
        device
            .until("the phone's own counts", async || {
                let own = (room.num_unread_messages(), room.num_unread_mentions());
                Ok((own == (3, 1)).then_some(()))
            })
            .await?;
    }
    let late = Phone::start(&bob).await?;
    let on_late = late.client.get_room(&room_id);
    let on_late = late
        .until("the room", async || Ok(on_late.clone().or_else(|| late.client.get_room(&room_id))))
        .await?;
    counts(&late, &on_late, (3, 1)).await?;

    let view = timeline(&on_tablet).await?;
    tablet.reads(&view, "Bob, three").await?;
    view.mark_as_read(ReceiptType::Read).await.context("a receipt")?;
    for (device, room) in [(&phone, &on_phone), (&tablet, &on_tablet), (&late, &on_late)] {
        counts(device, room, (0, 0)).await?;
        device
            .until("the phone's own counts", async || {
                Ok((room.num_unread_messages() == 0 && room.num_unread_mentions() == 0)
                    .then_some(()))
            })
            .await?;
    }
    say(&alice, &room_id, "four").await?;
    counts(&phone, &on_phone, (1, 0)).await
}

/// Waits until the server counts so many notifications and highlights.
async fn counts(phone: &Phone, room: &Room, expected: (u64, u64)) -> Result<()> {
    let seen = || {
        let counts = room.unread_notification_counts();
        (counts.notification_count, counts.highlight_count)
    };
    let waiting = phone.until("the counts", async || Ok((seen() == expected).then_some(())));
    waiting.await.with_context(|| format!("expected {expected:?}, and there is {:?}", seen()))
}
