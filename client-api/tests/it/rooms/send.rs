//! `PUT /rooms/{roomId}/send/{eventType}/{txnId}`.

use hearth_testkit::{TestServer, encode};
use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{at, bodies, message, reaction, refused, related, walk};

#[tokio::test]
async fn a_transaction_is_carried_out_once() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let room = alice.create_public_room().await;
    let path = at(&room, "send/m.room.message/m1");
    let first = alice.put_ok(&path, message("once")).await;
    assert_eq!(alice.put_ok(&path, message("once")).await, first);
    // The ID is what counts, not the content.
    assert_eq!(alice.put_ok(&path, message("something else")).await, first);
    // It belongs to the device and to the path.
    assert_ne!(phone.put_ok(&path, message("from the phone")).await, first);
    let other = alice.put_ok(&at(&room, "send/org.example.other/m1"), json!({})).await;
    assert_ne!(other, first);
    let elsewhere = alice.create_public_room().await;
    let there = alice.put_ok(&at(&elsewhere, "send/m.room.message/m1"), message("there")).await;
    assert_ne!(there, first);
    server.restart().await;
    assert_eq!(
        alice.put_ok(&path, message("once")).await,
        first,
        "remembered like the event itself"
    );
    let history = walk(&alice, &room, "f", None, "").await;
    assert_eq!(bodies(&json!(history)), ["once", "from the phone"]);
}

#[tokio::test]
async fn a_transaction_is_carried_out_once_however_fast_it_comes_again() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (alice, path) = (alice.clone(), at(&room, "send/m.room.message/same"));
            tokio::spawn(async move { alice.put_ok(&path, message("once")).await })
        })
        .collect();
    let mut answers = Vec::new();
    for sender in senders {
        answers.push(sender.await.unwrap());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    let history = walk(&alice, &room, "f", None, "").await;
    assert_eq!(bodies(&json!(history)), ["once"]);
}

#[tokio::test]
async fn needs_membership_and_power() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat",
            "power_level_content_override": { "events": { "org.example.vip": 50 } } }))
        .await;
    refused(bob.try_send_event(&room, "m.room.message", message("x")).await, 403, "M_FORBIDDEN");
    bob.join(&room).await;
    bob.send_text(&room, "now I may").await;
    refused(bob.try_send_event(&room, "org.example.vip", json!({})).await, 403, "M_FORBIDDEN");
    alice.send_event(&room, "org.example.vip", json!({})).await;
    let nowhere = ruma::room_id!("!nowhere:localhost");
    let (status, answer) = bob.try_send_event(nowhere, "m.room.message", message("x")).await;
    assert!(status == 403 || status == 404, "{answer}");
}

#[tokio::test]
async fn a_reaction_is_not_repeated() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let event = alice.send_text(&room, "hello").await;
    let react = async |user: &hearth_testkit::TestUser, key: &str| {
        user.try_send_event(&room, "m.reaction", reaction(key, &event)).await
    };
    let (status, answer) = react(&bob, "👍").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    refused(react(&bob, "👍").await, 400, "M_DUPLICATE_ANNOTATION");
    assert_eq!(react(&bob, "🎉").await.0, StatusCode::OK);
    assert_eq!(react(&alice, "👍").await.0, StatusCode::OK);
    // Taken back, it may be given again.
    let id: Value = answer["event_id"].clone();
    bob.redact(&room, &ruma::OwnedEventId::try_from(id.as_str().unwrap()).unwrap()).await;
    assert_eq!(react(&bob, "👍").await.0, StatusCode::OK);
}

#[tokio::test]
async fn no_thread_starts_from_a_related_event() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let root = alice.send_text(&room, "root").await;
    let reply =
        alice.send_event(&room, "m.room.message", related("reply", "m.thread", &root)).await;
    let edit = alice.send_event(&room, "m.room.message", related("edit", "m.replace", &root)).await;
    for parent in [&reply, &edit] {
        let content = related("nested", "m.thread", parent);
        let answer = alice.try_send_event(&room, "m.room.message", content).await;
        assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{}", answer.1);
    }
    // Other relations may be nested.
    alice.send_event(&room, "m.room.message", related("ref", "m.reference", &reply)).await;
    alice.send_event(&room, "m.reaction", reaction("👍", &reply)).await;
}

#[tokio::test]
async fn redactions_are_sent_here_too() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for version in ["10", "12"] {
        let room = alice.create_room(json!({ "room_version": version })).await;
        let event = alice.send_text(&room, "oops").await;
        let redaction = json!({ "redacts": event, "reason": "typo" });
        alice.send_event(&room, "m.room.redaction", redaction).await;
        let read = alice.get_ok(&at(&room, format!("event/{}", encode(event.as_str())))).await;
        assert_eq!(read["content"], json!({}), "version {version}");
        let because = &read["unsigned"]["redacted_because"];
        assert_eq!(because["content"]["reason"], "typo");
    }
}
