//! The same conversation over every engine of the store.

use hearth_storage::EngineKind;
use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{at, bodies, next, timeline, walk};

async fn conversation(engine: EngineKind) {
    let mut server = TestServer::builder().config(|c| c.store.engine = engine).start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "invite": [bob.user_id], "name": "engine" })).await;
    bob.join(&room).await;
    for n in 0..15 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let since = bob.now().await;
    let event = alice.send_text(&room, "15").await;
    if !matches!(engine, EngineKind::Memory) {
        server.restart().await;
    }
    let update = bob.sync(Some(&since), "").await;
    assert_eq!(bodies(timeline(&update, &room)), ["15"]);
    bob.post_ok(&at(&room, format!("receipt/m.read/{event}")), json!({})).await;
    alice.redact(&room, &event).await;
    alice.send_text(&room, "16").await;
    let update = bob.wait_for_sync(&next(&update)).await;
    assert!(!timeline(&update, &room).is_null() || !update["rooms"].is_null());
    let history = walk(&bob, &room, "f", None, "&limit=4").await;
    let mut expected: Vec<_> = (0..15).map(|n| n.to_string()).collect();
    expected.extend(["[redacted]".to_owned(), "16".to_owned()]);
    assert_eq!(bodies(&json!(history)), expected);
}

#[tokio::test]
async fn fjall() {
    conversation(EngineKind::Fjall).await;
}

#[tokio::test]
async fn sled() {
    conversation(EngineKind::Sled).await;
}

#[tokio::test]
async fn memory() {
    conversation(EngineKind::Memory).await;
}
