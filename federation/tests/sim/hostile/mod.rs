//! A peer that does not keep to the rules: each of its tricks is refused, by a test of its own, and
//! other rooms go on.

mod acl;
mod answers;
mod countersign;
mod edus;
mod elsewhere;
mod events;
mod forgeries;
mod invites;
mod membership;
mod peer;
mod requests;
mod templates;

use std::{future::Future, sync::Arc, time::Duration};

use hearth_rooms::{CreateRoomOptions, Draft, Preset, StoredEvent, schema::Standing};
use http::StatusCode;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId};
use serde_json::{Value, json, value::to_raw_value};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout},
};

use self::peer::{Peer, event_id};
use crate::{
    network::{Network, Weather},
    server::{SimClock, SimServer},
};

/// Versions whose event formats and rules differ in what the tests here try.
const VERSIONS: [RoomVersionId; 3] = [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12];
/// How long an event may be on its way where nothing is in its way.
const PROMPT: Duration = Duration::from_mins(1);

/// A server, a hostile peer, and a room of the server's that a user of the peer has joined; beside it
/// another room with an honest peer.
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
    /// A room that the hostile peer has nothing to do with.
    pub(crate) other_room: OwnedRoomId,
    honest: Peer,
    honest_join: Value,
    honest_joined: Value,
}

/// Plays a scene in rooms of several versions, each on a runtime of its own with simulated time.
pub(crate) fn play<F: Future<Output = ()>>(scene: impl Fn(Scene) -> F) {
    play_in(&VERSIONS, scene);
}

/// Plays a scene in rooms of these versions.
pub(crate) fn play_in<F: Future<Output = ()>>(
    versions: &[RoomVersionId],
    scene: impl Fn(Scene) -> F,
) {
    for version in versions {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { scene(Scene::new(version.clone()).await).await });
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
        // Who is spoken of and does nothing; its keys can be had.
        drop(Peer::new("third.sim", 64, &network));
        let honest = Peer::new("honest.sim", 65, &network);
        let other_room = new_room(&victim, &version).await;
        let user = honest.user("harriet");
        let (honest_join, honest_joined) =
            honest.join(&victim.name, &other_room, &user, &version).await;
        Self {
            victim,
            peer,
            network,
            version,
            room_id,
            join,
            joined,
            other_room,
            honest,
            honest_join,
            honest_joined,
        }
    }

    /// A well-formed, unsigned message of the peer's user that follows their join.
    pub(crate) fn message(&self) -> Value {
        self.event("m.room.message", json!({ "msgtype": "m.text", "body": "hello" }))
    }

    /// A well-formed, unsigned event of the peer's user that follows their join.
    pub(crate) fn event(&self, event_type: &str, content: Value) -> Value {
        event_after(&self.version, &self.join, &self.joined, event_type, content)
    }

    /// The IDs of the room's state when the peer's user joined, without the events of these types.
    pub(crate) fn state_ids(&self, but: &[&str]) -> Vec<String> {
        let state = self.joined["state"].as_array().unwrap().iter();
        let wanted = state.filter(|event| !but.contains(&event["type"].as_str().unwrap()));
        wanted.map(|event| event_id(&self.version, event)).collect()
    }

    /// The ID of the state event of this type.
    pub(crate) fn state_id(&self, event_type: &str) -> String {
        let mut state = self.joined["state"].as_array().unwrap().iter();
        let found = state.find(|event| event["type"] == event_type).unwrap();
        event_id(&self.version, found)
    }

    /// A well-formed, unsigned join of a user of the peer, beside that of `mallory`.
    pub(crate) fn join_of(&self, localpart: &str) -> Value {
        let user = self.peer.user(localpart);
        let mut join = self.event("m.room.member", json!({ "membership": "join" }));
        join["sender"] = json!(user);
        join["state_key"] = json!(user);
        let auth = join["auth_events"].as_array_mut().unwrap();
        // In the place of mallory's membership, which is the first.
        auth[0] = json!(self.state_id("m.room.join_rules"));
        join
    }

    /// Sends one event; the error that the server has for it, if it has one.
    pub(crate) async fn error_of(&self, event: Value) -> Option<String> {
        error_of(&self.peer, self, event).await
    }

    /// Sends one event with an odd number in the place of [`peer::ODD`].
    pub(crate) async fn send_odd(&self, id: &str, event: &Value, odd: &str) -> (StatusCode, Value) {
        let body = json!({
            "origin": self.peer.name, "origin_server_ts": self.peer.now_ms(), "pdus": [event],
        });
        let path = format!("/_matrix/federation/v1/send/{id}");
        self.peer.put_odd(&self.victim.name, &path, &body, odd).await
    }

    /// The event as the server has it, wherever it stands.
    pub(crate) async fn found(&self, room_id: &RoomId, event: &Value) -> Option<Arc<StoredEvent>> {
        let id = EventId::parse(event_id(&self.version, event)).unwrap();
        self.victim.rooms().unwrap().event_by_id(room_id, &id).await.unwrap()
    }

    /// Is the event part of the room?
    pub(crate) async fn holds(&self, event: &Value) -> bool {
        self.holds_in(&self.room_id, event).await
    }

    /// Is the event part of this room?
    pub(crate) async fn holds_in(&self, room_id: &RoomId, event: &Value) -> bool {
        let found = self.found(room_id, event).await;
        found.is_some_and(|event| event.header.standing == Standing::Accepted)
    }

    /// The room still works, and so does the other one: events of the peers are taken, and an event of
    /// the server arrives.
    pub(crate) async fn must_go_on(&self) {
        let event = self.event("m.room.message", json!({ "msgtype": "m.text", "body": "honest" }));
        let event = self.peer.sign(&self.version, event);
        assert_eq!(self.error_of(event.clone()).await, None);
        assert!(self.holds(&event).await);
        self.other_room_must_go_on().await;
    }

    async fn other_room_must_go_on(&self) {
        let content = json!({ "msgtype": "m.text", "body": "meanwhile" });
        let (join, joined) = (&self.honest_join, &self.honest_joined);
        let event = event_after(&self.version, join, joined, "m.room.message", content);
        let event = self.honest.sign(&self.version, event);
        assert_eq!(error_of(&self.honest, self, event.clone()).await, None);
        assert!(self.holds_in(&self.other_room, &event).await);
        let sent = say(&self.victim, &self.other_room).await;
        let arrives = async {
            while !has_heard(&self.honest, &self.version, &sent) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PROMPT, arrives).await.expect("the honest peer gets what is sent to it");
    }
}

/// A well-formed, unsigned event of the user who has joined a room so.
#[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
fn event_after(
    version: &RoomVersionId,
    join: &Value,
    joined: &Value,
    event_type: &str,
    content: Value,
) -> Value {
    let join_id = event_id(version, join);
    let mut auth: Vec<String> = vec![join_id.clone()];
    for event in joined["state"].as_array().unwrap() {
        let needed = match event["type"].as_str() {
            Some("m.room.create") => *version != RoomVersionId::V12,
            Some("m.room.power_levels") => true,
            _ => false,
        };
        if needed {
            auth.push(event_id(version, event));
        }
    }
    json!({
        "type": event_type,
        "room_id": join["room_id"],
        "sender": join["sender"],
        "content": content,
        "auth_events": auth,
        "prev_events": [join_id],
        "depth": join["depth"].as_u64().unwrap() + 1,
    })
}

/// Sends one event of a peer; the error that the server has for it, if it has one.
async fn error_of(peer: &Peer, scene: &Scene, event: Value) -> Option<String> {
    let id = event_id(&scene.version, &event);
    let results = peer.send(&scene.victim.name, &id[1..12], vec![event]).await;
    let result = results.get(&id).cloned().unwrap_or(Value::Null);
    result.get("error").and_then(Value::as_str).map(ToOwned::to_owned)
}

/// Sends a message of the server's first user.
pub(crate) async fn say(server: &SimServer, room_id: &RoomId) -> OwnedEventId {
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": "from here" })).unwrap();
    let draft = Draft::message(server.user(0), "m.room.message".into(), content);
    server.rooms().unwrap().send(room_id, draft, None).await.unwrap()
}

/// Sets a state event with an empty state key, as the server's first user.
pub(crate) async fn set_state(server: &SimServer, room_id: &RoomId, kind: &str, content: &Value) {
    let content = to_raw_value(content).unwrap();
    let draft = Draft::state(server.user(0), kind.into(), String::new(), content);
    server.rooms().unwrap().send(room_id, draft, None).await.unwrap();
}

/// Has the peer been sent this event?
fn has_heard(peer: &Peer, version: &RoomVersionId, id: &EventId) -> bool {
    let heard = peer.heard("/_matrix/federation/v1/send/");
    let mut pdus = heard.iter().filter_map(|body| body["pdus"].as_array()).flatten();
    pdus.any(|event| event_id(version, event) == id.as_str())
}

/// A public room of the server's first user.
pub(crate) async fn new_room(server: &SimServer, version: &RoomVersionId) -> OwnedRoomId {
    new_room_with(server, version, CreateRoomOptions::default()).await
}

/// A public room of the server's first user, with these options beside.
pub(crate) async fn new_room_with(
    server: &SimServer,
    version: &RoomVersionId,
    options: CreateRoomOptions,
) -> OwnedRoomId {
    let options = CreateRoomOptions {
        preset: Some(Preset::PublicChat),
        room_version: Some(version.clone()),
        ..options
    };
    server.rooms().unwrap().create_room(&server.user(0), options).await.unwrap()
}
