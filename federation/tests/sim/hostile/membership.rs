//! Memberships of the peer's users that come by `send_join`, `send_leave` and `send_knock`.

use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    Scene,
    forgeries::{altered_content, forgeries},
    new_room,
    peer::event_id,
    play, play_in, set_state,
};

/// Versions with knocking.
const KNOCKING: [RoomVersionId; 2] = [RoomVersionId::V10, RoomVersionId::V12];

/// One of the endpoints that take a finished membership.
struct Endpoint<'a> {
    scene: &'a Scene,
    /// `join`, `leave` or `knock`.
    membership: &'static str,
    room_id: OwnedRoomId,
}

impl Endpoint<'_> {
    /// Sends an event; status and answer.
    async fn send(&self, event: &Value) -> (u16, Value) {
        let Self { scene, membership, room_id } = self;
        let version = if *membership == "knock" { "v1" } else { "v2" };
        let id = event_id(&scene.version, event);
        let path = format!("/_matrix/federation/{version}/send_{membership}/{room_id}/{id}");
        let to = &scene.victim.name;
        let (status, answer) = scene.peer.ask(to, "PUT", &path, Some(event.clone())).await;
        (status.as_u16(), answer)
    }

    /// Refused with an error of the caller's; nothing is kept.
    async fn refuses(&self, what: &str, event: &Value) {
        let (status, answer) = self.send(event).await;
        let membership = self.membership;
        assert!((400..500).contains(&status), "{membership}: {what}: {status} {answer}");
        assert!(!self.scene.holds_in(&self.room_id, event).await, "{membership}: {what}");
    }

    async fn takes(&self, event: &Value) {
        let (status, answer) = self.send(event).await;
        assert_eq!(status, 200, "{}: {answer}", self.membership);
        assert!(self.scene.holds_in(&self.room_id, event).await);
    }

    /// What the server would have a user of the peer finish.
    async fn template(&self, localpart: &str) -> Value {
        let Scene { peer, victim, version, .. } = self.scene;
        let user = peer.user(localpart);
        peer.template(&victim.name, self.membership, &self.room_id, &user, version).await
    }

    fn sign(&self, event: Value) -> Value {
        self.scene.peer.sign(&self.scene.version, event)
    }

    /// Everything of the table is refused where the honest event is taken; of one whose content was
    /// altered, what was altered is not kept. `first` and `second` can do this.
    async fn takes_no_forged_events(&self, [first, second]: [&str; 2]) {
        let honest = self.template(first).await;
        for (what, event) in forgeries(self.scene, |_| honest.clone()) {
            self.refuses(what, &event).await;
        }
        self.takes(&self.sign(honest)).await;
        let altered = altered_content(self.scene, self.template(second).await);
        self.takes(&altered).await;
        let held = self.scene.found(&self.room_id, &altered).await.unwrap();
        assert!(!held.pdu.content().get().contains("reason"));
        self.scene.must_go_on().await;
    }

    /// Everything that is another event than the endpoint's is refused where the right one is taken.
    async fn takes_only_its_own(&self, localpart: &str, others: &[&str]) {
        let honest = self.template(localpart).await;
        let refuses = async |what: &str, field: &str, value: Value| {
            let mut event = honest.clone();
            event[field] = value;
            self.refuses(what, &self.sign(event)).await;
        };
        refuses("another's membership", "state_key", json!(self.scene.peer.user("other"))).await;
        let victim = json!(self.scene.victim.user(0));
        refuses("a membership of the server's user", "state_key", victim).await;
        refuses("another type", "type", json!("m.room.message")).await;
        refuses("no membership", "content", json!({})).await;
        for other in others {
            refuses(other, "content", json!({ "membership": other })).await;
        }
        let signed = self.sign(honest.clone());
        let mut stateless = honest;
        stateless.as_object_mut().unwrap().remove("state_key");
        self.refuses("no state", &self.sign(stateless)).await;
        self.takes(&signed).await;
        self.scene.must_go_on().await;
    }
}

fn joining(scene: &Scene) -> Endpoint<'_> {
    Endpoint { scene, membership: "join", room_id: scene.room_id.clone() }
}

/// The endpoint for leaves, after these users have joined.
async fn leaving<'a>(scene: &'a Scene, localparts: &[&str]) -> Endpoint<'a> {
    for localpart in localparts {
        let (to, room_id, version) = (&scene.victim.name, &scene.room_id, &scene.version);
        scene.peer.join(to, room_id, &scene.peer.user(localpart), version).await;
    }
    Endpoint { scene, membership: "leave", room_id: scene.room_id.clone() }
}

/// The endpoint for knocks, on a room where one may knock.
async fn knocking(scene: &Scene) -> Endpoint<'_> {
    let room_id = new_room(&scene.victim, &scene.version).await;
    set_state(&scene.victim, &room_id, "m.room.join_rules", &json!({ "join_rule": "knock" })).await;
    Endpoint { scene, membership: "knock", room_id }
}

#[test]
fn send_join_takes_no_forged_events() {
    play(|scene| async move {
        joining(&scene).takes_no_forged_events(["eve", "frank"]).await;
    });
}

#[test]
fn send_leave_takes_no_forged_events() {
    play(|scene| async move {
        let endpoint = leaving(&scene, &["eve", "frank"]).await;
        endpoint.takes_no_forged_events(["eve", "frank"]).await;
    });
}

#[test]
fn send_knock_takes_no_forged_events() {
    play_in(&KNOCKING, |scene| async move {
        knocking(&scene).await.takes_no_forged_events(["eve", "frank"]).await;
    });
}

#[test]
fn send_join_takes_only_joins_of_the_peers_own_users() {
    play(|scene| async move {
        let others = ["leave", "invite", "knock", "ban"];
        joining(&scene).takes_only_its_own("eve", &others).await;
    });
}

#[test]
fn send_leave_takes_only_leaves_of_the_peers_own_users() {
    play(|scene| async move {
        let endpoint = leaving(&scene, &["eve", "other"]).await;
        endpoint.takes_only_its_own("eve", &["join", "invite", "knock", "ban"]).await;
    });
}

#[test]
fn send_knock_takes_only_knocks_of_the_peers_own_users() {
    play_in(&KNOCKING, |scene| async move {
        let others = ["join", "leave", "invite", "ban"];
        knocking(&scene).await.takes_only_its_own("eve", &others).await;
    });
}

#[test]
fn send_knock_takes_only_knocks_that_the_room_allows() {
    play_in(&KNOCKING, |scene| async move {
        let endpoint = knocking(&scene).await;
        let room_id = &endpoint.room_id;
        let [first, second, third] = [
            endpoint.template("eve").await,
            endpoint.template("frank").await,
            endpoint.template("grace").await,
        ];
        endpoint.takes(&endpoint.sign(first)).await;
        let rooms = scene.victim.rooms().unwrap();
        let frank = scene.peer.user("frank");
        rooms.ban(room_id, &scene.victim.user(0), &frank, None).await.unwrap();
        endpoint.refuses("of a banned user", &endpoint.sign(second)).await;
        let rules = json!({ "join_rule": "public" });
        set_state(&scene.victim, room_id, "m.room.join_rules", &rules).await;
        endpoint.refuses("on a public room", &endpoint.sign(third)).await;
        scene.must_go_on().await;
    });
}

#[test]
fn an_event_of_another_room_than_the_paths_is_refused() {
    play(|scene| async move {
        let other = new_room(&scene.victim, &scene.version).await;
        let here = joining(&scene);
        let there = Endpoint { scene: &scene, membership: "join", room_id: other };
        let event = here.sign(there.template("eve").await);
        let (status, answer) = here.send(&event).await;
        assert!((400..500).contains(&status), "{status} {answer}");
        assert!(!scene.holds_in(&here.room_id, &event).await);
        assert!(!scene.holds_in(&there.room_id, &event).await);
        there.takes(&event).await;
        scene.must_go_on().await;
    });
}
