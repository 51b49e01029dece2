//! `make_join` and `send_join`.

use std::collections::BTreeSet;

use hearth_testkit::{
    TestUser,
    peer::{template_path, unfinished},
};
use http::StatusCode;
use ruma::{OwnedEventId, RoomId, RoomVersionId, UserId, room_id};
use serde_json::{Value, json};

use super::{Room, Scene, VERSIONS, assert_error};
use crate::support::membership;

/// Is every event that an answer's events rest on in the answer's auth chain?
fn assert_chain_is_whole(room: &Room, answer: &Value, join: &Value) {
    let list = |field: &str| answer[field].as_array().unwrap().clone();
    let chain: BTreeSet<_> = list("auth_chain").iter().map(|e| room.event_id(e)).collect();
    let state: BTreeSet<_> = list("state").iter().map(|e| room.event_id(e)).collect();
    let all = list("auth_chain").into_iter().chain(list("state")).chain([join.clone()]);
    for event in all {
        for named in event["auth_events"].as_array().unwrap() {
            let named: OwnedEventId = named.as_str().unwrap().try_into().unwrap();
            assert!(chain.contains(&named) || state.contains(&named), "{named} is missing");
        }
    }
}

async fn signed(scene: &Scene, room: &Room, user_id: &UserId) -> Value {
    let who = (&*room.id, user_id);
    scene.peer.signed_membership(scene.name(), "make_join", who, &room.version).await
}

#[tokio::test]
async fn a_template_has_what_a_join_needs_and_the_answer_has_the_rooms_state() {
    let scene = Scene::start().await;
    for version in VERSIONS {
        let room = scene.public_room(version.clone()).await;
        let bob = scene.peer.user("bob");
        let path = template_path("make_join", &room.id, &bob);
        let path = format!("{path}?ver=1&ver={version}");
        let template = scene.peer.get_ok(scene.name(), &path).await;
        assert_eq!(template["room_version"], version.as_str());
        let event = &template["event"];
        assert_eq!(event["type"], "m.room.member");
        assert_eq!(event["content"], json!({ "membership": "join" }));
        assert_eq!((&event["sender"], &event["state_key"]), (&json!(bob), &json!(bob)));
        assert_eq!(event["room_id"], room.id.as_str());
        for list in ["auth_events", "prev_events"] {
            assert!(!event[list].as_array().unwrap().is_empty());
        }
        assert!(event["depth"].as_u64().unwrap() > 1 && event["origin_server_ts"].is_u64());

        let join = scene.peer.sign(&version, unfinished(event));
        let path = room.event_path("v2/send_join", &join);
        let (status, answer) = scene.peer.put(scene.name(), &path, join.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(
            (&answer["origin"], &answer["members_omitted"]),
            (&json!("hs.test"), &json!(false))
        );
        assert!(answer.get("event").is_none(), "nobody had to countersign");
        let kinds: Vec<_> =
            answer["state"].as_array().unwrap().iter().map(|event| event["type"].clone()).collect();
        for kind in ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"] {
            assert!(kinds.contains(&json!(kind)), "version {version}: {kinds:?}");
        }
        assert_chain_is_whole(&room, &answer, &join);
        assert_eq!(membership(&scene.ann, &room.id, &bob).await, "join");

        // Its answer may have been lost.
        let again = scene.peer.put(scene.name(), &path, join).await;
        assert_eq!((again.0, &again.1["state"]), (StatusCode::OK, &answer["state"]));
    }
}

#[tokio::test]
async fn who_does_not_know_the_rooms_version_is_told_it() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let bob = scene.peer.user("bob");
    for (what, query) in [
        ("make_join", "?ver=9&ver=10"),
        // Without versions, only the first is known.
        ("make_join", ""),
        ("make_knock", "?ver=10"),
    ] {
        let path = format!("{}{query}", template_path(what, &room.id, &bob));
        let answer = scene.peer.get(scene.name(), &path).await;
        assert_error(&answer, StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION");
        assert_eq!(answer.1["room_version"], "11", "{path}");
    }
}

#[tokio::test]
async fn who_may_not_join_gets_no_template() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V10;
    let public = scene.public_room(version.clone()).await;
    let private = scene.room(version.clone(), json!({ "preset": "private_chat" })).await;
    let bob = scene.peer.user("bob");
    let ask = async |room_id: &RoomId, user_id: &UserId| {
        let path = format!("{}?ver=10", template_path("make_join", room_id, user_id));
        scene.peer.get(scene.name(), &path).await
    };
    assert_error(&ask(&private.id, &bob).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let unknown = room_id!("!nowhere:hs.test");
    assert_error(&ask(unknown, &bob).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    let answer = ask(&public.id, &scene.ann.user_id).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let ban = TestUser::room_path(&public.id, "ban");
    scene.ann.post_ok(&ban, json!({ "user_id": bob })).await;
    assert_error(&ask(&public.id, &bob).await, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    // Whoever left a room cannot let others in.
    let left = scene.public_room(version).await;
    scene.ann.leave(&left.id).await;
    assert_error(&ask(&left.id, &bob).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_join_that_was_tampered_with_is_refused() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V10;
    let room = scene.public_room(version.clone()).await;
    let other = scene.public_room(version.clone()).await;
    let bob = scene.peer.user("bob");
    let join = signed(&scene, &room, &bob).await;
    let put =
        async |path: &str, event: &Value| scene.peer.put(scene.name(), path, event.clone()).await;

    let mut unsigned = join.clone();
    unsigned["signatures"] = json!({});
    let answer = put(&room.event_path("v2/send_join", &unsigned), &unsigned).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let mut leave = unfinished(&join);
    leave["content"]["membership"] = json!("leave");
    let leave = scene.peer.sign(&version, leave);
    let mut of_ann = unfinished(&join);
    of_ann["sender"] = json!(scene.ann.user_id);
    of_ann["state_key"] = json!(scene.ann.user_id);
    let of_ann = scene.peer.sign(&version, of_ann);
    for event in [&leave, &of_ann] {
        put(&room.event_path("v2/send_join", event), event).await;
    }
    // The path names another event, or another room.
    put(&room.event_path("v2/send_join", &leave), &join).await;
    put(&other.event_path("v2/send_join", &join), &join).await;
    assert_eq!(membership(&scene.ann, &room.id, &bob).await, "leave");
    assert_eq!(membership(&scene.ann, &other.id, &bob).await, "leave");
}

#[tokio::test]
async fn members_are_left_out_when_the_joiner_wants_it_so() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V12;
    let unnamed = scene.public_room(version.clone()).await;
    let body = json!({ "preset": "public_chat", "name": "lounge" });
    let named = scene.room(version.clone(), body).await;
    let bob = scene.peer.user("bob");
    for number in 0..10 {
        let member = scene.server.register(&format!("member{number}")).await;
        member.join(&unnamed.id).await;
        member.join(&named.id).await;
    }
    for room in [&unnamed, &named] {
        let join = signed(&scene, room, &bob).await;
        let path = format!("{}?omit_members=true", room.event_path("v2/send_join", &join));
        let (status, answer) = scene.peer.put(scene.name(), &path, join.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["members_omitted"], true);
        assert_eq!(answer["servers_in_room"], json!(["hs.test"]));
        let state = answer["state"].as_array().unwrap();
        let members = state.iter().filter(|event| event["type"] == "m.room.member").count();
        // A room without a name is known by some of its members.
        assert_eq!(members, if room.id == named.id { 0 } else { 5 });
        assert_chain_is_whole(room, &answer, &join);
    }
}
