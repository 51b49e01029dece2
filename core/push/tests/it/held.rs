//! The log is not held back for pushers that cannot keep up: they fall behind, and get the newest.

use ruma::user_id;
use serde_json::json;

use crate::world::World;

/// More than the log is held back for.
const TOO_MUCH: u32 = 600_000;
/// More than are caught up with, and fewer than wait for one pusher.
const MESSAGES: usize = 250;
/// What a pusher that was behind gets.
const NEWEST: usize = 200;

#[tokio::test]
async fn a_pusher_that_would_hold_too_much_of_the_log_gets_the_newest() {
    let world = World::new().await;
    let (alice, bob) = (user_id!("@alice:hearth.test"), user_id!("@bob:hearth.test"));
    let room_id = world.room(bob, alice).await;
    world.gateway.hold(true);
    let sent = world.texts(&room_id, bob, MESSAGES).await;
    world.gateway.asked(1).await;
    let before = world.store.notifier().published();
    assert!(world.cursor().await < before, "the log is held for the one that is under way");
    let much_later = world.much_happens(TOO_MUCH).await;
    world.log_is_let_go(much_later).await;
    world.gateway.hold(false);
    world.gateway.events_until(sent.last().unwrap()).await;
    let later = world.text(&room_id, bob, "later").await;
    let told = world.gateway.events_until(&later).await;
    let (under_way, missed) = (&sent[..1], &sent[MESSAGES - NEWEST..]);
    let expected: Vec<_> = under_way.iter().chain(missed).chain([&later]).collect();
    assert_eq!(json!(told), json!(expected), "each once, in order");
    world.close().await;
}

#[tokio::test]
async fn what_is_not_looked_at_in_time_is_passed_over_but_for_the_newest() {
    let world = World::new().await;
    let (alice, bob) = (user_id!("@alice:hearth.test"), user_id!("@bob:hearth.test"));
    let room_id = world.room(bob, alice).await;
    let first = world.text(&room_id, bob, "first").await;
    world.gateway.events_until(&first).await;
    let stalled = world.stall().await;
    let sent = world.texts(&room_id, bob, MESSAGES).await;
    let much_later = world.much_happens(TOO_MUCH).await;
    drop(stalled);
    world.gateway.events_until(sent.last().unwrap()).await;
    let later = world.text(&room_id, bob, "later").await;
    let told = world.gateway.events_until(&later).await;
    let missed = &sent[MESSAGES - NEWEST..];
    let expected: Vec<_> = [&first].into_iter().chain(missed).chain([&later]).collect();
    assert_eq!(json!(told), json!(expected), "each once, in order");
    world.log_is_let_go(much_later).await;
    world.close().await;
}
