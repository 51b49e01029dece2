//! The sender over real rooms, under simulated time, against a network that is a table.

mod answers;
mod devices;
mod ephemeral;
mod partial;
mod world;

use hearth_rooms::{
    Draft,
    schema::{ROOM_SERVERS, ServerRow},
};
use hearth_storage::Commit;
use hearth_types::StreamPosition;
use ruma::{
    OwnedRoomId, OwnedUserId, events::receipt::ReceiptType, owned_user_id, server_name, user_id,
};
use serde_json::{Value, json, value::RawValue};
use tokio::time::sleep;

use self::world::*;
use super::*;

#[tokio::test(start_paused = true)]
async fn an_event_goes_out_at_once_and_the_rest_in_batches_one_at_a_time() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(10);
    let mut texts = world.say_all(0..1).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.network().attempts(there()), 1, "nobody waits for company");
    texts.extend(world.say_all(1..121).await);
    after_s(60).await;
    assert_eq!(world.network().texts(there()), texts);
    let arrived = world.network().arrived_at(there());
    let sizes: Vec<_> =
        arrived.iter().map(|one| one.body["pdus"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 50, 50, 20]);
    let ids: std::collections::BTreeSet<_> =
        arrived.iter().map(|one| one.transaction_id.clone()).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(arrived[0].body["origin"], "here.test");
    assert!(arrived[0].body["pdus"][0].get("unsigned").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_tried_once_a_step_and_then_gets_everything() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let mut texts = Vec::new();
    for round in 0..20 {
        texts.extend(world.say_all(round * 10..round * 10 + 10).await);
        after_s(30).await;
    }
    // Ten minutes hold steps of 10, 20, 40, 80, 160 and 320 seconds, each shorter by up to a quarter.
    let attempts = world.network().attempts(there());
    assert!((5..=8).contains(&attempts), "{attempts} attempts in ten minutes");
    let report = world.outbound.report().await.unwrap().remove(0);
    assert_eq!((report.server.as_ref(), report.rooms, report.waiting), (there(), 1, 200));
    assert!(!report.waiting_is_more);
    assert_eq!(report.failures, u32::try_from(attempts).unwrap());
    assert_eq!(report.last_error.as_deref(), Some("there.test cannot be reached: it is down"));
    assert_eq!(
        report.retry_at_ms,
        world.destinations.due_in(there()).map(|wait| world.ground.clock.now_ms() + wait)
    );
    world.network().set(there(), None);
    after_s(2_000).await;
    assert_eq!(world.network().texts(there()), texts);
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_is_sent_what_waits_at_once() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let texts = world.say_all(0..3).await;
    after_s(600).await;
    world.network().set(there(), None);
    world.destinations.heard_from(there());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_nothing() {
    let mut world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let mut texts = world.say_all(0..5).await;
    after_s(3).await;
    for round in 1..4 {
        world = world.crashed().await;
        texts.extend(world.say_all(round * 10..round * 10 + 5).await);
    }
    world.network().set(there(), None);
    world = world.crashed().await;
    after_s(600).await;
    assert_eq!(world.network().texts(there()), texts);
    // The backoff was not forgotten by the crashes either.
    assert!(world.network().attempts(there()) <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_sending_repeats_but_loses_nothing() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_millis(700);
    let texts = world.say_all(0..200).await;
    after_s(2).await;
    let before = world.network().texts(there()).len();
    assert!(before > 0 && before < 200);
    let world = world.crashed().await;
    after_s(30).await;
    let got: std::collections::BTreeSet<_> = world.network().texts(there()).into_iter().collect();
    assert_eq!(got, texts.into_iter().collect());
    let arrived = world.network().arrived_at(there());
    let ids: std::collections::BTreeSet<_> =
        arrived.iter().map(|one| one.transaction_id.clone()).collect();
    assert_eq!(ids.len(), arrived.len(), "no name is used twice, over restarts");
}

#[tokio::test(start_paused = true)]
async fn what_is_read_again_after_a_crash_is_not_for_who_came_since() {
    let late = server_name!("late.test");
    // With a cursor of its own, too: something else waits for it since before it came.
    for lags in [false, true] {
        let world = World::new().await;
        let mut texts = world.say_all(0..3).await;
        let newest = world.rooms.newest_events(&world.room_id).await.unwrap();
        share_since(&world.store, &world.room_id, late, newest[0].ordinal).await;
        if lags {
            let mut commit = Commit::new(&());
            let cursor = StreamPosition::default();
            commit.put(&OUTBOUND_CURSORS, &late.to_owned(), &(), &cursor);
            world.store.commit(commit).await.unwrap();
        }
        let world = world.crashed().await;
        let after = world.say_all(3..5).await;
        after_s(60).await;
        assert_eq!(world.network().texts(late), after, "{lags}");
        texts.extend(after);
        let arrived: std::collections::BTreeSet<_> =
            world.network().texts(there()).into_iter().collect();
        assert_eq!(arrived, texts.into_iter().collect(), "others miss nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_repeats_nothing() {
    let world = World::new().await;
    let texts = world.say_all(0..20).await;
    after_s(1).await;
    world.outbound.close().await;
    let world = world.restarted().await;
    after_s(60).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn cursors_of_idle_destinations_are_not_rows_and_do_not_move_by_themselves() {
    let world = World::new().await;
    world.say_all(0..20).await;
    // All who read the log have written how far they got: the slowest does so every half minute.
    after_s(60).await;
    let before = world.store.notifier().published();
    after_s(60).await;
    assert_eq!(world.store.notifier().published(), before, "nothing is written in idleness");
    let row = world.store.get(&OUTBOUND_CURSORS, &there().to_owned(), &()).await.unwrap();
    assert_eq!(row, None);
    world.network().set(there(), Some(Mode::Down));
    world.say("one more").await;
    after_s(5).await;
    let row = world.store.get(&OUTBOUND_CURSORS, &there().to_owned(), &()).await.unwrap();
    assert!(row.is_some(), "who lags does not hold the log");
}

#[tokio::test(start_paused = true)]
async fn who_was_long_away_gets_the_newest_events() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let texts = world.say_all(0..catch_up::MAX_REPLAYED + 50).await;
    world.network().set(there(), None);
    after_s(600).await;
    // What was offered before is offered again; it may have arrived then.
    assert_eq!(world.network().texts(there()), [texts[0].clone(), texts[texts.len() - 1].clone()]);
    world.say("and on").await;
    after_s(1).await;
    assert_eq!(world.network().texts(there()).last().unwrap(), "and on");
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn more_than_fits_into_memory_is_read_again() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(30);
    // Fewer than would count as a long absence, more than a queue holds.
    let texts = world.say_all(0..lanes::MAX_WAITING + 30).await;
    after_s(3_000).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_does_not_hold_up_the_others() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Allergic("message 7\"")));
    *world.network().latency.lock() = Duration::from_secs(1);
    let mut texts = world.say_all(0..30).await;
    after_s(600).await;
    texts.remove(7);
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_errors_are_waited_out() {
    for (status, errcode) in [(401, "M_UNAUTHORIZED"), (429, "M_LIMIT_EXCEEDED"), (500, "")] {
        let world = World::new().await;
        world.network().set(there(), Some(Mode::Error(status, errcode)));
        let texts = world.say_all(0..30).await;
        after_s(100).await;
        let attempts = world.network().attempts(there());
        assert!((2..=15).contains(&attempts), "{attempts} attempts at {status}");
        world.network().set(there(), None);
        after_s(600).await;
        assert_eq!(world.network().texts(there()), texts);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_hears_of_it() {
    let world = World::new().await;
    let elsewhere = server_name!("elsewhere.test");
    let banned = user_id!("@mallory:elsewhere.test");
    world.rooms.ban(&world.room_id, &alice(), banned, None).await.unwrap();
    world.say("not for them").await;
    after_s(1).await;
    let arrived = world.network().arrived_at(elsewhere);
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].body["pdus"][0]["content"]["membership"], "ban");
    assert_eq!(world.network().texts(there()), ["not for them"]);
}
