//! Timelines: limits, gaps, more than before, who may see what.

use ruma::events::receipt::{ReceiptThread, ReceiptType};
use serde_json::json;

use super::{Phone, is_quiet, room, subscription, window, words};
use crate::world::{World, user};

#[tokio::test]
async fn a_gap_is_limited_and_can_be_walked_back() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    world.text(&one, &alice, "a").await;
    world.text(&one, &alice, "b").await;
    let near = phone.ask(&world).await;
    assert_eq!(words(&room(&near, &one)["timeline"]), ["a", "b"]);
    assert_eq!(room(&near, &one)["limited"], false);
    assert_eq!(room(&near, &one)["num_live"], 2);
    world.state(&one, &alice, "m.room.name", json!({"name": "in the gap"})).await;
    for body in ["c", "d", "e", "f"] {
        world.text(&one, &alice, body).await;
    }
    let far = phone.ask(&world).await;
    let told = room(&far, &one);
    assert_eq!(words(&told["timeline"]), ["d", "e", "f"]);
    assert_eq!(told["limited"], true);
    assert_eq!(words(&told["required_state"]), ["m.room.name"], "the state of the gap comes");
    assert_eq!(told["name"], "in the gap");
    assert!(told["prev_batch"].as_str().unwrap().starts_with("t1_"));
}

#[tokio::test]
async fn a_raised_limit_brings_older_events_at_once() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    for body in ["a", "b", "c", "d"] {
        world.text(&one, &alice, body).await;
    }
    for (accepted, name) in [(false, "unstable_expanded_timeline"), (true, "expanded_timeline")] {
        let body = |limit| {
            let mut body = subscription(&one, limit, &json!([]));
            if accepted {
                body["room_subscriptions"][one.as_str()]["required_state"] = json!({});
            }
            body
        };
        let of = if accepted { Phone::accepted } else { Phone::of };
        let mut phone = of(&alice, body(1));
        let first = phone.ask(&world).await;
        assert_eq!(words(&room(&first, &one)["timeline"]), ["d"]);
        phone.body = body(3);
        let more = phone.ask(&world).await;
        let told = room(&more, &one);
        assert_eq!(words(&told["timeline"]), ["b", "c", "d"]);
        assert_eq!((&told[name], &told["initial"]), (&json!(true), &json!(null)));
        assert_eq!((&told["num_live"], &told["limited"]), (&json!(0), &json!(true)));
        // Fewer, and as many again: all of that is there.
        phone.body = body(1);
        assert!(is_quiet(&phone.ask(&world).await));
        phone.body = body(3);
        assert!(is_quiet(&phone.ask(&world).await));
    }
}

#[tokio::test]
async fn after_a_gap_what_was_sent_before_it_does_not_count() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, subscription(&one, 3, &json!([])));
    phone.ask(&world).await;
    for body in ["a", "b", "c", "d"] {
        world.text(&one, &alice, body).await;
    }
    phone.body = subscription(&one, 1, &json!([]));
    let gap = phone.ask(&world).await;
    assert_eq!(words(&room(&gap, &one)["timeline"]), ["d"]);
    phone.body = subscription(&one, 3, &json!([]));
    let more = phone.ask(&world).await;
    assert_eq!(words(&room(&more, &one)["timeline"]), ["b", "c", "d"]);
}

#[tokio::test]
async fn what_came_while_no_timeline_was_wanted_comes_when_one_is() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, subscription(&one, 3, &json!([])));
    phone.ask(&world).await;
    phone.body = subscription(&one, 0, &json!([]));
    for body in ["a", "b"] {
        world.text(&one, &alice, body).await;
        assert!(is_quiet(&phone.ask(&world).await), "there is nothing to tell of it");
    }
    phone.body = subscription(&one, 3, &json!([]));
    let more = phone.ask(&world).await;
    assert_eq!(words(&room(&more, &one)["timeline"])[1..], ["a", "b"]);
    assert_eq!(room(&more, &one)["unstable_expanded_timeline"], true);
    assert!(is_quiet(&phone.ask(&world).await));
}

#[tokio::test]
async fn where_nothing_of_much_is_shown_the_way_back_is() {
    let world = World::new().await;
    let (alice, eve) = (user("alice"), user("eve"));
    let one = world.room(&alice).await;
    world.join(&one, &eve).await;
    let ignored = serde_json::value::to_raw_value(&json!({"ignored_users": {"@eve:x": {}}}));
    let (scope, kind) = (hearth_users::AccountDataScope::Global, "m.ignored_user_list");
    world.users.set_account_data(&alice, scope, kind, &ignored.unwrap()).await.unwrap();
    let mut phone = Phone::of(&alice, subscription(&one, 3, &json!([])));
    phone.ask(&world).await;
    world.text(&one, &alice, "hidden by what follows").await;
    // More than is gone through for one timeline.
    for _ in 0..1_001 {
        world.text(&one, &eve, "spam").await;
    }
    let answer = phone.ask(&world).await;
    let told = room(&answer, &one);
    assert_eq!(words(&told["timeline"]), [] as [&str; 0]);
    assert_eq!(told["limited"], true);
    assert!(told["prev_batch"].as_str().unwrap().starts_with("t1_"), "{told}");
}

#[tokio::test]
async fn what_bumped_a_room_is_found_behind_much_that_does_not() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let message = world.text(&one, &alice, "a").await;
    for number in 0..120 {
        world.state(&one, &alice, "m.room.topic", json!({"topic": number.to_string()})).await;
    }
    let answer = Phone::of(&alice, window(0, 9)).ask(&world).await;
    let message = world.rooms.event_by_id(&one, &message).await.unwrap().unwrap();
    let position = message.index.unwrap().position().get();
    assert_eq!(room(&answer, &one)["bump_stamp"], position);
}

#[tokio::test]
async fn what_bumps_a_room_is_a_message_and_not_a_reaction() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    let created = phone.ask(&world).await;
    let stamp = |answer: &serde_json::Value| room(answer, &one)["bump_stamp"].as_u64().unwrap();
    assert!(stamp(&created) > 0, "by its creation");
    let message = world.text(&one, &alice, "a").await;
    let bumped = phone.ask(&world).await;
    assert!(stamp(&bumped) > stamp(&created));
    let reaction = json!({"m.relates_to": {
        "rel_type": "m.annotation", "event_id": message, "key": "+",
    }});
    world.send(&one, &alice, "m.reaction", reaction).await;
    world.state(&one, &alice, "m.room.topic", json!({"topic": "t"})).await;
    let unmoved = phone.ask(&world).await;
    assert_eq!(stamp(&unmoved), stamp(&bumped));
    // The list is ordered by any activity all the same.
    let two = world.room(&alice).await;
    phone.body = window(0, 0);
    phone.ask(&world).await;
    world.state(&one, &alice, "m.room.topic", json!({"topic": "u"})).await;
    let top = phone.ask(&world).await;
    assert!(!room(&top, &one).is_null() && room(&top, &two).is_null());
}

#[tokio::test]
async fn counts_are_those_of_sync_and_move_with_reading() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let mut phone = Phone::of(&bob, window(0, 9));
    phone.ask(&world).await;
    world.text(&one, &alice, "a").await;
    let last = world.text(&one, &alice, "b").await;
    let unread = phone.ask(&world).await;
    let told = room(&unread, &one);
    assert_eq!((&told["notification_count"], &told["highlight_count"]), (&json!(2), &json!(0)));
    world.read(&one, &bob, ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, &last).await;
    let read = phone.ask(&world).await;
    assert_eq!(room(&read, &one)["notification_count"], 0);
    assert_eq!(words(&room(&read, &one)["timeline"]), [] as [&str; 0]);
    assert!(is_quiet(&phone.ask(&world).await));
    // The accepted form has no counts: there, nothing of a room has changed by reading.
    let body = json!({"lists": {"all": {"timeline_limit": 1, "required_state": {}}}});
    let mut phone = Phone::accepted(&bob, body);
    let last = world.text(&one, &alice, "c").await;
    phone.ask(&world).await;
    world.read(&one, &bob, ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, &last).await;
    assert!(is_quiet(&phone.ask(&world).await));
}

#[tokio::test]
async fn history_is_shown_to_those_who_may_see_it_and_ignored_users_are_not() {
    let world = World::new().await;
    let (alice, bob, eve) = (user("alice"), user("bob"), user("eve"));
    let one = world.room(&alice).await;
    world.join(&one, &eve).await;
    let hidden = json!({"history_visibility": "joined"});
    world.state(&one, &alice, "m.room.history_visibility", hidden).await;
    world.text(&one, &alice, "before").await;
    world.join(&one, &bob).await;
    world.text(&one, &alice, "after").await;
    let ignored = serde_json::value::to_raw_value(&json!({"ignored_users": {"@eve:x": {}}}));
    let scope = hearth_users::AccountDataScope::Global;
    world
        .users
        .set_account_data(&bob, scope, "m.ignored_user_list", &ignored.unwrap())
        .await
        .unwrap();
    world.text(&one, &eve, "spam").await;
    let mut phone = Phone::of(&bob, subscription(&one, 10, &json!([])));
    let answer = phone.ask(&world).await;
    let seen = words(&room(&answer, &one)["timeline"]);
    assert_eq!(seen[seen.len() - 2..], ["@bob join", "after"]);
    assert!(!seen.contains(&"before".to_owned()));
    world.text(&one, &eve, "more spam").await;
    let next = phone.ask(&world).await;
    let told = room(&next, &one);
    assert!(told.is_null() || words(&told["timeline"]).is_empty(), "{told}");
}

#[tokio::test]
async fn a_redacted_event_is_empty_and_the_redaction_comes() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let secret = world.text(&one, &alice, "secret").await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    world.redact(&one, &alice, &secret).await;
    let answer = phone.ask(&world).await;
    assert_eq!(words(&room(&answer, &one)["timeline"]), ["m.room.redaction"]);
    let mut other = Phone::of(&alice, window(0, 9));
    let anew = other.ask(&world).await;
    assert_eq!(words(&room(&anew, &one)["timeline"])[1..], ["[redacted]", "m.room.redaction"]);
}

#[tokio::test]
async fn who_wants_no_timeline_gets_the_state_and_is_not_limited() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, subscription(&one, 0, &json!([["m.room.topic", ""]])));
    let first = phone.ask(&world).await;
    assert_eq!(room(&first, &one)["limited"], false);
    assert_eq!(words(&room(&first, &one)["timeline"]), [] as [&str; 0]);
    world.state(&one, &alice, "m.room.topic", json!({"topic": "t"})).await;
    let second = phone.ask(&world).await;
    assert_eq!(words(&room(&second, &one)["required_state"]), ["m.room.topic"]);
    assert!(is_quiet(&phone.ask(&world).await));
}
