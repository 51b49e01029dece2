//! `GET /rooms/{roomId}/event/{eventId}`.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{at, refused};

#[tokio::test]
async fn is_read_by_its_id() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let phone = server.login("alice").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let sent = alice
        .put_ok(&at(&room, "send/m.room.message/t1"), json!({ "msgtype": "m.text", "body": "x" }))
        .await;
    let path = at(&room, format!("event/{}", encode(sent["event_id"].as_str().unwrap())));
    let event = alice.get_ok(&path).await;
    assert_eq!((&event["event_id"], &event["room_id"]), (&sent["event_id"], &json!(room)));
    // Only the device that sent it is told its transaction.
    assert_eq!(event["unsigned"]["transaction_id"], "t1");
    for other in [&phone, &bob] {
        let event = other.get_ok(&path).await;
        assert!(event["unsigned"].get("transaction_id").is_none(), "{event}");
        assert_eq!(event["unsigned"]["membership"], "join");
    }
    refused(zoe.get(&path).await, 404, "M_NOT_FOUND");
    refused(alice.get(&at(&room, "event/$unknown")).await, 404, "M_NOT_FOUND");
    let elsewhere = alice.create_public_room().await;
    let moved = at(&elsewhere, format!("event/{}", encode(sent["event_id"].as_str().unwrap())));
    refused(alice.get(&moved).await, 404, "M_NOT_FOUND");
}
