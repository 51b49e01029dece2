//! A server with rooms, and users who act in them.

use std::{path::Path, sync::Arc};

use hearth_rooms::{
    CreateRoomOptions, Draft, KEYSPACES, MemberProfile, Preset, RoomError, Rooms, RoomsConfig,
    StoredEvent,
    read::{Stretch, TimelineToken},
};
use hearth_storage::{Direction, EngineKind, Store, StoreOptions};
use hearth_types::{ManualClock, ServerIdentity};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
};
use serde_json::{Value, json, value::RawValue};

/// Rooms of the server `hs.test`, with the clock that they go by.
pub(crate) struct Server {
    pub(crate) rooms: Rooms,
    pub(crate) clock: Arc<ManualClock>,
    key: Vec<u8>,
}

impl Server {
    /// A server whose rows are in memory.
    pub(crate) async fn new() -> Self {
        Self::over(Store::memory_for_tests(KEYSPACES), ServerIdentity::generate_key()).await
    }

    /// A server whose rows are in a folder.
    pub(crate) async fn in_folder(path: &Path) -> Self {
        Self::over(open(path).await, ServerIdentity::generate_key()).await
    }

    /// The same server after a restart.
    pub(crate) async fn reopened(self, path: &Path) -> Self {
        let Self { rooms, key, .. } = self;
        rooms.close();
        rooms.ended().await;
        rooms.store().close().await.unwrap();
        drop(rooms);
        Self::over(open(path).await, key).await
    }

    async fn over(store: Store, key: Vec<u8>) -> Self {
        let name = OwnedServerName::try_from("hs.test").unwrap();
        let identity = Arc::new(ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap());
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = Rooms::open(store, identity, clock.clone(), RoomsConfig::default());
        Self { rooms: rooms.await.unwrap(), clock, key }
    }

    /// A private room of the default version.
    pub(crate) async fn room(&self, creator: &UserId) -> OwnedRoomId {
        self.rooms.create_room(creator, CreateRoomOptions::default()).await.unwrap()
    }

    /// A public room of this version.
    pub(crate) async fn public_room(
        &self,
        creator: &UserId,
        version: RoomVersionId,
    ) -> OwnedRoomId {
        let options = CreateRoomOptions {
            preset: Some(Preset::PublicChat),
            room_version: Some(version),
            ..CreateRoomOptions::default()
        };
        self.rooms.create_room(creator, options).await.unwrap()
    }

    pub(crate) async fn join(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<OwnedEventId, RoomError> {
        self.rooms.join(room, user, &profile(user), None).await
    }

    pub(crate) async fn invite(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
    ) -> Result<OwnedEventId, RoomError> {
        self.rooms.invite(room, sender, target, &profile(target), None, false).await
    }

    /// Sends a text.
    pub(crate) async fn say(
        &self,
        room: &RoomId,
        sender: &UserId,
        body: &str,
    ) -> Result<OwnedEventId, RoomError> {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.send(room, sender, "m.room.message", content).await
    }

    /// Sends a message-like event.
    pub(crate) async fn send(
        &self,
        room: &RoomId,
        sender: &UserId,
        event_type: &str,
        content: Value,
    ) -> Result<OwnedEventId, RoomError> {
        let draft = Draft::message(sender.to_owned(), event_type.into(), raw(&content));
        self.rooms.send(room, draft, None).await
    }

    /// Sends state.
    pub(crate) async fn put(
        &self,
        room: &RoomId,
        sender: &UserId,
        (event_type, state_key): (&str, &str),
        content: Value,
    ) -> Result<OwnedEventId, RoomError> {
        let draft =
            Draft::state(sender.to_owned(), event_type.into(), state_key.to_owned(), raw(&content));
        self.rooms.send(room, draft, None).await
    }

    /// The content of the current state event at a key.
    pub(crate) async fn state(&self, room: &RoomId, event_type: &str, state_key: &str) -> Value {
        let head = self.rooms.head(room).await.unwrap().unwrap();
        match self.rooms.state_event(room, head.state, event_type, state_key).await.unwrap() {
            Some(event) => serde_json::from_str(event.pdu.content().get()).unwrap(),
            None => Value::Null,
        }
    }

    /// An event by ID.
    pub(crate) async fn event(&self, room: &RoomId, event_id: &OwnedEventId) -> Arc<StoredEvent> {
        self.rooms.event_by_id(room, event_id).await.unwrap().expect("the event is there")
    }

    /// The types of all events of a room in their order.
    pub(crate) async fn timeline(&self, room: &RoomId) -> Vec<String> {
        let head = self.rooms.head(room).await.unwrap().unwrap();
        let ordinals: Vec<u32> = (0..head.next_event).collect();
        let events = self.rooms.events(room, &ordinals).await.unwrap();
        events.iter().map(|event| event.pdu.kind().to_string()).collect()
    }
}

/// Holds what is read from the near end of a timeline, in pages of all sizes up to each of its places, against
/// the whole of it.
pub(crate) async fn check_pages(rooms: &Rooms, room: &RoomId) {
    let whole = Stretch { after: TimelineToken::START, until: TimelineToken::END };
    let all = rooms.timeline_page(room, whole, Direction::Forward, 1_000).await.unwrap();
    let mut ends: Vec<_> = all.iter().map(|(index, _)| TimelineToken::before(*index)).collect();
    ends.push(TimelineToken::END);
    for (count, until) in ends.into_iter().enumerate().rev() {
        for limit in [1, 2, 3, 4, 5, 100] {
            let stretch = Stretch { until, ..whole };
            let page = rooms.timeline_page(room, stretch, Direction::Backward, limit).await;
            let expected: Vec<_> = all[..count].iter().rev().take(limit).copied().collect();
            assert_eq!(page.unwrap(), expected, "{limit} of {count}");
        }
    }
}

async fn open(path: &Path) -> Store {
    Store::open(StoreOptions::for_tests(EngineKind::Fjall, path, KEYSPACES)).await.unwrap()
}

/// A user of the server.
pub(crate) fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:hs.test")).unwrap()
}

/// What the tests' users show of themselves.
pub(crate) fn profile(user: &UserId) -> MemberProfile {
    MemberProfile { displayname: Some(user.localpart().to_uppercase()), avatar_url: None }
}

/// A value as a client sends it.
pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

/// Every version that the server makes rooms of.
pub(crate) fn versions() -> &'static [RoomVersionId] {
    hearth_rooms::SUPPORTED_VERSIONS
}
