//! What pushers have not got when the log is let go is not lost with it.

use hearth_rooms::MemberProfile;
use ruma::user_id;
use serde_json::json;

use crate::world::World;

/// More than the log is held back for.
const TOO_MUCH: u32 = 600_000;
/// Fewer notifications than may wait for one pusher.
const FEW: usize = 5;

#[tokio::test]
async fn only_those_who_need_too_old_a_part_of_the_log_let_go_of_it() {
    let world = World::new().await;
    let [alice, bob, carol] = [
        user_id!("@alice:hearth.test"),
        user_id!("@bob:hearth.test"),
        user_id!("@carol:hearth.test"),
    ];
    let (hers, others) = (world.room(bob, alice).await, world.room(bob, carol).await);
    world.gateway.hold(true);
    let early = world.text(&hers, bob, "early").await;
    world.gateway.asked(1).await;
    let half = world.much_happens(TOO_MUCH / 2).await;
    let late = world.text(&others, bob, "late").await;
    // The log was read up to here, so that nothing is passed over.
    world.gateway.asked(2).await;
    let whole = world.much_happens(TOO_MUCH / 2).await;
    world.log_is_let_go(half).await;
    assert!(world.cursor().await < whole, "it is held for the other");
    world.gateway.hold(false);
    world.gateway.told(alice, &early).await;
    world.gateway.told(carol, &late).await;
    world.close().await;
}

#[tokio::test]
async fn who_fell_behind_is_behind_after_a_crash() {
    let world = World::new().await;
    let (alice, bob) = (user_id!("@alice:hearth.test"), user_id!("@bob:hearth.test"));
    let room_id = world.room(bob, alice).await;
    world.gateway.hold(true);
    let mut sent = vec![world.text(&room_id, bob, "under way").await];
    world.gateway.asked(1).await;
    sent.extend(world.texts(&room_id, bob, FEW).await);
    let much_later = world.much_happens(TOO_MUCH).await;
    world.log_is_let_go(much_later).await;
    let world = World::over(world.crash()).await;
    let told = world.gateway.events_until(sent.last().unwrap()).await;
    assert_eq!(json!(told), json!(sent), "the log does not have them any more");
    world.close().await;
}

#[tokio::test]
async fn who_comes_to_a_room_in_what_is_passed_over_is_in_it() {
    let world = World::new().await;
    let [alice, bob, carol] = [
        user_id!("@alice:hearth.test"),
        user_id!("@bob:hearth.test"),
        user_id!("@carol:hearth.test"),
    ];
    let (room_id, other) = (world.room(bob, alice).await, world.room(bob, carol).await);
    // From now on it is known who is in the room.
    let before = world.text(&room_id, bob, "before").await;
    world.gateway.told(alice, &before).await;
    let stalled = world.stall().await;
    world.rooms.join(&room_id, carol, &MemberProfile::default(), None).await.unwrap();
    let much_later = world.much_happens(TOO_MUCH).await;
    drop(stalled);
    world.log_is_let_go(much_later).await;
    // When she is told of this, she has looked for what she missed.
    let elsewhere = world.text(&other, bob, "elsewhere").await;
    world.gateway.told(carol, &elsewhere).await;
    let here = world.text(&room_id, bob, "here").await;
    world.gateway.told(carol, &here).await;
    world.close().await;
}
