//! A device as Element X is one: the rooms and the keys come by two sliding syncs of their own, and what is on the screen is
//! matrix-sdk-ui's room list and timelines.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, pin_mut};
use matrix_sdk::{
    Client, Room, RoomState,
    ruma::{
        EventId, OwnedEventId, OwnedRoomId, RoomId,
        api::client::room::create_room,
        events::{AnyMessageLikeEventContent, room::message::RoomMessageEventContent},
    },
};
use matrix_sdk_ui::{
    RoomListService, Timeline,
    eyeball_im::Vector,
    room_list_service::{RoomListItem, filters},
    sync_service::{State, SyncService},
    timeline::{EventTimelineItem, RoomExt as _},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::people::{Account, DEADLINE, Device, POLL};

/// More rooms than any scenario has: all of them are on the screen.
const SCREEN: usize = 100;
/// How many events a timeline asks for at once.
const PAGE: u16 = 20;
/// More pages than any room here has.
const MOST_PAGES: usize = 40;

/// A device of a user with a room list.
pub(crate) struct Phone {
    pub(crate) client: Client,
    pub(crate) sync: Arc<SyncService>,
    shown: Arc<Mutex<Vector<RoomListItem>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Phone {
    /// Logs in and starts to sync.
    pub(crate) async fn start(account: &Account) -> Result<Self> {
        let client = account.sliding_client().await?;
        let building = SyncService::builder(client.clone()).with_offline_mode().build();
        let sync = Arc::new(building.await.context("the sync service")?);
        let shown = Arc::default();
        let list = tokio::spawn(follow(sync.room_list_service(), Arc::clone(&shown)));
        sync.start().await;
        let tasks = vec![list, tokio::spawn(keep_running(Arc::clone(&sync)))];
        Ok(Self { client, sync, shown, tasks })
    }

    /// The rooms as they are shown, from the top.
    pub(crate) fn shown(&self) -> Vec<Room> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.iter().map(|item| Room::clone(item)).collect()
    }

    /// The names of the rooms as they are shown, from the top.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |room: Room| room.cached_display_name().map(|name| name.to_string());
        self.shown().into_iter().map(|room| name(room).unwrap_or_default()).collect()
    }

    /// Waits until `check` finds something, and returns that; `what` says what it is, should it never come.
    pub(crate) async fn until<T, F>(&self, what: &str, check: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = check().await? {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let state = self.sync.state().get();
                bail!("not within {} s: {what}; the sync is {state:?}", DEADLINE.as_secs());
            }
            sleep(POLL).await;
        }
    }

    /// Waits for an invite and accepts it.
    pub(crate) async fn accept(&self, room_id: &RoomId) -> Result<Room> {
        self.until("the invite", async || {
            let room = self.client.get_room(room_id);
            Ok(room.filter(|room| room.state() == RoomState::Invited))
        })
        .await?;
        self.client.join_room_by_id(room_id).await.context("join")?;
        self.open(room_id).await
    }

    /// Waits until the user is in the room, and opens it, as a tap on it does.
    pub(crate) async fn open(&self, room_id: &RoomId) -> Result<Room> {
        let room = self
            .until("the room", async || {
                let room = self.client.get_room(room_id);
                Ok(room.filter(|room| room.state() == RoomState::Joined))
            })
            .await?;
        self.sync.room_list_service().subscribe_to_rooms(&[room_id]).await;
        Ok(room)
    }

    /// Waits until the newest message of the timeline is this one.
    pub(crate) async fn reads(&self, timeline: &Timeline, text: &str) -> Result<EventTimelineItem> {
        self.until(&format!("{text:?} in the timeline"), async || {
            Ok(messages(timeline).await.pop().filter(|item| body(item) == text))
        })
        .await
    }

    /// Waits until the timeline has exactly these messages.
    pub(crate) async fn reads_all(&self, timeline: &Timeline, expected: &[String]) -> Result<()> {
        let waiting = self.until("exactly these messages", async || {
            Ok((texts(timeline).await == expected).then_some(()))
        });
        let Err(error) = waiting.await else { return Ok(()) };
        let items = messages(timeline).await;
        let seen: Vec<_> = items.iter().map(|item| (item.event_id(), body(item))).collect();
        Err(error.context(format!("expected {expected:?}, and there is {seen:?}")))
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Keeps up with the room list's changes.
async fn follow(service: Arc<RoomListService>, shown: Arc<Mutex<Vector<RoomListItem>>>) {
    let Ok(list) = service.all_rooms().await else { return };
    let (entries, controller) = list.entries_with_dynamic_adapters(SCREEN);
    pin_mut!(entries);
    controller.set_filter(Box::new(filters::new_filter_non_left()));
    while let Some(changes) = entries.next().await {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            change.apply(&mut shown);
        }
    }
}

/// Starts the sync again when it has ended, as Element X does.
async fn keep_running(sync: Arc<SyncService>) {
    let mut states = sync.state();
    while let Some(state) = states.next().await {
        if matches!(state, State::Error(_) | State::Terminated) {
            sync.start().await;
        }
    }
}

/// The room's timeline without what is said in its threads.
pub(crate) async fn timeline(room: &Room) -> Result<Timeline> {
    use matrix_sdk_ui::timeline::TimelineFocus;
    let focus = TimelineFocus::Live { hide_threaded_events: true };
    room.timeline_builder().with_focus(focus).build().await.context("a timeline")
}

/// The messages of the timeline that the server has, oldest first.
pub(crate) async fn messages(timeline: &Timeline) -> Vec<EventTimelineItem> {
    let items = timeline.items().await;
    let events = items.iter().filter_map(|item| item.as_event().cloned());
    events.filter(|item| !item.is_local_echo() && item.content().is_message()).collect()
}

/// Their texts.
pub(crate) async fn texts(timeline: &Timeline) -> Vec<String> {
    messages(timeline).await.iter().map(body).collect()
}

pub(crate) fn body(item: &EventTimelineItem) -> String {
    item.content().as_message().map(|message| message.body().to_owned()).unwrap_or_default()
}

/// Pages back until the timeline begins.
pub(crate) async fn scroll_to_start(timeline: &Timeline) -> Result<()> {
    for _ in 0..MOST_PAGES {
        if timeline.paginate_backwards(PAGE).await.context("a page")? {
            return Ok(());
        }
    }
    bail!("the timeline has no start")
}

/// A private room with a name, to which the phone's user is invited.
pub(crate) async fn room_of(alice: &Device, phone: &Phone, name: &str) -> Result<OwnedRoomId> {
    let mut request = create_room::v3::Request::new();
    request.name = Some(name.to_owned());
    request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
    request.invite = vec![phone.client.user_id().context("logged in")?.to_owned()];
    Ok(alice.client.create_room(request).await?.room_id().to_owned())
}

/// Alice sends something, in a room that is not encrypted.
pub(crate) async fn tell(
    alice: &Device,
    room_id: &RoomId,
    content: impl Into<AnyMessageLikeEventContent>,
) -> Result<OwnedEventId> {
    let room = alice.until("her room", async || Ok(alice.client.get_room(room_id))).await?;
    let content: AnyMessageLikeEventContent = content.into();
    Ok(room.send(content).await?.response.event_id)
}

/// Alice says something, in a room that is not encrypted.
pub(crate) async fn say(alice: &Device, room_id: &RoomId, text: &str) -> Result<OwnedEventId> {
    tell(alice, room_id, RoomMessageEventContent::text_plain(text)).await
}

/// Waits until the item is there, and returns it.
pub(crate) async fn item(
    phone: &Phone,
    timeline: &Timeline,
    event_id: &EventId,
    check: impl Fn(&EventTimelineItem) -> bool,
) -> Result<EventTimelineItem> {
    phone
        .until("the item as it should be", async || {
            Ok(timeline.item_by_event_id(event_id).await.filter(|item| check(item)))
        })
        .await
}
