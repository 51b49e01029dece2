use std::{collections::BTreeSet, time::Duration};

use hearth_storage::Keyspace;
use ruma::{
    OwnedServerName, api::federation::transactions::edu::DirectDeviceContent, owned_server_name,
    owned_user_id,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    LogKind,
    schema::{
        OUTGOING, RECEIVED_FROM, RECEIVED_MESSAGES, RECEIVED_ORDER, SENT_TRANSACTIONS, TO_DEVICE,
    },
    testing::Bench,
};

const DAY: Duration = Duration::from_hours(24);

/// A message of `sender` from the device `PHONE`, with contents as JSON.
fn message(sender: &UserId, transaction_id: &str, messages: &Value) -> ToDeviceMessage {
    ToDeviceMessage {
        sender: sender.to_owned(),
        device_id: "PHONE".into(),
        transaction_id: transaction_id.into(),
        event_type: "m.test".to_owned(),
        messages: serde_json::from_value(messages.clone()).unwrap(),
    }
}

async fn send(bench: &Bench, sender: &UserId, transaction_id: &str, messages: Value) {
    bench.e2ee.send_to_device(message(sender, transaction_id, &messages)).await.unwrap();
}

/// What waits for a device, from the beginning.
async fn waiting(bench: &Bench, user_id: &UserId, device_id: &DeviceId) -> Vec<Value> {
    let until = bench.store.notifier().published();
    let page = bench.e2ee.to_device(user_id, device_id, StreamPosition::ZERO, until).await.unwrap();
    page.events.iter().map(|event| serde_json::from_slice(event).unwrap()).collect()
}

/// The numbers in the contents of some events.
fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

fn rows<P, C>(
    bench: &Bench,
    keyspace: &'static Keyspace<P, C, impl hearth_storage::Record>,
) -> usize
where
    P: hearth_storage::KeyPart,
    C: hearth_storage::KeyPart,
{
    let mut count = 0;
    let visit = |_, _, _| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    };
    bench.store.snapshot().for_each(keyspace, visit).unwrap();
    count
}

#[tokio::test]
async fn devices_that_exist_get_what_is_for_them() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, first) = bench.user_with_device("bob").await;
    let second = bench.device(&bob).await;
    let messages = json!({
        bob.as_str(): { "*": { "n": 1 }, second.as_str(): { "n": 2 }, "UNKNOWN": { "n": 3 } },
        "@nobody:hearth.test": { "*": { "n": 4 } },
    });
    send(&bench, &alice, "one", messages).await;
    let got = waiting(&bench, &bob, &first).await;
    assert_eq!(got, [json!({ "type": "m.test", "sender": alice, "content": { "n": 1 } })]);
    assert_eq!(numbers(&waiting(&bench, &bob, &second).await), [2]);
    assert!(waiting(&bench, &bob, "UNKNOWN".into()).await.is_empty());
    assert_eq!(rows(&bench, &TO_DEVICE), 2);
}

#[tokio::test]
async fn a_repeated_transaction_does_nothing() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, device) = bench.user_with_device("bob").await;
    let to_bob = |n: u64| json!({ bob.as_str(): { device.as_str(): { "n": n } } });
    send(&bench, &alice, "one", to_bob(1)).await;
    send(&bench, &alice, "one", to_bob(2)).await;
    // Both at once, too.
    let (one, other) = (message(&alice, "two", &to_bob(3)), message(&alice, "two", &to_bob(3)));
    let both = tokio::join!(bench.e2ee.send_to_device(one), bench.e2ee.send_to_device(other));
    assert!(both.0.is_ok() && both.1.is_ok());
    // Another device or type has transactions of its own.
    let mut other_device = message(&alice, "one", &to_bob(4));
    other_device.device_id = "TABLET".into();
    bench.e2ee.send_to_device(other_device).await.unwrap();
    let mut other_type = message(&alice, "one", &to_bob(5));
    other_type.event_type = "m.other".to_owned();
    bench.e2ee.send_to_device(other_type).await.unwrap();
    assert_eq!(numbers(&waiting(&bench, &bob, &device).await), [1, 3, 4, 5]);
}

#[tokio::test]
async fn a_thousand_messages_are_given_in_order_and_deleted_when_they_are_acknowledged() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, device) = bench.user_with_device("bob").await;
    for n in 0..1_000 {
        let to_bob = json!({ bob.as_str(): { device.as_str(): { "n": n } } });
        send(&bench, &alice, &n.to_string(), to_bob).await;
    }
    let until = bench.store.notifier().published();
    let (mut since, mut got) = (StreamPosition::ZERO, Vec::new());
    for page in 1..=10 {
        let first = bench.e2ee.to_device(&bob, &device, since, until).await.unwrap();
        let again = bench.e2ee.to_device(&bob, &device, since, until).await.unwrap();
        assert_eq!((&first.events, first.until), (&again.events, again.until));
        got.extend(first.events.iter().map(|event| serde_json::from_slice(event).unwrap()));
        since = first.until;
        bench.e2ee.acknowledge_to_device(&bob, &device, since).await.unwrap();
        assert_eq!(rows(&bench, &TO_DEVICE), 1_000 - page * PAGE);
    }
    assert_eq!(since, until, "these were all");
    assert_eq!(numbers(&got), (0..1_000).collect::<Vec<_>>());
    send(&bench, &alice, "more", json!({ bob.as_str(): { "*": { "n": 7 } } })).await;
    bench.e2ee.acknowledge_to_device(&bob, &device, since).await.unwrap();
    assert_eq!(numbers(&waiting(&bench, &bob, &device).await), [7], "behind what was acknowledged");
}

#[tokio::test]
async fn large_messages_make_short_pages() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, device) = bench.user_with_device("bob").await;
    let text = "x".repeat(60_000);
    for n in 0..40 {
        let to_bob = json!({ bob.as_str(): { "*": { "n": n, "text": text } } });
        send(&bench, &alice, &n.to_string(), to_bob).await;
    }
    let until = bench.store.notifier().published();
    let (mut since, mut sizes) = (StreamPosition::ZERO, Vec::new());
    while since < until {
        let page = bench.e2ee.to_device(&bob, &device, since, until).await.unwrap();
        assert!(page.events.iter().map(Bytes::len).sum::<usize>() <= MAX_PAGE_BYTES);
        sizes.push(page.events.len());
        since = page.until;
    }
    assert_eq!(sizes, [17, 17, 6]);
}

#[tokio::test]
async fn what_is_too_much_for_one_commit_goes_into_several() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, device) = bench.user_with_device("bob").await;
    for _ in 0..70 {
        bench.device(&bob).await;
    }
    let to_all = json!({ bob.as_str(): { "*": { "n": 1, "text": "x".repeat(60_000) } } });
    send(&bench, &alice, "one", to_all.clone()).await;
    send(&bench, &alice, "one", to_all).await;
    assert_eq!(rows(&bench, &TO_DEVICE), 71);
    assert_eq!(numbers(&waiting(&bench, &bob, &device).await), [1]);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_as_a_whole() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, device) = bench.user_with_device("bob").await;
    let refused = async |content: Value| {
        let messages = json!({ bob.as_str(): { "*": { "n": 1 }, "OTHER": content } });
        bench.e2ee.send_to_device(message(&alice, "one", &messages)).await.unwrap_err()
    };
    assert!(matches!(refused(json!("text")).await, E2eeError::BadJson(_)));
    let large = json!({ "text": "x".repeat(65 * 1024) });
    assert!(matches!(refused(large).await, E2eeError::TooLarge(_)));
    let mut unnamed = message(&alice, "one", &json!({}));
    unnamed.event_type = "x".repeat(256);
    let error = bench.e2ee.send_to_device(unnamed).await.unwrap_err();
    assert!(matches!(error, E2eeError::InvalidParam(_)));
    assert!(waiting(&bench, &bob, &device).await.is_empty());
    send(&bench, &alice, "one", json!({ bob.as_str(): { "*": { "n": 2 } } })).await;
    assert_eq!(numbers(&waiting(&bench, &bob, &device).await), [2], "the transaction is not taken");
}

#[tokio::test]
async fn messages_for_other_servers_wait_in_their_queues() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let text = "x".repeat(30_000);
    let content = |n: u64| json!({ "n": n, "text": text });
    let messages = json!({
        "@bob:there.test": { "A": content(1), "B": content(2), "C": content(3) },
        "@carol:there.test": { "*": { "n": 4 } },
        "@dan:elsewhere.test": { "D": { "n": 5 } },
    });
    let before = bench.store.notifier().published();
    send(&bench, &alice, "one", messages.clone()).await;
    send(&bench, &alice, "one", messages).await;
    let (there, elsewhere) =
        (owned_server_name!("there.test"), owned_server_name!("elsewhere.test"));
    assert_eq!(bench.e2ee.outgoing_servers().await.unwrap(), [elsewhere.clone(), there.clone()]);
    let read = async |server: &OwnedServerName| -> Vec<(StreamPosition, Value)> {
        let messages = bench.e2ee.outgoing(server, 100).await.unwrap();
        let read = |content: &[u8]| serde_json::from_slice(content).unwrap();
        messages.iter().map(|message| (message.position, read(&message.content))).collect()
    };
    let rows = read(&there).await;
    assert_eq!(rows.len(), 2, "one would be too large");
    let ids: BTreeSet<_> =
        rows.iter().map(|(_, row)| row["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.len() <= 32));
    let (position, first) = &rows[0];
    assert_eq!((&first["sender"], &first["type"]), (&json!(alice), &json!("m.test")));
    assert_eq!(first["messages"]["@bob:there.test"]["A"]["n"], 1);
    let second = &rows[1].1["messages"];
    assert_eq!(
        (&second["@bob:there.test"]["C"]["n"], &second["@carol:there.test"]["*"]["n"]),
        (&json!(3), &json!(4))
    );
    let log = bench.store.log_after(before, 100).await.unwrap();
    let told: Vec<_> = log
        .iter()
        .filter(|record| record.entry.kind == LogKind::Outgoing as u8)
        .map(|record| (record.position, record.entry.topic.as_str().to_owned()))
        .collect();
    assert_eq!(told.len(), 3);
    assert!(told.contains(&(*position, "there.test".to_owned())));
    bench.e2ee.outgoing_done(&there, &[*position]).await.unwrap();
    assert_eq!(read(&there).await, rows[1..]);
}

fn received(sender: &str, id: &str, messages: &Value) -> DirectDeviceContent {
    let content =
        json!({ "sender": sender, "type": "m.test", "message_id": id, "messages": messages });
    serde_json::from_value(content).unwrap()
}

#[tokio::test]
async fn messages_of_another_server_count_once_for_who_is_here() {
    let bench = Bench::new().await;
    let (alice, device) = bench.user_with_device("alice").await;
    let there = owned_server_name!("there.test");
    let to_alice =
        |n: u64| json!({ alice.as_str(): { "*": { "n": n } }, "@x:there.test": { "*": {} } });
    let bob = "@bob:there.test";
    let first = vec![
        received(bob, "one", &to_alice(1)),
        received(bob, "one", &to_alice(2)),
        received("@eve:elsewhere.test", "two", &to_alice(3)),
        received(
            bob,
            "three",
            &json!({ alice.as_str(): { "*": { "text": "x".repeat(65 * 1024) } } }),
        ),
        received(bob, &"x".repeat(300), &to_alice(4)),
        received(bob, "four", &to_alice(5)),
    ];
    bench.e2ee.receive_to_device(&there, first).await.unwrap();
    let again = vec![
        received(bob, "four", &to_alice(6)),
        received("@carol:there.test", "four", &to_alice(7)),
    ];
    bench.e2ee.receive_to_device(&there, again).await.unwrap();
    assert_eq!(numbers(&waiting(&bench, &alice, &device).await), [1, 5, 7]);
    assert!(bench.e2ee.outgoing_servers().await.unwrap().is_empty(), "nothing is passed on");
}

#[tokio::test]
async fn one_message_of_another_server_is_for_as_many_users_as_a_request_has() {
    let bench = Bench::new().await;
    let mut devices = Vec::new();
    for n in 0..250 {
        devices.push(bench.user_with_device(&format!("user{n}")).await);
    }
    // Room keys, in bytes.
    let text = "x".repeat(2_500);
    let contents = devices.iter().map(|(user_id, device_id)| {
        (user_id.to_string(), json!({ device_id.as_str(): { "n": 1, "text": text } }))
    });
    let messages = Value::Object(contents.collect());
    let there = owned_server_name!("there.test");
    let message = vec![received("@bob:there.test", "one", &messages)];
    bench.e2ee.receive_to_device(&there, message.clone()).await.unwrap();
    bench.e2ee.receive_to_device(&there, message).await.unwrap();
    for (user_id, device_id) in &devices {
        assert_eq!(numbers(&waiting(&bench, user_id, device_id).await), [1], "{user_id}");
    }
}

#[tokio::test]
async fn a_message_for_all_devices_is_bounded_by_what_it_becomes() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let (bob, device) = bench.user_with_device("bob").await;
    let (carol, _) = bench.user_with_device("carol").await;
    for _ in 0..300 {
        bench.device(&bob).await;
        bench.device(&carol).await;
    }
    let to_all = |bytes| {
        let content = json!({ "n": 1, "text": "x".repeat(bytes) });
        json!({ bob.as_str(): { "*": content }, carol.as_str(): { "*": content } })
    };
    let refused = bench.e2ee.send_to_device(message(&alice, "one", &to_all(60_000))).await;
    assert!(matches!(refused, Err(E2eeError::TooLarge(_))), "{refused:?}");
    let there = owned_server_name!("there.test");
    // What is too much is dropped; the rest of the transaction is not.
    let large = |id| received("@eve:there.test", id, &to_all(60_000));
    let small = || received("@bob:there.test", "three", &to_all(10_000));
    let received = vec![large("one"), large("two"), small()];
    bench.e2ee.receive_to_device(&there, received).await.unwrap();
    assert_eq!(waiting(&bench, &bob, &device).await.len(), 2);
    assert_eq!(rows(&bench, &TO_DEVICE), 2 * 602);
    // It took several commits; still it comes once.
    bench.e2ee.receive_to_device(&there, vec![small()]).await.unwrap();
    assert_eq!(rows(&bench, &TO_DEVICE), 2 * 602);
}

#[tokio::test]
async fn a_request_is_for_a_few_hundred_servers() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let to_servers = |count: usize| {
        let users = (0..count).map(|n| (format!("@x:n{n}.test"), json!({ "*": { "n": n } })));
        Value::Object(users.collect())
    };
    send(&bench, &alice, "one", to_servers(250)).await;
    assert_eq!(rows(&bench, &OUTGOING), 250);
    let refused = bench.e2ee.send_to_device(message(&alice, "two", &to_servers(10_000))).await;
    assert!(matches!(refused, Err(E2eeError::TooLarge(_))), "{refused:?}");
    assert_eq!(rows(&bench, &OUTGOING), 250);
}

#[tokio::test]
async fn names_count_as_they_are_written() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let name = |n: usize| format!("{n:03}{}", "\u{1}".repeat(250));
    let contents = |name: &dyn Fn(usize) -> String| {
        let devices = (0..250).map(|n| (name(n), json!({ "n": n })));
        json!({ "@bob:there.test": Value::Object(devices.collect()) })
    };
    // Escaped, each of these has 1,500 bytes.
    send(&bench, &alice, "one", contents(&name)).await;
    let before = rows(&bench, &OUTGOING);
    // And small ones are not spread over many rows.
    send(&bench, &alice, "two", contents(&|n| format!("D{n}"))).await;
    assert_eq!(rows(&bench, &OUTGOING), before + 1);
}

#[tokio::test]
async fn repetitions_are_known_for_some_time() {
    let bench = Bench::new().await;
    let (alice, device) = bench.user_with_device("alice").await;
    let there = owned_server_name!("there.test");
    let to_alice = json!({ alice.as_str(): { "*": { "n": 1 } } });
    send(&bench, &alice, "one", to_alice.clone()).await;
    let message = vec![received("@bob:there.test", "one", &to_alice)];
    bench.e2ee.receive_to_device(&there, message.clone()).await.unwrap();
    let known = async || {
        bench.e2ee.forget_repetitions().await.unwrap();
        (rows(&bench, &SENT_TRANSACTIONS), rows(&bench, &RECEIVED_MESSAGES))
    };
    bench.advance(DAY);
    assert_eq!(known().await, (1, 1));
    bench.advance(Duration::from_secs(1));
    assert_eq!(known().await, (0, 1));
    bench.advance(DAY * 29);
    assert_eq!(known().await, (0, 0));
    bench.e2ee.receive_to_device(&there, message).await.unwrap();
    assert_eq!(waiting(&bench, &alice, &device).await.len(), 3);
}

#[tokio::test]
async fn of_one_server_a_bounded_number_of_messages_is_remembered() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let there = owned_server_name!("there.test");
    let to_alice = json!({ alice.as_str(): { "*": { "n": 1 } } });
    let messages =
        |from: &str, count| (0..count).map(|n| received(from, &n.to_string(), &to_alice)).collect();
    bench.e2ee.receive_to_device(&there, messages("@bob:there.test", 950)).await.unwrap();
    let other = owned_server_name!("other.test");
    bench.e2ee.receive_to_device(&other, messages("@eve:other.test", 10)).await.unwrap();
    let remembered = rows(&bench, &RECEIVED_MESSAGES);
    assert!((310..=411).contains(&remembered), "{remembered}");
    assert_eq!(rows(&bench, &RECEIVED_ORDER), remembered);
    // What came last is known again, what came first is not.
    let repeated = async |n: usize| {
        let before = rows(&bench, &TO_DEVICE);
        let message = received("@bob:there.test", &n.to_string(), &to_alice);
        bench.e2ee.receive_to_device(&there, vec![message]).await.unwrap();
        rows(&bench, &TO_DEVICE) == before
    };
    assert!(repeated(949).await && repeated(660).await && !repeated(0).await);
    bench.advance(DAY * 31);
    bench.e2ee.forget_repetitions().await.unwrap();
    assert_eq!(rows(&bench, &RECEIVED_MESSAGES), 0);
    assert_eq!((rows(&bench, &RECEIVED_ORDER), rows(&bench, &RECEIVED_FROM)), (0, 0));
}

#[tokio::test]
async fn what_waits_for_a_server_for_too_long_is_forgotten() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let there = owned_server_name!("there.test");
    let to_bob = |n: u64| json!({ "@bob:there.test": { "*": { "n": n } } });
    for n in 0..150 {
        send(&bench, &alice, &n.to_string(), to_bob(n)).await;
    }
    bench.advance(DAY * 30);
    send(&bench, &alice, "young", to_bob(150)).await;
    assert_eq!(
        bench.e2ee.outgoing(&there, 100).await.unwrap().len(),
        100,
        "they may be sent still"
    );
    bench.advance(Duration::from_secs(1));
    assert_eq!(bench.e2ee.outgoing(&there, 100).await.unwrap().len(), 1);
    assert_eq!(rows(&bench, &OUTGOING), 1);
}

#[tokio::test]
async fn queues_outlast_the_process() {
    let bench = Bench::new().await;
    let (alice, device) = bench.user_with_device("alice").await;
    let messages =
        json!({ alice.as_str(): { "*": { "n": 1 } }, "@bob:there.test": { "*": { "n": 2 } } });
    send(&bench, &alice, "one", messages).await;
    let bench = bench.reopen().await;
    assert_eq!(numbers(&waiting(&bench, &alice, &device).await), [1]);
    assert_eq!(rows(&bench, &OUTGOING), 1);
    let until = bench.store.notifier().published();
    bench.e2ee.acknowledge_to_device(&alice, &device, until).await.unwrap();
    assert_eq!(rows(&bench, &TO_DEVICE), 0);
    let nobody = owned_user_id!("@nobody:hearth.test");
    assert!(waiting(&bench, &nobody, &device).await.is_empty());
}
