//! `pos`: asked again, unknown, of others; what is remembered is bounded.

use hearth_sync::{SyncConfig, SyncError};
use serde_json::json;

use super::{Phone, is_quiet, room, rooms, window, words};
use crate::world::{World, user};

#[tokio::test]
async fn a_lost_answer_is_made_again_and_lacks_nothing() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    // The very first one is lost: there is nothing to go back to, and the next begins anew.
    phone.try_ask(&world).await.unwrap();
    phone.ask(&world).await;
    world.text(&one, &alice, "a").await;
    let lost = phone.try_ask(&world).await.unwrap();
    assert_eq!(words(&room(&lost, &one)["timeline"]), ["a"]);
    world.text(&one, &alice, "b").await;
    let two = world.room(&alice).await;
    let again = phone.ask(&world).await;
    assert_eq!(words(&room(&again, &one)["timeline"]), ["a", "b"]);
    assert_eq!(room(&again, &one)["num_live"], 2);
    assert_eq!(room(&again, &two)["initial"], true);
    assert_ne!(again["pos"], lost["pos"]);
    // The first answer's `pos` leads nowhere: the client took the second one in.
    let mut astray = phone.clone();
    astray.take(&lost);
    assert!(matches!(astray.try_ask(&world).await, Err(SyncError::UnknownPos)));
    assert!(is_quiet(&phone.ask(&world).await), "and that did no harm");
    // With other wishes the same `pos` may be used, too.
    phone.body = window(0, 0);
    assert!(is_quiet(&phone.try_ask(&world).await.unwrap()));
}

#[tokio::test]
async fn what_is_no_pos_of_this_device_and_connection_is_unknown() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    world.room(&alice).await;
    let mut phone = Phone::of(&alice, window(0, 9));
    phone.ask(&world).await;
    let old = phone.pos.clone();
    world.room(&alice).await;
    phone.ask(&world).await;
    world.room(&alice).await;
    phone.ask(&world).await;
    for pos in [old, Some("nonsense".to_owned()), Some("s1_5_1_2_3".to_owned())] {
        let other = Phone { pos, ..phone.clone() };
        assert!(matches!(other.try_ask(&world).await, Err(SyncError::UnknownPos)));
    }
    let mut other = Phone::of(&bob, window(0, 9));
    other.pos = phone.pos.clone();
    assert!(matches!(other.try_ask(&world).await, Err(SyncError::UnknownPos)));
    let mut other = phone.clone();
    other.body["conn_id"] = json!("another");
    assert!(matches!(other.try_ask(&world).await, Err(SyncError::UnknownPos)));
    assert!(is_quiet(&phone.ask(&world).await));
    // A connection of the same name that begins anew ends the old one.
    let mut anew = Phone::of(&alice, window(0, 0));
    assert_eq!(rooms(&anew.ask(&world).await).len(), 1);
    assert!(matches!(phone.try_ask(&world).await, Err(SyncError::UnknownPos)));
}

#[tokio::test]
async fn connections_do_not_know_of_each_other() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let named = |name: &str| {
        let mut phone = Phone::of(&alice, window(0, 9));
        phone.body["conn_id"] = json!(name);
        phone
    };
    let (mut list, mut push) = (named("room-list"), named("notifications"));
    list.ask(&world).await;
    push.ask(&world).await;
    world.text(&one, &alice, "a").await;
    for phone in [&mut list, &mut push] {
        assert_eq!(words(&room(&phone.ask(&world).await, &one)["timeline"]), ["a"]);
    }
    // A device has only so many: the one unused for longest has to begin anew.
    for number in 0..7 {
        named(&number.to_string()).ask(&world).await;
    }
    assert!(matches!(list.try_ask(&world).await, Err(SyncError::UnknownPos)));
    assert!(is_quiet(&push.ask(&world).await));
}

#[tokio::test]
async fn what_was_delivered_is_told_when_the_next_pos_proves_it() {
    let config = SyncConfig { delivery_receipts: true, ..SyncConfig::default() };
    let world = World::with(config).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let mut phone = Phone::of(&bob, window(0, 9));
    phone.ask(&world).await;
    let event = world.text(&one, &alice, "there?").await;
    let delivered = async || {
        let until = world.sync.now().position;
        let receipts = world.users.receipts(&one, &alice, until).await.unwrap();
        receipts.iter().any(|receipt| {
            receipt.event_id == event && receipt.receipt_type.as_str() == "org.hearth.delivered"
        })
    };
    phone.ask(&world).await;
    assert!(!delivered().await, "it may have been lost on the way");
    phone.ask(&world).await;
    assert!(delivered().await);
}
