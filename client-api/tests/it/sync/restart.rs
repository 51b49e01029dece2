//! Tokens go on after a restart of the server: every event exactly once.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{
    all_different, bodies, filter, find_type, joined, list, next, of_user, text, timeline, walk,
};

#[tokio::test]
async fn tokens_go_on() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let mut since = bob.now().await;
    let mut seen = Vec::new();
    let mut sent = Vec::new();
    for round in 0..4 {
        for n in 0..3 {
            sent.push(alice.send_text(&room, &format!("{round}.{n}")).await.to_string());
        }
        if round % 2 == 0 {
            server.restart().await;
        }
        let update = bob.sync(Some(&since), "").await;
        seen.extend(list(timeline(&update, &room)).iter().map(|e| text(e, "event_id").to_owned()));
        since = next(&update);
        sent.push(alice.send_text(&room, &format!("{round}.last")).await.to_string());
        server.restart().await;
    }
    let update = bob.sync(Some(&since), "").await;
    seen.extend(list(timeline(&update, &room)).iter().map(|e| text(e, "event_id").to_owned()));
    assert_eq!(seen, sent);
    let history = walk(&bob, &room, "f", None, "&limit=7").await;
    all_different(&history);
    assert_eq!(bodies(&json!(history)).len(), sent.len());
}

#[tokio::test]
async fn so_do_those_of_messages() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for n in 0..10 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let small = filter(&json!({ "room": { "timeline": { "limit": 2 } } }));
    let sync = alice.sync(None, &small).await;
    let prev = text(&joined(&sync, &room)["timeline"], "prev_batch").to_owned();
    server.restart().await;
    let earlier = walk(&alice, &room, "b", Some(&prev), "&limit=3").await;
    assert_eq!(bodies(&json!(earlier)), ["7", "6", "5", "4", "3", "2", "1", "0"]);
}

#[tokio::test]
async fn nothing_is_told_again() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let event = alice.send_text(&room, "hello").await;
    let path = crate::support::at(&room, format!("receipt/m.read/{}", encode(event.as_str())));
    alice.post_ok(&path, json!({})).await;
    alice.put_ok(&of_user(&alice, "account_data/org.example.x"), json!({})).await;
    let stored = alice.post_ok(&of_user(&alice, "filter"), json!({ "room": {} })).await;
    let since = alice.now().await;
    server.restart().await;
    let query = format!("&filter={}", text(&stored, "filter_id"));
    let update = alice.sync(Some(&since), &query).await;
    assert!(joined(&update, &room).is_null(), "{update}");
    assert!(update["rooms"]["invite"][invited.as_str()].is_null(), "{update}");
    assert!(find_type(&update["account_data"]["events"], "org.example.x").is_none(), "{update}");
    // And all of it is still there.
    let whole = alice.sync(None, "").await;
    assert!(whole["rooms"]["invite"][invited.as_str()].is_object());
    assert!(find_type(&whole["account_data"]["events"], "org.example.x").is_some());
    assert!(find_type(&joined(&whole, &room)["ephemeral"]["events"], "m.receipt").is_some());
}
