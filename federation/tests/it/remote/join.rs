//! Joining rooms of other servers.

use std::time::Duration;

use hearth_testkit::Fate;
use http::StatusCode;
use serde_json::json;

use crate::support::{World, membership, via_path};

#[tokio::test]
async fn a_room_is_joined_by_way_of_a_server_and_both_sides_speak() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    ann.send_text(&room_id, "before").await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;

    let sync = bob.sync(None, "").await;
    assert!(sync["rooms"]["join"][room_id.as_str()].is_object(), "{sync}");
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "join");
    assert_eq!(membership(&bob, &room_id, &ann.user_id).await, "join");

    let (for_ann, for_bob) = (ann.now().await, bob.now().await);
    let from_ann = ann.send_text(&room_id, "hello bob").await;
    world.wait_for_event(&bob, &for_bob, &room_id, &from_ann).await;
    let from_bob = bob.send_text(&room_id, "hello ann").await;
    world.wait_for_event(&ann, &for_ann, &room_id, &from_bob).await;
}

#[tokio::test]
async fn every_room_version_can_be_joined() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    for version in ["6", "7", "8", "9", "10", "11", "12"] {
        let body = json!({ "preset": "public_chat", "room_version": version });
        let room_id = ann.create_room(body).await;
        bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
        assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "join", "version {version}");
    }
}

#[tokio::test]
async fn an_alias_of_another_server_is_found_and_joined() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let body = json!({ "preset": "public_chat", "room_alias_name": "lounge" });
    let room_id = ann.create_room(body).await;
    let alias = "%23lounge:a.test";
    let found = bob.get_ok(&format!("/_matrix/client/v3/directory/room/{alias}")).await;
    assert_eq!(found["room_id"], room_id.as_str());
    assert_eq!(found["servers"], json!(["a.test"]));
    let joined = bob.post_ok(&format!("/_matrix/client/v3/join/{alias}"), json!({})).await;
    assert_eq!(joined["room_id"], room_id.as_str());

    let (status, error) = bob.get("/_matrix/client/v3/directory/room/%23none:a.test").await;
    assert_eq!((status, &error["errcode"]), (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND")));
}

#[tokio::test]
async fn the_second_user_of_a_server_joins_without_asking_anybody() {
    let world = World::start(&["a.test", "b.test"]).await;
    let ann = world.user("a.test", "ann").await;
    let (bob, bea) = (world.user("b.test", "bob").await, world.user("b.test", "bea").await);
    let room_id = ann.create_public_room().await;
    let path = via_path("join", room_id.as_str(), &["a.test"]);
    let (one, two) = tokio::join!(bob.post_ok(&path, json!({})), bea.post_ok(&path, json!({})));
    assert_eq!((&one["room_id"], &two["room_id"]), (&json!(room_id), &json!(room_id)));
    assert_eq!(membership(&bob, &room_id, &bea.user_id).await, "join");
    assert_eq!(world.count_requests("b.test", "/_matrix/federation/v2/send_join/"), 1);
}

#[tokio::test]
async fn a_wish_that_is_uttered_twice_is_granted_once() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    let path = via_path("join", room_id.as_str(), &["a.test"]);
    tokio::join!(bob.post_ok(&path, json!({})), bob.post_ok(&path, json!({})));
    assert_eq!(world.count_requests("b.test", "/_matrix/federation/v2/send_join/"), 1);
}

#[tokio::test]
async fn refusals_and_silence_have_their_own_answers() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let private = ann.create_room(json!({})).await;
    let (status, error) =
        bob.post(&via_path("join", private.as_str(), &["a.test"]), json!({})).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN")));
    let (status, _) = bob.post(&via_path("join", private.as_str(), &[]), json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = bob.post(&via_path("join", private.as_str(), &["c.test"]), json!({})).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    // The refusal tells more than the silence.
    let both = via_path("join", private.as_str(), &["c.test", "a.test"]);
    assert_eq!(bob.post(&both, json!({})).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_restricted_room_is_joined_by_its_condition() {
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
    let powers = json!({ "invite": 50 });
    let room = json!({ "initial_state": [rules], "power_level_content_override": powers });
    let room_id = ann.create_room(room).await;
    let path = via_path("join", room_id.as_str(), &["a.test"]);
    assert_eq!(bob.post(&path, json!({})).await.0, StatusCode::FORBIDDEN);
    bob.post_ok(&via_path("join", hall.as_str(), &["a.test"]), json!({})).await;
    bob.post_ok(&path, json!({})).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, "join");
    // Nobody of this server may let others in: the other server does.
    let bea = world.user("b.test", "bea").await;
    bea.join(&hall).await;
    // The other server judges by what it has heard of.
    world.wait_for_membership(&ann, &hall, &bea.user_id, "join").await;
    bea.join(&room_id).await;
    assert_eq!(membership(&ann, &room_id, &bea.user_id).await, "join");
    // What comes with that becomes part of a state that is whole: nobody is left out of it.
    let asked = world.requests("b.test", "/_matrix/federation/v2/send_join/");
    let omits: Vec<_> = asked.iter().map(|path| path.contains("omit_members=true")).collect();
    assert_eq!(omits, [true, true, false], "{asked:?}");
}

#[tokio::test]
async fn a_room_that_was_left_is_joined_again() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    let path = via_path("join", room_id.as_str(), &["a.test"]);
    bob.post_ok(&path, json!({})).await;
    bob.leave(&room_id).await;
    world.wait_for_membership(&ann, &room_id, &bob.user_id, "leave").await;
    let missed = ann.send_text(&room_id, "while away").await;
    bob.post_ok(&path, json!({})).await;
    world.wait_for_membership(&ann, &room_id, &bob.user_id, "join").await;
    let since = bob.now().await;
    let event_id = ann.send_text(&room_id, "back again").await;
    assert_ne!(missed, event_id);
    world.wait_for_event(&bob, &since, &room_id, &event_id).await;
}

#[tokio::test]
async fn what_is_said_while_a_join_is_under_way_is_not_lost() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    world.network().judge(|passage| {
        let is_join = passage.path.contains("/send_join/");
        if is_join { Fate::AnswerLate(Duration::from_secs(2)) } else { Fate::Arrives }
    });
    let path = via_path("join", room_id.as_str(), &["a.test"]);
    let since = bob.now().await;
    let join = bob.post_ok(&path, json!({}));
    let said = async {
        world.wait_for_membership(&ann, &room_id, &bob.user_id, "join").await;
        ann.send_text(&room_id, "welcome").await
    };
    let (_, event_id) = tokio::join!(join, said);
    world.wait_for_event(&bob, &since, &room_id, &event_id).await;
}
