//! Inviting other servers' users, and what they make of it.

use hearth_testkit::TestUser;
use http::StatusCode;
use serde_json::json;

use crate::support::{World, kick, membership, wait_for_sync};

#[tokio::test]
async fn an_invitation_is_shown_and_taken_on_the_other_server() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({ "name": "Study" })).await;
    let since = bob.now().await;
    ann.invite(&room_id, &bob.user_id).await;
    let sync = bob.wait_for_sync(&since).await;
    let shown = &sync["rooms"]["invite"][room_id.as_str()]["invite_state"]["events"];
    let names = |event: &serde_json::Value| event["content"]["name"] == "Study";
    assert!(shown.as_array().unwrap().iter().any(names), "{sync}");
    // The inviter's server is known from the invitation.
    bob.join(&room_id).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "join");
}

#[tokio::test]
async fn an_invitation_is_rejected_by_way_of_the_inviters_server() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({})).await;
    ann.invite(&room_id, &bob.user_id).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "invite");
    bob.leave(&room_id).await;
    world.wait_for_membership(&ann, &room_id, &bob.user_id, "leave").await;
    let sync = bob.sync(None, "").await;
    assert!(sync["rooms"]["invite"][room_id.as_str()].is_null(), "{sync}");
}

#[tokio::test]
async fn an_invitation_is_rejected_although_nobody_answers() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({})).await;
    ann.invite(&room_id, &bob.user_id).await;
    world.cut("a.test", "b.test");
    let since = bob.now().await;
    bob.leave(&room_id).await;
    let sync = bob.sync(Some(&since), "").await;
    assert!(sync["rooms"]["leave"][room_id.as_str()].is_object(), "{sync}");
    let sync = bob.sync(None, "").await;
    assert!(sync["rooms"]["invite"][room_id.as_str()].is_null(), "{sync}");
}

#[tokio::test]
async fn an_invitation_that_is_taken_back_is_gone() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({})).await;
    ann.invite(&room_id, &bob.user_id).await;
    let since = bob.now().await;
    kick(&ann, &room_id, &bob.user_id).await;
    wait_for_sync(&bob, &since, |sync| sync["rooms"]["leave"][room_id.as_str()].is_object()).await;
    let sync = bob.sync(None, "").await;
    assert!(sync["rooms"]["invite"][room_id.as_str()].is_null(), "{sync}");
}

#[tokio::test]
async fn nobody_is_invited_whose_server_does_not_sign() {
    let world = World::start(&["a.test", "b.test"]).await;
    let ann = world.user("a.test", "ann").await;
    let room_id = ann.create_room(json!({})).await;
    let path = TestUser::room_path(&room_id, "invite");
    let (status, _) = ann.post(&path, json!({ "user_id": "@nobody:c.test" })).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let state = ann.get_ok(&TestUser::room_path(&room_id, "members")).await;
    assert_eq!(state["chunk"].as_array().unwrap().len(), 1, "{state}");
}

#[tokio::test]
async fn a_room_is_made_although_an_invited_user_cannot_be_reached() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let invite = json!({ "invite": [bob.user_id, "@nobody:c.test"], "is_direct": true });
    let room_id = ann.create_room(invite).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "invite");
    let sync = bob.sync(None, "").await;
    let shown = sync["rooms"]["invite"][room_id.as_str()]["invite_state"]["events"].clone();
    let own = |event: &&serde_json::Value| event["state_key"] == bob.user_id.as_str();
    let shown = shown.as_array().unwrap().iter().find(own).cloned().unwrap();
    assert_eq!(shown["content"]["is_direct"], true);
}
