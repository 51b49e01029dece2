//! A peer that does not keep to the rules: each of its tricks is refused, by a test of its own, and
//! other rooms go on.

mod acl;
mod edus;
mod events;
mod membership;
mod peer;
mod requests;

use std::{future::Future, sync::Arc};

use hearth_rooms::{CreateRoomOptions, Preset};
use http::StatusCode;
use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};
use tokio::{runtime::Builder, time::Instant};

use self::peer::{Peer, event_id};
use crate::{
    network::{Network, Weather},
    server::{SimClock, SimServer},
};

/// Versions whose event formats and rules differ in what the tests here try.
const VERSIONS: [RoomVersionId; 3] = [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12];

/// A server, a hostile peer, and a room of the server's that a user of the peer has joined.
pub(crate) struct Scene {
    pub(crate) victim: SimServer,
    pub(crate) peer: Peer,
    pub(crate) network: Network,
    pub(crate) version: RoomVersionId,
    pub(crate) room_id: OwnedRoomId,
    /// The join of the peer's user `mallory`.
    pub(crate) join: Value,
    /// What the server answered to it.
    pub(crate) joined: Value,
}

/// Plays a scene in rooms of several versions, each on a runtime of its own with simulated time.
pub(crate) fn play<F: Future<Output = ()>>(scene: impl Fn(Scene) -> F) {
    for version in VERSIONS {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { scene(Scene::new(version).await).await });
    }
}

impl Scene {
    async fn new(version: RoomVersionId) -> Self {
        let calm = Weather { lost_per_mille: 0, max_delay_ms: 5 };
        let network = Network::new(0, calm);
        let clock = Arc::new(SimClock(Instant::now()));
        let victim = SimServer::new(0, clock, network.clone()).await;
        let peer = Peer::new("mallory.sim", 66, &network);
        let room_id = new_room(&victim, &version).await;
        let user = peer.user("mallory");
        let (join, joined) = peer.join(&victim.name, &room_id, &user, &version).await;
        Self { victim, peer, network, version, room_id, join, joined }
    }

    /// A well-formed, unsigned message of the peer's user that follows their join.
    pub(crate) fn message(&self) -> Value {
        self.event("m.room.message", json!({ "msgtype": "m.text", "body": "hello" }))
    }

    /// A well-formed, unsigned event of the peer's user that follows their join.
    #[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
    pub(crate) fn event(&self, event_type: &str, content: Value) -> Value {
        let join_id = event_id(&self.version, &self.join);
        let mut auth: Vec<String> = vec![join_id.clone()];
        for event in self.joined["state"].as_array().unwrap() {
            let needed = match event["type"].as_str() {
                Some("m.room.create") => self.version != RoomVersionId::V12,
                Some("m.room.power_levels") => true,
                _ => false,
            };
            if needed {
                auth.push(event_id(&self.version, event));
            }
        }
        json!({
            "type": event_type,
            "room_id": self.room_id,
            "sender": self.peer.user("mallory"),
            "content": content,
            "auth_events": auth,
            "prev_events": [join_id],
            "depth": self.join["depth"].as_u64().unwrap() + 1,
        })
    }

    /// Sends one event; the error that the server has for it, if it has one.
    pub(crate) async fn error_of(&self, event: Value) -> Option<String> {
        let id = event_id(&self.version, &event);
        let results = self.peer.send(&self.victim.name, &id[1..12], vec![event]).await;
        let result = results.get(&id).cloned().unwrap_or(Value::Null);
        result.get("error").and_then(Value::as_str).map(ToOwned::to_owned)
    }

    /// Sends one event with an odd number in the place of [`peer::ODD`].
    pub(crate) async fn send_odd(&self, id: &str, event: &Value, odd: &str) -> (StatusCode, Value) {
        let body = json!({
            "origin": self.peer.name, "origin_server_ts": self.peer.now_ms(), "pdus": [event],
        });
        let path = format!("/_matrix/federation/v1/send/{id}");
        self.peer.put_odd(&self.victim.name, &path, &body, odd).await
    }

    /// Is the event part of the room?
    pub(crate) async fn holds(&self, event: &Value) -> bool {
        use hearth_rooms::schema::Standing;
        let id = ruma::EventId::parse(event_id(&self.version, event)).unwrap();
        let rooms = self.victim.rooms().unwrap();
        let found = rooms.event_by_id(&self.room_id, &id).await.unwrap();
        found.is_some_and(|event| event.header.standing == Standing::Accepted)
    }

    /// The room still works: an honest event of the peer is taken.
    pub(crate) async fn must_go_on(&self) {
        let event = self.event("m.room.message", json!({ "msgtype": "m.text", "body": "honest" }));
        let event = self.peer.sign(&self.version, event);
        assert_eq!(self.error_of(event.clone()).await, None);
        assert!(self.holds(&event).await);
    }
}

/// A public room of the server's first user.
pub(crate) async fn new_room(server: &SimServer, version: &RoomVersionId) -> OwnedRoomId {
    let options = CreateRoomOptions {
        preset: Some(Preset::PublicChat),
        room_version: Some(version.clone()),
        ..CreateRoomOptions::default()
    };
    server.rooms().unwrap().create_room(&server.user(0), options).await.unwrap()
}
