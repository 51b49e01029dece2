//! Threads: a summary in the room, a view of their own, and a list.

use anyhow::{Context as _, Result, ensure};
use matrix_sdk::ruma::{
    EventId, OwnedEventId, RoomId,
    events::{
        relation::Thread,
        room::message::{Relation, RoomMessageEventContent},
    },
};
use matrix_sdk_ui::timeline::{EventTimelineItem, RoomExt as _, ThreadListService, TimelineFocus};

use crate::{
    Servers,
    people::{Account, Device},
    phone::{Phone, item, room_of, say, scroll_to_start, tell, timeline},
};

const ANSWERS: usize = 30;

/// What is said in a thread is summed up at its root and read in its own view, from its start; the phone answers there.
pub(crate) async fn scenario(servers: &Servers) -> Result<()> {
    let alice = Account::register(&servers.first, "alice").await?.device().await?;
    let bob = Account::register(&servers.first, "bob").await?;
    let old = Phone::start(&bob).await?;
    let room_id = room_of(&alice, &old, "The cave").await?;
    old.accept(&room_id).await?;
    let root = say(&alice, &room_id, "who has the map?").await?;
    let mut said = vec!["who has the map?".to_owned()];
    for number in 0..ANSWERS {
        said.push(format!("answer {number}"));
        answer(&alice, &room_id, &root, &format!("answer {number}")).await?;
    }
    say(&alice, &room_id, "something else").await?;

    let phone = Phone::start(&bob).await?;
    let opened = phone.open(&room_id).await?;
    let view = timeline(&opened).await?;
    phone.reads(&view, "something else").await?;
    scroll_to_start(&view).await?;
    let in_room = ["who has the map?", "something else"].map(str::to_owned);
    phone.reads_all(&view, &in_room).await?;
    item(&phone, &view, &root, |item| replies(item) == ANSWERS).await?;

    let focus = TimelineFocus::Thread { root_event_id: root.clone() };
    let thread = opened.timeline_builder().with_focus(focus).build().await.context("the thread")?;
    scroll_to_start(&thread).await?;
    phone.reads_all(&thread, &said).await?;
    thread.send(RoomMessageEventContent::text_plain("I do").into()).await?;
    said.push("I do".to_owned());
    phone.reads_all(&thread, &said).await?;
    item(&phone, &view, &root, |item| replies(item) == ANSWERS + 1).await?;
    answer(&alice, &room_id, &root, "then dig").await?;
    said.push("then dig".to_owned());
    phone.reads_all(&thread, &said).await?;

    let list = ThreadListService::new(opened);
    list.paginate().await.context("the list of threads")?;
    let items = list.items();
    let [only] = items.as_slice() else { anyhow::bail!("{} threads", items.len()) };
    ensure!(only.root_event.event_id == root, "another thread: {:?}", only.root_event);
    ensure!(only.num_replies as usize == ANSWERS + 2, "{} replies", only.num_replies);
    Ok(())
}

fn replies(item: &EventTimelineItem) -> usize {
    item.content().thread_summary().map_or(0, |summary| summary.num_replies as usize)
}

async fn answer(
    alice: &Device,
    room_id: &RoomId,
    root: &EventId,
    text: &str,
) -> Result<OwnedEventId> {
    let mut content = RoomMessageEventContent::text_plain(text);
    content.relates_to = Some(Relation::Thread(Thread::without_fallback(root.to_owned())));
    tell(alice, room_id, content).await
}
