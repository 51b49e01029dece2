//! `POST /rooms/{roomId}/receipt/…`, `POST /rooms/{roomId}/read_markers`. What they do to unread counts
//! is in `sync/counts.rs`.

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::{EventId, RoomId};
use serde_json::{Value, json};

use crate::support::{at, find_type, joined, next, of_type, reaction, refused, tidy};

fn path(room: &RoomId, kind: &str, event: &EventId) -> String {
    at(room, format!("receipt/{kind}/{}", encode(event.as_str())))
}

fn receipts(sync: &Value, room: &RoomId) -> Value {
    find_type(&joined(sync, room)["ephemeral"]["events"], "m.receipt")
        .map_or(Value::Null, |event| event["content"].clone())
}

async fn two_in_a_room(server: &TestServer) -> (TestUser, TestUser, ruma::OwnedRoomId) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    (alice, bob, room)
}

#[tokio::test]
async fn public_ones_reach_the_others() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let event = alice.send_text(&room, "hello").await;
    let since = alice.now().await;
    assert_eq!(bob.post_ok(&path(&room, "m.read", &event), json!({})).await, json!({}));
    let update = alice.wait_for_sync(&since).await;
    let content = receipts(&update, &room);
    let receipt = &content[event.as_str()]["m.read"]["@bob:localhost"];
    assert!(receipt["ts"].as_u64().unwrap() > 0, "{content}");
    assert!(receipt.get("thread_id").is_none(), "{content}");
    // It is among the receipts of an initial sync, once.
    let initial = receipts(&alice.sync(None, "").await, &room);
    assert_eq!(initial[event.as_str()]["m.read"]["@bob:localhost"], *receipt);
    // A later one takes its place.
    let later = alice.send_text(&room, "and again").await;
    bob.post_ok(&path(&room, "m.read", &later), json!({})).await;
    let initial = receipts(&alice.sync(None, "").await, &room);
    assert!(initial[event.as_str()]["m.read"]["@bob:localhost"].is_null(), "{initial}");
    assert!(initial[later.as_str()]["m.read"]["@bob:localhost"].is_object(), "{initial}");
}

#[tokio::test]
async fn private_ones_reach_nobody_else() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let event = alice.send_text(&room, "hello").await;
    let (hers, his) = (alice.now().await, bob.now().await);
    bob.post_ok(&path(&room, "m.read.private", &event), json!({})).await;
    let update = bob.wait_for_sync(&his).await;
    let content = receipts(&update, &room);
    assert!(content[event.as_str()]["m.read.private"]["@bob:localhost"].is_object(), "{update}");
    // Something public follows, so that there is an answer to look into.
    bob.send_text(&room, "seen").await;
    let update = alice.wait_for_sync(&hers).await;
    assert_eq!(receipts(&update, &room), Value::Null);
    let whole = alice.sync(None, "").await.to_string();
    assert!(!whole.contains("m.read.private"), "{whole}");
}

#[tokio::test]
async fn threads_have_their_own() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let root = alice.send_text(&room, "root").await;
    let content = json!({ "msgtype": "m.text", "body": "in the thread",
        "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
    let reply = alice.send_event(&room, "m.room.message", content).await;
    let unthreaded = alice.send_text(&room, "beside").await;
    let since = alice.now().await;
    let read =
        async |event: &EventId, body: Value| bob.post(&path(&room, "m.read", event), body).await;
    assert_eq!(read(&reply, json!({ "thread_id": root })).await.0, 200);
    assert_eq!(read(&root, json!({ "thread_id": "main" })).await.0, 200);
    let liked = alice.send_event(&room, "m.reaction", reaction("👍", &reply)).await;
    assert_eq!(read(&liked, json!({ "thread_id": root })).await.0, 200, "by way of the reply");
    assert_eq!(read(&reply, json!({ "thread_id": root })).await.0, 200, "behind: nothing changes");
    assert_eq!(read(&unthreaded, json!({})).await.0, 200);
    let content = receipts(&alice.sync(None, "").await, &room);
    let receipt = |event: &EventId| &content[event.as_str()]["m.read"]["@bob:localhost"];
    assert_eq!(receipt(&liked)["thread_id"], root.as_str());
    assert!(receipt(&reply).is_null(), "{content}");
    assert_eq!(receipt(&root)["thread_id"], "main");
    assert!(receipt(&unthreaded).is_object(), "{content}");
    assert!(receipt(&unthreaded).get("thread_id").is_none(), "{content}");
    assert!(alice.sync(Some(&since), "").await["rooms"]["join"][room.as_str()].is_object());

    // Not a thread, and not the event's own.
    let other = alice.send_text(&room, "another root").await;
    for thread in [json!(""), json!(5), json!("no event"), json!(other), json!("main")] {
        let (status, answer) = read(&reply, json!({ "thread_id": thread })).await;
        assert_eq!(status, 400, "{answer}");
    }
}

#[tokio::test]
async fn bad_ones_are_refused() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let zoe = server.register("zoe").await;
    let event = alice.send_text(&room, "hello").await;
    refused(zoe.post(&path(&room, "m.read", &event), json!({})).await, 403, "M_FORBIDDEN");
    refused(bob.post(&path(&room, "m.unread", &event), json!({})).await, 400, "M_INVALID_PARAM");
    let (status, answer) =
        bob.post(&path(&room, "m.read", ruma::event_id!("$unknown")), json!({})).await;
    assert!(status == 404 || status == 400, "{answer}");
    let body = json!({ "thread_id": "main" });
    refused(bob.post(&path(&room, "m.fully_read", &event), body).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn fully_read_is_for_oneself() {
    let server = TestServer::start().await;
    let (alice, bob, room) = two_in_a_room(&server).await;
    let first = alice.send_text(&room, "one").await;
    let second = alice.send_text(&room, "two").await;
    let since = bob.now().await;
    bob.post_ok(&path(&room, "m.fully_read", &first), json!({})).await;
    let update = bob.wait_for_sync(&since).await;
    let marker = |update: &Value| {
        of_type(&joined(update, &room)["account_data"]["events"], "m.fully_read").clone()
    };
    insta::assert_json_snapshot!(tidy(&marker(&update), &[(&first, "one")]));
    // All three at once.
    let hers = alice.now().await;
    let body = json!({ "m.fully_read": second, "m.read": second, "m.read.private": second });
    assert_eq!(bob.post_ok(&at(&room, "read_markers"), body).await, json!({}));
    let update = bob.sync(Some(&next(&update)), "").await;
    assert_eq!(marker(&update)["content"]["event_id"], second.as_str());
    let update = alice.wait_for_sync(&hers).await;
    assert!(receipts(&update, &room)[second.as_str()]["m.read"]["@bob:localhost"].is_object());
    assert!(!update.to_string().contains("m.fully_read"));
    assert!(!update.to_string().contains("m.read.private"));
    // An empty body asks for nothing.
    assert_eq!(bob.post_ok(&at(&room, "read_markers"), json!({})).await, json!({}));
}
