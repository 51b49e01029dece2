//! `make_leave`, `send_leave`, `make_knock` and `send_knock`.

use hearth_testkit::peer::template_path;
use http::StatusCode;
use ruma::{RoomVersionId, UserId};
use serde_json::{Value, json};

use super::{Room, Scene, VERSIONS, assert_error};
use crate::support::membership;

async fn signed(scene: &Scene, what: &str, room: &Room, user_id: &UserId) -> Value {
    let who = (&*room.id, user_id);
    scene.peer.signed_membership(scene.name(), what, who, &room.version).await
}

#[tokio::test]
async fn who_is_in_the_room_can_leave_it_and_who_is_invited_can_decline() {
    let scene = Scene::start().await;
    for version in VERSIONS {
        let room = scene.public_room(version).await;
        let (bob, bea) = (scene.peer.user("bob"), scene.peer.user("bea"));
        scene.join(&room, &bob).await;
        let path = template_path("make_leave", &room.id, &bea);
        let answer = scene.peer.get(scene.name(), &path).await;
        assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
        scene.ann.invite(&room.id, &bea).await;
        for user_id in [&bob, &bea] {
            let leave = signed(&scene, "make_leave", &room, user_id).await;
            assert_eq!(leave["content"], json!({ "membership": "leave" }));
            let path = room.event_path("v2/send_leave", &leave);
            let answer = scene.peer.put(scene.name(), &path, leave).await;
            assert_eq!(answer, (StatusCode::OK, json!({})));
            assert_eq!(membership(&scene.ann, &room.id, user_id).await, "leave");
        }
    }
}

#[tokio::test]
async fn a_knock_is_answered_with_what_the_room_shows_of_itself() {
    let scene = Scene::start().await;
    let bob = scene.peer.user("bob");
    for version in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V12] {
        let body = json!({ "preset": "private_chat", "name": "lounge" });
        let room = scene.room(version, body).await;
        let path = format!("{}?ver={}", template_path("make_knock", &room.id, &bob), room.version);
        let answer = scene.peer.get(scene.name(), &path).await;
        assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");

        let rule = json!({ "join_rule": "knock" });
        scene.ann.send_state(&room.id, "m.room.join_rules", "", rule).await;
        let knock = signed(&scene, "make_knock", &room, &bob).await;
        assert_eq!(knock["content"], json!({ "membership": "knock" }));
        let path = room.event_path("v1/send_knock", &knock);
        let (status, answer) = scene.peer.put(scene.name(), &path, knock).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let shown = answer["knock_room_state"].as_array().unwrap();
        // Full events, which the knocking server can check.
        assert!(shown.iter().all(|event| event["signatures"]["hs.test"].is_object()), "{answer}");
        let kinds: Vec<_> = shown.iter().filter_map(|event| event["type"].as_str()).collect();
        for kind in ["m.room.create", "m.room.name", "m.room.join_rules"] {
            assert!(kinds.contains(&kind), "{kinds:?}");
        }
        assert_eq!(membership(&scene.ann, &room.id, &bob).await, "knock");
        // And taken back.
        let leave = signed(&scene, "make_leave", &room, &bob).await;
        let path = room.event_path("v2/send_leave", &leave);
        assert_eq!(scene.peer.put(scene.name(), &path, leave).await.0, StatusCode::OK);
        assert_eq!(membership(&scene.ann, &room.id, &bob).await, "leave");
    }
}

#[tokio::test]
async fn nobody_knocks_where_the_version_has_no_knocks() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V6).await;
    let path = template_path("make_knock", &room.id, &scene.peer.user("bob"));
    let answer = scene.peer.get(scene.name(), &format!("{path}?ver=6")).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
}

#[tokio::test]
async fn one_membership_is_not_taken_for_another() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V10).await;
    let bob = scene.peer.user("bob");
    scene.join(&room, &bob).await;
    let leave = signed(&scene, "make_leave", &room, &bob).await;
    for what in ["v2/send_join", "v1/send_knock"] {
        let path = room.event_path(what, &leave);
        let answer = scene.peer.put(scene.name(), &path, leave.clone()).await;
        assert_error(&answer, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    }
    assert_eq!(membership(&scene.ann, &room.id, &bob).await, "join");
}
