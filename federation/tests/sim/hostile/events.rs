//! Events that must not get in by `PUT /send`.

use hearth_rooms::schema::Standing;
use ruma::{RoomVersionId, UserId};
use serde_json::{Value, json};

use super::{
    Scene, new_room,
    peer::{ODD, event_id},
    play,
};

/// The event is dropped with an error, is not part of the room, and the room goes on.
async fn dropped(scene: &Scene, event: Value) {
    let error = scene.error_of(event.clone()).await;
    assert!(error.is_some(), "{:?}: taken: {event}", scene.version);
    assert!(!scene.holds(&event).await);
    scene.must_go_on().await;
}

/// The event is not part of the room, whatever its sender is told, and the room goes on.
async fn refused(scene: &Scene, event: Value) {
    let _ = scene.error_of(event.clone()).await;
    assert!(!scene.holds(&event).await, "{:?}: taken: {event}", scene.version);
    scene.must_go_on().await;
}

#[test]
fn an_honest_event_is_taken() {
    play(|scene: Scene| async move { scene.must_go_on().await });
}

#[test]
fn unsigned_events_are_dropped() {
    play(|scene| async move {
        let mut event = scene.peer.sign(&scene.version, scene.message());
        event["signatures"] = json!({});
        dropped(&scene, event).await;
    });
}

#[test]
fn wrongly_signed_events_are_dropped() {
    play(|scene| async move {
        let mut event = scene.peer.sign(&scene.version, scene.message());
        let forged = "A".repeat(86);
        event["signatures"] = json!({ "mallory.sim": { "ed25519:sim": forged } });
        dropped(&scene, event).await;
    });
}

#[test]
fn events_signed_with_an_unknown_key_are_dropped() {
    play(|scene| async move {
        let mut event = scene.peer.sign(&scene.version, scene.message());
        let signature = event["signatures"]["mallory.sim"]["ed25519:sim"].take();
        event["signatures"] = json!({ "mallory.sim": { "ed25519:other": signature } });
        dropped(&scene, event).await;
    });
}

/// A content that does not fit its hash is taken without what redaction removes (SS "Checks performed
/// on receipt of a PDU"), so that nothing of it is shown.
#[test]
fn altered_contents_are_taken_as_redacted() {
    play(|scene| async move {
        let mut event = scene.peer.sign(&scene.version, scene.message());
        event["content"]["body"] = json!("altered on the way");
        assert_eq!(scene.error_of(event.clone()).await, None);
        let id = ruma::EventId::parse(event_id(&scene.version, &event)).unwrap();
        let rooms = scene.victim.rooms().unwrap();
        let held = rooms.event_by_id(&scene.room_id, &id).await.unwrap().unwrap();
        assert_eq!(held.pdu.content().get(), "{}");
        scene.must_go_on().await;
    });
}

#[test]
fn events_altered_where_the_signature_looks_are_dropped() {
    play(|scene| async move {
        let mut event = scene.peer.sign(&scene.version, scene.message());
        event["depth"] = json!(77);
        dropped(&scene, event).await;
    });
}

#[test]
fn oversized_events_are_dropped() {
    play(|scene| async move {
        let mut event = scene.message();
        event["content"]["body"] = json!("x".repeat(66_000));
        dropped(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

#[test]
fn events_with_oversized_types_are_dropped() {
    play(|scene| async move {
        let event = scene.event(&"t".repeat(256), json!({}));
        dropped(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

#[test]
fn events_with_too_many_previous_events_are_dropped() {
    play(|scene| async move {
        let mut event = scene.message();
        let previous: Vec<String> = (0..21).map(|n| format!("${n:0>43}")).collect();
        event["prev_events"] = json!(previous);
        dropped(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

#[test]
fn events_with_too_many_auth_events_are_dropped() {
    play(|scene| async move {
        let mut event = scene.message();
        let auth: Vec<String> = (0..11).map(|n| format!("${n:0>43}")).collect();
        event["auth_events"] = json!(auth);
        dropped(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

#[test]
fn malformed_events_do_not_harm_the_transaction() {
    play(|scene| async move {
        let good = scene.peer.sign(&scene.version, scene.message());
        let without = |field: &str| {
            let mut event = scene.message();
            event.as_object_mut().unwrap().remove(field);
            event
        };
        let with = |field: &str, value: Value| {
            let mut event = scene.message();
            event[field] = value;
            event
        };
        let bad = [
            without("sender"),
            without("room_id"),
            without("depth"),
            without("prev_events"),
            without("auth_events"),
            with("sender", json!("nobody")),
            with("depth", json!("deep")),
            with("depth", json!(-1)),
            with("prev_events", json!("none")),
            with("auth_events", json!([7])),
            with("state_key", json!(7)),
            with("content", json!("text")),
        ];
        let bad = bad.map(|event| scene.peer.sign(&scene.version, event));
        let mut typeless = scene.peer.sign(&scene.version, scene.message());
        typeless.as_object_mut().unwrap().remove("type");
        let mut events = vec![json!({}), json!({ "room_id": scene.room_id }), typeless];
        events.extend(bad.clone());
        events.push(good.clone());
        let results = scene.peer.send(&scene.victim.name, "malformed", events).await;
        assert_eq!(results[event_id(&scene.version, &good)], json!({}));
        assert!(scene.holds(&good).await);
        for event in &bad {
            assert!(scene.found(&scene.room_id, event).await.is_none(), "taken: {event}");
        }
        scene.must_go_on().await;
    });
}

#[test]
fn what_is_no_list_of_objects_is_refused_as_a_whole() {
    play(|scene| async move {
        let name = &scene.victim.name;
        let pdus = vec![json!("text"), json!(7), json!(["list"]), Value::Null];
        let (status, _) = scene.peer.transaction(name, "nonsense", pdus, Vec::new()).await;
        assert!(status.is_success() || status.is_client_error(), "{status}");
        let many = vec![json!({}); 51];
        let (status, _) = scene.peer.transaction(name, "many", many, Vec::new()).await;
        assert_eq!(status, 400);
        scene.must_go_on().await;
    });
}

#[test]
fn events_for_another_room_are_rejected() {
    play(|scene| async move {
        // The auth events are this room's, the room named is one that the peer is not in.
        let other = new_room(&scene.victim, &scene.version).await;
        let mut event = scene.message();
        event["room_id"] = json!(other);
        let event = scene.peer.sign(&scene.version, event);
        let _ = scene.error_of(event.clone()).await;
        let id = ruma::EventId::parse(event_id(&scene.version, &event)).unwrap();
        let found = scene.victim.rooms().unwrap().event_by_id(&other, &id).await.unwrap();
        assert!(found.is_none_or(|event| event.pdu.is_rejected()));
        scene.must_go_on().await;
    });
}

#[test]
fn events_in_another_servers_name_are_dropped() {
    play(|scene| async move {
        for sender in [scene.victim.user(0), UserId::parse("@someone:third.sim").unwrap()] {
            let mut event = scene.message();
            event["sender"] = json!(sender);
            dropped(&scene, scene.peer.sign(&scene.version, event)).await;
        }
    });
}

#[test]
fn events_of_users_who_are_not_in_the_room_are_rejected() {
    play(|scene| async move {
        let mut event = scene.message();
        event["sender"] = json!(scene.peer.user("stranger"));
        refused(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

#[test]
fn power_that_nobody_gave_is_not_taken() {
    play(|scene| async move {
        let levels = json!({ "users": { scene.peer.user("mallory").as_str(): 100 } });
        let mut event = scene.event("m.room.power_levels", levels);
        event["state_key"] = json!("");
        refused(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

#[test]
fn a_second_create_event_is_rejected() {
    play(|scene| async move {
        let mut event = scene.event("m.room.create", json!({ "room_version": scene.version }));
        event["state_key"] = json!("");
        refused(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

/// A depth beyond everybody's does not keep the room from going on, nor above the limit.
#[test]
fn forged_depths_do_no_harm() {
    play(|scene| async move {
        let mut event = scene.message();
        event["depth"] = json!(9_007_199_254_740_991_u64);
        let event = scene.peer.sign(&scene.version, event);
        let _ = scene.error_of(event).await;
        let text = serde_json::value::to_raw_value(&json!({ "msgtype": "m.text", "body": "on" }));
        let draft = hearth_rooms::Draft::message(
            scene.victim.user(0),
            "m.room.message".into(),
            text.unwrap(),
        );
        let rooms = scene.victim.rooms().unwrap();
        let event_id = rooms.send(&scene.room_id, draft, None).await.unwrap();
        let sent = rooms.event_by_id(&scene.room_id, &event_id).await.unwrap().unwrap();
        assert!(sent.pdu.depth() <= 9_007_199_254_740_991);
        scene.must_go_on().await;
    });
}

/// The rejected event stands where the real one of its kind ought to: all else is as it should be.
#[test]
fn an_event_that_names_a_rejected_one_as_its_authority_is_rejected() {
    play(|scene| async move {
        let mut levels = scene.event(
            "m.room.power_levels",
            json!({ "users": { scene.peer.user("mallory").as_str(): 100 } }),
        );
        levels["state_key"] = json!("");
        let levels = scene.peer.sign(&scene.version, levels);
        assert_eq!(scene.error_of(levels.clone()).await, None);
        let kept = scene.found(&scene.room_id, &levels).await.expect("kept, as rejected");
        assert_eq!(kept.header.standing, Standing::Rejected);
        let mut event = scene.message();
        let real = json!(scene.state_id("m.room.power_levels"));
        let named = event["auth_events"].as_array_mut().unwrap();
        let place = named.iter().position(|id| *id == real).unwrap();
        named[place] = json!(event_id(&scene.version, &levels));
        refused(&scene, scene.peer.sign(&scene.version, event)).await;
    });
}

/// An event that follows a rejected one is judged by the state before that, and may be fine.
#[test]
fn a_rejected_previous_event_changes_no_state() {
    play(|scene| async move {
        let mut name = scene.event("m.room.name", json!({ "name": "owned" }));
        name["state_key"] = json!("");
        let name = scene.peer.sign(&scene.version, name);
        assert_eq!(scene.error_of(name.clone()).await, None);
        let mut event = scene.message();
        event["prev_events"] = json!([event_id(&scene.version, &name)]);
        event["depth"] = json!(name["depth"].as_u64().unwrap() + 1);
        let event = scene.peer.sign(&scene.version, event);
        assert_eq!(scene.error_of(event).await, None);
        let rooms = scene.victim.rooms().unwrap();
        let head = rooms.head(&scene.room_id).await.unwrap().unwrap();
        let now = rooms.state_event(&scene.room_id, head.state, "m.room.name", "").await.unwrap();
        assert!(now.is_none());
        scene.must_go_on().await;
    });
}

#[test]
fn floats_and_huge_numbers_are_dropped() {
    play(|scene| async move {
        for odd in ["1.5", "9007199254740992", "1e3", "-0.0"] {
            // Not canonical: signed as if the field were not there, then put in.
            let mut event = scene.peer.sign(&scene.version, scene.message());
            let id = event_id(&scene.version, &event);
            event["content"]["odd"] = json!(ODD);
            let (status, answer) = scene.send_odd(&format!("odd{odd}"), &event, odd).await;
            assert_eq!(status, 200, "{answer}");
            let id = ruma::EventId::parse(id).unwrap();
            let rooms = scene.victim.rooms().unwrap();
            assert!(rooms.event_by_id(&scene.room_id, &id).await.unwrap().is_none(), "{odd}");
        }
        scene.must_go_on().await;
    });
}

/// A cycle cannot be made of hashes, but a peer can answer for missing events with whatever it likes.
#[test]
fn missing_events_that_lead_nowhere_end() {
    play(|scene| async move {
        let mut event = scene.message();
        let missing = format!("${:0>43}", 1);
        event["prev_events"] = json!([missing]);
        let event = scene.peer.sign(&scene.version, event);
        // The answer to every question is the event itself.
        let path = "/_matrix/federation/v1/get_missing_events";
        scene.peer.answers(path, 200, json!({ "events": [event] }));
        refused(&scene, event).await;
        let asked = scene.peer.heard(path).len();
        assert!(asked <= 20, "asked {asked} times");
    });
}

/// A chain without end behind an event, served a piece at a time, is given up.
#[test]
fn floods_of_missing_events_are_bounded() {
    play(|scene| async move {
        let chain = chain(&scene, 1_500);
        let last = chain.last().unwrap().clone();
        let path = "/_matrix/federation/v1/get_missing_events";
        // Always the same far end: the gap never closes.
        scene.peer.answers(path, 200, json!({ "events": chain[1_400..1_499] }));
        let _ = scene.error_of(last).await;
        let asked = scene.peer.heard("/_matrix/federation/v1/").len();
        assert!(asked <= 300, "asked {asked} times");
        scene.must_go_on().await;
    });
}

/// Messages of the peer's user, each following the one before, the first following nothing known.
fn chain(scene: &Scene, length: usize) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::with_capacity(length);
    let mut previous = format!("${:0>43}", 2);
    for number in 0..length {
        let mut event = scene.message();
        event["prev_events"] = json!([previous]);
        event["depth"] = json!(100 + number);
        event["content"]["body"] = json!(format!("{number}"));
        let event = scene.peer.sign(&scene.version, event);
        previous = event_id(&scene.version, &event);
        events.push(event);
    }
    events
}

#[test]
fn an_event_of_an_unknown_room_is_refused_alone() {
    play(|scene| async move {
        let mut event = scene.message();
        event["room_id"] = json!("!nowhere:mallory.sim");
        let stray = scene.peer.sign(&RoomVersionId::V10, event);
        let good = scene.peer.sign(&scene.version, scene.message());
        scene.peer.send(&scene.victim.name, "stray", vec![stray, good.clone()]).await;
        assert!(scene.holds(&good).await);
        scene.must_go_on().await;
    });
}
