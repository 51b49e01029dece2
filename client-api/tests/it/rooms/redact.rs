//! `PUT /rooms/{roomId}/redact/{eventId}/{txnId}` (CS "Redactions").

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{at, joined, refused, text, tidy, timeline};

#[tokio::test]
async fn takes_the_content_away_everywhere() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let event = bob.send_text(&room, "regretted").await;
    let since = alice.now().await;
    let path = at(&room, format!("redact/{}/r1", encode(event.as_str())));
    let body = json!({ "reason": "second thoughts" });
    let answer = bob.put_ok(&path, body.clone()).await;
    assert_eq!(bob.put_ok(&path, body).await, answer, "one transaction");
    let redaction = text(&answer, "event_id");

    let read = alice.get_ok(&at(&room, format!("event/{event}"))).await;
    insta::assert_json_snapshot!(tidy(
        &read,
        &[(&room, "room"), (&event, "message"), (&redaction, "redaction")]
    ));
    let update = alice.wait_for_sync(&since).await;
    assert_eq!(timeline(&update, &room)[0]["redacts"], event.as_str());
    let whole = alice.sync(None, "").await;
    assert!(!joined(&whole, &room).to_string().contains("regretted"));
    let history = alice.get_ok(&at(&room, "messages?dir=b&limit=50")).await;
    assert!(!history.to_string().contains("regretted"));
}

#[tokio::test]
async fn needs_authorship_or_power() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let (hers, his) = (alice.send_text(&room, "hers").await, bob.send_text(&room, "his").await);
    let path = |event: &ruma::EventId, txn: &str| at(&room, format!("redact/{event}/{txn}"));
    refused(bob.put(&path(&hers, "r1"), json!({})).await, 403, "M_FORBIDDEN");
    refused(carol.put(&path(&his, "r1"), json!({})).await, 403, "M_FORBIDDEN");
    alice.put_ok(&path(&his, "r1"), json!({})).await;
    let unknown = ruma::event_id!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let (status, answer) = bob.put(&path(unknown, "r2"), json!({})).await;
    assert!(status == 404 || status == 403, "{answer}");
}

#[tokio::test]
async fn of_state_keeps_what_the_protocol_needs() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let name = alice.send_state(&room, "m.room.name", "", json!({ "name": "secret" })).await;
    alice.redact(&room, &name).await;
    assert_eq!(alice.get_ok(&at(&room, "state/m.room.name/")).await, json!({}));
    let rules = json!({ "join_rule": "public", "org.example.extra": "secret" });
    let event = alice.send_state(&room, "m.room.join_rules", "", rules).await;
    alice.redact(&room, &event).await;
    let left = alice.get_ok(&at(&room, "state/m.room.join_rules/")).await;
    assert_eq!(left, json!({ "join_rule": "public" }));
}
