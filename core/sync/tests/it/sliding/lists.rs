//! Windows on the user's rooms, and subscriptions.

use serde_json::json;

use super::{Phone, is_quiet, room, rooms, subscription, window, words};
use crate::world::{World, user};

#[tokio::test]
async fn a_window_has_the_most_recently_active_rooms_and_moves_with_them() {
    let world = World::new().await;
    let alice = user("alice");
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(world.room(&alice).await);
    }
    let mut phone = Phone::of(&alice, window(0, 1));
    let first = phone.ask(&world).await;
    assert_eq!(first["lists"]["all"]["count"], 5);
    let mut newest = vec![all[3].to_string(), all[4].to_string()];
    newest.sort();
    assert_eq!(rooms(&first), newest);
    assert_eq!(room(&first, &all[4])["initial"], true);
    assert_eq!(room(&first, &all[4])["num_live"], 0);
    assert!(is_quiet(&phone.ask(&world).await));

    // A room outside of the window comes in by what happens there.
    world.text(&all[0], &alice, "here").await;
    let moved = phone.ask(&world).await;
    assert_eq!(rooms(&moved), [all[0].to_string()]);
    let told = room(&moved, &all[0]);
    assert_eq!(words(&told["timeline"]).last().unwrap(), "here");
    assert_eq!(
        (&told["initial"], &told["num_live"], &told["limited"]),
        (&json!(true), &json!(1), &json!(true))
    );

    // What was pushed out of the window is not followed, and comes without gap when it is back.
    world.text(&all[3], &alice, "one").await;
    world.text(&all[0], &alice, "two").await;
    world.text(&all[4], &alice, "three").await;
    phone.body = window(0, 0);
    let narrow = phone.ask(&world).await;
    assert_eq!(rooms(&narrow), [all[4].to_string()]);
    phone.body = window(0, 9);
    let wide = phone.ask(&world).await;
    assert_eq!(rooms(&wide).len(), 4, "all but the one that was just told");
    let back = room(&wide, &all[3]);
    assert_eq!(words(&back["timeline"]), ["one"]);
    assert_eq!((&back["initial"], &back["limited"]), (&json!(null), &json!(false)));
    assert!(is_quiet(&phone.ask(&world).await));
}

#[tokio::test]
async fn several_ranges_and_lists_are_one_answer() {
    let world = World::new().await;
    let alice = user("alice");
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(world.room(&alice).await);
    }
    let list = |ranges, limit| json!({"ranges": ranges, "timeline_limit": limit});
    let body = json!({"lists": {
        "few": list(json!([[0, 0], [5, 5]]), 1),
        "first": list(json!([[0, 1]]), 2),
    }});
    let answer = Phone::of(&alice, body).ask(&world).await;
    let mut expected = vec![all[0].to_string(), all[4].to_string(), all[5].to_string()];
    expected.sort();
    assert_eq!(rooms(&answer), expected);
    assert_eq!(words(&room(&answer, &all[5])["timeline"]).len(), 2, "the greater limit counts");
    assert_eq!(words(&room(&answer, &all[0])["timeline"]).len(), 1);
}

#[tokio::test]
async fn subscriptions_follow_rooms_that_no_list_has() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (one, two) = (world.room(&alice).await, world.room(&alice).await);
    let foreign = world.room(&bob).await;
    let mut phone = Phone::of(&alice, subscription(&one, 2, &json!([["m.room.create", ""]])));
    phone.body["room_subscriptions"][foreign.as_str()] = json!({"timeline_limit": 5});
    let first = phone.ask(&world).await;
    assert_eq!(rooms(&first), [one.to_string()], "who is not in a room sees nothing of it");
    assert_eq!(words(&room(&first, &one)["required_state"]), ["m.room.create"]);
    world.text(&two, &alice, "unseen").await;
    assert!(is_quiet(&phone.ask(&world).await));
    world.text(&one, &alice, "seen").await;
    let second = phone.ask(&world).await;
    assert_eq!(words(&room(&second, &one)["timeline"]), ["seen"]);
    assert_eq!(words(&room(&second, &one)["required_state"]), [] as [&str; 0]);
}

#[tokio::test]
async fn a_tombstoned_room_and_its_successor_are_both_there() {
    let world = World::new().await;
    let alice = user("alice");
    let old = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.body["lists"]["all"]["required_state"] = json!([["m.room.tombstone", ""]]);
    phone.ask(&world).await;
    let new = world.room(&alice).await;
    let content = json!({"body": "moved", "replacement_room": new});
    world.state(&old, &alice, "m.room.tombstone", content).await;
    let answer = phone.ask(&world).await;
    assert_eq!(words(&room(&answer, &old)["required_state"]), ["m.room.tombstone"]);
    assert_eq!(room(&answer, &new)["initial"], true);
    assert_eq!(answer["lists"]["all"]["count"], 2);
}
