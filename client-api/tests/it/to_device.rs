//! `/sendToDevice` and what `/sync` and the WebSocket make of it (CS "Send-to-Device messaging").

use std::time::Duration;

use hearth_testkit::{TestServer, TestUser, encode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{V3, list, next, refused};

fn path(kind: &str, transaction_id: &str) -> String {
    format!("{V3}/sendToDevice/{}/{}", encode(kind), encode(transaction_id))
}

/// Sends a number to devices of a user; `*` are all.
async fn send(from: &TestUser, transaction_id: &str, to: &TestUser, device: &str, n: u64) {
    let messages = json!({ to.user_id.as_str(): { device: { "n": n } } });
    let path = path("m.test", transaction_id);
    let answer = from.put_ok(&path, json!({ "messages": messages })).await;
    assert_eq!(answer, json!({}));
}

/// The numbers that a sync brings.
fn numbers(sync: &Value) -> Vec<u64> {
    let events = list(&sync["to_device"]["events"]).iter();
    events.map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn messages_reach_devices_and_stay_until_they_are_acknowledged() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let tablet = server.login("bob").await;
    let (start, on_tablet) = (bob.now().await, tablet.now().await);
    send(&alice, "one", &bob, bob.device_id.as_str(), 1).await;
    send(&alice, "one", &bob, bob.device_id.as_str(), 2).await;
    send(&alice, "two", &bob, "*", 3).await;
    send(&alice, "three", &bob, "NOSUCHDEVICE", 4).await;
    let first = bob.sync(Some(&start), "").await;
    let event = json!({ "type": "m.test", "sender": alice.user_id, "content": { "n": 1 } });
    assert_eq!(first["to_device"]["events"][0], event);
    assert_eq!(numbers(&first), [1, 3]);
    assert_eq!(numbers(&tablet.sync(Some(&on_tablet), "").await), [3]);
    // The answer may have been lost: the same token gets the same again, and so does no token.
    assert_eq!(numbers(&bob.sync(Some(&start), "").await), [1, 3]);
    assert_eq!(numbers(&bob.sync(None, "").await), [1, 3]);
    let second = bob.sync(Some(&next(&first)), "").await;
    assert!(numbers(&second).is_empty());
    assert!(numbers(&bob.sync(None, "").await).is_empty(), "the next token proves receipt");
    assert_eq!(numbers(&tablet.sync(Some(&on_tablet), "").await), [3], "of this device alone");
}

#[tokio::test]
async fn a_waiting_device_is_woken_at_once() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut since = bob.now().await;
    let waiting = async {
        loop {
            // Others may wake it too, such as presence.
            let update = bob.wait_for_sync(&since).await;
            if !numbers(&update).is_empty() {
                return update;
            }
            since = next(&update);
        }
    };
    let sending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        send(&alice, "one", &bob, "*", 1).await;
    };
    let both = async { tokio::join!(waiting, sending).0 };
    let update = timeout(Duration::from_secs(10), both).await.expect("it waits for its timeout");
    assert_eq!(numbers(&update), [1]);
}

#[tokio::test]
async fn a_thousand_messages_come_in_order_and_in_few_syncs() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut since = bob.now().await;
    for n in 0..1_000 {
        send(&alice, &n.to_string(), &bob, "*", n).await;
    }
    server.restart().await;
    let (mut got, mut syncs) = (Vec::new(), 0);
    while got.len() < 1_000 {
        let update = bob.wait_for_sync(&since).await;
        assert!(numbers(&update).len() <= 100);
        got.extend(numbers(&update));
        since = next(&update);
        syncs += 1;
    }
    assert!(syncs <= 15, "{syncs} syncs");
    assert_eq!(got, (0..1_000).collect::<Vec<_>>());
    assert!(numbers(&bob.sync(Some(&since), "").await).is_empty());
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let body = |content: Value| {
        let messages = json!({ alice.user_id.as_str(): { "*": content } });
        json!({ "messages": messages })
    };
    let put = async |body| alice.put(&path("m.test", "one"), body).await;
    refused(put(body(json!({ "text": "x".repeat(70_000) }))).await, 413, "M_TOO_LARGE");
    refused(put(body(json!("text"))).await, 400, "M_BAD_JSON");
    refused(put(json!({})).await, 400, "M_BAD_JSON");
    let answer = alice.without_token().put(&path("m.test", "one"), body(json!({}))).await;
    refused(answer, 401, "M_MISSING_TOKEN");
    assert_eq!(put(body(json!({ "n": 1 }))).await.0, 200);
}

#[tokio::test]
async fn counts_are_in_every_response() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let first = alice.sync(None, "").await;
    assert_eq!(first["device_unused_fallback_key_types"], json!([]));
    let second = alice.sync(Some(&next(&first)), "").await;
    assert_eq!(second["device_unused_fallback_key_types"], json!([]));
}
