//! Rooms whose state is partial.

use hearth_rooms::schema::{PARTIAL, PARTIAL_ROOMS, PARTIAL_SERVERS, PartialRow};

use super::*;

fn named() -> &'static ServerName {
    server_name!("named.test")
}

/// As if the room had been joined with part of its state, by an answer that names a server.
async fn partial_world(visibility: &str) -> World {
    let world = World::new().await;
    let content = json!({ "history_visibility": visibility }).to_string();
    let content = RawValue::from_string(content).unwrap();
    let draft = Draft::state(alice(), "m.room.history_visibility".into(), String::new(), content);
    world.rooms.send(&world.room_id, draft, None).await.unwrap();
    let room_id = &world.room_id;
    let mut commit = Commit::new(room_id);
    commit.put(&PARTIAL, room_id, &(), &PartialRow { join: newest(&world).await });
    commit.put(&PARTIAL_SERVERS, room_id, &named().to_owned(), &());
    commit.effect_put(&PARTIAL_ROOMS, &(), room_id, &());
    world.store.commit(commit).await.unwrap();
    // The list of its servers is read anew when a member changes.
    world.rooms.ban(room_id, &alice(), user_id!("@x:nowhere.test"), None).await.unwrap();
    after_s(1).await;
    world
}

async fn newest(world: &World) -> u32 {
    world.rooms.newest_events(&world.room_id).await.unwrap()[0].ordinal
}

#[tokio::test(start_paused = true)]
async fn who_is_named_and_away_gets_what_was_made_meanwhile() {
    for visibility in ["shared", "joined"] {
        let mut world = partial_world(visibility).await;
        world.network().set(named(), Some(Mode::Down));
        let mut texts = world.say_all(0..3).await;
        after_s(5).await;
        world.network().set(named(), None);
        after_s(100).await;
        assert_eq!(world.network().texts(named()), texts, "{visibility}");
        // Over a restart, too.
        world.network().set(named(), Some(Mode::Down));
        texts.extend(world.say_all(3..6).await);
        after_s(5).await;
        world = world.crashed().await;
        world.network().set(named(), None);
        after_s(100).await;
        assert_eq!(world.network().texts(named()), texts, "{visibility}, restarted");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_named_and_long_away_gets_the_newest_events() {
    let world = partial_world("joined").await;
    world.network().set(named(), Some(Mode::Down));
    let texts = world.say_all(0..catch_up::MAX_REPLAYED + 50).await;
    world.network().set(named(), None);
    after_s(600).await;
    assert_eq!(world.network().texts(named()).last(), texts.last());
}

#[tokio::test(start_paused = true)]
async fn who_turns_out_to_be_in_the_room_gets_what_was_made_before() {
    let world = partial_world("shared").await;
    let join = newest(&world).await;
    let late = server_name!("late.test");
    let mut texts = world.say_all(0..3).await;
    after_s(5).await;
    assert_eq!(world.network().attempts(late), 0);
    share(&world.store, &world.room_id, late).await;
    world.network().set(late, Some(Mode::Down));
    let servers = std::collections::BTreeSet::from([late.to_owned()]);
    world.outbound.tell_latecomers(&world.room_id, join, &servers).await.unwrap();
    let world = world.crashed().await;
    texts.extend(world.say_all(3..6).await);
    world.network().set(late, None);
    after_s(100).await;
    assert_eq!(world.network().texts(late), texts);
}

#[tokio::test(start_paused = true)]
async fn who_turns_out_to_be_in_the_room_is_told_of_the_devices_of_who_came() {
    let world = partial_world("shared").await;
    let version = devices::change(&world, &alice(), Some("PHONE"), 1).await;
    let late = server_name!("late.test");
    after_s(5).await;
    share(&world.store, &world.room_id, late).await;
    world.network().set(late, Some(Mode::Down));
    let servers = std::collections::BTreeSet::from([late.to_owned()]);
    // Her own join is the room's second event.
    world.outbound.tell_latecomers(&world.room_id, 1, &servers).await.unwrap();
    let world = world.crashed().await;
    world.network().set(late, None);
    after_s(100).await;
    let told = edus_at(&world, late, "m.device_list_update");
    let told: Vec<_> = told.iter().filter(|one| one.get("prev_id").is_none()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["user_id"], &told[0]["stream_id"]), (&json!(alice()), &json!(version)));
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_reaches_a_latecomer_too() {
    let world = partial_world("shared").await;
    let join = newest(&world).await;
    let late = server_name!("late.test");
    let texts = world.say_all(0..lanes::MAX_WAITING + 20).await;
    share(&world.store, &world.room_id, late).await;
    after_s(1).await;
    let servers = std::collections::BTreeSet::from([late.to_owned()]);
    world.outbound.tell_latecomers(&world.room_id, join, &servers).await.unwrap();
    after_s(100).await;
    assert_eq!(world.network().texts(late), texts);
}

#[tokio::test(start_paused = true)]
async fn who_was_long_away_hears_that_its_last_user_was_turned_away() {
    let world = World::new().await;
    let elsewhere = server_name!("elsewhere.test");
    world.network().set(elsewhere, Some(Mode::Down));
    share(&world.store, &world.room_id, elsewhere).await;
    world.say_all(0..catch_up::MAX_REPLAYED).await;
    let banned = user_id!("@mallory:elsewhere.test");
    world.rooms.ban(&world.room_id, &alice(), banned, None).await.unwrap();
    let mut commit = Commit::new(&world.room_id);
    let nobody = ServerRow { joined: 0, since: 0 };
    commit.put(&ROOM_SERVERS, &world.room_id, &elsewhere.to_owned(), &nobody);
    world.store.commit(commit).await.unwrap();
    world.say_all(0..50).await;
    world.network().set(elsewhere, None);
    after_s(600).await;
    let arrived = world.network().arrived_at(elsewhere);
    let mut pdus = arrived.iter().flat_map(|one| one.body["pdus"].as_array().unwrap());
    assert!(pdus.any(|pdu| pdu["content"]["membership"] == "ban"), "{arrived:?}");
    assert!(world.outbound.report().await.unwrap().iter().all(DestinationReport::is_well));
}

#[tokio::test(start_paused = true)]
async fn the_newest_events_go_to_nobody_who_may_not_see_them() {
    let world = partial_world("joined").await;
    let (store, room_id) = (&world.store, &world.room_id);
    // No user of it is joined as far as the states of the room say.
    let late = server_name!("late.test");
    share(store, room_id, late).await;
    world.rooms.ban(room_id, &alice(), user_id!("@y:nowhere.test"), None).await.unwrap();
    world.network().set(late, Some(Mode::Down));
    let texts = world.say_all(0..catch_up::MAX_REPLAYED + 50).await;
    world.network().set(late, None);
    after_s(600).await;
    assert!(!world.network().texts(late).contains(&texts[texts.len() - 1]));
}
