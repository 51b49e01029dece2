//! The long poll.

use std::time::Duration;

use futures_util::FutureExt;

use super::{Phone, is_quiet, room, rooms, window, words};
use crate::world::{World, user};

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_waiting_request_is_woken_by_what_it_follows() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    phone.timeout = LONG;
    let (answer, _) = tokio::join!(phone.try_ask(&world), world.text(&one, &bob, "wake up"));
    let answer = answer.unwrap();
    assert_eq!(words(&room(&answer, &one)["timeline"]), ["wake up"]);
    phone.take(&answer);
    let two = world.room(&bob).await;
    let (answer, ()) = tokio::join!(phone.try_ask(&world), world.invite(&two, &bob, &alice));
    assert_eq!(rooms(&answer.unwrap()), [two.to_string()]);
}

#[tokio::test]
async fn a_request_with_nothing_to_tell_ends_with_its_time_and_keeps_its_pos() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (one, other) = (world.room(&alice).await, world.room(&bob).await);
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.timeout = LONG;
    // The first answer comes at once, whatever the timeout.
    phone.ask(&world).await;
    phone.timeout = SHORT;
    let before = phone.pos.clone();
    let asked = async {
        let started = tokio::time::Instant::now();
        (phone.try_ask(&world).await.unwrap(), started.elapsed())
    };
    let ((answer, elapsed), _) = tokio::join!(asked, world.text(&other, &bob, "elsewhere"));
    assert!(is_quiet(&answer) && elapsed >= SHORT, "{elapsed:?}");
    assert_eq!(answer["pos"].as_str(), before.as_deref());
    world.text(&one, &alice, "here").await;
    assert_eq!(words(&room(&phone.ask(&world).await, &one)["timeline"]), ["here"]);
}

#[tokio::test]
async fn a_request_that_is_dropped_or_superseded_loses_nothing() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    phone.timeout = LONG;
    {
        let mut waiting = Box::pin(phone.try_ask(&world));
        assert!((&mut waiting).now_or_never().is_none(), "nothing to tell yet");
    }
    let mut first = Box::pin(phone.try_ask(&world));
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(phone.try_ask(&world));
    assert!((&mut second).now_or_never().is_none());
    // The first one ends at once: nobody reads its answer.
    assert!(is_quiet(&first.await.unwrap()));
    let (answer, _) = tokio::join!(second, world.text(&one, &alice, "a"));
    let answer = answer.unwrap();
    assert_eq!(words(&room(&answer, &one)["timeline"]), ["a"]);
    phone.take(&answer);
    world.text(&one, &alice, "b").await;
    assert_eq!(words(&room(&phone.ask(&world).await, &one)["timeline"]), ["b"]);
}

#[tokio::test]
async fn closing_ends_what_waits() {
    let world = World::new().await;
    let alice = user("alice");
    world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    phone.timeout = LONG;
    let close = async {
        tokio::task::yield_now().await;
        world.sync.close();
    };
    let (answer, ()) = tokio::join!(phone.try_ask(&world), close);
    assert!(is_quiet(&answer.unwrap()));
}

#[tokio::test]
async fn what_a_device_sends_is_shown_after_its_answer() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    phone.timeout = LONG;
    let sending = world.sync.unanswered(&alice, "DEVICE".into());
    world.text(&one, &alice, "hello").await;
    let mut waiting = Box::pin(phone.try_ask(&world));
    assert!((&mut waiting).now_or_never().is_none(), "the answer is due");
    drop(sending);
    let answer = waiting.await.unwrap();
    assert_eq!(words(&room(&answer, &one)["timeline"]), ["hello"]);
}
