//! Events that come back from other servers with signatures that are not theirs.

use axum::{Json, Router, routing::put};
use http::StatusCode;
use ruma::ServerName;
use serde_json::{Value, json};

use crate::support::{World, membership, via_path};

/// An event with a signature of this server that is one in form only.
fn forged(mut event: Value, server: &str) -> Value {
    event["signatures"][server] = json!({ "ed25519:1": "A".repeat(86) });
    event
}

#[tokio::test]
async fn an_invitation_that_is_signed_wrongly_does_not_become_part_of_the_room() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({})).await;
    let answer = |Json(request): Json<Value>| async move {
        Json(json!({ "event": forged(request["event"].clone(), "b.test") }))
    };
    let path = "/_matrix/federation/v2/invite/{room}/{event}";
    let b = ServerName::parse("b.test").unwrap();
    world.network().put_before(&b, Router::new().route(path, put(answer)));
    let path = hearth_testkit::TestUser::room_path(&room_id, "invite");
    let (status, error) = ann.post(&path, json!({ "user_id": bob.user_id })).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{error}");
    assert!(error["error"].as_str().unwrap().contains("not asked for"), "{error}");
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "leave");
    let sync = bob.sync(None, "").await;
    assert!(sync["rooms"]["invite"][room_id.as_str()].is_null(), "{sync}");
}

#[tokio::test]
async fn a_join_that_its_voucher_signs_wrongly_is_refused() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let hall = ann.create_public_room().await;
    let rules = json!({
        "type": "m.room.join_rules",
        "content": {
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": hall }],
        },
    });
    let room_id = ann.create_room(json!({ "initial_state": [rules] })).await;
    bob.post_ok(&via_path("join", hall.as_str(), &["a.test"]), json!({})).await;
    let answer = |Json(event): Json<Value>| async move {
        let event = forged(event, "a.test");
        Json(json!({ "event": event, "origin": "a.test", "state": [], "auth_chain": [] }))
    };
    let path = "/_matrix/federation/v2/send_join/{room}/{event}";
    let a = ServerName::parse("a.test").unwrap();
    world.network().put_before(&a, Router::new().route(path, put(answer)));
    let path = via_path("join", room_id.as_str(), &["a.test"]);
    let (status, error) = bob.post(&path, json!({})).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{error}");
    assert!(error["error"].as_str().unwrap().contains("not asked for"), "{error}");
    let sync = bob.sync(None, "").await;
    assert!(sync["rooms"]["join"][room_id.as_str()].is_null(), "{sync}");
}
