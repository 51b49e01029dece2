//! Answers with many rooms, which two tasks make.

use ruma::OwnedRoomId;
use serde_json::{Map, Value, json};

use super::{Phone, is_quiet, rooms, window, words};
use crate::world::{World, user};

/// More than one task makes.
const MANY: usize = 100;
/// Fewer than that.
const FEW: u64 = 30;
/// What the rooms of one answer take at most, but for the last of them.
const MAX_BYTES: usize = 4 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rooms_are_told_as_few_are() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    for number in 0..MANY {
        let one = world.room(&alice).await;
        if number % 10 == 3 {
            world.invite(&one, &alice, &bob).await;
            continue;
        }
        world.join(&one, &bob).await;
        match number % 10 {
            0 => world.rooms.kick(&one, &alice, &bob, None).await.map(drop).unwrap(),
            1 | 2 => drop(world.state(&one, &alice, "m.room.name", json!({"name": "n"})).await),
            4 => drop(world.text(&one, &bob, "mine").await),
            _ => drop(world.text(&one, &alice, "theirs").await),
        }
    }
    for accepted in [false, true] {
        let ask = async |first: u64, last: u64| {
            let mut body = window(first, last);
            if accepted {
                body["lists"]["all"] = json!({
                    "range": [first, last], "timeline_limit": 3,
                    "required_state": {"include": [{"type": "m.room.name"}]},
                });
                Phone::accepted(&bob, body).ask(&world).await
            } else {
                Phone::of(&bob, body).ask(&world).await
            }
        };
        let all = ask(0, 999).await;
        assert_eq!(rooms(&all).len(), MANY);
        let mut pieces = Map::new();
        for first in (0..1_000).step_by(usize::try_from(FEW).unwrap()) {
            let mut piece = ask(first, first + FEW - 1).await;
            pieces.append(piece["rooms"].as_object_mut().unwrap());
        }
        assert_eq!(all["rooms"], Value::Object(pieces));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_since_the_last_answer_is_live_in_rooms_that_are_new_by_then() {
    let world = World::new().await;
    let alice = user("alice");
    let mut all: Vec<OwnedRoomId> = Vec::new();
    for _ in 0..MANY {
        all.push(world.room(&alice).await);
    }
    let mut phone = Phone::of(&alice, json!({"lists": {}}));
    phone.ask(&world).await;
    for one in &all {
        world.text(one, &alice, "now").await;
    }
    phone.body = window(0, 999);
    let answer = phone.ask(&world).await;
    for one in &all {
        assert_eq!(answer["rooms"][one.as_str()]["num_live"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_comes_later_the_least_active_last_and_nothing_twice() {
    let world = World::new().await;
    let alice = user("alice");
    let mut newest: Vec<OwnedRoomId> = Vec::new();
    for _ in 0..MANY {
        let one = world.room(&alice).await;
        world.text(&one, &alice, &"x".repeat(60_000)).await;
        newest.insert(0, one);
    }
    let mut phone = Phone::of(&alice, window(0, 999));
    let mut told = 0;
    let mut sizes = Vec::new();
    while told < MANY {
        let answer = phone.ask(&world).await;
        let mut some: Vec<String> =
            newest[told..].iter().take(rooms(&answer).len()).map(ToString::to_string).collect();
        some.sort();
        assert!(!some.is_empty());
        assert_eq!(rooms(&answer), some);
        for room_id in &some {
            assert_eq!(words(&answer["rooms"][room_id]["timeline"]).last().unwrap().len(), 60_000);
        }
        told += some.len();
        sizes.push(answer.to_string().len());
    }
    assert!(sizes.len() > 1 && sizes[0] > MAX_BYTES && sizes[0] < MAX_BYTES + 70_000, "{sizes:?}");
    assert!(is_quiet(&phone.ask(&world).await));
}
