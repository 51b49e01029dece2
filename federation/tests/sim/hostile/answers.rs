//! Events that must not get in by answers to what this server asks.

use std::time::Duration;

use ruma::RoomId;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{PROMPT, Scene, elsewhere::Elsewhere, forgeries::Mixed, peer::event_id, play, say};

const BACKFILL: &str = "/_matrix/federation/v1/backfill/";
const EVENT: &str = "/_matrix/federation/v1/event/";
const EVENT_AUTH: &str = "/_matrix/federation/v1/event_auth/";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/";
const STATE: &str = "/_matrix/federation/v1/state/";
const STATE_IDS: &str = "/_matrix/federation/v1/state_ids/";

fn pdus(scene: &Scene, events: &[Value]) -> Value {
    json!({ "origin": scene.peer.name, "origin_server_ts": scene.peer.now_ms(), "pdus": events })
}

async fn backfill(scene: &Scene, room_id: &RoomId) -> bool {
    let remote = scene.victim.rooms().unwrap().remote().unwrap();
    remote.backfill(room_id, 100).await.unwrap()
}

/// History between two events, forged but for one: the later of the two names all of it.
#[test]
fn backfill_takes_no_forged_events() {
    play(|scene| async move {
        let room = Elsewhere::new(&scene, "past", "public");
        let first = room.sign(room.message("first"));
        let mixed = Mixed::new(&scene, |number| {
            let mut event = room.message(&format!("in between {number}"));
            event["prev_events"] = json!([room.id_of(&first)]);
            event["depth"] = json!(6);
            event
        });
        let mut last = room.message("last");
        last["prev_events"] = json!(mixed.ids(&scene));
        last["depth"] = json!(7);
        let last = room.sign(last);
        room.lets_in(&[room.id_of(&last)], &room.state, &[]);
        room.join().await.unwrap();
        let told =
            [std::slice::from_ref(&last), mixed.events().as_slice(), std::slice::from_ref(&first)]
                .concat();
        scene.peer.answers(BACKFILL, 200, pdus(&scene, &told));
        room.tells_state_with(&[]);
        assert!(backfill(&scene, &room.room_id).await);
        assert!(scene.holds_in(&room.room_id, &first).await);
        assert!(scene.holds_in(&room.room_id, &last).await);
        mixed.must_be_told_apart(&scene, &room.room_id).await;
        scene.must_go_on().await;
    });
}

/// History whose depths are lies stands where what it follows and what follows it says.
#[test]
fn forged_depths_in_history_do_no_harm() {
    play(|scene| async move {
        let room = Elsewhere::new(&scene, "abyss", "public");
        let mut told: Vec<Value> = Vec::new();
        for (number, depth) in [0, 9_007_199_254_740_991_u64, 0, 7].into_iter().enumerate() {
            let mut event = room.message(&format!("{number}"));
            if let Some(before) = told.last() {
                event["prev_events"] = json!([room.id_of(before)]);
            }
            event["depth"] = json!(depth);
            told.push(room.sign(event));
        }
        room.lets_in(&[room.id_of(told.last().unwrap())], &room.state, &[]);
        let join = room.join().await.unwrap();
        scene.peer.answers(BACKFILL, 200, pdus(&scene, &told));
        room.tells_state_with(&[]);
        assert!(backfill(&scene, &room.room_id).await);
        let mut places = Vec::new();
        for event in &told {
            let found = scene.found(&room.room_id, event).await.unwrap();
            places.push(found.index.expect("a place in the timeline"));
        }
        let rooms = scene.victim.rooms().unwrap();
        let joined = rooms.event_by_id(&room.room_id, &join).await.unwrap().unwrap();
        places.push(joined.index.unwrap());
        assert!(places.is_sorted(), "{places:?}");
        let said = say(&scene.victim, &room.room_id).await;
        let said = rooms.event_by_id(&room.room_id, &said).await.unwrap().unwrap();
        assert_eq!(said.pdu.depth(), 21);
        scene.must_go_on().await;
    });
}

#[test]
fn get_missing_events_takes_no_forged_events() {
    play(|scene| async move {
        let mixed = Mixed::new(&scene, |_| scene.message());
        let mut event = scene.message();
        event["prev_events"] = json!(mixed.ids(&scene));
        event["depth"] = json!(event["depth"].as_u64().unwrap() + 1);
        let event = scene.peer.sign(&scene.version, event);
        scene.peer.answers(MISSING, 200, json!({ "events": mixed.events() }));
        assert!(scene.error_of(event.clone()).await.is_some());
        assert!(!scene.holds(&event).await);
        assert!(!scene.peer.heard(MISSING).is_empty());
        assert!(scene.holds(&mixed.honest).await);
        mixed.must_be_told_apart(&scene, &scene.room_id).await;
        scene.must_go_on().await;
    });
}

/// An event of the peer's behind a gap that nothing is told of but the state after it: that in which
/// the peer's user joined, their join, and these events.
fn behind_a_gap(scene: &Scene, more: &[String]) -> Value {
    let mut event = scene.message();
    event["prev_events"] = json!([format!("${:0>43}", 3)]);
    let join = event_id(&scene.version, &scene.join);
    let ids = [scene.state_ids(&[]).as_slice(), &[join], more].concat();
    let answer = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
    scene.peer.answers(STATE_IDS, 200, answer);
    scene.peer.sign(&scene.version, event)
}

/// The peer answers for single events.
fn tells_singly(scene: &Scene, events: &[Value]) {
    for event in events {
        let path = format!("{EVENT}{}", event_id(&scene.version, event));
        scene.peer.answers(&path, 200, pdus(scene, std::slice::from_ref(event)));
    }
}

#[test]
fn told_state_takes_no_forged_events_one_by_one() {
    play(|scene| async move {
        let mixed = Mixed::new(&scene, |number| scene.join_of(&format!("guest{number}")));
        let event = behind_a_gap(&scene, &mixed.ids(&scene));
        tells_singly(&scene, &mixed.events());
        assert_eq!(scene.error_of(event.clone()).await, None);
        assert!(scene.holds(&event).await);
        assert!(scene.peer.heard(EVENT).len() >= mixed.events().len());
        mixed.must_be_told_apart(&scene, &scene.room_id).await;
        scene.must_go_on().await;
    });
}

#[test]
fn told_state_takes_no_forged_events_as_a_whole() {
    play(|scene| async move {
        let mixed = Mixed::new(&scene, |number| scene.join_of(&format!("guest{number}")));
        let crowd = (0..100).map(|number| scene.join_of(&format!("crowd{number}")));
        let crowd: Vec<Value> = crowd.map(|join| scene.peer.sign(&scene.version, join)).collect();
        let told = [crowd.clone(), mixed.events()].concat();
        let ids: Vec<_> = told.iter().map(|event| event_id(&scene.version, event)).collect();
        let event = behind_a_gap(&scene, &ids);
        scene.peer.answers(STATE, 200, json!({ "pdus": told, "auth_chain": [] }));
        assert_eq!(scene.error_of(event.clone()).await, None);
        assert!(scene.holds(&event).await);
        assert!(!scene.peer.heard(STATE).is_empty());
        assert!(scene.found(&scene.room_id, &crowd[99]).await.is_some());
        mixed.must_be_told_apart(&scene, &scene.room_id).await;
        scene.must_go_on().await;
    });
}

/// Each forged event is named as the authority of an event, and told with the honest ones.
#[test]
fn event_auth_takes_no_forged_events() {
    play(|scene| async move {
        let mixed = Mixed::new(&scene, |number| scene.join_of(&format!("guest{number}")));
        for one in mixed.events() {
            let mut event = scene.message();
            let auth = event["auth_events"].as_array_mut().unwrap();
            auth.push(json!(event_id(&scene.version, &one)));
            auth.push(json!(event_id(&scene.version, &mixed.honest)));
            let event = scene.peer.sign(&scene.version, event);
            let chain = [one.clone(), mixed.honest.clone()];
            scene.peer.answers(EVENT_AUTH, 200, json!({ "auth_chain": chain }));
            tells_singly(&scene, &chain);
            let _ = scene.error_of(event.clone()).await;
            assert!(!scene.holds(&event).await);
        }
        assert!(scene.peer.heard(EVENT_AUTH).len() >= mixed.events().len());
        mixed.must_be_told_apart(&scene, &scene.room_id).await;
        scene.must_go_on().await;
    });
}

#[test]
fn the_answer_to_a_join_takes_no_forged_events() {
    play(|scene| async move {
        for place in ["state", "chain"] {
            let room = Elsewhere::new(&scene, place, "public");
            let mixed = Mixed::new(&scene, |number| {
                room.own_membership(&scene.peer.user(&format!("guest{number}")), "join")
            });
            let prev = room.id_of(room.state.last().unwrap());
            let with_mixed = [room.state.as_slice(), &mixed.events()].concat();
            if place == "state" {
                room.lets_in(&[prev], &with_mixed, &[]);
            } else {
                room.lets_in(&[prev], &room.state, &with_mixed);
            }
            room.join().await.unwrap();
            mixed.must_be_told_apart(&scene, &room.room_id).await;
        }
        scene.must_go_on().await;
    });
}

#[test]
fn the_rest_of_a_partial_state_takes_no_forged_events() {
    play(|scene| async move {
        let room = Elsewhere::new(&scene, "large", "public");
        let mixed = Mixed::new(&scene, |number| {
            room.own_membership(&scene.peer.user(&format!("guest{number}")), "join")
        });
        let (members, rest): (Vec<Value>, Vec<Value>) =
            room.state.iter().cloned().partition(|event| event["type"] == "m.room.member");
        room.gives_template(&[room.id_of(room.state.last().unwrap())]);
        room.answers_join(&json!({
            "origin": scene.peer.name, "state": rest, "auth_chain": members,
            "members_omitted": true, "servers_in_room": [scene.peer.name],
        }));
        let whole = [room.state.as_slice(), &mixed.events()].concat();
        scene.peer.answers(STATE, 200, json!({ "pdus": whole, "auth_chain": [] }));
        room.join().await.unwrap();
        let rooms = scene.victim.rooms().unwrap();
        let completed = async {
            while !rooms.partial_rooms().await.unwrap().is_empty() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PROMPT, completed).await.expect("the room is completed");
        mixed.must_be_told_apart(&scene, &room.room_id).await;
        say(&scene.victim, &room.room_id).await;
        scene.must_go_on().await;
    });
}

/// A state that does not hold together makes no room.
#[test]
fn a_join_into_an_invented_room_is_refused() {
    play(|scene| async move {
        let room = Elsewhere::new(&scene, "invented", "public");
        let prev = [room.id_of(room.state.last().unwrap())];
        for (what, state) in invented_states(&scene, &room) {
            room.lets_in(&prev, &state, &[]);
            let joined = room.join().await;
            assert!(joined.is_err(), "{}: {what}: {joined:?}", scene.version);
            let rooms = scene.victim.rooms().unwrap();
            assert!(rooms.head(&room.room_id).await.unwrap().is_none(), "{what}");
        }
        // With nothing wrong, the same room is joined.
        room.lets_in(&prev, &room.state, &[]);
        room.join().await.unwrap();
        scene.must_go_on().await;
    });
}

/// The room's state with one thing wrong in each.
fn invented_states(scene: &Scene, room: &Elsewhere<'_>) -> Vec<(String, Vec<Value>)> {
    let mut wrong = vec![("empty".to_owned(), Vec::new())];
    for (place, event) in room.state.iter().enumerate() {
        let event_type = event["type"].as_str().unwrap();
        // Nothing rests on the creator being a member.
        if event_type == "m.room.member" {
            continue;
        }
        let mut without = room.state.clone();
        without.remove(place);
        wrong.push((format!("no {event_type}"), without));
        let mut changed = |what: &str, change: fn(&mut Value)| {
            let mut state = room.state.clone();
            change(&mut state[place]);
            wrong.push((format!("{event_type} {what}"), state));
        };
        changed("unsigned", |event| event["signatures"] = json!({}));
        changed("wrongly signed", |event| {
            let signature = json!({ "ed25519:sim": "A".repeat(86) });
            event["signatures"] = json!({ "mallory.sim": signature });
        });
        changed("altered", |event| event["depth"] = json!(99));
        changed("no event", |event| *event = json!({}));
    }
    let mut twice = room.event("m.room.join_rules", json!({ "join_rule": "public", "more": 1 }));
    twice["state_key"] = json!("");
    let twice = [room.state.as_slice(), &[room.sign(twice)]].concat();
    wrong.push(("two join rules".to_owned(), twice));
    let other = Elsewhere::new(scene, "other", "public");
    wrong.push(("another room's".to_owned(), other.state));
    wrong
}
