//! Delivery status (`docs/delivery-status.md`): a sender learns what reached another member's device.

use hearth_testkit::TestServer;
use serde_json::Value;

use crate::support::{find_type, joined, next};

const KIND: &str = "org.hearth.delivered";

/// What a sync says about deliveries in a room.
fn told(sync: &Value, room: &ruma::RoomId, event: &ruma::EventId) -> Value {
    find_type(&joined(sync, room)["ephemeral"]["events"], "m.receipt")
        .map_or(Value::Null, |receipts| receipts["content"][event.as_str()][KIND].clone())
}

#[tokio::test]
async fn is_told_to_the_sender_alone() {
    let server = TestServer::builder().config(|c| c.sync.delivery_receipts = true).start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    carol.join(&room).await;
    let (mut hers, his, others) = (alice.now().await, bob.now().await, carol.now().await);
    let event = alice.send_text(&room, "hello").await;
    let update = bob.sync(Some(&his), "").await;
    // Only the next request shows that this answer arrived.
    assert_eq!(told(&alice.sync(Some(&hers), "").await, &room, &event), Value::Null);
    bob.sync(Some(&next(&update)), "").await;
    let receipt = loop {
        let update = alice.wait_for_sync(&hers).await;
        let told = told(&update, &room, &event);
        if !told.is_null() {
            break told;
        }
        hers = next(&update);
    };
    assert!(receipt["@bob:localhost"]["ts"].is_u64(), "{receipt}");
    assert!(receipt["@carol:localhost"].is_null(), "{receipt}");
    let update = carol.sync(Some(&others), "").await;
    assert!(!update.to_string().contains(KIND), "{update}");
    // It reads nothing.
    let unread = bob.sync(None, "").await;
    assert_eq!(joined(&unread, &room)["unread_notifications"]["notification_count"], 1);
}

#[tokio::test]
async fn is_off_by_default() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let (hers, his) = (alice.now().await, bob.now().await);
    alice.send_text(&room, "hello").await;
    let update = bob.sync(Some(&his), "").await;
    bob.sync(Some(&next(&update)), "").await;
    bob.send_text(&room, "got it").await;
    let update = alice.sync(Some(&hers), "").await;
    assert!(!update.to_string().contains(KIND), "{update}");
}
