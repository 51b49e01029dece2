use std::sync::{Arc, Mutex};

use ruma::{device_id, user_id};

use super::*;
use crate::testing::{Client, Desk, KEYS, refusal, room, texts};

fn desk() -> Arc<Mutex<Desk>> {
    Arc::default()
}

fn alice() -> &'static UserId {
    user_id!("@alice:a.test")
}

fn bob() -> &'static UserId {
    user_id!("@bob:b.test")
}

fn sent(desk: &Mutex<Desk>) -> usize {
    desk.lock().unwrap().count("sendToDevice")
}

#[tokio::test]
async fn who_lacks_the_room_key_gets_it_once() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let mut tablet = Client::new(&desk, alice(), "TABLET").await;
    let mut his = Client::new(&desk, bob(), "HIS").await;
    let first = hers.say("first").await;
    let second = hers.say("second").await;
    assert_eq!(first["content"]["session_id"], second["content"]["session_id"]);
    assert_eq!(sent(&desk), 1, "one request is for both");
    assert!(!desk.lock().unwrap().asked.iter().any(|(path, body)| {
        path.starts_with("sendToDevice") && body["messages"][alice().as_str()].get("HERS").is_some()
    }));
    for client in [&mut his, &mut tablet] {
        let update = client.sync(&[first.clone(), second.clone()]).await;
        assert_eq!(texts(&update.events), ["first", "second"]);
        let [letter] = update.letters.as_slice() else { panic!("{:?}", update.letters) };
        assert_eq!(letter.sender, alice());
        assert_eq!(letter.said.as_ref().unwrap().0, "m.room_key");
    }
    // Who speaks reads what they said themselves.
    assert_eq!(hers.read(&[first, second]).await, ["first", "second"]);
}

#[tokio::test]
async fn who_comes_later_reads_only_what_is_said_from_then_on() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let mut his = Client::new(&desk, bob(), "HIS").await;
    let first = hers.say("first").await;
    let mut late = Client::new(&desk, bob(), "LATE").await;
    let changed = json!({ "device_lists": { "changed": [bob()], "left": [] } });
    hers.sync_with(changed).await;
    let second = hers.say("second").await;
    assert_eq!(first["content"]["session_id"], second["content"]["session_id"]);
    assert_eq!(his.read(&[first.clone(), second.clone()]).await, ["first", "second"]);
    assert_eq!(late.read(&[first, second]).await, ["second"]);
    let why: Vec<_> = late.device.unread().map(|(_, why)| why.clone()).collect();
    assert_eq!(why, [Undecryptable::BeforeRoomKey]);
}

#[tokio::test]
async fn who_is_not_to_read_on_ends_the_session() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let mut his = Client::new(&desk, bob(), "HIS").await;
    let mut phone = Client::new(&desk, bob(), "PHONE").await;
    let first = hers.say("first").await;
    // One of his devices goes.
    desk.lock().unwrap().device_keys.get_mut(bob()).unwrap().remove(device_id!("PHONE"));
    hers.sync_with(json!({ "device_lists": { "changed": [bob()] } })).await;
    let second = hers.say("second").await;
    assert_ne!(first["content"]["session_id"], second["content"]["session_id"]);
    // And then he.
    desk.lock().unwrap().members.remove(bob());
    let third = hers.say("third").await;
    assert_ne!(second["content"]["session_id"], third["content"]["session_id"]);
    let all = [first, second, third];
    assert_eq!(his.read(&all).await, ["first", "second"]);
    assert_eq!(phone.read(&all).await, ["first"]);
    assert_eq!(hers.read(&all).await, ["first", "second", "third"]);
}

#[tokio::test]
async fn a_device_without_one_time_keys_gets_the_room_key_when_it_has_some() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let mut his = Client::new(&desk, bob(), "HIS").await;
    desk.lock().unwrap().one_time_keys.clear();
    let first = hers.say("first").await;
    assert_eq!((his.read(&[first]).await.len(), sent(&desk)), (0, 0));
    // His sync has filled them up.
    assert_eq!(desk.lock().unwrap().one_time_keys[device_id!("HIS")].len(), KEYS);
    let second = hers.say("second").await;
    assert_eq!(his.read(&[second]).await, ["second"]);
}

#[tokio::test]
async fn claimed_keys_must_be_signed_by_their_device() {
    type Alter = fn(&mut Value);
    let alterations: [(Alter, &str); 3] = [
        (|key| key["key"] = json!("x".repeat(43)), "the signature is wrong"),
        (|key| key["signatures"] = json!({}), "not signed by the device"),
        (|key| key["fallback"] = json!(true), "the signature is wrong"),
    ];
    for (alter, why) in alterations {
        let desk = desk();
        let mut hers = Client::new(&desk, alice(), "HERS").await;
        let _his = Client::new(&desk, bob(), "HIS").await;
        let mut keys = desk.lock().unwrap().one_time_keys[device_id!("HIS")].clone();
        for (_, key) in &mut keys {
            alter(key);
        }
        desk.lock().unwrap().one_time_keys.insert(device_id!("HIS").to_owned(), keys);
        let room_key = hers.device.room_key(&hers.line, room()).await;
        assert_eq!(refusal(room_key), why);
        let again = hers.device.start_over(&hers.line, bob(), device_id!("HIS")).await;
        assert_eq!(refusal(again), why);
        assert_eq!(sent(&desk), 0);
    }
}

#[tokio::test]
async fn a_lost_olm_session_is_replaced_and_the_room_key_sent_again_as_it_was() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let mut his = Client::new(&desk, bob(), "HIS").await;
    let hello = hers.say("hello").await;
    assert_eq!(his.read(&[hello]).await, ["hello"]);
    let answer = his.say("answer").await;
    assert_eq!(hers.read(&[answer]).await, ["answer"]);
    his.device.lose_olm_sessions();
    hers.device.rotate(room()).unwrap();
    let first = hers.say("first").await;
    let update = his.sync(std::slice::from_ref(&first)).await;
    let [letter] = update.letters.as_slice() else { panic!("{:?}", update.letters) };
    let Err(Undecryptable::NoOlmSession { sender_key, .. }) = &letter.said else {
        panic!("{letter:?}")
    };
    assert_eq!(*sender_key, hers.device.account().curve25519());
    let second = hers.say("second").await;
    let request = his.device.start_over(&his.line, alice(), device_id!("HERS")).await.unwrap();
    assert!(
        request.is_for(alice(), device_id!("HERS")) && !request.is_for(bob(), device_id!("HIS"))
    );
    request.send(&his.line).await.unwrap();
    let update = hers.sync(&[]).await;
    assert_eq!(update.letters[0].said.as_ref().unwrap().0, "m.dummy");
    let again = hers.device.room_key_again(&hers.line, room(), bob(), device_id!("HIS")).await;
    again.unwrap().send(&hers.line).await.unwrap();
    assert_eq!(his.read(&[second]).await, ["first", "second"], "from the first on");
}

#[tokio::test]
async fn a_room_key_is_repeated_for_its_holders_only() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let _his = Client::new(&desk, bob(), "HIS").await;
    let (line, device) = (&hers.line, &mut hers.device);
    let nothing = device.room_key_again(line, room(), bob(), device_id!("HIS")).await.unwrap();
    assert!(nothing.is_empty());
    let unknown = device.room_key_again(line, room(), bob(), device_id!("OTHER")).await;
    assert_eq!(refusal(unknown), "no such device");
    let unknown = device.start_over(line, bob(), device_id!("OTHER")).await;
    assert_eq!(refusal(unknown), "no such device");
    desk.lock().unwrap().one_time_keys.clear();
    let lacking = device.start_over(line, bob(), device_id!("HIS")).await;
    assert_eq!(refusal(lacking), "no one-time key");
}

#[tokio::test]
async fn a_repeated_request_has_its_id_and_the_next_one_another() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let _his = Client::new(&desk, bob(), "HIS").await;
    let request = hers.device.room_key(&hers.line, room()).await.unwrap();
    desk.lock().unwrap().failures = 1;
    assert!(matches!(request.send(&hers.line).await, Err(Error::Server(_))));
    request.send(&hers.line).await.unwrap();
    request.send(&hers.line).await.unwrap();
    let again = hers.device.room_key_again(&hers.line, room(), bob(), device_id!("HIS")).await;
    again.unwrap().send(&hers.line).await.unwrap();
    let asked = desk.lock().unwrap().asked.clone();
    let mut sent = asked.into_iter().filter(|(path, _)| path.starts_with("sendToDevice"));
    let (first, second, other) = (sent.next(), sent.next(), sent.next().unwrap().0);
    assert!(first.is_some() && first == second);
    assert_ne!(first.unwrap().0, other);
}

#[tokio::test]
async fn nothing_is_encrypted_without_a_session_or_for_a_room_that_is_not_told() {
    let desk = desk();
    let mut hers = Client::new(&desk, alice(), "HERS").await;
    let sealed = hers.device.seal(room(), "m.test", &json!({}));
    assert!(matches!(sealed, Err(Error::NoOutboundSession(of)) if of == *room()));
    desk.lock().unwrap().failures = 1;
    let sealed = hers.device.encrypt(&hers.line, room(), "m.test", &json!({})).await;
    assert!(matches!(sealed, Err(Error::Server(_))));
}
