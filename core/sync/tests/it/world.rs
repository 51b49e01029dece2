//! Rooms, users and sync over a store in memory, with a clock that stands still.

use std::time::Duration;

use hearth_e2ee::E2ee;
use hearth_rooms::{CreateRoomOptions, Draft, MemberProfile, Preset, Rooms};
use hearth_storage::Store;
use hearth_sync::{SyncConfig, SyncRequest, SyncService};
use hearth_testbed::Services;
use hearth_users::{ReceiptUpdate, Users};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::sync::sync_events::v3::Filter,
    events::receipt::{ReceiptThread, ReceiptType},
    presence::PresenceState,
    server_name,
};
use serde_json::{Value, json, value::to_raw_value};

/// A small server without HTTP.
pub(crate) struct World {
    pub(crate) rooms: Rooms,
    pub(crate) users: Users,
    pub(crate) e2ee: E2ee,
    pub(crate) sync: SyncService,
}

/// A `/sync` request to be built.
#[derive(Clone)]
pub(crate) struct Ask {
    request: SyncRequest,
}

impl Ask {
    pub(crate) fn of(user_id: &UserId) -> Self {
        let request = SyncRequest {
            user_id: user_id.to_owned(),
            device_id: "DEVICE".into(),
            since: None,
            filter: None,
            full_state: false,
            set_presence: PresenceState::Offline,
            timeout: Duration::ZERO,
            use_state_after: false,
            unstable_state_after: false,
        };
        Self { request }
    }

    pub(crate) fn since(mut self, token: &str) -> Self {
        self.request.since = Some(token.to_owned());
        self
    }

    pub(crate) fn after(self, response: &Value) -> Self {
        let token = response["next_batch"].as_str().unwrap().to_owned();
        self.since(&token)
    }

    /// An inline filter, or the ID of a stored one.
    pub(crate) fn filter(mut self, filter: Value) -> Self {
        self.request.filter = Some(match filter {
            Value::String(id) => Filter::FilterId(id),
            inline => Filter::FilterDefinition(serde_json::from_value(inline).unwrap()),
        });
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut SyncRequest)) -> Self {
        change(&mut self.request);
        self
    }

    pub(crate) fn request(self) -> SyncRequest {
        self.request
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(SyncConfig::default()).await
    }

    pub(crate) async fn with(config: SyncConfig) -> Self {
        Self::of(Services::in_memory(server_name!("x"), &[]).await, config)
    }

    /// Over this store, opened with [`hearth_testbed::store_options`].
    pub(crate) async fn over(store: Store, config: SyncConfig) -> Self {
        Self::of(Services::over(store, server_name!("x")).await, config)
    }

    fn of(services: Services, config: SyncConfig) -> Self {
        let sync = services.sync(config);
        let Services { rooms, users, e2ee, .. } = services;
        Self { rooms, users, e2ee, sync }
    }

    /// A public room that its creator is in.
    pub(crate) async fn room(&self, creator: &UserId) -> OwnedRoomId {
        let options =
            CreateRoomOptions { preset: Some(Preset::PublicChat), ..CreateRoomOptions::default() };
        self.rooms.create_room(creator, options).await.unwrap()
    }

    pub(crate) async fn join(&self, room_id: &RoomId, user_id: &UserId) {
        let profile = MemberProfile {
            displayname: Some(user_id.localpart().to_owned()),
            ..MemberProfile::default()
        };
        self.rooms.join(room_id, user_id, &profile, None).await.unwrap();
    }

    pub(crate) async fn invite(&self, room_id: &RoomId, sender: &UserId, target: &UserId) {
        let profile = MemberProfile::default();
        self.rooms.invite(room_id, sender, target, &profile, None, false).await.unwrap();
    }

    pub(crate) async fn send(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        content: Value,
    ) -> OwnedEventId {
        let content = to_raw_value(&content).unwrap();
        let draft = Draft::message(sender.to_owned(), event_type.into(), content);
        self.rooms.send(room_id, draft, None).await.unwrap()
    }

    pub(crate) async fn text(&self, room_id: &RoomId, sender: &UserId, body: &str) -> OwnedEventId {
        let content = json!({"msgtype": "m.text", "body": body});
        self.send(room_id, sender, "m.room.message", content).await
    }

    pub(crate) async fn state(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        content: Value,
    ) -> OwnedEventId {
        let content = to_raw_value(&content).unwrap();
        let draft = Draft::state(sender.to_owned(), event_type.into(), String::new(), content);
        self.rooms.send(room_id, draft, None).await.unwrap()
    }

    pub(crate) async fn redact(&self, room_id: &RoomId, sender: &UserId, event_id: &EventId) {
        let content = to_raw_value(&json!({"redacts": event_id})).unwrap();
        let draft = Draft::message(sender.to_owned(), "m.room.redaction".into(), content);
        self.rooms.send(room_id, draft, None).await.unwrap();
    }

    pub(crate) async fn read(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        receipt_type: ReceiptType,
        thread: ReceiptThread,
        event_id: &EventId,
    ) {
        let event = self.rooms.event_by_id(room_id, event_id).await.unwrap().unwrap();
        let update = ReceiptUpdate {
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            receipt_type,
            thread,
            event_id: event_id.to_owned(),
            timeline_position: event.index.map_or(0, |index| index.position().get()),
            fan_out: true,
            ts_ms: None,
        };
        self.users.set_receipt(update).await.unwrap();
    }

    /// The response as JSON; fails the test if its parts are not what clients can read.
    pub(crate) async fn ask(&self, ask: Ask) -> Value {
        let response = self.sync.sync(ask.request()).await.unwrap();
        let value: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(value["next_batch"], response.next_batch);
        value
    }
}

pub(crate) fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:x")).unwrap()
}

/// The joined room's section.
pub(crate) fn joined<'a>(response: &'a Value, room_id: &RoomId) -> &'a Value {
    &response["rooms"]["join"][room_id.as_str()]
}

/// IDs of a section's timeline events.
pub(crate) fn timeline(section: &Value) -> Vec<String> {
    events(&section["timeline"]).iter().map(|event| text_of(&event["event_id"])).collect()
}

pub(crate) fn events(part: &Value) -> &[Value] {
    part["events"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `type` or `type/state_key` of a part's events, sorted.
pub(crate) fn keys(part: &Value) -> Vec<String> {
    let mut keys: Vec<String> = events(part)
        .iter()
        .map(|event| match event["state_key"].as_str() {
            Some(key) if !key.is_empty() => format!("{}/{key}", text_of(&event["type"])),
            _ => text_of(&event["type"]),
        })
        .collect();
    keys.sort();
    keys
}

pub(crate) fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
