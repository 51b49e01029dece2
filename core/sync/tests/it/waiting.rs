//! Long polls and streams.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::world::{Ask, World, joined, text_of, timeline, user};

const LONG: Duration = Duration::from_mins(1);

fn body(response: &hearth_sync::SyncResponse) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

#[tokio::test]
async fn a_waiting_poll_is_woken_by_a_message() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    let ask = Ask::of(&alice).after(&first).with(|ask| ask.timeout = LONG);
    let waiting = world.sync.sync(ask.request());
    let (response, sent) = tokio::join!(waiting, world.text(&room, &bob, "wake up"));
    assert_eq!(timeline(joined(&body(&response.unwrap()), &room)), [sent.to_string()]);
}

#[tokio::test]
async fn a_waiting_poll_is_woken_by_an_invitation_and_by_news_of_the_new_room() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&bob)).await;
    let ask = Ask::of(&bob).after(&first).with(|ask| ask.timeout = LONG);
    let (response, ()) =
        tokio::join!(world.sync.sync(ask.request()), world.invite(&room, &alice, &bob));
    let response = body(&response.unwrap());
    assert!(response["rooms"]["invite"][room.as_str()].is_object());
    world.join(&room, &bob).await;
    let response = world.ask(Ask::of(&bob).after(&response)).await;
    let ask = Ask::of(&bob).after(&response).with(|ask| ask.timeout = LONG);
    let (response, sent) =
        tokio::join!(world.sync.sync(ask.request()), world.text(&room, &alice, "hello"));
    assert_eq!(timeline(joined(&body(&response.unwrap()), &room)), [sent.to_string()]);
}

#[tokio::test]
async fn a_poll_with_nothing_to_tell_ends_with_its_time() {
    let world = World::new().await;
    let alice = user("alice");
    world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    // What others do elsewhere moves the token all the same.
    let stranger = user("stranger");
    let elsewhere = world.room(&stranger).await;
    world.text(&elsewhere, &stranger, "x").await;
    let ask = Ask::of(&alice).after(&first).with(|ask| ask.timeout = Duration::from_millis(30));
    let response = world.sync.sync(ask.request()).await.unwrap();
    assert!(response.is_empty);
    assert_ne!(response.next_batch, text_of(&first["next_batch"]));
}

#[tokio::test]
async fn closing_answers_those_who_wait() {
    let world = World::new().await;
    let alice = user("alice");
    world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    let ask = Ask::of(&alice).after(&first).with(|ask| ask.timeout = LONG);
    let mut waiting = Box::pin(world.sync.sync(ask.request()));
    assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
    world.sync.close();
    assert!(waiting.await.unwrap().is_empty);
}

#[tokio::test]
async fn a_stream_goes_on_where_a_poll_ended_and_a_poll_where_the_stream_did() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    let one = world.text(&room, &bob, "one").await;
    let mut stream = world.sync.stream(Ask::of(&alice).after(&first).request()).await.unwrap();
    let pushed = stream.next().await.unwrap().unwrap();
    assert_eq!(timeline(joined(&body(&pushed), &room)), [one.to_string()]);
    assert!(stream.next().now_or_never().is_none(), "nothing more");
    let (pushed_again, two) = tokio::join!(stream.next(), world.text(&room, &bob, "two"));
    let pushed_again = pushed_again.unwrap().unwrap();
    assert_eq!(timeline(joined(&body(&pushed_again), &room)), [two.to_string()]);
    stream.acknowledge(&pushed_again.next_batch).await.unwrap();
    assert!(stream.acknowledge(&pushed.next_batch).await.is_err(), "acknowledged with the later");
    // The client saw the first only, say, and polls on from there.
    let polled = world.ask(Ask::of(&alice).since(&pushed.next_batch)).await;
    assert_eq!(timeline(joined(&polled, &room)), [two.to_string()]);
}

#[tokio::test]
async fn a_stream_waits_for_acknowledgements() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let mut stream = world.sync.stream(Ask::of(&alice).request()).await.unwrap();
    let mut last = String::new();
    while stream.is_ready() {
        world.text(&room, &alice, "x").await;
        last = stream.next().await.unwrap().unwrap().next_batch;
    }
    world.text(&room, &alice, "one too many").await;
    assert!(stream.next().now_or_never().is_none());
    stream.acknowledge(&last).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
}

#[tokio::test]
async fn a_stored_filter_is_used_by_its_id() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let filter = json!({"room": {"timeline": {"limit": 1}}});
    let filter = serde_json::value::to_raw_value(&filter).unwrap();
    let id = world.users.create_filter(&alice, &filter).await.unwrap();
    let response = world.ask(Ask::of(&alice).filter(json!(id))).await;
    assert_eq!(timeline(joined(&response, &room)).len(), 1);
    let unknown = Ask::of(&alice).filter(json!("999")).request();
    let error = world.sync.sync(unknown).await.unwrap_err();
    assert!(matches!(error, hearth_sync::SyncError::UnknownFilter));
}

#[tokio::test]
async fn what_a_device_sends_is_shown_after_its_answer_and_what_it_sends_then_is_not_waited_for() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    let ask = Ask::of(&alice).after(&first).with(|ask| ask.timeout = LONG);
    let mut poll = Box::pin(world.sync.sync(ask.clone().request()));
    assert!(poll.as_mut().now_or_never().is_none(), "nothing to tell yet");
    let sending = world.sync.unanswered(&alice, "DEVICE".into());
    let one = world.text(&room, &alice, "one").await;
    assert!(poll.as_mut().now_or_never().is_none(), "the answer is due");
    let next = world.sync.unanswered(&alice, "DEVICE".into());
    let two = world.text(&room, &alice, "two").await;
    let other = ask.with(|ask| ask.device_id = "OTHER".into()).request();
    let told = body(&world.sync.sync(other).await.unwrap());
    assert_eq!(timeline(joined(&told, &room)), [one.to_string(), two.to_string()]);
    drop(sending);
    let told = body(&poll.await.unwrap());
    assert_eq!(timeline(joined(&told, &room)), [one.to_string()], "two is not answered yet");
    let ask = Ask::of(&alice).after(&told).with(|ask| ask.timeout = LONG);
    let mut poll = Box::pin(world.sync.sync(ask.request()));
    assert!(poll.as_mut().now_or_never().is_none());
    drop(next);
    assert_eq!(timeline(joined(&body(&poll.await.unwrap()), &room)), [two.to_string()]);
}

#[tokio::test]
async fn a_stream_waits_for_no_answers() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    let mut stream = world.sync.stream(Ask::of(&alice).after(&first).request()).await.unwrap();
    let _sending = world.sync.unanswered(&alice, "DEVICE".into());
    let one = world.text(&room, &alice, "one").await;
    let pushed = stream.next().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!(timeline(joined(&body(&pushed), &room)), [one.to_string()]);
}
