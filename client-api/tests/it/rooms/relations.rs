//! `GET /v1/rooms/{roomId}/relations/{eventId}…` (CS "Relationships API").

use hearth_testkit::{TestServer, encode};
use ruma::EventId;
use serde_json::{Value, json};

use crate::support::{at_v1, bodies, ids, reaction, refused, related, words};

fn path(room: &ruma::RoomId, event: &EventId, rest: &str) -> String {
    at_v1(room, format!("relations/{}{rest}", encode(event.as_str())))
}

#[tokio::test]
async fn are_listed_by_kind() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let parent = alice.send_text(&room, "parent").await;
    let message_type = "m.room.message";
    let thread =
        alice.send_event(&room, message_type, related("thread", "m.thread", &parent)).await;
    let like = bob.send_event(&room, "m.reaction", reaction("👍", &parent)).await;
    bob.send_event(&room, "org.example.poll", related("vote", "m.reference", &parent)).await;
    bob.send_event(&room, message_type, related("reference", "m.reference", &parent)).await;
    let reply = json!({ "msgtype": "m.text", "body": "reply",
        "m.relates_to": { "m.in_reply_to": { "event_id": parent } } });
    bob.send_event(&room, message_type, reply).await;
    let of = async |rest: &str| alice.get_ok(&path(&room, &parent, rest)).await;

    // Newest first; a plain reply is no relation here.
    let all = of("").await;
    assert_eq!(words(&all["chunk"]), ["reference", "org.example.poll", "m.reaction", "thread"]);
    assert_eq!(
        words(&of("?dir=f").await["chunk"]),
        ["thread", "m.reaction", "org.example.poll", "reference"]
    );
    assert_eq!(ids(&of("/m.annotation").await["chunk"]), [like.as_str()]);
    assert_eq!(words(&of("/m.reference").await["chunk"]), ["reference", "org.example.poll"]);
    assert_eq!(words(&of("/m.reference/m.room.message").await["chunk"]), ["reference"]);
    assert_eq!(of("/m.replace").await["chunk"], json!([]));
    assert_eq!(ids(&of("/m.thread").await["chunk"]), [thread.as_str()]);
    let none = alice.get_ok(&path(&room, &thread, "")).await;
    assert_eq!(none["chunk"], json!([]));
    // A redacted child is related no more.
    bob.redact(&room, &like).await;
    assert_eq!(of("/m.annotation").await["chunk"], json!([]));
}

#[tokio::test]
async fn come_in_pages() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let parent = alice.send_text(&room, "parent").await;
    for n in 0..7 {
        let child = related(&n.to_string(), "m.thread", &parent);
        alice.send_event(&room, "m.room.message", child).await;
        alice.send_text(&room, "noise").await;
    }
    for (dir, expected) in [("b", "6543210"), ("f", "0123456")] {
        let mut seen = String::new();
        let mut from = String::new();
        for _ in 0..10 {
            let query = format!("/m.thread?dir={dir}&limit=3{from}");
            let page = alice.get_ok(&path(&room, &parent, &query)).await;
            assert!(bodies(&page["chunk"]).len() <= 3);
            seen.extend(bodies(&page["chunk"]));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = format!("&from={}", encode(next));
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn recurse() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let root = alice.send_text(&room, "root").await;
    let message_type = "m.room.message";
    let child = alice.send_event(&room, message_type, related("child", "m.thread", &root)).await;
    let edit = related("edit", "m.replace", &child);
    alice.send_event(&room, message_type, edit).await;
    alice.send_event(&room, "m.reaction", reaction("👍", &child)).await;
    let of = async |rest: &str| words(&alice.get_ok(&path(&room, &root, rest)).await["chunk"]);
    assert_eq!(of("").await, ["child"]);
    assert_eq!(of("?recurse=true").await, ["m.reaction", "edit", "child"]);
    assert_eq!(of("?recurse=true&dir=f").await, ["child", "edit", "m.reaction"]);
    // A filter judges every event, and does not go through what it excludes.
    assert_eq!(of("/m.thread?recurse=true").await, ["child"]);
    assert_eq!(of("/m.annotation?recurse=true").await, ["m.reaction"]);
}

#[tokio::test]
async fn keep_to_what_is_visible() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let zoe = server.register("zoe").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "initial_state": [
            { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } } ] }))
        .await;
    let hidden = alice.send_text(&room, "before bob").await;
    bob.join(&room).await;
    refused(bob.get(&path(&room, &hidden, "")).await, 404, "M_NOT_FOUND");
    let (status, answer): (_, Value) = zoe.get(&path(&room, &hidden, "")).await;
    assert!(status == 403 || status == 404, "{answer}");
    let seen = alice.send_text(&room, "after bob").await;
    alice.send_event(&room, "m.room.message", related("one", "m.thread", &seen)).await;
    bob.leave(&room).await;
    alice.send_event(&room, "m.room.message", related("two", "m.thread", &seen)).await;
    assert_eq!(bodies(&bob.get_ok(&path(&room, &seen, "")).await["chunk"]), ["one"]);
    refused(alice.get(&path(&room, ruma::event_id!("$unknown"), "")).await, 404, "M_NOT_FOUND");
    let (status, _) = alice.get(&path(&room, &seen, "?from=nonsense")).await;
    assert_eq!(status, 400);
}
