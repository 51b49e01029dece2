//! Waiting: what ends a long-poll, and what does not.

use std::time::Duration;

use hearth_testkit::{TestServer, TestUser, encode};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{at, bodies, filter, joined, next, of_user, timeline, words};

/// Starts waiting in the background, for anything but presence.
fn wait(user: &TestUser, since: &str) -> JoinHandle<Value> {
    let (user, since) = (user.clone(), since.to_owned());
    tokio::spawn(async move { wait_for(&user, &since).await })
}

/// Waits for news; what ends by the poll's own timeout was not woken.
async fn wait_for(user: &TestUser, since: &str) -> Value {
    let quiet = filter(&json!({ "presence": { "types": [] } }));
    let path = format!("/_matrix/client/v3/sync?timeout=30000&since={since}{quiet}");
    let woken = tokio::time::timeout(Duration::from_secs(25), user.get_ok(&path)).await;
    woken.expect("the poll is woken before its end")
}

#[tokio::test]
async fn everything_a_client_is_told_wakes_it() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = next(&alice.sync(None, "&set_presence=offline").await);

    let waiting = wait(&alice, &since);
    let event = bob.send_text(&room, "a message").await;
    let update = waiting.await.unwrap();
    assert_eq!(bodies(timeline(&update, &room)), ["a message"]);

    let mut update = update;
    let mut until = async |what: &str, found: &dyn Fn(&Value) -> bool, act: JoinHandle<()>| {
        act.await.unwrap();
        for _ in 0..5 {
            update = wait_for(&alice, &next(&update)).await;
            if found(&update) {
                return;
            }
        }
        panic!("no {what} in {update}");
    };
    let act = |user: &TestUser, method: Method, path: String, body: Value| {
        let user = user.clone();
        tokio::spawn(async move {
            user.ok(method, &path, Some(body)).await;
        })
    };
    let path = at(&room, format!("receipt/m.read/{event}"));
    let receipt =
        |update: &Value| joined(update, &room)["ephemeral"].to_string().contains("m.receipt");
    until("receipt", &receipt, act(&bob, Method::POST, path, json!({}))).await;
    let typing =
        |update: &Value| joined(update, &room)["ephemeral"].to_string().contains("m.typing");
    let body = json!({ "typing": true, "timeout": 20_000 });
    until("typing", &typing, act(&bob, Method::PUT, at(&room, "typing/@bob:localhost"), body))
        .await;
    let data = |update: &Value| update["account_data"].to_string().contains("org.example.x");
    let path = of_user(&alice, "account_data/org.example.x");
    until("account data", &data, act(&alice, Method::PUT, path, json!({}))).await;
    let tag = |update: &Value| joined(update, &room)["account_data"].to_string().contains("m.tag");
    let path = of_user(&alice, format!("rooms/{}/tags/u.x", encode(room.as_str())));
    until("tag", &tag, act(&alice, Method::PUT, path, json!({}))).await;
    let invite =
        |update: &Value| update["rooms"]["invite"].as_object().is_some_and(|map| !map.is_empty());
    let body = json!({ "invite": [alice.user_id] });
    let path = "/_matrix/client/v3/createRoom".to_owned();
    until("invite", &invite, act(&bob, Method::POST, path, body)).await;
}

#[tokio::test]
async fn joining_elsewhere_wakes_the_other_device() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let bob = server.register("bob").await;
    let room = bob.create_public_room().await;
    let waiting = wait(&phone, &phone.now().await);
    alice.join(&room).await;
    let update = waiting.await.unwrap();
    assert_eq!(words(timeline(&update, &room)).last().unwrap(), "alice join");
    // From then on, what happens in the room wakes it, too.
    let waiting = wait(&phone, &next(&update));
    bob.send_text(&room, "welcome").await;
    assert_eq!(bodies(timeline(&waiting.await.unwrap(), &room)), ["welcome"]);
}

#[tokio::test]
async fn what_does_not_concern_a_client_lets_it_wait() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let hers = alice.create_public_room().await;
    let his = bob.create_public_room().await;
    let since = alice.now().await;
    let waiting = wait(&alice, &since);
    bob.send_text(&his, "not for alice").await;
    bob.put_ok(&of_user(&bob, "account_data/org.example.x"), json!({})).await;
    alice.send_text(&hers, "for alice").await;
    let update = waiting.await.unwrap();
    assert_eq!(bodies(timeline(&update, &hers)), ["for alice"]);
    assert!(joined(&update, &his).is_null());
}

#[tokio::test]
async fn a_timeout_is_an_empty_answer() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    let path = format!("/_matrix/client/v3/sync?timeout=50&since={since}");
    let empty = alice.get_ok(&path).await;
    assert!(joined(&empty, &room).is_null(), "{empty}");
    // Its token continues.
    alice.send_text(&room, "hello").await;
    let update = alice.sync(Some(&next(&empty)), "").await;
    assert_eq!(bodies(timeline(&update, &room)), ["hello"]);
}

#[tokio::test]
async fn waiting_goes_on_after_a_restart() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = alice.now().await;
    server.restart().await;
    let waiting = wait(&alice, &since);
    bob.send_text(&room, "after").await;
    assert_eq!(bodies(timeline(&waiting.await.unwrap(), &room)), ["after"]);
}

#[tokio::test]
async fn many_wait_at_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    let waiting: Vec<_> = (0..50).map(|_| wait(&alice, &since)).collect();
    alice.send_text(&room, "all of you").await;
    for waiter in waiting {
        assert_eq!(bodies(timeline(&waiter.await.unwrap(), &room)), ["all of you"]);
    }
}
