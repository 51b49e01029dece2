//! `send`.

use std::time::Duration;

use hearth_testkit::TestUser;
use http::StatusCode;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::{Scene, VERSIONS, assert_error, without_replaced};

#[tokio::test]
async fn events_are_received_and_shown() {
    let scene = Scene::start().await;
    for version in VERSIONS {
        let room = scene.public_room(version).await;
        let place = scene.join(&room, &scene.peer.user("bob")).await;
        let event = scene.message(&room, &place, &[place.join_id(&room)], "hello");
        let id = room.event_id(&event);
        let results = scene.peer.send(scene.name(), vec![event]).await;
        assert_eq!(results, json!({ id.as_str(): {} }));
        let seen = scene.seen(&room, &id).await.unwrap();
        assert_eq!(seen["content"]["body"], "hello");
    }
}

#[tokio::test]
async fn each_event_has_a_result_of_its_own() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V11;
    let room = scene.public_room(version.clone()).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let join = place.join_id(&room);
    let good = scene.message(&room, &place, std::slice::from_ref(&join), "good");
    let mut unsigned = scene.message(&room, &place, std::slice::from_ref(&join), "unsigned");
    unsigned["signatures"] = json!({});
    let forbidden = json!({
        "type": "m.room.name", "state_key": "", "content": { "name": "mine now" },
    });
    let forbidden = scene.event(&room, &place, std::slice::from_ref(&join), forbidden);
    let mut altered = scene.message(&room, &place, std::slice::from_ref(&join), "as it was");
    altered["content"]["body"] = json!("altered");
    let homeless = json!({ "type": "m.room.message" });
    let unknown = json!({ "room_id": "!nowhere:hs.test", "type": "m.room.message" });

    let events = [&good, &unsigned, &forbidden, &altered, &homeless, &unknown];
    let events = events.into_iter().cloned().collect();
    let results = scene.peer.send(scene.name(), events).await;
    let result = |event: &Value| &results[room.event_id(event).as_str()];
    assert_eq!(result(&good), &json!({}));
    assert!(result(&unsigned)["error"].is_string(), "{results}");
    assert_eq!(result(&forbidden), &json!({}), "judged: it is kept as rejected");
    assert_eq!(result(&altered), &json!({}), "taken, without its content");
    assert_eq!(results.as_object().unwrap().len(), 4);
    assert!(scene.seen(&room, &room.event_id(&forbidden)).await.is_none());
    let seen = scene.seen(&room, &room.event_id(&altered)).await.unwrap();
    assert_eq!(seen["content"], json!({}));
}

#[tokio::test]
async fn a_repeated_transaction_does_nothing_and_has_the_same_answer() {
    let mut scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let join = place.join_id(&room);
    let event = scene.message(&room, &place, std::slice::from_ref(&join), "once");
    let mut refused = scene.message(&room, &place, std::slice::from_ref(&join), "never");
    refused["signatures"] = json!({});
    let first = vec![event, refused];
    let answer = scene.peer.transaction(scene.name(), "one", first.clone(), Vec::new()).await;
    assert_eq!(answer.0, StatusCode::OK);
    assert_eq!(answer.1["pdus"].as_object().unwrap().len(), 2);
    // What the transaction's name stood for the first time counts.
    let other = scene.message(&room, &place, &[join], "another");
    let again = scene.peer.transaction(scene.name(), "one", vec![other.clone()], Vec::new()).await;
    assert_eq!(again, answer);
    assert!(scene.seen(&room, &room.event_id(&other)).await.is_none());
    scene.server.restart().await;
    let again = scene.peer.transaction(scene.name(), "one", first, Vec::new()).await;
    assert_eq!(again, answer);
    // Another server's transaction of that name is another transaction.
    let stranger = hearth_testkit::Peer::new("other.test", &scene.network);
    let answer = stranger.transaction(scene.name(), "one", vec![other], Vec::new()).await;
    assert_eq!(answer.0, StatusCode::OK);
    let results = answer.1["pdus"].as_object().unwrap();
    assert_eq!(results.len(), 1);
}

#[tokio::test]
async fn events_of_one_room_keep_their_order_and_those_of_many_are_taken() {
    let scene = Scene::start().await;
    let mut all = Vec::new();
    let mut rooms = Vec::new();
    for _ in 0..5 {
        let room = scene.public_room(RoomVersionId::V11).await;
        let place = scene.join(&room, &scene.peer.user("bob")).await;
        all.extend(place.chain(&scene, &room, 10));
        rooms.push(room);
    }
    let results = scene.peer.send(scene.name(), all).await;
    let results = results.as_object().unwrap();
    assert_eq!(results.len(), 50);
    assert!(results.values().all(|result| *result == json!({})), "{results:?}");
    for room in rooms {
        let path = TestUser::room_path(&room.id, "messages?dir=b&limit=10");
        let page = scene.ann.get_ok(&path).await;
        let texts: Vec<_> = page["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["content"]["body"].clone())
            .collect();
        let wanted: Vec<_> =
            (0..10).rev().map(|number| json!(format!("message {number}"))).collect();
        assert_eq!(texts, wanted);
    }
}

#[tokio::test]
async fn no_transaction_has_more_than_the_specification_allows() {
    let scene = Scene::start().await;
    let many = |count: usize| vec![json!({ "type": "m.room.message" }); count];
    let edu = json!({ "edu_type": "org.example.none", "content": {} });
    for (pdus, edus, status) in [
        (many(51), Vec::new(), StatusCode::BAD_REQUEST),
        (Vec::new(), vec![edu.clone(); 101], StatusCode::BAD_REQUEST),
        (many(50), vec![edu; 100], StatusCode::OK),
    ] {
        let id = format!("{}-{}", pdus.len(), edus.len());
        let answer = scene.peer.transaction(scene.name(), &id, pdus, edus).await;
        assert_eq!(answer.0, status, "{}", answer.1);
    }
    let path = "/_matrix/federation/v1/send/none";
    let answer = scene.peer.put(scene.name(), path, json!([])).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_BAD_JSON");
}

#[tokio::test]
async fn a_gap_is_filled_by_asking_the_sender() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let events = place.chain(&scene, &room, 12);
    let (missing, told) = events.split_at(10);
    let answer = json!({ "events": missing });
    scene.peer.answers("/_matrix/federation/v1/get_missing_events/", StatusCode::OK, answer);
    let results = scene.peer.send(scene.name(), told.to_vec()).await;
    assert!(results.as_object().unwrap().values().all(|result| *result == json!({})), "{results}");
    for event in &events {
        assert!(scene.seen(&room, &room.event_id(event)).await.is_some());
    }
    let asked = scene.peer.heard("/_matrix/federation/v1/get_missing_events/");
    assert_eq!(asked.len(), 1, "once for both events");
    assert_eq!(asked[0].body["latest_events"], json!([room.event_id(&told[0])]));
}

#[tokio::test]
async fn where_a_gap_stays_open_the_state_is_fetched() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let events = place.chain(&scene, &room, 5);
    let last = events.last().unwrap();
    // The peer tells the state before the last event, and nothing of what lies between.
    let state: Vec<_> = place.state.iter().chain([&place.join]).cloned().collect();
    let state = without_replaced(state);
    let named: Vec<_> = state.iter().map(|event| room.event_id(event)).collect();
    let answer = json!({ "pdu_ids": named, "auth_chain_ids": named });
    scene.peer.answers("/_matrix/federation/v1/state_ids/", StatusCode::OK, answer);
    let results = scene.peer.send(scene.name(), vec![last.clone()]).await;
    assert_eq!(results[room.event_id(last).as_str()], json!({}), "{results}");
    assert!(scene.seen(&room, &room.event_id(last)).await.is_some());
    assert!(scene.seen(&room, &room.event_id(&events[3])).await.is_none());
    // The room goes on from there.
    let next = scene.message(&room, &place, &[room.event_id(last)], "on");
    let results = scene.peer.send(scene.name(), vec![next.clone()]).await;
    assert_eq!(results[room.event_id(&next).as_str()], json!({}));
    scene.ann.send_text(&room.id, "and here").await;
}

#[tokio::test]
async fn a_rejected_event_in_a_told_state_stays_out() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let last = place.chain(&scene, &room, 3).pop().unwrap();
    let forbidden = json!({
        "type": "m.room.name", "state_key": "", "content": { "name": "mine now" },
    });
    let forbidden = scene.event(&room, &place, &[place.join_id(&room)], forbidden);
    let state = without_replaced(place.state.iter().chain([&place.join]).cloned().collect());
    let known: Vec<_> = state.iter().map(|event| room.event_id(event)).collect();
    let named = [known.as_slice(), &[room.event_id(&forbidden)]].concat();
    let answer = json!({ "pdu_ids": named, "auth_chain_ids": known });
    scene.peer.answers("/_matrix/federation/v1/state_ids/", StatusCode::OK, answer);
    let answer = json!({ "origin": "peer.test", "origin_server_ts": 1, "pdus": [forbidden] });
    scene.peer.answers("/_matrix/federation/v1/event/", StatusCode::OK, answer);
    let results = scene.peer.send(scene.name(), vec![last.clone()]).await;
    assert_eq!(results[room.event_id(&last).as_str()], json!({}), "{results}");
    assert_eq!(scene.peer.heard("/_matrix/federation/v1/event/").len(), 1, "it was told");
    let (status, _) = scene.ann.get(&TestUser::room_path(&room.id, "state/m.room.name")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_server_that_explains_nothing_harms_only_its_own_event() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let events = place.chain(&scene, &room, 3);
    let good = scene.message(&room, &place, &[place.join_id(&room)], "good");
    let results = scene.peer.send(scene.name(), vec![events[2].clone(), good.clone()]).await;
    assert!(results[room.event_id(&events[2]).as_str()]["error"].is_string(), "{results}");
    assert_eq!(results[room.event_id(&good).as_str()], json!({}));
    // It can still be sent with what it follows.
    let results = scene.peer.send(scene.name(), events.clone()).await;
    assert!(results.as_object().unwrap().values().all(|result| *result == json!({})), "{results}");
}

#[tokio::test]
async fn while_one_rooms_gap_waits_for_its_sender_others_go_on() {
    let scene = Scene::start().await;
    let (slow, quick) =
        (scene.public_room(RoomVersionId::V11).await, scene.public_room(RoomVersionId::V11).await);
    let in_slow = scene.join(&slow, &scene.peer.user("bob")).await;
    let in_quick = scene.join(&quick, &scene.peer.user("bob")).await;
    scene.network.judge(|passage| {
        if passage.path.contains("get_missing_events") {
            hearth_testkit::Fate::Silence
        } else {
            hearth_testkit::Fate::Arrives
        }
    });
    let late = in_slow.chain(&scene, &slow, 2).pop().unwrap();
    let waiting = scene.peer.transaction(scene.name(), "slow", vec![late], Vec::new());
    let soon = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let event = scene.message(&quick, &in_quick, &[in_quick.join_id(&quick)], "quick");
        let in_same = scene.message(&slow, &in_slow, &[in_slow.join_id(&slow)], "quick too");
        let results = scene.peer.send(scene.name(), vec![event, in_same]).await;
        assert_eq!(results.as_object().unwrap().len(), 2);
        assert!(results.as_object().unwrap().values().all(|result| *result == json!({})));
    };
    tokio::select! {
        biased;
        answer = waiting => panic!("the gap cannot have been filled: {answer:?}"),
        () = soon => {}
    }
}
