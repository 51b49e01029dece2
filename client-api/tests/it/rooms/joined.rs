//! `GET /joined_rooms`, `GET /v1/mutual_rooms`.

use hearth_testkit::TestServer;
use serde_json::{Value, json};

use crate::support::{V1, V3, refused, same};

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[tokio::test]
async fn lists_what_one_is_in() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = format!("{V3}/joined_rooms");
    assert_eq!(alice.get_ok(&path).await, json!({ "joined_rooms": [] }));
    let (one, two) = (alice.create_public_room().await, alice.create_public_room().await);
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    same(texts(&alice.get_ok(&path).await["joined_rooms"]), [one.as_str(), two.as_str()]);
    alice.join(&invited).await;
    alice.leave(&one).await;
    same(texts(&alice.get_ok(&path).await["joined_rooms"]), [two.as_str(), invited.as_str()]);
}

#[tokio::test]
async fn lists_what_one_shares() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let shared = alice.create_public_room().await;
    bob.join(&shared).await;
    alice.create_public_room().await;
    bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let path = format!("{V1}/mutual_rooms?user_id=@bob:localhost");
    let answer = alice.get_ok(&path).await;
    assert_eq!(texts(&answer["joined"]), [shared.as_str()]);
    let (status, _) = alice.get(&format!("{V1}/mutual_rooms?user_id=@alice:localhost")).await;
    assert!(status.is_client_error(), "oneself is nobody else");
    refused(server.client().get(&path).await, 401, "M_MISSING_TOKEN");
}
