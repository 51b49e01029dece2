//! Rooms with a policy server: whose events are signed, and what becomes of those that are not.

use std::sync::Arc;

use axum::{Json, Router, extract::State, response::IntoResponse, routing::post};
use hearth_testkit::{Fate, TestUser};
use hearth_types::ServerIdentity;
use http::StatusCode;
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedRoomId, RoomVersionId,
    canonical_json::redact,
    owned_server_name,
    serde::{Base64, base64::Standard},
    server_name,
    signatures::sign_json,
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};

use crate::support::{PATIENCE, World, via_path};

const SIGN: &str = "/_matrix/policy/v1/sign";
const POLICY: &str = "m.room.policy";

/// What the policy server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Signs,
    Refuses,
    /// Signs with a key that the room does not name.
    Errs,
}

/// The policy server's part that homeservers do not have.
struct Guard {
    identity: ServerIdentity,
    other: ServerIdentity,
    mood: Mutex<Mood>,
    /// Answers so far.
    answers: watch::Sender<usize>,
}

fn key_pair() -> ServerIdentity {
    let key = ServerIdentity::generate_key();
    let name = owned_server_name!("ps.test");
    ServerIdentity::from_der(name, &key, "policy_server".to_owned()).unwrap()
}

impl Guard {
    fn public_key(&self) -> String {
        Base64::<Standard, _>::new(self.identity.key_pair().public_key().to_vec()).encode()
    }

    /// Waits until it has answered somebody.
    async fn answered(&self) {
        let mut answers = self.answers.subscribe();
        timeout(PATIENCE, answers.wait_for(|answers| *answers > 0)).await.unwrap().unwrap();
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }
}

async fn sign(
    State(guard): State<Arc<Guard>>,
    Json(event): Json<CanonicalJsonObject>,
) -> axum::response::Response {
    let mood = *guard.mood.lock();
    guard.answers.send_modify(|answers| *answers += 1);
    if mood == Mood::Refuses {
        let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "this looks like spam" });
        return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
    }
    let rules = RoomVersionId::V12.rules().unwrap();
    let mut event = redact(event, &rules.redaction, None).unwrap();
    event.remove("signatures");
    let signer = if mood == Mood::Errs { &guard.other } else { &guard.identity };
    sign_json("ps.test", signer.key_pair(), &mut event).unwrap();
    Json(event["signatures"].clone()).into_response()
}

/// Two servers with a user each in a room, and a policy server with a user in it.
struct Watched {
    world: World,
    guard: Arc<Guard>,
    ann: TestUser,
    bob: TestUser,
    room_id: OwnedRoomId,
}

impl Watched {
    async fn start() -> Self {
        let world = World::start(&["a.test", "b.test", "ps.test"]).await;
        let mood = Mutex::new(Mood::Signs);
        let answers = watch::Sender::new(0);
        let guard = Guard { identity: key_pair(), other: key_pair(), mood, answers };
        let guard = Arc::new(guard);
        let router = Router::new().route(SIGN, post(sign)).with_state(Arc::clone(&guard));
        world.network().put_before(server_name!("ps.test"), router);
        let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
        let room_id = ann.create_public_room().await;
        bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
        Self { world, guard, ann, bob, room_id }
    }

    /// The policy server's user comes in.
    async fn enter(&self) {
        let user = self.world.user("ps.test", "guard").await;
        user.post_ok(&via_path("join", self.room_id.as_str(), &["a.test"]), json!({})).await;
        self.world.wait_for_membership(&self.bob, &self.room_id, &user.user_id, "join").await;
    }

    /// The room names the policy server.
    async fn name_it(&self) {
        let key = self.guard.public_key();
        let content = json!({ "via": "ps.test", "public_keys": { "ed25519": key } });
        let since = self.bob.now().await;
        let event_id = self.ann.send_state(&self.room_id, POLICY, "", content).await;
        self.world.wait_for_event(&self.bob, &since, &self.room_id, &event_id).await;
    }

    async fn watched() -> Self {
        let watched = Self::start().await;
        watched.enter().await;
        watched.name_it().await;
        watched
    }

    fn asked_by(&self, server: &str) -> usize {
        self.world.count_requests(server, SIGN)
    }

    async fn try_text(&self, user: &TestUser) -> (StatusCode, Value) {
        let content = json!({ "msgtype": "m.text", "body": "buy this" });
        user.try_send_event(&self.room_id, "m.room.message", content).await
    }

    /// Bodies of the room's messages as a user can page through them, newest first.
    async fn bodies(&self, user: &TestUser) -> Vec<String> {
        let path = TestUser::room_path(&self.room_id, "messages?dir=b&limit=50");
        let page = user.get_ok(&path).await;
        let chunk = page["chunk"].as_array().unwrap();
        chunk
            .iter()
            .filter_map(|event| event["content"]["body"].as_str())
            .map(str::to_owned)
            .collect()
    }
}

#[tokio::test]
async fn events_are_signed_before_they_are_sent() {
    let watched = Watched::watched().await;
    let Watched { world, ann, bob, room_id, .. } = &watched;
    assert_eq!(watched.asked_by("a.test"), 0, "not about the event that names it");
    let since = bob.now().await;
    let hello = ann.send_text(room_id, "hello").await;
    world.wait_for_event(bob, &since, room_id, &hello).await;
    // State and memberships too; and whoever receives them need not ask again.
    let topic = ann.send_state(room_id, "m.room.topic", "", json!({ "topic": "x" })).await;
    world.wait_for_event(bob, &since, room_id, &topic).await;
    let since = ann.now().await;
    let answer = bob.send_text(room_id, "hi").await;
    world.wait_for_event(ann, &since, room_id, &answer).await;
    assert_eq!((watched.asked_by("a.test"), watched.asked_by("b.test")), (2, 1));
}

#[tokio::test]
async fn a_repeated_request_makes_one_event() {
    let watched = Watched::watched().await;
    let path = TestUser::room_path(&watched.room_id, "send/m.room.message/one");
    let content = json!({ "msgtype": "m.text", "body": "once" });
    let first = watched.ann.put_ok(&path, content.clone()).await;
    let second = watched.ann.put_ok(&path, content).await;
    assert_eq!(first, second);
    assert_eq!(watched.asked_by("a.test"), 1);
    let sync = watched.ann.sync(None, "").await;
    let timeline = &sync["rooms"]["join"][watched.room_id.as_str()]["timeline"]["events"];
    let sent =
        timeline.as_array().unwrap().iter().find(|event| event["event_id"] == first["event_id"]);
    assert_eq!(sent.unwrap()["unsigned"]["transaction_id"], "one");
}

#[tokio::test]
async fn what_the_policy_server_refuses_is_not_sent() {
    let watched = Watched::watched().await;
    watched.guard.set(Mood::Refuses);
    let (status, body) = watched.try_text(&watched.ann).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body, json!({ "errcode": "M_FORBIDDEN", "error": "this looks like spam" }));
    watched.guard.set(Mood::Errs);
    let (status, _) = watched.try_text(&watched.ann).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    // Nobody is invited either.
    watched.guard.set(Mood::Refuses);
    let invite = TestUser::room_path(&watched.room_id, "invite");
    let (status, _) = watched.ann.post(&invite, json!({ "user_id": "@carl:b.test" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(watched.bodies(&watched.ann).await.is_empty());

    watched.guard.set(Mood::Signs);
    let (status, _) = watched.try_text(&watched.ann).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(watched.bodies(&watched.ann).await, ["buy this"]);
    let carl = watched.world.user("b.test", "carl").await;
    watched.ann.invite(&watched.room_id, &carl.user_id).await;
    carl.join(&watched.room_id).await;
}

#[tokio::test]
async fn a_room_whose_policy_server_is_away_can_name_another() {
    let watched = Watched::watched().await;
    watched.world.cut("a.test", "ps.test");
    let (status, body) = watched.try_text(&watched.ann).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    watched.ann.send_state(&watched.room_id, POLICY, "", json!({})).await;
    assert_eq!(watched.try_text(&watched.ann).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_policy_server_that_is_not_in_the_room_is_not_asked() {
    let watched = Watched::start().await;
    watched.name_it().await;
    assert_eq!(watched.try_text(&watched.ann).await.0, StatusCode::OK);
    assert_eq!(watched.asked_by("a.test"), 0);
}

#[tokio::test]
async fn joins_of_other_servers_are_signed_when_they_are_let_in() {
    let watched = Watched::watched().await;
    let carl = watched.world.user("b.test", "carl").await;
    // By way of their own server, which is in the room.
    carl.join(&watched.room_id).await;
    assert_eq!(watched.asked_by("b.test"), 1);
    let dora = watched.world.user("ps.test", "dora").await;
    dora.join(&watched.room_id).await;
    watched.guard.set(Mood::Refuses);
    let evan = watched.world.user("b.test", "evan").await;
    let path = TestUser::room_path(&watched.room_id, "join");
    let (status, body) = evan.post(&path, json!({})).await;
    assert_eq!((status, body["errcode"].as_str()), (StatusCode::BAD_REQUEST, Some("M_FORBIDDEN")));
}

/// Bob's server hears of the policy server late: what it sends meanwhile has no signature. The
/// room's messages on the other server when one has come and another after it, the newest first.
async fn unsigned_arrives(mood: Mood) -> Vec<String> {
    let watched = Watched::start().await;
    watched.enter().await;
    watched.world.network().judge(|passage| {
        let is_late = passage.from == "a.test"
            && passage.to == "b.test"
            && passage.path.starts_with("/_matrix/federation/v1/send/");
        if is_late { Fate::Late(PATIENCE) } else { Fate::Arrives }
    });
    let key = watched.guard.public_key();
    let content = json!({ "via": "ps.test", "public_keys": { "ed25519": key } });
    watched.ann.send_state(&watched.room_id, POLICY, "", content).await;
    watched.guard.set(mood);
    watched.bob.send_text(&watched.room_id, "unsigned").await;
    watched.guard.answered().await;
    watched.guard.set(Mood::Signs);
    // What comes after it shows that it has been dealt with.
    let since = watched.ann.now().await;
    let second = watched.bob.send_text(&watched.room_id, "second").await;
    watched.world.wait_for_event(&watched.ann, &since, &watched.room_id, &second).await;
    assert_eq!((watched.asked_by("a.test"), watched.asked_by("b.test")), (2, 0));
    watched.bodies(&watched.ann).await
}

#[tokio::test]
async fn an_event_that_was_not_signed_is_asked_about_when_it_comes() {
    assert_eq!(unsigned_arrives(Mood::Signs).await, ["second", "unsigned"]);
}

#[tokio::test]
async fn an_event_that_is_not_signed_then_either_is_not_shown() {
    assert_eq!(unsigned_arrives(Mood::Refuses).await, ["second"]);
}
