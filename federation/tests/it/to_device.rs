//! Messages to devices between servers.

use hearth_testkit::{Network, TestServer, TestUser, encode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::PATIENCE;

/// Sends numbers to devices of a user; `*` are all.
async fn send(from: &TestUser, to: &TestUser, device: &str, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let path = format!("/_matrix/client/v3/sendToDevice/{}/{n}", encode("m.test"));
        let messages = json!({ to.user_id.as_str(): { device: { "n": n } } });
        from.put_ok(&path, json!({ "messages": messages })).await;
    }
}

/// Syncs until so many numbers have come.
async fn receive(user: &TestUser, since: &mut String, count: usize) -> Vec<u64> {
    let receiving = async {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let sync = user.wait_for_sync(since).await;
            numbers.extend(numbers_of(&sync));
            sync["next_batch"].as_str().unwrap().clone_into(since);
        }
        numbers
    };
    let received = timeout(PATIENCE, receiving).await;
    received.unwrap_or_else(|_| panic!("not everything comes to {}", user.user_id))
}

fn numbers_of(sync: &Value) -> Vec<u64> {
    let events = sync["to_device"]["events"].as_array().into_iter().flatten();
    events.map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn messages_wait_for_a_server_that_is_away_and_come_once_and_in_order() {
    let network = Network::new();
    let mut a = TestServer::builder().federating("a.test", &network).start().await;
    let mut b = TestServer::builder().federating("b.test", &network).start().await;
    let (ann, bob) = (a.register("ann").await, b.register("bob").await);
    let (mut hers, mut his) = (ann.now().await, bob.now().await);
    send(&ann, &bob, bob.device_id.as_str(), 0..3).await;
    assert_eq!(receive(&bob, &mut his, 3).await, [0, 1, 2]);
    b.stop().await;
    send(&ann, &bob, "*", 3..6).await;
    a.restart().await;
    send(&ann, &bob, bob.device_id.as_str(), 6..9).await;
    send(&ann, &bob, "*", 0..9).await;
    b.restart().await;
    // Whoever speaks is there again.
    send(&bob, &ann, "*", 0..1).await;
    assert_eq!(receive(&ann, &mut hers, 1).await, [0]);
    assert_eq!(receive(&bob, &mut his, 6).await, [3, 4, 5, 6, 7, 8]);
    b.restart().await;
    send(&ann, &bob, "*", 9..10).await;
    assert_eq!(receive(&bob, &mut his, 1).await, [9], "nothing comes twice");
}
