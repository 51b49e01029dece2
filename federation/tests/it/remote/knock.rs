//! Knocking on rooms of other servers.

use serde_json::json;

use crate::support::{World, kick, membership, via_path, wait_for_sync};

#[tokio::test]
async fn a_knock_is_heard_and_answered() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room_id = ann.create_room(json!({ "name": "Club", "initial_state": [rules] })).await;
    let reason = json!({ "reason": "may I?" });
    bob.post_ok(&via_path("knock", room_id.as_str(), &["a.test"]), reason).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "knock");
    let sync = bob.sync(None, "").await;
    let shown = &sync["rooms"]["knock"][room_id.as_str()]["knock_state"]["events"];
    let names = |event: &serde_json::Value| event["content"]["name"] == "Club";
    assert!(shown.as_array().unwrap().iter().any(names), "{sync}");
    ann.invite(&room_id, &bob.user_id).await;
    bob.join(&room_id).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "join");
}

#[tokio::test]
async fn a_knock_that_is_turned_away_is_gone() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room_id = ann.create_room(json!({ "initial_state": [rules] })).await;
    bob.post_ok(&via_path("knock", room_id.as_str(), &["a.test"]), json!({})).await;
    let since = bob.now().await;
    kick(&ann, &room_id, &bob.user_id).await;
    wait_for_sync(&bob, &since, |sync| sync["rooms"]["leave"][room_id.as_str()].is_object()).await;
}

#[tokio::test]
async fn a_knock_is_taken_back() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room_id = ann.create_room(json!({ "initial_state": [rules] })).await;
    bob.post_ok(&via_path("knock", room_id.as_str(), &["a.test"]), json!({})).await;
    bob.leave(&room_id).await;
    world.wait_for_membership(&ann, &room_id, &bob.user_id, "leave").await;
}
