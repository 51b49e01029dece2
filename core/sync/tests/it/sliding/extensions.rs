//! What is told beside rooms; messages to devices are tested over HTTP.

use std::time::Duration;

use hearth_users::AccountDataScope;
use ruma::{
    UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{Phone, is_quiet, rooms, subscription, window};
use crate::{
    device_lists::{account, change_list, encrypted_room},
    world::{World, user},
};

fn asking(user_id: &UserId, extensions: Value) -> Phone {
    let mut phone = Phone::of(user_id, window(0, 9));
    phone.body["extensions"] = extensions;
    phone
}

#[tokio::test]
async fn typing_comes_and_goes() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let mut phone = asking(&alice, json!({"typing": {"enabled": true}}));
    let first = phone.ask(&world).await;
    assert_eq!(first["extensions"]["typing"]["rooms"], json!({}));
    world.users.set_typing(&one, &bob, Some(Duration::from_mins(1)));
    let typing = phone.ask(&world).await;
    let event = json!({"type": "m.typing", "content": {"user_ids": ["@bob:x"]}});
    assert_eq!(typing["extensions"]["typing"]["rooms"][one.as_str()], event);
    assert!(is_quiet(&typing), "it is told without the room");
    let quiet = phone.ask(&world).await;
    assert_eq!(quiet["extensions"]["typing"]["rooms"], json!({}));
    // Out of view while it ends, and told so when the room is back.
    phone.body = window(5, 9);
    phone.body["extensions"] = json!({"typing": {"enabled": true}});
    phone.ask(&world).await;
    world.users.set_typing(&one, &bob, None);
    let unseen = phone.ask(&world).await;
    assert_eq!(unseen["extensions"]["typing"]["rooms"], json!({}));
    phone.body = asking(&alice, json!({"typing": {"enabled": true}})).body;
    let ended = phone.ask(&world).await;
    let nobody = &ended["extensions"]["typing"]["rooms"][one.as_str()]["content"]["user_ids"];
    assert_eq!(*nobody, json!([]));
}

#[tokio::test]
async fn receipts_are_of_what_is_shown_then_of_what_moves() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    world.join(&one, &carol).await;
    let old = world.text(&one, &alice, "old").await;
    world.read(&one, &bob, ReceiptType::Read, ReceiptThread::Unthreaded, &old).await;
    world.read(&one, &carol, ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, &old).await;
    let mut last = old.clone();
    for number in 0..5 {
        last = world.text(&one, &alice, &number.to_string()).await;
    }
    world.read(&one, &alice, ReceiptType::Read, ReceiptThread::Unthreaded, &old).await;
    let all = json!({"receipts": {"enabled": true}});
    let content =
        |answer: &Value| answer["extensions"]["receipts"]["rooms"][one.as_str()]["content"].clone();
    let mut phone = asking(&alice, all.clone());
    let first = content(&phone.ask(&world).await);
    let readers: Vec<_> = first[old.as_str()]["m.read"].as_object().unwrap().keys().collect();
    assert_eq!(readers, ["@alice:x"], "one's own, and nobody's of events that are not shown");
    world.read(&one, &bob, ReceiptType::Read, ReceiptThread::Unthreaded, &last).await;
    world.read(&one, &carol, ReceiptType::ReadPrivate, ReceiptThread::Unthreaded, &last).await;
    let moved = content(&phone.ask(&world).await);
    assert!(moved[last.as_str()]["m.read"]["@bob:x"].is_object(), "{moved}");
    assert_eq!(moved.as_object().unwrap().len(), 1);
    assert_eq!(moved[last.as_str()].as_object().unwrap().len(), 1, "nobody's private ones");
    assert!(content(&phone.ask(&world).await).is_null());
    let anew = content(&asking(&bob, all.clone()).ask(&world).await);
    assert!(anew[last.as_str()]["m.read"]["@bob:x"].is_object(), "{anew}");
    // Whoever asks for them late gets those of what was shown before, too.
    let mut late = asking(&alice, json!({}));
    late.body["conn_id"] = json!("late");
    late.ask(&world).await;
    late.body["extensions"] = all.clone();
    world.text(&one, &alice, "news").await;
    let told = content(&late.ask(&world).await);
    assert!(told[last.as_str()]["m.read"]["@bob:x"].is_object(), "{told}");
    // Nothing of rooms that the extension does not speak of.
    let none = json!({"receipts": {"enabled": true, "lists": [], "rooms": ["*"]}});
    assert!(content(&asking(&bob, none).ask(&world).await).is_null());
}

#[tokio::test]
async fn a_raised_limit_brings_the_receipts_of_older_events() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    world.join(&one, &carol).await;
    let mut texts = Vec::new();
    for number in 0..5 {
        texts.push(world.text(&one, &alice, &number.to_string()).await);
    }
    let read = async |user_id: &UserId, text: usize| {
        let event_id = &texts[text];
        world.read(&one, user_id, ReceiptType::Read, ReceiptThread::Unthreaded, event_id).await;
    };
    read(&bob, 1).await;
    read(&carol, 3).await;
    let readers = |answer: &Value, text: usize| -> Vec<String> {
        let room = &answer["extensions"]["receipts"]["rooms"][one.as_str()];
        let readers = room["content"][texts[text].as_str()]["m.read"].as_object();
        readers.map(|readers| readers.keys().cloned().collect()).unwrap_or_default()
    };
    let with = |limit: u64, receipts: bool| {
        let mut body = subscription(&one, limit, &json!([]));
        body["extensions"]["receipts"]["enabled"] = json!(receipts);
        body
    };
    let mut phone = Phone::of(&alice, with(1, true));
    let first = phone.ask(&world).await;
    assert!((0..5).all(|text| readers(&first, text).is_empty()), "{first}");
    phone.body = with(3, true);
    let lost = phone.try_ask(&world).await.unwrap();
    assert_eq!(readers(&lost, 3), ["@carol:x"]);
    // It did not arrive. What moved meanwhile comes with what the older events have.
    read(&carol, 4).await;
    let more = phone.ask(&world).await;
    assert_eq!((readers(&more, 3), readers(&more, 4)), (vec![], vec!["@carol:x".to_owned()]));
    assert!(readers(&more, 1).is_empty(), "this event is not shown yet");
    // While receipts are not asked for, events are shown without them.
    phone.body = with(9, false);
    phone.ask(&world).await;
    phone.body = with(9, true);
    world.text(&one, &alice, "news").await;
    assert_eq!(readers(&phone.ask(&world).await, 1), ["@bob:x"]);
    assert_eq!(phone.ask(&world).await["extensions"]["receipts"]["rooms"], json!({}));
}

#[tokio::test]
async fn receipts_of_several_threads_at_one_event_come_one_after_the_other() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    let root = world.text(&one, &alice, "root").await;
    let mut phone = asking(&alice, json!({"receipts": {"enabled": true}}));
    phone.ask(&world).await;
    let receipt = |answer: &Value| {
        let content = &answer["extensions"]["receipts"]["rooms"][one.as_str()]["content"];
        content[root.as_str()]["m.read"]["@bob:x"]["thread_id"].clone()
    };
    let thread = ReceiptThread::Thread(root.clone());
    world.read(&one, &bob, ReceiptType::Read, thread, &root).await;
    world.read(&one, &bob, ReceiptType::Read, ReceiptThread::Main, &root).await;
    // What says most comes first; an answer that was lost comes again.
    assert_eq!(receipt(&phone.try_ask(&world).await.unwrap()), "main");
    assert_eq!(receipt(&phone.ask(&world).await), "main");
    assert_eq!(receipt(&phone.try_ask(&world).await.unwrap()), root.as_str());
    assert_eq!(receipt(&phone.ask(&world).await), root.as_str());
    let quiet = phone.ask(&world).await;
    assert_eq!(quiet["extensions"]["receipts"]["rooms"], json!({}));
    // The same for who is new to the room; what moved on meanwhile is told where it is now.
    let mut anew = asking(&alice, json!({"receipts": {"enabled": true}}));
    anew.body["conn_id"] = json!("anew");
    assert_eq!(receipt(&anew.ask(&world).await), "main");
    let next = world.text(&one, &alice, "next").await;
    world.read(&one, &bob, ReceiptType::Read, ReceiptThread::Thread(root.clone()), &next).await;
    let told = anew.ask(&world).await;
    let content = &told["extensions"]["receipts"]["rooms"][one.as_str()]["content"];
    assert_eq!(content[next.as_str()]["m.read"]["@bob:x"]["thread_id"], root.as_str());
    assert!(content[root.as_str()].is_null(), "{content}");
}

#[tokio::test]
async fn account_data_comes_whole_then_as_it_changes() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    let two = world.room(&alice).await;
    let set = async |kind: &str, content: Value| {
        let content = to_raw_value(&content).unwrap();
        let scope = AccountDataScope::Global;
        world.users.set_account_data(&alice, scope, kind, &content).await.unwrap();
    };
    set("u.x", json!({"n": 1})).await;
    world.users.set_tag(&alice, &one, "u.work", Map::new()).await.unwrap();
    let mut phone = asking(&alice, json!({"account_data": {"enabled": true}}));
    let first = phone.ask(&world).await;
    let data = &first["extensions"]["account_data"];
    let types: Vec<_> = data["global"].as_array().unwrap().iter().map(|e| &e["type"]).collect();
    assert!(types.contains(&&json!("u.x")) && types.contains(&&json!("m.push_rules")));
    assert_eq!(data["rooms"][one.as_str()][0]["type"], "m.tag");
    set("u.x", json!({"n": 2})).await;
    world.users.set_tag(&alice, &two, "u.work", Map::new()).await.unwrap();
    let second = phone.ask(&world).await;
    let data = &second["extensions"]["account_data"];
    assert_eq!(data["global"], json!([{"type": "u.x", "content": {"n": 2}}]));
    assert_eq!(data["rooms"].as_object().unwrap().keys().collect::<Vec<_>>(), [two.as_str()]);
    // What changes out of view comes with the room when it is back.
    phone.body["lists"]["all"]["ranges"] = json!([[0, 0]]);
    phone.ask(&world).await;
    world.users.set_tag(&alice, &one, "u.home", Map::new()).await.unwrap();
    let unseen = phone.ask(&world).await;
    assert_eq!(unseen["extensions"]["account_data"]["rooms"], json!({}));
    phone.body["lists"]["all"]["ranges"] = json!([[0, 9]]);
    let back = phone.ask(&world).await;
    let tags = &back["extensions"]["account_data"]["rooms"][one.as_str()][0]["content"]["tags"];
    assert_eq!(*tags, json!({"u.home": {}, "u.work": {}}));
    let quiet = phone.ask(&world).await;
    assert_eq!(quiet["extensions"]["account_data"], json!({"global": [], "rooms": {}}));
}

#[tokio::test]
async fn changed_devices_are_told_on_a_connection_without_rooms() {
    let world = World::new().await;
    let (alice, bob) = (account(&world, "alice").await, account(&world, "bob").await);
    let one = encrypted_room(&world, &alice).await;
    world.join(&one, &bob).await;
    let mut phone = Phone::of(
        &alice,
        json!({
            "conn_id": "encryption",
            "extensions": {"e2ee": {"enabled": true}, "to_device": {"enabled": true}},
        }),
    );
    change_list(&world, &bob).await;
    let first = phone.ask(&world).await;
    let e2ee = &first["extensions"]["e2ee"];
    assert_eq!(e2ee["device_lists"], json!(null), "whoever begins looks at everybody");
    assert_eq!(e2ee["device_unused_fallback_key_types"], json!([]));
    assert!(first["extensions"]["to_device"]["next_batch"].is_string());
    change_list(&world, &bob).await;
    let lost = phone.try_ask(&world).await.unwrap();
    let changed = |answer: &Value| answer["extensions"]["e2ee"]["device_lists"]["changed"].clone();
    assert_eq!(changed(&lost), json!(["@bob:x"]));
    assert_eq!(changed(&phone.ask(&world).await), json!(["@bob:x"]), "asked again");
    assert!(changed(&phone.ask(&world).await).is_null());
    assert!(rooms(&lost).is_empty());
    let carol = account(&world, "carol").await;
    world.join(&one, &carol).await;
    assert_eq!(changed(&phone.ask(&world).await), json!(["@carol:x"]));
    world.rooms.leave(&one, &carol, None).await.unwrap();
    let left = phone.ask(&world).await;
    assert_eq!(left["extensions"]["e2ee"]["device_lists"]["left"], json!(["@carol:x"]));
}
