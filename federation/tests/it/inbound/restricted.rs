//! Rooms that are joined by being in another room, or knocked upon (rooms' "Restricted rooms").

use hearth_testkit::peer::template_path;
use http::StatusCode;
use ruma::{RoomVersionId, UserId, owned_room_id};
use serde_json::{Value, json};

use super::{Place, Room, Scene, assert_error};
use crate::support::membership;

/// A room that the members of another one may join.
async fn restricted_to(scene: &Scene, version: RoomVersionId, allowed: &Value) -> Room {
    let allow = json!([{ "type": "m.room_membership", "room_id": allowed }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    scene.room(version, json!({ "preset": "private_chat", "initial_state": state })).await
}

async fn make_join(scene: &Scene, room: &Room, user_id: &UserId) -> (StatusCode, Value) {
    let path = template_path("make_join", &room.id, user_id);
    scene.peer.get(scene.name(), &format!("{path}?ver={}", room.version)).await
}

#[tokio::test]
async fn who_meets_the_condition_is_vouched_for() {
    let scene = Scene::start().await;
    let (bob, bea) = (scene.peer.user("bob"), scene.peer.user("bea"));
    for version in [RoomVersionId::V8, RoomVersionId::V10, RoomVersionId::V12] {
        let club = scene.public_room(version.clone()).await;
        scene.join(&club, &bob).await;
        let room = restricted_to(&scene, version.clone(), &json!(club.id)).await;
        let answer = make_join(&scene, &room, &bea).await;
        assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");

        let who = (&*room.id, &*bob);
        let join = scene.peer.signed_membership(scene.name(), "make_join", who, &version).await;
        let voucher = &join["content"]["join_authorised_via_users_server"];
        assert_eq!(voucher, scene.ann.user_id.as_str());
        let path = room.event_path("v2/send_join", &join);
        let (status, answer) = scene.peer.put(scene.name(), &path, join.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let signatures = answer["event"]["signatures"].as_object().unwrap();
        assert!(signatures.contains_key("hs.test"), "countersigned: {answer}");
        assert_eq!(signatures["peer.test"], join["signatures"]["peer.test"]);
        assert_eq!(room.event_id(&answer["event"]), room.event_id(&join));
        assert_eq!(membership(&scene.ann, &room.id, &bob).await, "join");
    }
}

#[tokio::test]
async fn the_condition_is_looked_at_again_before_the_join_is_signed() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V10;
    let bob = scene.peer.user("bob");
    let club = scene.public_room(version.clone()).await;
    scene.join(&club, &bob).await;
    let room = restricted_to(&scene, version.clone(), &json!(club.id)).await;
    let who = (&*room.id, &*bob);
    let join = scene.peer.signed_membership(scene.name(), "make_join", who, &version).await;
    let who = (&*club.id, &*bob);
    let leave = scene.peer.signed_membership(scene.name(), "make_leave", who, &version).await;
    let path = club.event_path("v2/send_leave", &leave);
    assert_eq!(scene.peer.put(scene.name(), &path, leave).await.0, StatusCode::OK);

    let path = room.event_path("v2/send_join", &join);
    let answer = scene.peer.put(scene.name(), &path, join).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    assert_eq!(membership(&scene.ann, &room.id, &bob).await, "leave");
}

#[tokio::test]
async fn who_cannot_tell_whether_the_condition_is_met_says_so() {
    let scene = Scene::start().await;
    let elsewhere = json!(owned_room_id!("!club:elsewhere.test"));
    let room = restricted_to(&scene, RoomVersionId::V10, &elsewhere).await;
    let answer = make_join(&scene, &room, &scene.peer.user("bob")).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN");
}

/// A restricted room in which nobody of the server can invite, but somebody of the peer could.
async fn without_inviters(scene: &Scene) -> (Room, Place) {
    let version = RoomVersionId::V10;
    let club = scene.public_room(version.clone()).await;
    scene.join(&club, &scene.peer.user("bob")).await;
    let room = restricted_to(scene, version, &json!(club.id)).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let bob = scene.peer.user("bob");
    let levels = json!({
        "users": { bob.as_str(): 100 }, "invite": 50, "events": {}, "users_default": 0,
        "state_default": 50,
    });
    scene.ann.send_state(&room.id, "m.room.power_levels", "", levels).await;
    (room, place)
}

#[tokio::test]
async fn who_cannot_let_anybody_in_sends_the_joiner_elsewhere() {
    let scene = Scene::start().await;
    let (room, _) = without_inviters(&scene).await;
    // A server that is in the club, not in the room.
    let other = hearth_testkit::Peer::new("other.test", &scene.network);
    let cat = other.user("cat");
    let club: ruma::OwnedRoomId = {
        let rest = "state/m.room.join_rules/";
        let path = hearth_testkit::TestUser::room_path(&room.id, rest);
        let rules = scene.ann.get_ok(&path).await;
        rules["allow"][0]["room_id"].as_str().unwrap().try_into().unwrap()
    };
    other.join(scene.name(), &club, &cat, &room.version).await;
    let path = format!("{}?ver=10", template_path("make_join", &room.id, &cat));
    let answer = other.get(scene.name(), &path).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN");
}
