use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use ruma::{device_id, user_id};

use super::*;
use crate::testing::{Client, Desk, KEYS, room, texts};

async fn pair() -> (Arc<Mutex<Desk>>, Client, Client) {
    let desk = Arc::default();
    let hers = Client::new(&desk, user_id!("@alice:a.test"), "HERS").await;
    let his = Client::new(&desk, user_id!("@bob:b.test"), "HIS").await;
    (desk, hers, his)
}

/// The bodies of uploads since.
fn uploads(desk: &Mutex<Desk>) -> Vec<Value> {
    let asked = std::mem::take(&mut desk.lock().unwrap().asked);
    let uploads = asked.into_iter().filter(|(path, _)| path == "keys/upload");
    uploads.map(|(_, body)| body).collect()
}

fn ids(keys: &Value) -> BTreeSet<String> {
    keys.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn used_keys_are_replaced_by_new_ones() {
    let (desk, mut hers, _) = pair().await;
    let first = uploads(&desk).swap_remove(0);
    let known = ids(&first["one_time_keys"]);
    assert_eq!((known.len(), ids(&first["fallback_keys"]).len()), (KEYS, 1));
    let unused = json!({ "device_unused_fallback_key_types": ["signed_curve25519"] });
    hers.sync_with(unused.clone()).await;
    assert!(uploads(&desk).is_empty(), "nothing was used");
    for _ in 0..2 {
        desk.lock().unwrap().one_time_keys.get_mut(device_id!("HERS")).unwrap().pop_front();
    }
    hers.sync_with(unused).await;
    let [more] = uploads(&desk).try_into().unwrap();
    let new = ids(&more["one_time_keys"]);
    assert_eq!((new.len(), new.is_disjoint(&known)), (2, true));
    assert!(more.get("fallback_keys").is_none());
    hers.sync_with(json!({ "device_unused_fallback_key_types": [] })).await;
    let [fallback] = uploads(&desk).try_into().unwrap();
    assert!(ids(&fallback["fallback_keys"]).is_disjoint(&ids(&first["fallback_keys"])));
    // A server that knows no fallback keys says nothing of them.
    hers.sync_with(json!({})).await;
    assert!(uploads(&desk).is_empty());
    // And one that counts none has none.
    hers.device.receive(&hers.line, &json!({})).await.unwrap();
    assert_eq!(ids(&uploads(&desk)[0]["one_time_keys"]).len(), KEYS);
}

#[tokio::test]
async fn events_wait_for_their_room_key() {
    let (desk, mut hers, mut his) = pair().await;
    let request = hers.device.room_key(&hers.line, room()).await.unwrap();
    let mut events = Vec::new();
    for text in ["first", "second"] {
        let content = json!({ "body": text });
        let sealed = hers.device.seal(room(), "m.test", &content).unwrap();
        let mut event = hers.event(&sealed);
        event["event_id"] = json!(format!("${text}"));
        events.push(event);
    }
    let mut redacted = hers.event(&json!({}));
    redacted["event_id"] = json!("$redacted");
    events.push(redacted);
    events.push(json!({ "type": "m.test", "content": { "ciphertext": "none" } }));
    assert!(his.sync(&events).await.events.is_empty());
    let unread: Vec<_> = his.device.unread().collect();
    assert_eq!(
        unread,
        [("$first", &Undecryptable::NoRoomKey), ("$second", &Undecryptable::NoRoomKey)]
    );
    request.send(&hers.line).await.unwrap();
    let update = his.sync(&[]).await;
    assert_eq!(texts(&update.events), ["first", "second"]);
    assert!(update.events.iter().all(|event| event.event_type == "m.test"));
    assert_eq!(his.device.unread().count(), 0);
    assert_eq!(desk.lock().unwrap().count("sendToDevice"), 1);
}

#[tokio::test]
async fn of_too_many_unread_events_the_oldest_are_forgotten() {
    let (_, _, mut his) = pair().await;
    let event = |number: usize| {
        let content = json!({
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": "none",
            "session_id": "none",
        });
        json!({ "type": "m.room.encrypted", "event_id": format!("${number}"), "content": content })
    };
    let events: Vec<_> = (0..MAX_UNREAD + 2).map(event).collect();
    his.sync(&events).await;
    let unread: Vec<_> = his.device.unread().collect();
    assert_eq!(unread.len(), MAX_UNREAD);
    assert_eq!(unread[0], ("$2", &Undecryptable::Malformed("no Megolm message")));
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_what_is_no_letter_is_not() {
    let (_, _, mut his) = pair().await;
    let events = [
        json!({ "type": "m.test", "sender": "@eve:e.test", "content": {} }),
        json!({ "type": "m.room.encrypted", "sender": "eve", "content": {} }),
        json!({ "type": "m.room.encrypted", "sender": "@eve:e.test" }),
        json!({ "type": "m.room.encrypted", "sender": "@eve:e.test", "content": {} }),
    ];
    let sync = json!({ "to_device": { "events": events } });
    let letters = his.device.receive(&his.line, &sync).await.unwrap().letters;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(letter.sender, "@eve:e.test");
    assert_eq!(letter.said, Err(Undecryptable::Malformed("another algorithm")));
}

#[tokio::test]
async fn a_room_key_counts_only_if_it_is_one() {
    let (desk, mut hers, mut his) = pair().await;
    let known = hers.device.devices_of(&hers.line, user_id!("@bob:b.test")).await.unwrap();
    assert_eq!(known, [device_id!("HIS")]);
    hers.say("hello").await;
    his.sync(&[]).await;
    let peer =
        hers.device.lists.of(&hers.line, &["@bob:b.test".try_into().unwrap()]).await.unwrap();
    for (content, why) in [
        (json!({}), "algorithm"),
        (json!({ "algorithm": "m.other" }), "another algorithm"),
        (json!({ "algorithm": "m.megolm.v1.aes-sha2", "session_key": "none" }), "no session key"),
    ] {
        let Device { olm, account, .. } = &mut hers.device;
        let sealed = olm.seal(account, &peer[0], "m.room_key", &content).unwrap();
        let event =
            json!({ "type": "m.room.encrypted", "sender": "@alice:a.test", "content": sealed });
        let sync = json!({ "to_device": { "events": [event] } });
        let letters = his.device.receive(&his.line, &sync).await.unwrap().letters;
        assert_eq!(letters[0].said, Err(Undecryptable::Malformed(why)));
    }
    assert_eq!(desk.lock().unwrap().count("sendToDevice"), 1);
}
