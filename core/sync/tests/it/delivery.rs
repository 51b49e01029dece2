//! Delivery status and large rooms.

use std::time::Duration;

use futures_util::FutureExt;
use hearth_sync::{DELIVERED_RECEIPT, SyncConfig};
use serde_json::Value;

use crate::world::{Ask, World, events, joined, user};

fn delivered<'a>(section: &'a Value, event_id: &str) -> &'a Value {
    let receipts = events(&section["ephemeral"]);
    receipts.first().map_or(&Value::Null, |event| &event["content"][event_id][DELIVERED_RECEIPT])
}

#[tokio::test]
async fn a_sender_learns_that_a_message_arrived_and_others_do_not() {
    let config = SyncConfig { delivery_receipts: true, ..SyncConfig::default() };
    let world = World::with(config).await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    world.join(&room, &carol).await;
    let mut tokens = Vec::new();
    for user_id in [&alice, &bob, &carol] {
        tokens.push(world.ask(Ask::of(user_id)).await);
    }
    let event = world.text(&room, &alice, "x").await;
    let got = world.ask(Ask::of(&bob).after(&tokens[1])).await;
    let before = world.ask(Ask::of(&alice).after(&tokens[0])).await;
    assert!(delivered(joined(&before, &room), event.as_str()).is_null(), "not proven yet");
    // The next request of the device proves it.
    world.ask(Ask::of(&bob).after(&got)).await;
    let after = world.ask(Ask::of(&alice).after(&before)).await;
    assert!(delivered(joined(&after, &room), event.as_str())["@bob:x"].is_object());
    let other = world.ask(Ask::of(&carol).after(&tokens[2])).await;
    assert!(delivered(joined(&other, &room), event.as_str()).is_null());
}

#[tokio::test]
async fn delivery_is_not_told_unless_the_operator_allows_it() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let (for_alice, for_bob) = (world.ask(Ask::of(&alice)).await, world.ask(Ask::of(&bob)).await);
    world.text(&room, &alice, "x").await;
    let for_alice = world.ask(Ask::of(&alice).after(&for_alice)).await;
    let got = world.ask(Ask::of(&bob).after(&for_bob)).await;
    world.ask(Ask::of(&bob).after(&got)).await;
    assert_eq!(world.ask(Ask::of(&alice).after(&for_alice)).await.get("rooms"), None);
}

#[tokio::test]
async fn large_rooms_show_one_only_ones_own_receipts() {
    use ruma::events::receipt::{ReceiptThread, ReceiptType};
    let world = World::with(SyncConfig { large_room_members: 1, ..SyncConfig::default() }).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let event = world.text(&room, &alice, "x").await;
    for user_id in [&alice, &bob] {
        let (kind, thread) = (ReceiptType::Read, ReceiptThread::Unthreaded);
        world.read(&room, user_id, kind, thread, &event).await;
    }
    let response = world.ask(Ask::of(&bob)).await;
    let receipts = events(&joined(&response, &room)["ephemeral"]).to_vec();
    let readers = receipts[0]["content"][event.as_str()]["m.read"].as_object().unwrap();
    assert_eq!(readers.keys().collect::<Vec<_>>(), ["@bob:x"]);
}

#[tokio::test]
async fn large_rooms_wake_those_who_do_not_look_a_little_later() {
    let config = SyncConfig {
        large_room_members: 1,
        quiet_connected_users: 0,
        quiet_interval_ms: 500,
        ..SyncConfig::default()
    };
    let world = World::with(config).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let mut token = world.ask(Ask::of(&bob)).await;
    for viewed in [false, true] {
        if viewed {
            world.sync.viewed(&bob, &room);
        }
        let ask = Ask::of(&bob).after(&token).with(|ask| ask.timeout = Duration::from_mins(1));
        let mut waiting = Box::pin(world.sync.sync(ask.request()));
        assert!(waiting.as_mut().now_or_never().is_none());
        world.text(&room, &alice, "x").await;
        let at_once = waiting.as_mut().now_or_never();
        assert_eq!(at_once.is_some(), viewed);
        let response = match at_once {
            Some(response) => response,
            None => waiting.await,
        };
        token = serde_json::from_slice(&response.unwrap().body).unwrap();
        assert!(joined(&token, &room).is_object());
    }
}
