//! A device has the answer to what it sends or makes before its sync shows it.

use std::{pin::pin, time::Duration};

use axum::{body::Body, response::Response};
use hearth_testkit::{TestServer, TestUser, encode};
use http::{Method, Request, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{V3, at, bodies, message, next, still_waits, text, timeline};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const ROUNDS: usize = 25;
/// What waits for an answer that was taken ends long before.
const SOON: Duration = Duration::from_secs(20);

/// A request of this user that is answered, but whose answer nobody has taken yet.
async fn untaken(
    server: &TestServer,
    user: &TestUser,
    method: Method,
    path: &str,
    body: &Value,
) -> Response {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", user.token))
        .body(Body::from(body.to_string()));
    let answer = server.router().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer
}

fn everything() -> Value {
    json!({"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": []}}})
}

/// Everything that this user is told by sliding sync after this `pos`.
async fn slide(user: &TestUser, pos: &str) -> Value {
    user.post_ok(&format!("{SLIDING}?timeout=30000&pos={}", encode(pos)), everything()).await
}

async fn slid(user: &TestUser) -> String {
    text(&user.post_ok(SLIDING, everything()).await, "pos").to_owned()
}

#[tokio::test]
async fn syncs_wait_until_the_answer_was_taken() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let tablet = server.login("alice").await;
    let room = alice.create_public_room().await;
    let (since, of_tablet, pos) = (alice.now().await, tablet.now().await, slid(&alice).await);
    let path = at(&room, "send/m.room.message/one");
    let answer = untaken(&server, &alice, Method::PUT, &path, &message("one")).await;
    let mut sync = pin!(rooms(&alice, since));
    let mut sliding = pin!(slide(&alice, &pos));
    still_waits(&mut sync).await;
    assert_eq!(bodies(timeline(&tablet.wait_for_sync(&of_tablet).await, &room)), ["one"]);
    drop(answer);
    assert_eq!(bodies(timeline(&sync.await, &room)), ["one"]);

    let path = at(&room, "send/m.room.message/two");
    let answer = untaken(&server, &alice, Method::PUT, &path, &message("two")).await;
    still_waits(&mut sliding).await;
    drop(answer);
    let told = sliding.await;
    assert_eq!(bodies(&told["rooms"][room.as_str()]["timeline"]), ["one", "two"]);
}

#[tokio::test]
async fn whatever_makes_events_is_answered_first() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let (others, his) = (bob.create_public_room().await, bob.create_public_room().await);
    let event = alice.send_text(&room, "to be redacted").await;
    let someone = json!({ "user_id": bob.user_id });
    let member = |rest: &str| at(&room, rest);
    for (method, path, body) in [
        (Method::POST, format!("{V3}/createRoom"), json!({})),
        (Method::PUT, member("state/m.room.topic"), json!({ "topic": "x" })),
        (Method::PUT, member(&format!("redact/{}/t", encode(event.as_str()))), json!({})),
        (Method::POST, at(&others, "join"), json!({})),
        (Method::POST, at(&others, "leave"), json!({})),
        (Method::POST, format!("{V3}/join/{}", encode(his.as_str())), json!({})),
        (Method::POST, member("invite"), someone.clone()),
        (Method::POST, member("kick"), someone.clone()),
        (Method::POST, member("ban"), someone.clone()),
        (Method::POST, member("unban"), someone),
        (Method::POST, member("upgrade"), json!({ "new_version": "12" })),
    ] {
        let since = alice.now().await;
        let answer = untaken(&server, &alice, method, &path, &body).await;
        let mut sync = pin!(rooms(&alice, since));
        still_waits(&mut sync).await;
        drop(answer);
        let told = tokio::time::timeout(SOON, sync).await;
        assert!(told.is_ok(), "{path} is told in the end");
    }
}

/// Syncs until there is something of rooms: presence comes on its own.
async fn rooms(user: &TestUser, mut since: String) -> Value {
    loop {
        let update = user.wait_for_sync(&since).await;
        if update["rooms"].is_object() {
            return update;
        }
        since = next(&update);
    }
}

async fn note(ended: &Mutex<Vec<&'static str>>, name: &'static str, thing: impl Future) {
    thing.await;
    ended.lock().push(name);
}

/// What ended in which order, when alice does this while she syncs.
async fn order(alice: &TestUser, act: impl Future) -> Vec<&'static str> {
    let (since, pos) = (alice.now().await, slid(alice).await);
    let ended = Mutex::new(Vec::new());
    tokio::join!(
        biased;
        note(&ended, "answer", act),
        note(&ended, "sync", rooms(alice, since)),
        note(&ended, "sliding sync", slide(alice, &pos)),
    );
    ended.into_inner()
}

#[tokio::test]
async fn answers_arrive_first() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for round in 0..ROUNDS {
        let ended = order(&alice, alice.send_text(&room, "x")).await;
        assert_eq!(ended[0], "answer", "message {round}: {ended:?}");
        let ended = order(&alice, alice.create_room(json!({}))).await;
        assert_eq!(ended[0], "answer", "room {round}: {ended:?}");
    }
}
