//! Lazily loaded members.

use serde_json::{Value, json};

use crate::world::{Ask, World, joined, keys, user};

fn lazy(redundant: bool) -> Value {
    let state = json!({"lazy_load_members": true, "include_redundant_members": redundant});
    json!({"room": {"state": state, "timeline": {"limit": 2}}})
}

fn members(section: &Value) -> Vec<String> {
    let keys = keys(&section["state"]);
    keys.into_iter()
        .filter_map(|key| Some(key.strip_prefix("m.room.member/")?.to_owned()))
        .collect()
}

#[tokio::test]
async fn senders_heroes_and_oneself_come_and_nobody_else() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    world.state(&room, &alice, "m.room.name", json!({"name": "named"})).await;
    for name in ["bob", "carol", "dave", "erin"] {
        world.join(&room, &user(name)).await;
    }
    world.text(&room, &user("carol"), "one").await;
    world.text(&room, &user("carol"), "two").await;
    let ask = Ask::of(&alice).filter(lazy(false));
    let first = world.ask(ask.clone()).await;
    assert_eq!(members(joined(&first, &room)), ["@alice:x", "@carol:x"]);

    // Known members are not repeated, unless asked for or the response was lost.
    world.text(&room, &user("carol"), "three").await;
    world.text(&room, &user("dave"), "four").await;
    let second = world.ask(ask.clone().after(&first)).await;
    assert_eq!(members(joined(&second, &room)), ["@dave:x"]);
    let repeated = world.ask(ask.clone().after(&first)).await;
    assert_eq!(members(joined(&repeated, &room)), ["@dave:x"]);
    world.text(&room, &user("dave"), "five").await;
    let third = world.ask(ask.after(&second)).await;
    assert!(members(joined(&third, &room)).is_empty());
    let all = world.ask(Ask::of(&alice).filter(lazy(true)).after(&second)).await;
    assert_eq!(members(joined(&all, &room)), ["@dave:x"]);
}

#[tokio::test]
async fn a_gap_brings_every_membership_that_changed_in_it() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let ask = Ask::of(&alice).filter(lazy(false));
    let first = world.ask(ask.clone()).await;
    for name in ["bob", "carol", "dave"] {
        world.join(&room, &user(name)).await;
    }
    for number in 0..3 {
        world.text(&room, &alice, &format!("{number}")).await;
    }
    let second = world.ask(ask.after(&first)).await;
    let section = joined(&second, &room);
    assert_eq!(section["timeline"]["limited"], true);
    assert_eq!(members(section), ["@bob:x", "@carol:x", "@dave:x"]);
    assert_eq!(section["summary"]["m.joined_member_count"], 4);
    assert_eq!(section["summary"]["m.heroes"], json!(["@bob:x", "@carol:x", "@dave:x"]));
}

#[tokio::test]
async fn full_state_tells_of_members_who_changed_in_the_gap() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    // A named room's summary has no heroes, who would be among the state anyway.
    world.state(&room, &alice, "m.room.name", json!({"name": "N"})).await;
    let filter = json!({"room": {
        "timeline": {"limit": 1, "lazy_load_members": true}, "state": {"lazy_load_members": true},
    }});
    let first = world.ask(Ask::of(&alice).filter(filter.clone())).await;
    world.rooms.leave(&room, &bob, None).await.unwrap();
    world.text(&room, &alice, "x").await;
    let ask = Ask::of(&alice).filter(filter).after(&first);
    let response = world.ask(ask.with(|request| request.full_state = true)).await;
    let state = keys(&joined(&response, &room)["state"]);
    assert!(state.contains(&"m.room.member/@bob:x".to_owned()), "{state:?}");
}
