//! Typing, receipts, presence and account data.

use std::time::Duration;

use hearth_users::AccountDataScope;
use ruma::{
    events::receipt::{ReceiptThread, ReceiptType},
    presence::PresenceState,
};
use serde_json::{json, value::to_raw_value};

use crate::world::{Ask, World, events, joined, keys, user};

#[tokio::test]
async fn typing_is_told_when_it_begins_and_when_it_ends() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    world.users.set_typing(&room, &bob, Some(Duration::from_secs(20)));
    let second = world.ask(Ask::of(&alice).after(&first)).await;
    let typing = &events(&joined(&second, &room)["ephemeral"])[0];
    assert_eq!(typing["content"], json!({"user_ids": ["@bob:x"]}));
    assert_eq!(world.ask(Ask::of(&alice).after(&second)).await.get("rooms"), None);
    world.users.set_typing(&room, &bob, None);
    let third = world.ask(Ask::of(&alice).after(&second)).await;
    let typing = &events(&joined(&third, &room)["ephemeral"])[0];
    assert_eq!(typing["content"], json!({"user_ids": []}));
}

#[tokio::test]
async fn private_receipts_are_their_owners_and_count_all_the_same() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let event = world.text(&room, &alice, "x").await;
    let (for_alice, for_bob) = (world.ask(Ask::of(&alice)).await, world.ask(Ask::of(&bob)).await);
    assert_eq!(joined(&for_bob, &room)["unread_notifications"]["notification_count"], 1);
    world.read(&room, &bob, ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, &event).await;
    assert_eq!(world.ask(Ask::of(&alice).after(&for_alice)).await.get("rooms"), None);
    let own = world.ask(Ask::of(&bob).after(&for_bob)).await;
    let section = joined(&own, &room);
    let receipt = &events(&section["ephemeral"])[0]["content"][event.as_str()];
    assert!(receipt["m.read.private"]["@bob:x"]["ts"].is_number());
    assert_eq!(section["unread_notifications"]["notification_count"], 0, "only a receipt moved");

    world.read(&room, &bob, ReceiptType::Read, ReceiptThread::Main, &event).await;
    let public = world.ask(Ask::of(&alice).after(&for_alice)).await;
    let receipt = &events(&joined(&public, &room)["ephemeral"])[0]["content"][event.as_str()];
    assert_eq!(receipt["m.read"]["@bob:x"]["thread_id"], "main");
}

#[tokio::test]
async fn presence_goes_to_those_who_share_a_room() {
    let world = World::new().await;
    let (alice, bob, stranger) = (user("alice"), user("bob"), user("stranger"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    world.room(&stranger).await;
    let first = world.ask(Ask::of(&alice)).await;
    let elsewhere = world.ask(Ask::of(&stranger)).await;
    world.users.set_presence(&bob, PresenceState::Online, Some("here".to_owned())).await.unwrap();
    let ask = Ask::of(&alice).after(&first).with(|ask| ask.timeout = Duration::from_secs(10));
    let second = world.ask(ask).await;
    let presence = &events(&second["presence"])[0];
    assert_eq!(presence["sender"], "@bob:x");
    assert_eq!(presence["content"]["presence"], "online");
    assert_eq!(presence["content"]["status_msg"], "here");
    assert_eq!(world.ask(Ask::of(&stranger).after(&elsewhere)).await.get("presence"), None);
}

#[tokio::test]
async fn account_data_comes_whole_and_then_as_it_changes() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    let rules = events(&first["account_data"])
        .iter()
        .find(|event| event["type"] == "m.push_rules")
        .expect("the server's default rules");
    assert!(rules["content"]["global"]["override"].is_array());
    let content = to_raw_value(&json!({"a": 1})).unwrap();
    let global = AccountDataScope::Global;
    world.users.set_account_data(&alice, global, "org.x", &content).await.unwrap();
    let of_room = AccountDataScope::Room(&room);
    world.users.set_account_data(&alice, of_room, "org.y", &content).await.unwrap();
    let second = world.ask(Ask::of(&alice).after(&first)).await;
    assert_eq!(keys(&second["account_data"]), ["org.x"]);
    assert_eq!(keys(&joined(&second, &room)["account_data"]), ["org.y"]);
    let none = world.ask(Ask::of(&alice).after(&second)).await;
    assert_eq!((none.get("account_data"), none.get("rooms")), (None, None));
}
