//! Timelines and the state around them.

use serde_json::json;

use crate::world::{Ask, World, events, joined, keys, text_of, timeline, user};

#[tokio::test]
async fn an_initial_sync_has_the_newest_events_and_the_state_before_them() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut sent = Vec::new();
    for number in 0..12 {
        sent.push(world.text(&room, &alice, &format!("{number}")).await.to_string());
    }
    let response = world.ask(Ask::of(&alice)).await;
    let section = joined(&response, &room);
    assert_eq!(timeline(section), sent[2..], "ten events by default, oldest first");
    assert_eq!(section["timeline"]["limited"], true);
    let state = keys(&section["state"]);
    assert!(state.contains(&"m.room.create".to_owned()), "{state:?}");
    assert!(state.contains(&"m.room.member/@alice:x".to_owned()), "{state:?}");
    let event = &section["timeline"]["events"][0];
    assert_eq!(event["sender"], "@alice:x");
    assert!(event.get("room_id").is_none(), "sync names the room once");
    // The page before begins where the timeline does.
    let page = world
        .rooms
        .messages(
            &room,
            &alice,
            &std::collections::HashSet::new(),
            &hearth_rooms::read::MessagesRequest {
                from: Some(text_of(&section["timeline"]["prev_batch"]).parse().unwrap()),
                to: None,
                direction: hearth_storage::Direction::Backward,
                limit: 2,
                filter: hearth_rooms::read::TimelineFilter::default(),
            },
        )
        .await
        .unwrap();
    let before: Vec<String> = page.events.iter().map(|e| e.pdu.id().to_string()).collect();
    assert_eq!(before, [sent[1].clone(), sent[0].clone()]);
}

#[tokio::test]
async fn an_incremental_sync_has_what_is_new_and_nothing_else() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (room, quiet) = (world.room(&alice).await, world.room(&alice).await);
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    let again = world.ask(Ask::of(&alice).after(&first)).await;
    assert_eq!(again.get("rooms"), None, "nothing happened");
    let one = world.text(&room, &bob, "one").await.to_string();
    let name = world.state(&room, &alice, "m.room.name", json!({"name": "N"})).await.to_string();
    let second = world.ask(Ask::of(&alice).after(&first)).await;
    let section = joined(&second, &room);
    assert_eq!(timeline(section), [one, name]);
    assert_eq!(section["timeline"]["limited"], false);
    assert!(events(&section["state"]).is_empty(), "the timeline has the change");
    assert!(joined(&second, &quiet).is_null());
    // The same token gives the same answer.
    assert_eq!(timeline(joined(&world.ask(Ask::of(&alice).after(&first)).await, &room)).len(), 2);
    assert_eq!(world.ask(Ask::of(&alice).after(&second)).await.get("rooms"), None);
}

#[tokio::test]
async fn a_gap_comes_with_the_state_that_changed_in_it() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    world.state(&room, &alice, "m.room.topic", json!({"topic": "T"})).await;
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(world.text(&room, &alice, &format!("{number}")).await.to_string());
    }
    let filter = json!({"room": {"timeline": {"limit": 3}}});
    let ask = Ask::of(&alice).after(&first).filter(filter);
    let section = joined(&world.ask(ask).await, &room).clone();
    assert_eq!(timeline(&section), sent[2..]);
    assert_eq!(section["timeline"]["limited"], true);
    assert_eq!(keys(&section["state"]), ["m.room.topic"]);
}

#[tokio::test]
async fn state_after_is_the_state_at_the_end() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    world.state(&room, &alice, "m.room.topic", json!({"topic": "old"})).await;
    world.state(&room, &alice, "m.room.topic", json!({"topic": "new"})).await;
    let ask = Ask::of(&alice).after(&first).with(|request| request.use_state_after = true);
    let section = joined(&world.ask(ask.clone()).await, &room).clone();
    assert!(section.get("state").is_none());
    assert_eq!(keys(&section["state_after"]), ["m.room.topic"]);
    assert_eq!(section["state_after"]["events"][0]["content"]["topic"], "new");
    world.text(&room, &alice, "x").await;
    let token = text_of(&world.ask(Ask::of(&alice)).await["next_batch"]);
    world.text(&room, &alice, "y").await;
    let section = joined(&world.ask(ask.since(&token)).await, &room).clone();
    assert_eq!(section["state_after"], json!({"events": []}), "always there, even if empty");
}

#[tokio::test]
async fn full_state_repeats_the_whole_state() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    let ask = Ask::of(&alice).after(&first).with(|request| request.full_state = true);
    let section = joined(&world.ask(ask).await, &room).clone();
    assert!(keys(&section["state"]).contains(&"m.room.power_levels".to_owned()));
    assert!(timeline(&section).is_empty());
}

#[tokio::test]
async fn filters_choose_events_and_rooms() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (room, other) = (world.room(&alice).await, world.room(&alice).await);
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    world.text(&room, &bob, "from bob").await;
    let sticker = world.send(&room, &alice, "m.sticker", json!({"url": "mxc://x/y"})).await;
    let topic = world.state(&room, &alice, "m.room.topic", json!({"topic": "T"})).await;
    world.text(&other, &alice, "elsewhere").await;
    let get = async |filter: serde_json::Value| {
        let ask = Ask::of(&alice).after(&first).filter(filter);
        world.ask(ask).await
    };
    let response = get(json!({"room": {"timeline": {"types": ["m.st*"]}}})).await;
    assert_eq!(timeline(joined(&response, &room)), [sticker.to_string()]);
    assert_eq!(
        keys(&joined(&response, &room)["state"]),
        ["m.room.topic"],
        "state that the filter keeps out of the timeline is not lost"
    );
    let response = get(json!({"room": {"timeline": {"senders": ["@alice:x"]}}})).await;
    assert_eq!(timeline(joined(&response, &room)), [sticker.to_string(), topic.to_string()]);
    let response = get(json!({"room": {"timeline": {"contains_url": true}}})).await;
    assert_eq!(timeline(joined(&response, &room)), [sticker.to_string()]);
    let response = get(json!({"room": {"not_rooms": [room]}})).await;
    assert!(joined(&response, &room).is_null() && joined(&response, &other).is_object());
    let response = get(json!({"room": {"rooms": [room]}})).await;
    assert!(joined(&response, &other).is_null() && joined(&response, &room).is_object());
    let response = get(json!({"event_format": "federation"})).await;
    assert!(joined(&response, &room)["timeline"]["events"][0].get("signatures").is_some());
}

#[tokio::test]
async fn ignored_users_messages_are_left_out_and_their_state_is_not() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    let content = json!({"ignored_users": {"@bob:x": {}}});
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let scope = hearth_users::AccountDataScope::Global;
    world.users.set_account_data(&alice, scope, "m.ignored_user_list", &content).await.unwrap();
    world.text(&room, &bob, "unheard").await;
    world.rooms.leave(&room, &bob, None).await.unwrap();
    let section = joined(&world.ask(Ask::of(&alice).after(&first)).await, &room).clone();
    assert_eq!(keys(&section["timeline"]), ["m.room.member/@bob:x"]);
}

#[tokio::test]
async fn foreign_tokens_are_refused() {
    let world = World::new().await;
    let alice = user("alice");
    for token in ["nonsense", "s1_999999999_1_0_0", "t1_1"] {
        let error = world.sync.sync(Ask::of(&alice).since(token).request()).await.unwrap_err();
        assert!(matches!(error, hearth_sync::SyncError::InvalidParam(_)), "{token}");
    }
}

#[tokio::test]
async fn the_sending_device_alone_learns_its_transaction() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    let content = serde_json::value::to_raw_value(&json!({"msgtype": "m.text", "body": "x"}));
    let draft =
        hearth_rooms::Draft::message(alice.clone(), "m.room.message".into(), content.unwrap());
    let key = hearth_rooms::schema::TransactionKey {
        user_id: alice.clone(),
        device_id: "DEVICE".into(),
        scope: "send/m.room.message".to_owned(),
        transaction_id: "t1".into(),
    };
    world.rooms.send(&room, draft, Some(key)).await.unwrap();
    let ask = Ask::of(&alice).after(&first);
    let own = world.ask(ask.clone()).await;
    let unsigned = |response: &serde_json::Value| {
        joined(response, &room)["timeline"]["events"][0]["unsigned"].clone()
    };
    assert_eq!(unsigned(&own)["transaction_id"], "t1");
    assert_eq!(unsigned(&own)["membership"], "join");
    let other = world.ask(ask.with(|request| request.device_id = "OTHER".into())).await;
    assert_eq!(unsigned(&other).get("transaction_id"), None);
}
