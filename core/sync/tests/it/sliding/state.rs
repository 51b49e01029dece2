//! `required_state`: wildcards, oneself, lazy members, more than before; names and heroes.

use serde_json::json;

use super::{Phone, is_quiet, room, sorted, subscription, window, words};
use crate::world::{World, user};

#[tokio::test]
async fn types_keys_wildcards_and_oneself() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let required = json!([["m.room.create", "*"], ["m.room.member", "$ME"], ["*", "nobody's"]]);
    let first = Phone::of(&bob, subscription(&one, 1, &required)).ask(&world).await;
    assert_eq!(sorted(&room(&first, &one)["required_state"]), ["@bob join", "m.room.create"]);
    let all = Phone::of(&bob, subscription(&one, 1, &json!([["*", "*"]]))).ask(&world).await;
    let all = sorted(&room(&all, &one)["required_state"]);
    for expected in ["@alice join", "@bob join", "m.room.power_levels", "m.room.join_rules"] {
        assert!(all.contains(&expected.to_owned()), "{expected} in {all:?}");
    }
    let members = Phone::of(&bob, subscription(&one, 1, &json!([["m.room.member", "*"]])));
    let members = members.clone().ask(&world).await;
    assert_eq!(sorted(&room(&members, &one)["required_state"]), ["@alice join", "@bob join"]);
}

#[tokio::test]
async fn lazy_members_are_those_of_the_timeline_once() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    for name in ["bob", "carol", "dave"] {
        world.join(&one, &user(name)).await;
    }
    world.text(&one, &user("carol"), "one").await;
    let required = json!([["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]);
    let mut phone = Phone::of(&alice, subscription(&one, 1, &required));
    let first = phone.ask(&world).await;
    assert_eq!(sorted(&room(&first, &one)["required_state"]), ["@alice join", "@carol join"]);
    world.text(&one, &user("carol"), "two").await;
    let known = phone.ask(&world).await;
    assert_eq!(words(&room(&known, &one)["required_state"]), [] as [&str; 0]);
    world.text(&one, &user("dave"), "three").await;
    let lost = phone.try_ask(&world).await.unwrap();
    assert_eq!(words(&room(&lost, &one)["required_state"]), ["@dave join"]);
    // It did not arrive, and the next answer has no event of his: he is still not known after that.
    world.text(&one, &user("carol"), "four").await;
    let gap = phone.ask(&world).await;
    assert_eq!(words(&room(&gap, &one)["timeline"]), ["four"]);
    world.text(&one, &user("dave"), "five").await;
    let dave = phone.ask(&world).await;
    assert_eq!(words(&room(&dave, &one)["required_state"]), ["@dave join"]);
}

#[tokio::test]
async fn who_comes_back_is_told_of_lazy_members_again() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    world.text(&one, &alice, "one").await;
    let required = json!([["m.room.member", "$LAZY"]]);
    let mut phone = Phone::of(&bob, subscription(&one, 1, &required));
    let first = phone.ask(&world).await;
    assert_eq!(words(&room(&first, &one)["required_state"]), ["@alice join"]);
    world.rooms.leave(&one, &bob, None).await.unwrap();
    phone.ask(&world).await;
    world.join(&one, &bob).await;
    world.text(&one, &alice, "two").await;
    let back = phone.ask(&world).await;
    assert_eq!(room(&back, &one)["initial"], true, "nothing of before counts");
    assert_eq!(words(&room(&back, &one)["required_state"]), ["@alice join"]);
}

#[tokio::test]
async fn without_a_gap_every_change_of_members_comes() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let required = json!([["m.room.member", "$LAZY"]]);
    let mut phone = Phone::of(&alice, subscription(&one, 5, &required));
    phone.ask(&world).await;
    world.join(&one, &user("bob")).await;
    let near = phone.ask(&world).await;
    assert_eq!(words(&room(&near, &one)["required_state"]), ["@bob join"]);
    assert_eq!(room(&near, &one)["joined_count"], 2);
    for name in ["carol", "dave"] {
        world.join(&one, &user(name)).await;
    }
    for number in 0..6 {
        world.text(&one, &alice, &number.to_string()).await;
    }
    let far = phone.ask(&world).await;
    assert_eq!(room(&far, &one)["limited"], true);
    assert_eq!(words(&room(&far, &one)["required_state"]), [] as [&str; 0], "not of a gap");
    assert_eq!(room(&far, &one)["joined_count"], 4);
}

#[tokio::test]
async fn more_required_state_comes_at_once_and_only_what_is_new() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    world.state(&one, &alice, "m.room.topic", json!({"topic": "t"})).await;
    let create = ["m.room.create", ""];
    let mut phone = Phone::of(&alice, subscription(&one, 1, &json!([create])));
    phone.ask(&world).await;
    phone.body = subscription(&one, 1, &json!([create, ["m.room.topic", ""]]));
    let more = phone.ask(&world).await;
    assert_eq!(words(&room(&more, &one)["required_state"]), ["m.room.topic"]);
    assert_eq!(room(&more, &one)["initial"], json!(null));
    assert!(is_quiet(&phone.ask(&world).await));
    // Less, a change meanwhile, and more again: the change is not missed.
    phone.body = subscription(&one, 1, &json!([create]));
    assert!(is_quiet(&phone.ask(&world).await));
    world.state(&one, &alice, "m.room.topic", json!({"topic": "u"})).await;
    world.text(&one, &alice, "later").await;
    let less = phone.ask(&world).await;
    assert_eq!(words(&room(&less, &one)["required_state"]), [] as [&str; 0]);
    phone.body = subscription(&one, 1, &json!([create, ["m.room.topic", ""]]));
    let again = phone.ask(&world).await;
    assert_eq!(room(&again, &one)["required_state"][0]["content"]["topic"], "u");
}

#[tokio::test]
async fn names_avatars_heroes_and_direct_chats() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    let first = phone.ask(&world).await;
    assert_eq!(room(&first, &one)["heroes"], json!([]));
    assert_eq!(room(&first, &one)["is_dm"], json!(null));
    world.join(&one, &bob).await;
    let joined = phone.ask(&world).await;
    let heroes = json!([{"user_id": "@bob:x", "displayname": "bob"}]);
    assert_eq!(room(&joined, &one)["heroes"], heroes);
    let direct = serde_json::value::to_raw_value(&json!({"@bob:x": [one]})).unwrap();
    let scope = hearth_users::AccountDataScope::Global;
    world.users.set_account_data(&alice, scope, "m.direct", &direct).await.unwrap();
    let direct = phone.ask(&world).await;
    assert_eq!(room(&direct, &one)["is_dm"], true);
    assert_eq!(room(&direct, &one)["heroes"], json!(null), "nothing of that has changed");
    world.state(&one, &alice, "m.room.name", json!({"name": "us"})).await;
    world.state(&one, &alice, "m.room.avatar", json!({"url": "mxc://x/y"})).await;
    let named = phone.ask(&world).await;
    let told = room(&named, &one);
    assert_eq!((&told["name"], &told["avatar"]), (&json!("us"), &json!("mxc://x/y")));
    assert_eq!(told["heroes"], json!(null));
    world.state(&one, &alice, "m.room.avatar", json!({})).await;
    world.state(&one, &alice, "m.room.name", json!({})).await;
    let unnamed = phone.ask(&world).await;
    let told = room(&unnamed, &one).as_object().unwrap();
    assert_eq!(told.get("avatar"), Some(&json!(null)), "taken away, and not only not told");
    assert_eq!(told.get("name"), None);
    assert_eq!(told["heroes"], heroes);
}

#[tokio::test]
async fn the_accepted_form_has_words_of_its_own() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    world.state(&one, &alice, "m.room.name", json!({"name": "us"})).await;
    let body = json!({"lists": {"all": {
        "timeline_limit": 1,
        "required_state": {
            "include": [{}], "exclude": [{"type": "m.room.power_levels"}], "lazy_members": true,
        },
    }}});
    let mut phone = Phone::accepted(&alice, body);
    let first = phone.ask(&world).await;
    let told = room(&first, &one).as_object().unwrap();
    assert_eq!(told["membership"], "join");
    assert_eq!(told["lists"], json!(["all"]));
    assert_eq!(told["name"], "us");
    assert!(!told.contains_key("notification_count") && !told.contains_key("highlight_count"));
    let state = sorted(&told["required_state"]);
    assert!(state.contains(&"m.room.join_rules".to_owned()), "{state:?}");
    assert!(!state.contains(&"m.room.power_levels".to_owned()), "{state:?}");
    world.state(&one, &alice, "m.room.name", json!({})).await;
    let second = phone.ask(&world).await;
    assert_eq!(room(&second, &one).as_object().unwrap().get("name"), Some(&json!(null)));
}
