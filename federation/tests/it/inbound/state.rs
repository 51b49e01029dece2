//! `state`, `state_ids` and `event_auth`.

use std::collections::BTreeSet;

use hearth_testkit::encode;
use http::StatusCode;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::{Value, json};

use super::{Room, Scene, VERSIONS, assert_error, ids};

async fn state_at(scene: &Scene, room: &Room, event_id: &OwnedEventId) -> (Value, Value) {
    let query = format!("?event_id={}", encode(event_id.as_str()));
    let state = scene.peer.get_ok(scene.name(), &room.path("state", &query)).await;
    let state_ids = scene.peer.get_ok(scene.name(), &room.path("state_ids", &query)).await;
    (state, state_ids)
}

fn set(ids: Vec<OwnedEventId>) -> BTreeSet<OwnedEventId> {
    let count = ids.len();
    let set: BTreeSet<_> = ids.into_iter().collect();
    assert_eq!(set.len(), count, "one event is there twice");
    set
}

fn named(ids: &Value) -> BTreeSet<OwnedEventId> {
    let ids = ids.as_array().unwrap().iter();
    set(ids.map(|id| id.as_str().unwrap().try_into().unwrap()).collect())
}

#[tokio::test]
async fn state_is_that_before_the_event_with_its_auth_chain() {
    let scene = Scene::start().await;
    for version in VERSIONS {
        let room = scene.public_room(version).await;
        let place = scene.join(&room, &scene.peer.user("bob")).await;
        let name = json!({ "name": "before" });
        let before = scene.ann.send_state(&room.id, "m.room.name", "", name).await;
        let name = json!({ "name": "after" });
        let after = scene.ann.send_state(&room.id, "m.room.name", "", name).await;
        let message = scene.ann.send_text(&room.id, "at last").await;

        let (state, state_ids) = state_at(&scene, &room, &after).await;
        let pdus = set(ids(&room, &state["pdus"]));
        assert!(
            pdus.contains(&before)
                && !pdus.contains(&after)
                && pdus.contains(&place.join_id(&room))
        );
        assert_eq!(named(&state_ids["pdu_ids"]), pdus);
        let chain = set(ids(&room, &state["auth_chain"]));
        assert_eq!(named(&state_ids["auth_chain_ids"]), chain);
        for event in
            state["pdus"].as_array().unwrap().iter().chain(state["auth_chain"].as_array().unwrap())
        {
            for auth in event["auth_events"].as_array().unwrap() {
                let auth: OwnedEventId = auth.as_str().unwrap().try_into().unwrap();
                assert!(chain.contains(&auth), "{auth} is missing");
            }
        }
        let (state, _) = state_at(&scene, &room, &message).await;
        let pdus = set(ids(&room, &state["pdus"]));
        assert!(!pdus.contains(&before) && pdus.contains(&after));
    }
}

#[tokio::test]
async fn an_events_auth_chain_goes_back_to_the_create_event() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    scene.join(&room, &scene.peer.user("bob")).await;
    let message = scene.ann.send_text(&room.id, "hello").await;
    let path = room.path("event_auth", &format!("/{}", encode(message.as_str())));
    let answer = scene.peer.get_ok(scene.name(), &path).await;
    let chain = answer["auth_chain"].as_array().unwrap();
    let kinds: BTreeSet<_> = chain.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let wanted = ["m.room.create", "m.room.member", "m.room.power_levels"];
    assert_eq!(kinds, BTreeSet::from(wanted), "{answer}");
}

#[tokio::test]
async fn there_is_no_state_at_what_is_not_here() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    scene.join(&room, &scene.peer.user("bob")).await;
    let other = scene.public_room(RoomVersionId::V11).await;
    let elsewhere = scene.ann.send_text(&other.id, "elsewhere").await;
    for event_id in ["$unknown", elsewhere.as_str()] {
        for what in ["state", "state_ids"] {
            let path = room.path(what, &format!("?event_id={}", encode(event_id)));
            let answer = scene.peer.get(scene.name(), &path).await;
            assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
        }
        let path = room.path("event_auth", &format!("/{}", encode(event_id)));
        assert_error(
            &scene.peer.get(scene.name(), &path).await,
            StatusCode::NOT_FOUND,
            "M_NOT_FOUND",
        );
    }
    let (status, _) = scene.peer.get(scene.name(), &room.path("state", "")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "no event named");
}
