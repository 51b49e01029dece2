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

#[tokio::test]
async fn who_was_away_for_a_moment_is_told_nothing_twice() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    world.text(&room, &alice, "known").await;
    let first = world.ask(Ask::of(&bob)).await;
    let mut new = vec![world.text(&room, &alice, "one").await];
    new.push(world.rooms.leave(&room, &bob, None).await.unwrap());
    new.push(world.text(&room, &alice, "two").await);
    world.join(&room, &bob).await;
    let ask = Ask::of(&bob).after(&first).with(|request| request.use_state_after = true);
    let section = joined(&world.ask(ask).await, &room).clone();
    let new: Vec<String> = new.iter().map(ToString::to_string).collect();
    assert_eq!(timeline(&section)[..3], new, "and the new join");
    assert_eq!(timeline(&section).len(), 4);
    assert_eq!(keys(&section["state_after"]), ["m.room.member/@bob:x"], "what changed");
}

#[tokio::test]
async fn a_ban_after_the_leave_hides_nothing_of_before() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    let mut wanted = vec![world.text(&room, &alice, "one").await];
    wanted.push(world.rooms.leave(&room, &bob, None).await.unwrap());
    let after = world.text(&room, &alice, "not for bob").await;
    wanted.push(world.rooms.ban(&room, &alice, &bob, None).await.unwrap());
    let response = world.ask(Ask::of(&bob).after(&first)).await;
    let section = &response["rooms"]["leave"][room.as_str()];
    assert_eq!(timeline(section), wanted.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut visibility = world.rooms.visibility(&room, &bob).await.unwrap();
    for (event_id, visible) in [(&wanted[0], true), (&after, false)] {
        let event = world.rooms.event_by_id(&room, event_id).await.unwrap().unwrap();
        assert_eq!(visibility.can_see(&event).await.unwrap(), visible);
    }
    // Who knew of the leave is told of the ban alone.
    world.rooms.unban(&room, &alice, &bob, None).await.unwrap();
    let last = world.ask(Ask::of(&bob).after(&response)).await;
    assert_eq!(timeline(&last["rooms"]["leave"][room.as_str()]).len(), 1);
}

#[tokio::test]
async fn a_room_forgotten_on_one_device_is_left_on_the_others() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    let leave = world.rooms.leave(&room, &bob, None).await.unwrap();
    world.rooms.forget(&room, &bob).await.unwrap();
    let response = world.ask(Ask::of(&bob).after(&first)).await;
    assert_eq!(timeline(&response["rooms"]["leave"][room.as_str()]), [leave.to_string()]);
    let filter = json!({"room": {"include_leave": true}});
    let whole = world.ask(Ask::of(&bob).filter(filter)).await;
    assert!(whole["rooms"]["leave"].is_null(), "a new device hears nothing of it");
}

#[tokio::test]
async fn state_that_the_timeline_may_not_show_is_in_the_state() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let content = json!({"history_visibility": "joined"});
    world.state(&room, &alice, "m.room.history_visibility", content).await;
    world.join(&room, &bob).await;
    world.text(&room, &alice, "for bob").await;
    world.rooms.leave(&room, &bob, None).await.unwrap();
    let topic = world.state(&room, &alice, "m.room.topic", json!({"topic": "hidden"})).await;
    world.join(&room, &bob).await;
    let section = joined(&world.ask(Ask::of(&bob)).await, &room).clone();
    assert!(!timeline(&section).contains(&topic.to_string()), "bob was not there");
    assert!(keys(&section["state"]).contains(&"m.room.topic".to_owned()), "{section}");
    assert_eq!(section["timeline"]["limited"], true, "what is older comes by pagination");
}
