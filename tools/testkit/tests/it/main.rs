//! What tests take for granted: a server that starts, talks, and comes back with everything.

use hearth_testkit::{TestServer, TestUser, encode};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn a_restart_keeps_users_rooms_and_tokens() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room_id = alice.create_room(json!({ "invite": [&bob.user_id] })).await;
    bob.join(&room_id).await;
    let since = bob.now().await;
    server.restart().await;

    let event_id = alice.send_text(&room_id, "still here").await;
    let sync = bob.wait_for_sync(&since).await;
    let timeline = &sync["rooms"]["join"][room_id.as_str()]["timeline"]["events"];
    assert_eq!(timeline[0]["event_id"], event_id.as_str(), "{sync}");
    let path = TestUser::room_path(&room_id, "joined_members");
    assert_eq!(alice.get_ok(&path).await["joined"].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn servers_live_side_by_side_and_users_have_several_devices() {
    let (one, other) = (TestServer::start().await, TestServer::start().await);
    let alice = one.register("alice").await;
    let phone = one.login("alice").await;
    assert_eq!(alice.user_id, phone.user_id);
    assert_ne!(alice.device_id, phone.device_id);
    let stranger = other.client().with_token(&alice.token);
    let (status, _) = stranger.get("/_matrix/client/v3/account/whoami").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn stopping_answers_a_waiting_sync() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room_id = alice.create_room(json!({ "invite": [&bob.user_id] })).await;
    bob.join(&room_id).await;
    let quiet = bob.sync(None, "&set_presence=offline").await;
    let mut seen = alice.now().await;
    // Without the filter Bob would be told of his own presence.
    let filter = encode(r#"{"presence":{"types":[]}}"#);
    let since = encode(quiet["next_batch"].as_str().unwrap());
    let waiting = tokio::spawn({
        let bob = bob.clone();
        let path = format!("/_matrix/client/v3/sync?timeout=60000&since={since}&filter={filter}");
        async move { bob.get_ok(&path).await }
    });

    // A user is online from the moment that their sync has begun.
    let mut is_online = false;
    while !is_online {
        let sync = alice.wait_for_sync(&seen).await;
        sync["next_batch"].as_str().unwrap().clone_into(&mut seen);
        is_online = sync["presence"]["events"].as_array().is_some_and(|events| {
            events.iter().any(|event| {
                event["sender"] == bob.user_id.as_str() && event["content"]["presence"] == "online"
            })
        });
    }
    assert!(!waiting.is_finished(), "there was nothing to tell");
    server.stop().await;
    let answer = waiting.await.unwrap();
    assert!(answer["next_batch"].is_string() && answer.get("rooms").is_none(), "{answer}");
}
