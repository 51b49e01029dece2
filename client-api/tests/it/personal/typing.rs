//! `PUT /rooms/{roomId}/typing/{userId}`.

use hearth_testkit::{TestServer, TestUser};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{at, joined, next, of_type, refused};

fn path(room: &RoomId, user: &TestUser) -> String {
    at(room, format!("typing/{}", user.user_id))
}

fn typing(sync: &Value, room: &RoomId) -> Value {
    of_type(&joined(sync, room)["ephemeral"]["events"], "m.typing")["content"]["user_ids"].clone()
}

#[tokio::test]
async fn is_seen_by_the_others_in_the_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    let start = json!({ "typing": true, "timeout": 30_000 });
    assert_eq!(alice.put_ok(&path(&room, &alice), start).await, json!({}));
    let update = bob.wait_for_sync(&since).await;
    assert_eq!(typing(&update, &room), json!(["@alice:localhost"]));
    alice.put_ok(&path(&room, &alice), json!({ "typing": false })).await;
    let update = bob.wait_for_sync(&next(&update)).await;
    assert_eq!(typing(&update, &room), json!([]));
}

#[tokio::test]
async fn ends_by_itself() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    alice.put_ok(&path(&room, &alice), json!({ "typing": true, "timeout": 200 })).await;
    let mut update = bob.wait_for_sync(&since).await;
    if typing(&update, &room) != json!([]) {
        update = bob.wait_for_sync(&next(&update)).await;
    }
    assert_eq!(typing(&update, &room), json!([]));
}

#[tokio::test]
async fn is_for_members_and_oneself() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let body = json!({ "typing": true, "timeout": 1_000 });
    refused(bob.put(&path(&room, &bob), body.clone()).await, 403, "M_FORBIDDEN");
    bob.join(&room).await;
    refused(bob.put(&path(&room, &alice), body).await, 403, "M_FORBIDDEN");
    let (status, answer) = bob.put(&path(&room, &bob), json!({ "typing": "yes" })).await;
    assert_eq!(status, 400, "{answer}");
}
