//! Filters of `/sync` (CS "Filtering").

use hearth_testkit::{TestServer, TestUser};
use serde_json::{Value, json};

use crate::support::{
    bodies, filter, find_state, find_type, joined, keys, list, next, of_user, text, timeline,
};

async fn by(user: &TestUser, since: Option<&str>, wanted: &Value) -> Value {
    let inline = user.sync(since, &filter(wanted)).await;
    // A stored filter does the same.
    let stored = user.post_ok(&of_user(user, "filter"), wanted.clone()).await;
    let query = format!("&filter={}", text(&stored, "filter_id"));
    let answer = user.sync(since, &query).await;
    assert_eq!(
        crate::support::tidy(&answer["rooms"], &[]),
        crate::support::tidy(&inline["rooms"], &[])
    );
    inline
}

#[tokio::test]
async fn choose_rooms() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (one, two) = (alice.create_public_room().await, alice.create_public_room().await);
    let only = by(&alice, None, &json!({ "room": { "rooms": [one] } })).await;
    assert!(joined(&only, &one).is_object() && joined(&only, &two).is_null());
    let except = by(&alice, None, &json!({ "room": { "not_rooms": [one] } })).await;
    assert!(joined(&except, &one).is_null() && joined(&except, &two).is_object());
    let both = json!({ "room": { "rooms": [one], "not_rooms": [one] } });
    let neither = by(&alice, None, &both).await;
    assert!(joined(&neither, &one).is_null() && joined(&neither, &two).is_null());
}

#[tokio::test]
async fn choose_events() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = alice.now().await;
    alice.send_text(&room, "a").await;
    bob.send_text(&room, "b").await;
    bob.send_event(&room, "org.example.one", json!({})).await;
    bob.send_event(&room, "org.example.two", json!({})).await;
    let types = async |wanted: Value| {
        let update = by(&alice, Some(&since), &json!({ "room": { "timeline": wanted } })).await;
        list(timeline(&update, &room))
            .iter()
            .map(|e| text(e, "type").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        types(json!({ "types": ["org.example.*"] })).await,
        ["org.example.one", "org.example.two"]
    );
    assert_eq!(
        types(json!({ "types": ["org.example.*"], "not_types": ["*.one"] })).await,
        ["org.example.two"]
    );
    assert_eq!(types(json!({ "senders": ["@alice:localhost"] })).await, ["m.room.message"]);
    assert_eq!(types(json!({ "not_senders": ["@bob:localhost"] })).await, ["m.room.message"]);
    assert_eq!(types(json!({ "types": [] })).await, Vec::<String>::new());
}

#[tokio::test]
async fn choose_state_account_data_and_presence() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "room", "topic": "topic" })).await;
    for n in 0..12 {
        alice.send_text(&room, &n.to_string()).await;
    }
    alice.put_ok(&of_user(&alice, "account_data/org.example.x"), json!({})).await;
    let wanted = json!({
        "account_data": { "not_types": ["org.example.*"] },
        "presence": { "types": [] },
        "room": { "state": { "types": ["m.room.name"] }, "timeline": { "limit": 1 } },
    });
    let answer = by(&alice, None, &wanted).await;
    let state = &joined(&answer, &room)["state"]["events"];
    assert_eq!(keys(state), [("m.room.name".to_owned(), String::new())].into());
    assert!(find_type(&answer["account_data"]["events"], "org.example.x").is_none());
    assert!(find_type(&answer["account_data"]["events"], "m.push_rules").is_some());
    assert_eq!(list(&answer["presence"]["events"]), [] as [Value; 0]);
    assert!(find_state(state, "m.room.topic", "").is_none());
}

#[tokio::test]
async fn a_change_of_filter_does_not_hide_what_comes_next() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let none = json!({ "room": { "rooms": [] } });
    let since = next(&alice.sync(None, &filter(&none)).await);
    alice.send_text(&room, "hello").await;
    let update = alice.sync(Some(&since), "").await;
    assert!(bodies(timeline(&update, &room)).contains(&"hello".to_owned()), "{update}");
}

#[tokio::test]
async fn choose_the_format() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    alice.send_text(&room, "hello").await;
    let raw = alice.sync(Some(&since), &filter(&json!({ "event_format": "federation" }))).await;
    let event = &timeline(&raw, &room)[0];
    for field in ["hashes", "signatures", "auth_events", "prev_events", "depth"] {
        assert!(!event[field].is_null(), "no {field} in {event}");
    }
    let usual = alice.sync(Some(&since), &filter(&json!({ "event_format": "client" }))).await;
    let event = &timeline(&usual, &room)[0];
    for field in ["hashes", "signatures", "auth_events", "prev_events", "depth", "room_id"] {
        assert!(event.get(field).is_none(), "{field} in {event}");
    }
}
