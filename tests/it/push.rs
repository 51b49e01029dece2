//! kill -9 while notifications are on their way: none is lost, and only what was in flight is sent again.

use std::{collections::BTreeSet, time::Duration};

use hearth_testkit::{Client, PushGateway, TestUser};
use ruma::RoomId;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::command::Home;

/// Kills of one run.
const KILLS: usize = 4;
/// Messages between two of them: more than are delivered meanwhile; and all together fewer than wait for one pusher.
const MESSAGES: usize = 20;
/// What the gateway takes for each, so that a kill finds some on their way.
const DELAY: Duration = Duration::from_millis(20);

async fn send(client: &Client, room_id: &RoomId, number: usize) -> Value {
    let path = TestUser::room_path(room_id, &format!("send/m.room.message/t{number}"));
    let message = json!({ "msgtype": "m.text", "body": number.to_string() });
    client.put_ok(&path, message).await.get("event_id").cloned().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_no_notification_and_repeat_only_the_one_in_flight() {
    let home = Home::new();
    home.write(
        "hearth.toml",
        "[users]\nopen_registration = true\n[http.rate_limits]\nenabled = false\n\
         [push]\nallow_http = true\nallow_networks = [\"127.0.0.0/8\"]\nbackoff_min_s = 1\n",
    );
    let gateway = PushGateway::start().await;
    gateway.delay(DELAY);
    let mut server = home.serve();
    let client = Client::new(&server.base());
    let alice = TestUser::register(&client, "alice").await;
    let bob = TestUser::register(&client, "bob").await;
    let room = bob.create_public_room().await;
    alice.join(&room).await;
    alice.post_ok("/_matrix/client/v3/pushers/set", gateway.pusher("app", "key")).await;
    let mut sent = Vec::new();
    for _ in 0..KILLS {
        let bob = Client::new(&server.base()).with_token(&bob.token);
        for _ in 0..MESSAGES {
            sent.push(send(&bob, &room, sent.len()).await);
        }
        block_in_place(|| server.kill());
        server = block_in_place(|| home.serve());
    }
    let pushed = gateway
        .wait("the last notification", |taken| {
            taken.iter().any(|told| Some(&told["event_id"]) == sent.last())
        })
        .await;
    let told: Vec<Value> = pushed
        .iter()
        .filter(|told| told.get("event_id").is_some())
        .map(|told| told["event_id"].clone())
        .collect();
    let mut seen = BTreeSet::new();
    let first: Vec<Value> = told.iter().filter(|id| seen.insert(id.to_string())).cloned().collect();
    assert_eq!(first, sent, "each, in its order");
    let repeated = told.len() - first.len();
    assert!(repeated <= KILLS, "{repeated} sent again by {KILLS} kills");
    server.stop(Signal::TERM);
}
