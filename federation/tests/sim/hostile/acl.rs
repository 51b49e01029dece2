//! Server ACLs, and the ways around them that a peer may try.

use http::StatusCode;
use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{Scene, event_after, event_id, new_room, peer::Peer, play, set_state};

/// Names that the pattern `mallory.sim` means, with a number for the key of each.
const NAMES: [(&str, u8); 4] =
    [("mallory.sim", 66), ("mallory.sim:8449", 67), ("MALLORY.sim", 68), ("Mallory.SIM:8449", 69)];

async fn set_acl(scene: &Scene, room_id: &OwnedRoomId, deny: &str) {
    let content = json!({ "allow": ["*"], "deny": [deny], "allow_ip_literals": true });
    set_state(&scene.victim, room_id, "m.room.server_acl", &content).await;
}

/// A request: method, path, body.
type Ask = (&'static str, String, Option<Value>);

/// A peer and the rooms that it wants to be in.
struct Guest<'a> {
    scene: &'a Scene,
    peer: Peer,
    /// The join of its user `resident`, and what it was answered.
    join: Value,
    joined: Value,
    /// A room where one may knock, in versions that have such rooms.
    porch: Option<OwnedRoomId>,
}

impl<'a> Guest<'a> {
    /// A peer of this name, a user of which joins the scene's room.
    async fn new(scene: &'a Scene, name: &str, number: u8) -> Self {
        let peer = Peer::new(name, number, &scene.network);
        let (to, version) = (&scene.victim.name, &scene.version);
        let user = peer.user("resident");
        let (join, joined) = peer.join(to, &scene.room_id, &user, version).await;
        let mut porch = None;
        if *version != RoomVersionId::V6 {
            let room_id = new_room(&scene.victim, version).await;
            let rules = json!({ "join_rule": "knock" });
            set_state(&scene.victim, &room_id, "m.room.join_rules", &rules).await;
            porch = Some(room_id);
        }
        Self { scene, peer, join, joined, porch }
    }

    async fn is_denied(&self, pattern: &str) {
        set_acl(self.scene, &self.scene.room_id, pattern).await;
        if let Some(porch) = &self.porch {
            set_acl(self.scene, porch, pattern).await;
        }
    }

    /// A finished membership of a user, as a request.
    async fn membership(&self, kind: &str, room_id: &OwnedRoomId, localpart: &str) -> Ask {
        let (to, version) = (&self.scene.victim.name, &self.scene.version);
        let user = self.peer.user(localpart);
        let event = self.peer.template(to, kind, room_id, &user, version).await;
        let event = self.peer.sign(version, event);
        let id = event_id(version, &event);
        let v = if kind == "knock" { "v1" } else { "v2" };
        ("PUT", format!("/_matrix/federation/{v}/send_{kind}/{room_id}/{id}"), Some(event))
    }

    /// A request to every endpoint that must honour ACLs (SS "Server Access Control Lists"), by users
    /// with this suffix. Each is answered while the room admits the peer.
    async fn requests(&self, suffix: &str) -> Vec<Ask> {
        let (room, version) = (&self.scene.room_id, &self.scene.version);
        let named = |localpart: &str| format!("{localpart}{suffix}");
        let event = event_id(version, &self.join);
        let (resident, new) = (self.peer.user("resident"), self.peer.user(&named("new")));
        let leaver = named("leaver");
        let user = self.peer.user(&leaver);
        self.peer.join(&self.scene.victim.name, room, &user, version).await;
        let get = |path: String| ("GET", format!("/_matrix/federation/v1/{path}"), None);
        let missing = json!({ "earliest_events": [], "latest_events": [event] });
        let mut requests = vec![
            get(format!("make_join/{room}/{new}?ver={version}")),
            get(format!("make_leave/{room}/{resident}")),
            get(format!("state/{room}?event_id={event}")),
            get(format!("state_ids/{room}?event_id={event}")),
            get(format!("backfill/{room}?v={event}&limit=5")),
            get(format!("event_auth/{room}/{event}")),
            ("POST", format!("/_matrix/federation/v1/get_missing_events/{room}"), Some(missing)),
            self.membership("join", room, &named("new")).await,
            self.membership("leave", room, &leaver).await,
        ];
        if let Some(porch) = &self.porch {
            requests.push(get(format!("make_knock/{porch}/{new}?ver={version}")));
            requests.push(self.membership("knock", porch, &named("new")).await);
        }
        requests
    }

    async fn ask(&self, (method, path, body): Ask) -> (StatusCode, Value) {
        self.peer.ask(&self.scene.victim.name, method, &path, body).await
    }

    /// A message of the user who is in the room.
    fn message(&self) -> Value {
        let content = json!({ "msgtype": "m.text", "body": "hello" });
        let version = &self.scene.version;
        let event = event_after(version, &self.join, &self.joined, "m.room.message", content);
        self.peer.sign(version, event)
    }

    /// Sends typing and a receipt of the user who is in the room; how much of it is there then.
    async fn shows_itself(&self) -> (usize, usize) {
        let (room_id, user) = (&self.scene.room_id, self.peer.user("resident"));
        let event = event_id(&self.scene.version, &self.join);
        let read = json!({ "data": { "ts": 1 }, "event_ids": [event] });
        let receipt = json!({ room_id.as_str(): { "m.read": { user.as_str(): read } } });
        let typing = json!({ "room_id": room_id, "user_id": user, "typing": true });
        let edus = vec![
            json!({ "edu_type": "m.typing", "content": typing }),
            json!({ "edu_type": "m.receipt", "content": receipt }),
        ];
        let to = &self.scene.victim.name;
        let (status, answer) = self.peer.transaction(to, "edus", Vec::new(), edus).await;
        assert_eq!(status, 200, "{answer}");
        let typing = self.scene.victim.users().unwrap().typing(room_id);
        (typing.user_ids.len(), super::edus::receipts(self.scene).await.len())
    }
}

/// Denied by the pattern, the peer is refused what it was given before, at every endpoint.
async fn is_kept_out(scene: &Scene, name: &str, number: u8, pattern: &str) {
    let guest = Guest::new(scene, name, number).await;
    let (before, after) = (guest.requests("").await, guest.requests("2").await);
    for request in before {
        let what = format!("{name}: {} {}", request.0, request.1);
        let (status, answer) = guest.ask(request).await;
        assert_eq!(status, 200, "{what}: {answer}");
    }
    guest.is_denied(pattern).await;
    for request in after {
        let what = format!("{name}: {} {}", request.0, request.1);
        let (status, answer) = guest.ask(request).await;
        assert_eq!(status, 403, "{what}: {answer}");
        assert_eq!(answer["errcode"], "M_FORBIDDEN", "{what}");
    }
}

#[test]
fn a_denied_server_is_kept_out_of_every_endpoint() {
    play(|scene| async move {
        is_kept_out(&scene, "mallory.sim", 66, "mallory.sim").await;
    });
}

#[test]
fn the_case_of_the_pattern_does_not_matter() {
    play(|scene| async move {
        is_kept_out(&scene, "mallory.sim", 66, "MALLORY.*").await;
    });
}

#[test]
fn neither_case_nor_port_of_the_name_matter() {
    for (name, number) in NAMES {
        play(|scene| async move {
            is_kept_out(&scene, name, number, "mallory.sim").await;
        });
    }
}

#[test]
fn events_of_a_denied_server_are_refused_one_by_one() {
    for (name, number) in NAMES {
        play(|scene| async move {
            let guest = Guest::new(&scene, name, number).await;
            let event = guest.message();
            assert_eq!(super::error_of(&guest.peer, &scene, event.clone()).await, None);
            assert!(scene.holds(&event).await);
            guest.is_denied("mallory.sim").await;
            let event = guest.message();
            let error = super::error_of(&guest.peer, &scene, event.clone()).await;
            assert!(error.is_some(), "{name}");
            assert!(!scene.holds(&event).await, "{name}");
        });
    }
}

#[test]
fn typing_and_receipts_of_a_denied_server_are_dropped() {
    for (name, number) in NAMES {
        play(|scene| async move {
            let guest = Guest::new(&scene, name, number).await;
            guest.is_denied("mallory.sim").await;
            assert_eq!(guest.shows_itself().await, (0, 0), "{name}");
        });
        // The same of a server that is admitted.
        play(|scene| async move {
            let guest = Guest::new(&scene, name, number).await;
            guest.is_denied("elsewhere.sim").await;
            assert_eq!(guest.shows_itself().await, (1, 1), "{name}");
        });
    }
}
