//! `backfill`, `get_missing_events`, `event` and `timestamp_to_event`.

use std::time::Duration;

use hearth_testkit::encode;
use http::StatusCode;
use ruma::{OwnedEventId, RoomVersionId, event_id};
use serde_json::{Value, json};

use super::{Room, Scene, assert_error, ids};

/// A room of the peer's too, and some messages in it.
async fn talk(scene: &Scene, messages: usize) -> (Room, Vec<OwnedEventId>) {
    let room = scene.public_room(RoomVersionId::V11).await;
    scene.join(&room, &scene.peer.user("bob")).await;
    let mut sent = Vec::with_capacity(messages);
    for number in 0..messages {
        sent.push(scene.ann.send_text(&room.id, &format!("message {number}")).await);
    }
    (room, sent)
}

async fn backfill(scene: &Scene, room: &Room, from: &[&OwnedEventId], limit: u32) -> Value {
    let from: Vec<_> = from.iter().map(|id| format!("&v={}", encode(id.as_str()))).collect();
    let path = room.path("backfill", &format!("?limit={limit}{}", from.concat()));
    scene.peer.get_ok(scene.name(), &path).await
}

#[tokio::test]
async fn backfill_goes_back_from_the_named_events() {
    let scene = Scene::start().await;
    let (room, sent) = talk(&scene, 130).await;
    let answer = backfill(&scene, &room, &[&sent[9]], 4).await;
    assert_eq!(answer["origin"], "hs.test");
    assert!(answer["origin_server_ts"].is_u64());
    let shown = ids(&room, &answer["pdus"]);
    assert_eq!(shown, [&sent[9], &sent[8], &sent[7], &sent[6]].map(ToOwned::to_owned));
    assert_eq!(answer["pdus"][0]["content"]["body"], "message 9");
    // More than a hundred are never told at once.
    let answer = backfill(&scene, &room, &[&sent[129]], 5_000).await;
    assert_eq!(answer["pdus"].as_array().unwrap().len(), 100);
    // To the beginning of the room, and no further.
    let answer = backfill(&scene, &room, &[&sent[0], &sent[1]], 100).await;
    let pdus = answer["pdus"].as_array().unwrap();
    assert_eq!(pdus.last().unwrap()["type"], "m.room.create");
    let unknown = event_id!("$unknown").to_owned();
    let answer = backfill(&scene, &room, &[&unknown], 10).await;
    assert_eq!(answer["pdus"], json!([]));
}

#[tokio::test]
async fn missing_events_are_those_between() {
    let scene = Scene::start().await;
    let (room, sent) = talk(&scene, 70).await;
    let ask = async |earliest: &OwnedEventId, latest: &OwnedEventId, limit: u32, depth: u64| {
        let body = json!({
            "earliest_events": [earliest], "latest_events": [latest], "limit": limit,
            "min_depth": depth,
        });
        let path = room.path("get_missing_events", "");
        let (status, answer) = scene.peer.post(scene.name(), &path, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let answer = ask(&sent[3], &sent[8], 10, 0).await;
    assert_eq!(ids(&room, &answer["events"]), sent[4..8]);
    // Those next to the latest, oldest first.
    let answer = ask(&sent[3], &sent[20], 5, 0).await;
    assert_eq!(ids(&room, &answer["events"]), sent[15..20]);
    assert_eq!(ask(&sent[0], &sent[69], 5_000, 0).await["events"].as_array().unwrap().len(), 50);
    // Nothing below the least depth.
    let depth = answer["events"][3]["depth"].as_u64().unwrap();
    let answer = ask(&sent[3], &sent[20], 50, depth).await;
    assert_eq!(ids(&room, &answer["events"]), sent[18..20]);
    let answer = ask(&sent[3], &event_id!("$unknown").to_owned(), 10, 0).await;
    assert_eq!(answer["events"], json!([]));
}

#[tokio::test]
async fn missing_events_are_asked_for_ten_at_a_time_unless_said_otherwise() {
    let scene = Scene::start().await;
    let (room, sent) = talk(&scene, 20).await;
    let body = json!({ "earliest_events": [], "latest_events": [sent[19]] });
    let (status, answer) =
        scene.peer.post(scene.name(), &room.path("get_missing_events", ""), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(ids(&room, &answer["events"]), sent[9..19]);
}

#[tokio::test]
async fn single_events_are_told() {
    let scene = Scene::start().await;
    let (room, sent) = talk(&scene, 2).await;
    let event = async |id: &str| {
        let path = format!("/_matrix/federation/v1/event/{}", encode(id));
        scene.peer.get(scene.name(), &path).await
    };
    let (status, answer) = event(sent[1].as_str()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        (&answer["origin"], ids(&room, &answer["pdus"])),
        (&json!("hs.test"), vec![sent[1].clone()])
    );
    assert!(answer["pdus"][0].get("unsigned").is_none(), "{answer}");
    assert_error(&event("$unknown").await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    // One of a room that the server has nothing to do with is no different.
    let private = scene.room(RoomVersionId::V11, json!({})).await;
    let secret = scene.ann.send_text(&private.id, "secret").await;
    assert_error(&event(secret.as_str()).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn the_event_nearest_to_a_time_is_found() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    scene.join(&room, &scene.peer.user("bob")).await;
    let mut sent = Vec::new();
    for number in 0..3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let event_id = scene.ann.send_text(&room.id, &number.to_string()).await;
        let event = scene.seen(&room, &event_id).await.unwrap();
        sent.push((event_id, event["origin_server_ts"].as_u64().unwrap()));
    }
    let ask = async |ts: u64, dir: &str| {
        let path = room.path("timestamp_to_event", &format!("?ts={ts}&dir={dir}"));
        scene.peer.get(scene.name(), &path).await
    };
    for (ts, dir, found) in [
        (sent[1].1, "f", &sent[1]),
        (sent[1].1, "b", &sent[1]),
        (sent[1].1 + 1, "f", &sent[2]),
        (sent[1].1 - 1, "b", &sent[0]),
        (sent[2].1 + 1_000_000, "b", &sent[2]),
    ] {
        let (status, answer) = ask(ts, dir).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer, json!({ "event_id": found.0, "origin_server_ts": found.1 }));
    }
    let answer = ask(sent[2].1 + 1_000_000, "f").await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}
