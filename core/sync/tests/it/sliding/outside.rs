//! Rooms that the user is not in: invitations, knocks, and rooms that they left.

use hearth_rooms::{CheckedPdu, OutOfBand};
use hearth_types::Pdu;
use ruma::{OwnedRoomId, RoomVersionId, UserId, owned_event_id, owned_room_id};
use serde_json::{Value, json, value::to_raw_value};

use super::{Phone, is_quiet, room, rooms, subscription, window, words};
use crate::world::{World, user};

fn member_of(state: &Value, user_id: &str) -> Value {
    let mut members = state.as_array().unwrap().iter();
    let own = |event: &&Value| event["type"] == "m.room.member" && event["state_key"] == user_id;
    members.rfind(own).unwrap()["content"]["membership"].clone()
}

#[tokio::test]
async fn an_invitation_comes_stripped_then_the_room_then_the_leave_once() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&bob, window(0, 9));
    assert_eq!(phone.ask(&world).await["lists"]["all"]["count"], 0);
    world.invite(&one, &alice, &bob).await;
    let asked = phone.ask(&world).await;
    let told = room(&asked, &one);
    assert_eq!(member_of(&told["invite_state"], "@bob:x"), "invite");
    assert_eq!(told["initial"], true);
    assert_eq!((&told["timeline"], &told["name"]), (&json!(null), &json!(null)));
    assert!(is_quiet(&phone.ask(&world).await));

    world.join(&one, &bob).await;
    let joined = phone.ask(&world).await;
    let told = room(&joined, &one);
    assert_eq!((&told["initial"], &told["invite_state"]), (&json!(true), &json!(null)));
    assert_eq!(words(&told["timeline"]).last().unwrap(), "@bob join");

    world.text(&one, &alice, "bye").await;
    world.rooms.leave(&one, &bob, None).await.unwrap();
    world.text(&one, &alice, "not for bob").await;
    let left = phone.ask(&world).await;
    let told = room(&left, &one);
    assert_eq!(words(&told["timeline"]), ["bye", "@bob leave"]);
    assert_eq!(member_of(&told["required_state"], "@bob:x"), "leave");
    world.text(&one, &alice, "not for bob either").await;
    let quiet = phone.ask(&world).await;
    assert!(is_quiet(&quiet), "{quiet}");
    assert_eq!(quiet["lists"]["all"]["count"], 1, "on this connection it stays in the list");
    // A new connection is not told of it at all.
    let mut other = Phone::of(&bob, window(0, 9));
    other.body["conn_id"] = json!("other");
    let anew = other.ask(&world).await;
    assert_eq!((rooms(&anew).len(), &anew["lists"]["all"]["count"]), (0, &json!(0)));
    // Coming back is another beginning.
    world.join(&one, &bob).await;
    let back = phone.ask(&world).await;
    assert_eq!(room(&back, &one)["initial"], true);
}

#[tokio::test]
async fn whoever_was_put_out_is_told_so_anew_on_each_connection() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let scope = hearth_users::AccountDataScope::Global;
    let direct = to_raw_value(&json!({"@alice:x": [one]})).unwrap();
    world.users.set_account_data(&bob, scope, "m.direct", &direct).await.unwrap();
    world.state(&one, &alice, "m.room.avatar", json!({"url": "mxc://x/y"})).await;
    world.rooms.kick(&one, &alice, &bob, Some("out")).await.unwrap();
    world.text(&one, &alice, "not for bob").await;
    world.state(&one, &alice, "m.room.name", json!({"name": "not for bob"})).await;
    let mut phone = Phone::of(&bob, window(0, 9));
    let first = phone.ask(&world).await;
    let told = room(&first, &one);
    assert_eq!(member_of(&told["required_state"], "@bob:x"), "leave");
    assert_eq!(words(&told["timeline"]).last().unwrap(), "@bob leave");
    assert_eq!(told["initial"], true);
    assert_eq!((&told["avatar"], &told["name"]), (&json!("mxc://x/y"), &json!(null)));
    assert_eq!((&told["is_dm"], &told["joined_count"]), (&json!(true), &json!(1)));
    assert_eq!(told["heroes"][0]["user_id"], "@alice:x");
    assert!(is_quiet(&phone.ask(&world).await));
    world.rooms.ban(&one, &alice, &bob, None).await.unwrap();
    let banned = phone.ask(&world).await;
    assert_eq!(member_of(&room(&banned, &one)["required_state"], "@bob:x"), "ban");
    // Whoever was never inside hears nothing of a ban.
    world.rooms.ban(&one, &alice, &carol, None).await.unwrap();
    assert!(is_quiet(&Phone::of(&carol, window(0, 9)).ask(&world).await));
    // What was forgotten is not shown to new connections.
    world.rooms.forget(&one, &bob).await.unwrap();
    assert!(is_quiet(&Phone::of(&bob, window(0, 9)).ask(&world).await));
}

#[tokio::test]
async fn a_refused_invitation_ends_with_the_leave_alone() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.text(&one, &alice, "inside").await;
    for accepted in [false, true] {
        world.invite(&one, &alice, &bob).await;
        let (of, body) = if accepted {
            let list = json!({"timeline_limit": 5, "required_state": {}});
            (Phone::accepted as fn(&UserId, Value) -> Phone, json!({"lists": {"all": list}}))
        } else {
            (Phone::of as fn(&UserId, Value) -> Phone, window(0, 9))
        };
        let mut phone = of(&bob, body);
        let asked = phone.ask(&world).await;
        let name = if accepted { "stripped_state" } else { "invite_state" };
        assert_eq!(member_of(&room(&asked, &one)[name], "@bob:x"), "invite");
        world.rooms.leave(&one, &bob, None).await.unwrap();
        let refused = phone.ask(&world).await;
        let told = room(&refused, &one);
        assert_eq!(words(&told["required_state"]), ["@bob leave"]);
        assert_eq!(words(&told["timeline"]), ["@bob leave"]);
        if accepted {
            assert_eq!(told["membership"], "leave");
            assert_eq!(words(&told["stripped_state"]), ["@bob leave"]);
        }
        assert!(is_quiet(&phone.ask(&world).await));
    }
}

#[tokio::test]
async fn invitations_of_ignored_users_and_unwanted_ones_are_not_shown() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.invite(&one, &alice, &bob).await;
    let scope = hearth_users::AccountDataScope::Global;
    let block = to_raw_value(&json!({"default_action": "block"})).unwrap();
    let kind = "m.invite_permission_config";
    world.users.set_account_data(&bob, scope, kind, &block).await.unwrap();
    assert!(is_quiet(&Phone::of(&bob, window(0, 9)).ask(&world).await));
    let none = to_raw_value(&json!({})).unwrap();
    world.users.set_account_data(&bob, scope, kind, &none).await.unwrap();
    assert!(!is_quiet(&Phone::of(&bob, window(0, 9)).ask(&world).await));
    let ignored = to_raw_value(&json!({"ignored_users": {"@alice:x": {}}})).unwrap();
    world.users.set_account_data(&bob, scope, "m.ignored_user_list", &ignored).await.unwrap();
    assert!(is_quiet(&Phone::of(&bob, window(0, 9)).ask(&world).await));
}

#[tokio::test]
async fn who_came_and_went_between_two_answers_hears_of_it() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let mut phone = Phone::of(&bob, window(0, 9));
    phone.ask(&world).await;
    world.rooms.leave(&one, &bob, None).await.unwrap();
    world.join(&one, &bob).await;
    world.text(&one, &alice, "back").await;
    let answer = phone.ask(&world).await;
    let told = room(&answer, &one);
    assert_eq!(words(&told["timeline"]), ["@bob leave", "@bob join", "back"]);
    assert_eq!(told["initial"], json!(null));
}

/// Invites this user into a room that this server is not in.
async fn invite_elsewhere(world: &World, user_id: &UserId) -> OwnedRoomId {
    let room_id = owned_room_id!("!far:y");
    let event = json!({
        "type": "m.room.member", "room_id": room_id, "sender": "@eve:y", "state_key": user_id,
        "content": {"membership": "invite"}, "origin_server_ts": 1, "depth": 5,
        "auth_events": [], "prev_events": [], "hashes": {"sha256": ""}, "signatures": {},
    });
    let pdu = Pdu::parse(owned_event_id!("$invite"), event.to_string().into()).unwrap();
    let invitation = OutOfBand {
        room_id: room_id.clone(),
        room_version: RoomVersionId::V11,
        user_id: user_id.to_owned(),
        event: CheckedPdu::new(pdu),
        stripped_state: Vec::new(),
    };
    world.rooms.admit_out_of_band(invitation).await.unwrap();
    room_id
}

#[tokio::test]
async fn a_refused_invitation_is_over_on_other_devices_though_it_is_forgotten() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let here = world.room(&alice).await;
    world.invite(&here, &alice, &bob).await;
    let elsewhere = invite_elsewhere(&world, &bob).await;
    for room_id in [&here, &elsewhere] {
        let mut phone = Phone::of(&bob, window(0, 9));
        let asked = phone.ask(&world).await;
        assert_eq!(member_of(&room(&asked, room_id)["invite_state"], "@bob:x"), "invite");
        world.rooms.leave(room_id, &bob, None).await.unwrap();
        world.rooms.forget(room_id, &bob).await.unwrap();
        let over = phone.ask(&world).await;
        assert_eq!(words(&room(&over, room_id)["required_state"]), ["@bob leave"], "{over}");
        assert!(is_quiet(&phone.ask(&world).await));
    }
}

#[tokio::test]
async fn whoever_was_put_out_is_told_so_however_often_that_changed_since() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    world.text(&one, &alice, "inside").await;
    let told = async |user_id: &UserId| {
        let mut subscribed = Phone::of(user_id, subscription(&one, 9, &json!([])));
        subscribed.body["conn_id"] = json!("subscribed");
        for mut phone in [subscribed, Phone::of(user_id, window(0, 9))] {
            let answer = phone.ask(&world).await;
            let told = room(&answer, &one);
            assert!(!words(&told["timeline"]).contains(&"outside".to_owned()));
            assert!(words(&told["timeline"]).contains(&"inside".to_owned()), "{answer}");
        }
        let answer = Phone::of(user_id, window(0, 9)).ask(&world).await;
        member_of(&room(&answer, &one)["required_state"], user_id.as_str())
    };
    world.rooms.kick(&one, &alice, &bob, None).await.unwrap();
    world.text(&one, &alice, "outside").await;
    assert_eq!(told(&bob).await, "leave");
    world.rooms.ban(&one, &alice, &bob, None).await.unwrap();
    assert_eq!(told(&bob).await, "ban");
    world.rooms.unban(&one, &alice, &bob, None).await.unwrap();
    assert_eq!(told(&bob).await, "leave");
    // Invited again, and that taken back: still put out.
    world.invite(&one, &alice, &bob).await;
    world.rooms.kick(&one, &alice, &bob, None).await.unwrap();
    assert_eq!(told(&bob).await, "leave");
    // Who was never inside is told nothing.
    world.invite(&one, &alice, &carol).await;
    world.rooms.ban(&one, &alice, &carol, None).await.unwrap();
    world.rooms.unban(&one, &alice, &carol, None).await.unwrap();
    for body in [window(0, 9), subscription(&one, 9, &json!([]))] {
        assert!(is_quiet(&Phone::of(&carol, body).ask(&world).await));
    }
}
