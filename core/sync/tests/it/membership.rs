//! Rooms that users enter, are asked into, and leave.

use serde_json::json;

use crate::world::{Ask, World, events, joined, keys, timeline, user};

#[tokio::test]
async fn a_room_just_joined_comes_whole() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let before = world.text(&room, &alice, "before").await.to_string();
    let first = world.ask(Ask::of(&bob)).await;
    assert_eq!(first.get("rooms"), None);
    world.join(&room, &bob).await;
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    let section = joined(&second, &room);
    assert!(timeline(section).contains(&before), "history is shared with who joins");
    assert_eq!(keys(&section["timeline"]).last().unwrap(), "m.room.power_levels");
    assert_eq!(section["summary"]["m.joined_member_count"], 2);
    assert_eq!(section["summary"]["m.heroes"], json!(["@alice:x"]));
    assert_eq!(section["unread_notifications"]["notification_count"], 0, "it was before the join");
}

#[tokio::test]
async fn an_invitation_shows_stripped_state_once_and_goes_when_refused() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&bob)).await;
    world.invite(&room, &alice, &bob).await;
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    let invite = &second["rooms"]["invite"][room.as_str()]["invite_state"];
    let seen = keys(invite);
    assert!(seen.contains(&"m.room.create".to_owned()), "{seen:?}");
    assert!(seen.contains(&"m.room.member/@bob:x".to_owned()), "{seen:?}");
    assert!(events(invite).iter().all(|event| event.get("event_id").is_none()), "stripped");
    assert_eq!(world.ask(Ask::of(&bob).after(&second)).await.get("rooms"), None);
    world.rooms.leave(&room, &bob, None).await.unwrap();
    let third = world.ask(Ask::of(&bob).after(&second)).await;
    let left = &third["rooms"]["leave"][room.as_str()];
    assert_eq!(keys(&left["timeline"]), ["m.room.member/@bob:x"], "the refusal and no history");
    assert_eq!(world.ask(Ask::of(&bob)).await.get("rooms"), None, "not on an initial sync");
}

#[tokio::test]
async fn an_ignored_users_invitation_is_not_shown() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let content = json!({"ignored_users": {"@alice:x": {}}});
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let scope = hearth_users::AccountDataScope::Global;
    world.users.set_account_data(&bob, scope, "m.ignored_user_list", &content).await.unwrap();
    world.invite(&room, &alice, &bob).await;
    assert_eq!(world.ask(Ask::of(&bob)).await.get("rooms"), None);
}

#[tokio::test]
async fn a_room_that_was_left_ends_with_the_leave() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    let before = world.text(&room, &alice, "before").await.to_string();
    let kick = world.rooms.kick(&room, &alice, &bob, None).await.unwrap().to_string();
    world.text(&room, &alice, "after").await;
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    let left = &second["rooms"]["leave"][room.as_str()];
    assert_eq!(timeline(left), [before, kick]);
    assert!(joined(&second, &room).is_null());
    world.text(&room, &alice, "later").await;
    assert_eq!(world.ask(Ask::of(&bob).after(&second)).await.get("rooms"), None);
    // Whoever asks for old rooms gets them, and forgets them for good.
    let old = Ask::of(&bob).filter(json!({"room": {"include_leave": true}}));
    assert!(world.ask(old.clone()).await["rooms"]["leave"][room.as_str()].is_object());
    world.rooms.forget(&room, &bob).await.unwrap();
    assert_eq!(world.ask(old).await.get("rooms"), None);
}

#[tokio::test]
async fn who_comes_back_gets_the_room_anew() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    world.rooms.leave(&room, &bob, None).await.unwrap();
    let missed = world.text(&room, &alice, "missed").await.to_string();
    world.join(&room, &bob).await;
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    let section = joined(&second, &room);
    assert!(timeline(section).contains(&missed), "shared with who is in the room now");
    assert!(second["rooms"].get("leave").is_none());
}

#[tokio::test]
async fn a_knock_shows_its_room_to_the_knocker() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.state(&room, &alice, "m.room.join_rules", json!({"join_rule": "knock"})).await;
    let first = world.ask(Ask::of(&bob)).await;
    let profile = hearth_rooms::MemberProfile::default();
    world.rooms.knock(&room, &bob, &profile, None).await.unwrap();
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    let knock = &second["rooms"]["knock"][room.as_str()]["knock_state"];
    assert!(keys(knock).contains(&"m.room.member/@bob:x".to_owned()));
}

#[tokio::test]
async fn history_for_members_only_begins_with_the_join() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let visibility = json!({"history_visibility": "joined"});
    world.state(&room, &alice, "m.room.history_visibility", visibility).await;
    let secret = world.text(&room, &alice, "secret").await.to_string();
    world.join(&room, &bob).await;
    let open = world.text(&room, &alice, "open").await.to_string();
    let section = joined(&world.ask(Ask::of(&bob)).await, &room).clone();
    let seen = timeline(&section);
    assert!(seen.contains(&open) && !seen.contains(&secret));
    let secret = ruma::OwnedEventId::try_from(secret).unwrap();
    assert!(world.rooms.readable_event(&room, &bob, &secret).await.is_err());
}
