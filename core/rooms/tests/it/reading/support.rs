//! Rooms over a store in memory, with a clock that stands still.

use std::{collections::HashSet, sync::Arc, time::Duration};

use hearth_rooms::{
    CreateRoomOptions, Draft, InitialState, KEYSPACES, MemberProfile, Preset, RoomError, Rooms,
    RoomsConfig,
    format::ClientView,
    schema::{StoredEvent, TransactionKey},
};
use hearth_storage::{EngineKind, Store, StoreOptions};
use hearth_types::{ManualClock, ServerIdentity};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId, server_name};
use serde_json::{Value, json, value::to_raw_value};

pub(crate) struct TestRooms {
    pub(crate) rooms: Rooms,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:example.org")).unwrap()
}

impl TestRooms {
    pub(crate) async fn open() -> Self {
        let options = StoreOptions {
            engine: EngineKind::Memory,
            path: "unused".into(),
            keyspaces: KEYSPACES.to_vec(),
            server_name: "example.org".to_owned(),
        };
        let store = Store::open(options).await.unwrap();
        let key = ServerIdentity::generate_key();
        let identity =
            ServerIdentity::from_der(server_name!("example.org").to_owned(), &key, "1".to_owned())
                .unwrap();
        let clock = Arc::new(ManualClock::new(1_000_000));
        let rooms = Rooms::open(store, Arc::new(identity), clock.clone(), RoomsConfig::default())
            .await
            .unwrap();
        Self { rooms, clock }
    }

    /// A public room, or another kind by its options.
    pub(crate) async fn room(&self, creator: &UserId, options: CreateRoomOptions) -> OwnedRoomId {
        self.rooms.create_room(creator, options).await.unwrap()
    }

    pub(crate) async fn public_room(&self, creator: &UserId) -> OwnedRoomId {
        self.room(creator, public()).await
    }

    pub(crate) async fn join(&self, room_id: &RoomId, user_id: &UserId) -> OwnedEventId {
        self.rooms.join(room_id, user_id, &MemberProfile::default(), None).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        content: Value,
        transaction: Option<TransactionKey>,
    ) -> Result<OwnedEventId, RoomError> {
        // Events are a second apart, so that times tell their order.
        self.clock.advance(Duration::from_secs(1));
        let content = to_raw_value(&content).unwrap();
        let draft = Draft::message(sender.to_owned(), event_type.into(), content);
        self.rooms.send(room_id, draft, transaction).await
    }

    pub(crate) async fn send(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        content: Value,
    ) -> OwnedEventId {
        self.try_send(room_id, sender, event_type, content, None).await.unwrap()
    }

    pub(crate) async fn message(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        body: &str,
    ) -> OwnedEventId {
        self.send(room_id, sender, "m.room.message", text(body)).await
    }

    /// A message with a relation.
    pub(crate) async fn relate(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        rel_type: &str,
        parent: &OwnedEventId,
    ) -> OwnedEventId {
        let mut content = text(rel_type);
        content["m.relates_to"] = json!({ "rel_type": rel_type, "event_id": parent });
        self.send(room_id, sender, "m.room.message", content).await
    }

    pub(crate) async fn edit(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        parent: &OwnedEventId,
        body: &str,
    ) -> OwnedEventId {
        let mut content = text(body);
        content["m.new_content"] = text(body);
        content["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": parent });
        self.send(room_id, sender, "m.room.message", content).await
    }

    pub(crate) async fn redact(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &OwnedEventId,
    ) -> OwnedEventId {
        self.send(room_id, sender, "m.room.redaction", json!({ "redacts": target })).await
    }

    pub(crate) async fn state(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        event_type: &str,
        state_key: &str,
        content: Value,
    ) -> OwnedEventId {
        self.clock.advance(Duration::from_secs(1));
        let content = to_raw_value(&content).unwrap();
        let draft =
            Draft::state(sender.to_owned(), event_type.into(), state_key.to_owned(), content);
        self.rooms.send(room_id, draft, None).await.unwrap()
    }

    pub(crate) async fn event(
        &self,
        room_id: &RoomId,
        event_id: &OwnedEventId,
    ) -> Arc<StoredEvent> {
        self.rooms.event_by_id(room_id, event_id).await.unwrap().unwrap()
    }

    /// An event as the reader sees it.
    pub(crate) async fn show(
        &self,
        room_id: &RoomId,
        event_id: &OwnedEventId,
        view: &ClientView<'_>,
    ) -> Value {
        let event = self.event(room_id, event_id).await;
        let shown = self.rooms.client_events(room_id, &[event], view).await.unwrap();
        serde_json::from_str(shown[0].get()).unwrap()
    }

    /// The aggregations that a reader sees with an event; null if there are none.
    pub(crate) async fn aggregations(
        &self,
        room_id: &RoomId,
        event_id: &OwnedEventId,
        reader: &UserId,
    ) -> Value {
        let shown = self.show(room_id, event_id, &ClientView::full(reader, None)).await;
        shown["unsigned"]["m.relations"].clone()
    }
}

pub(crate) fn text(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

pub(crate) fn public() -> CreateRoomOptions {
    CreateRoomOptions { preset: Some(Preset::PublicChat), ..CreateRoomOptions::default() }
}

pub(crate) fn initial(event_type: &str, content: Value) -> InitialState {
    InitialState {
        event_type: event_type.to_owned(),
        state_key: String::new(),
        content: to_raw_value(&content).unwrap(),
    }
}

pub(crate) fn ignoring(names: &[&str]) -> HashSet<OwnedUserId> {
    names.iter().map(|name| user(name)).collect()
}

pub(crate) fn ids(events: &[Arc<StoredEvent>]) -> Vec<OwnedEventId> {
    events.iter().map(|event| event.header.event_id.clone()).collect()
}
