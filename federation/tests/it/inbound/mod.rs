//! What other servers ask of this one, over HTTP, by a scripted peer.

mod access;
mod gaps;
mod history;
mod invite;
mod join;
mod leave;
mod media;
mod queries;
mod restricted;
mod state;
mod third_party;
mod transactions;
mod visibility;

use hearth_testkit::{
    Network, Peer, TestServer, TestUser, encode,
    peer::{event_id, event_path},
};
use http::StatusCode;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomVersionId, ServerName, UserId};
use serde_json::{Value, json};

/// The versions that this server serves.
const VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// A server with a user, and a peer.
pub(crate) struct Scene {
    pub(crate) server: TestServer,
    pub(crate) network: Network,
    pub(crate) ann: TestUser,
    pub(crate) peer: Peer,
}

/// A room of the server's user, which users of the peer may have joined.
pub(crate) struct Room {
    pub(crate) id: OwnedRoomId,
    pub(crate) version: RoomVersionId,
}

/// What the peer must know of a room to make events for it.
pub(crate) struct Place {
    pub(crate) join: Value,
    pub(crate) state: Vec<Value>,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        Self::with_peer("peer.test").await
    }

    pub(crate) async fn with_peer(name: &str) -> Self {
        let network = Network::new();
        let server = TestServer::builder().federating("hs.test", &network).start().await;
        let ann = server.register("ann").await;
        let peer = Peer::new(name, &network);
        Self { server, network, ann, peer }
    }

    pub(crate) fn name(&self) -> &ServerName {
        self.server.name()
    }

    /// A room of this version that anybody may join.
    pub(crate) async fn public_room(&self, version: RoomVersionId) -> Room {
        self.room(version, json!({ "preset": "public_chat" })).await
    }

    pub(crate) async fn room(&self, version: RoomVersionId, mut body: Value) -> Room {
        body["room_version"] = json!(version);
        Room { id: self.ann.create_room(body).await, version }
    }

    /// Joins a user of the peer.
    pub(crate) async fn join(&self, room: &Room, user_id: &UserId) -> Place {
        let (join, answer) = self.peer.join(self.name(), &room.id, user_id, &room.version).await;
        Place { join, state: answer["state"].as_array().unwrap().clone() }
    }

    /// A signed event of a user of the peer, which follows these.
    pub(crate) fn event(
        &self,
        room: &Room,
        place: &Place,
        prev_events: &[OwnedEventId],
        event: Value,
    ) -> Value {
        let own = [event_id(&room.version, &place.join)];
        self.event_with(room, place, prev_events, &own, event)
    }

    /// The same, allowed by these beside the room's first events.
    pub(crate) fn event_with(
        &self,
        room: &Room,
        place: &Place,
        prev_events: &[OwnedEventId],
        auth_events: &[OwnedEventId],
        mut event: Value,
    ) -> Value {
        let mut auth_events = auth_events.to_vec();
        for event in &place.state {
            let is_needed = match event["type"].as_str() {
                Some("m.room.create") => room.version != RoomVersionId::V12,
                Some("m.room.power_levels") => true,
                _ => false,
            };
            if is_needed {
                auth_events.push(event_id(&room.version, event));
            }
        }
        event["room_id"] = json!(room.id);
        event["auth_events"] = json!(auth_events);
        event["prev_events"] = json!(prev_events);
        if event.get("sender").is_none() {
            event["sender"] = place.join["sender"].clone();
        }
        if event.get("depth").is_none() {
            event["depth"] = json!(place.depth() + 1);
        }
        self.peer.sign(&room.version, event)
    }

    /// A signed message that follows these events.
    pub(crate) fn message(
        &self,
        room: &Room,
        place: &Place,
        prev_events: &[OwnedEventId],
        text: &str,
    ) -> Value {
        let content = json!({ "msgtype": "m.text", "body": text });
        let event = json!({ "type": "m.room.message", "content": content });
        self.event(room, place, prev_events, event)
    }

    /// The event as the server's user sees it.
    pub(crate) async fn seen(&self, room: &Room, event_id: &EventId) -> Option<Value> {
        let rest = format!("event/{}", encode(event_id.as_str()));
        let (status, event) = self.ann.get(&TestUser::room_path(&room.id, &rest)).await;
        match status {
            StatusCode::OK => Some(event),
            StatusCode::NOT_FOUND => None,
            other => panic!("{other}: {event}"),
        }
    }
}

impl Room {
    /// A path of this room: `path("state", "?event_id=…")`.
    pub(crate) fn path(&self, what: &str, query: &str) -> String {
        format!("/_matrix/federation/v1/{what}/{}{query}", encode(self.id.as_str()))
    }

    /// A path that ends in the IDs of this room and an event.
    pub(crate) fn event_path(&self, what: &str, event: &Value) -> String {
        event_path(what, &self.id, &self.version, event)
    }

    pub(crate) fn event_id(&self, event: &Value) -> OwnedEventId {
        event_id(&self.version, event)
    }
}

impl Place {
    /// The join's depth.
    pub(crate) fn depth(&self) -> u64 {
        self.join["depth"].as_u64().unwrap()
    }

    /// Messages after the join, of which each follows the one before.
    pub(crate) fn chain(&self, scene: &Scene, room: &Room, length: usize) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::with_capacity(length);
        for number in 0..length {
            let prev = events.last().map_or_else(|| self.join_id(room), |last| room.event_id(last));
            let depth = self.depth() + 1 + number as u64;
            let content = json!({ "msgtype": "m.text", "body": format!("message {number}") });
            let event = json!({ "type": "m.room.message", "content": content, "depth": depth });
            events.push(scene.event(room, self, &[prev], event));
        }
        events
    }

    /// The ID of the join.
    pub(crate) fn join_id(&self, room: &Room) -> OwnedEventId {
        room.event_id(&self.join)
    }
}

/// The answer is this error.
pub(crate) fn assert_error(answer: &(StatusCode, Value), status: StatusCode, errcode: &str) {
    assert_eq!((answer.0, &answer.1["errcode"]), (status, &json!(errcode)), "{}", answer.1);
    assert!(answer.1["error"].is_string(), "{}", answer.1);
}

/// The events' IDs.
pub(crate) fn ids(room: &Room, events: &Value) -> Vec<OwnedEventId> {
    events.as_array().unwrap().iter().map(|event| room.event_id(event)).collect()
}

/// The last event at each state key.
pub(crate) fn without_replaced(state: Vec<Value>) -> Vec<Value> {
    let key = |event: &Value| (event["type"].clone(), event["state_key"].clone());
    let mut kept: Vec<Value> = Vec::new();
    for event in state {
        kept.retain(|earlier| key(earlier) != key(&event));
        kept.push(event);
    }
    kept
}
