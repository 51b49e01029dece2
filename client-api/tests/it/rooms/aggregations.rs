//! Bundled aggregations (CS "Aggregations of child events"): edits, threads and references come with
//! their parent, reactions do not.

use std::{sync::Arc, time::Duration};

use hearth_testkit::{TestServer, TestUser, encode};
use hearth_types::ManualClock;
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::{Value, json};

use crate::support::{at, at_v1, filter, list, reaction, related, text, tidy, timeline};

fn edit(body: &str, event: &EventId) -> Value {
    let mut content = related(&format!("* {body}"), "m.replace", event);
    content["m.new_content"] = json!({ "msgtype": "m.text", "body": body });
    content
}

async fn bundle(user: &TestUser, room: &RoomId, event: &EventId) -> Value {
    let path = at(room, format!("event/{}", encode(event.as_str())));
    user.get_ok(&path).await["unsigned"]["m.relations"].clone()
}

async fn say(user: &TestUser, room: &RoomId, content: Value) -> OwnedEventId {
    user.send_event(room, "m.room.message", content).await
}

#[tokio::test]
async fn everything_at_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let parent = alice.send_text(&room, "parent").await;
    let edited = say(&alice, &room, edit("better", &parent)).await;
    let threaded = say(&bob, &room, related("in thread", "m.thread", &parent)).await;
    let reference = say(&bob, &room, related("reference", "m.reference", &parent)).await;
    bob.send_event(&room, "m.reaction", reaction("👍", &parent)).await;
    let whole = alice.get_ok(&at(&room, format!("event/{parent}"))).await;
    let names: [(&dyn AsRef<str>, &str); 5] = [
        (&room, "room"),
        (&parent, "parent"),
        (&edited, "edit"),
        (&threaded, "threaded"),
        (&reference, "reference"),
    ];
    insta::assert_json_snapshot!(tidy(&whole, &names));
}

#[tokio::test]
async fn the_newest_valid_edit_counts() {
    // The newest is the one with the latest time; those of one millisecond go by their IDs.
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let server = TestServer::builder().clock(Arc::clone(&clock) as _).start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let parent = alice.send_text(&room, "one").await;
    let first = say(&alice, &room, edit("two", &parent)).await;
    clock.advance(Duration::from_millis(1));
    let second = say(&alice, &room, edit("three", &parent)).await;
    clock.advance(Duration::from_millis(1));
    // Not valid: of another sender, of another type, without new content, of an edit.
    say(&bob, &room, edit("mine", &parent)).await;
    alice.send_event(&room, "org.example.other", edit("typed", &parent)).await;
    say(&alice, &room, related("bare", "m.replace", &parent)).await;
    say(&alice, &room, edit("again", &second)).await;
    let replace = &bundle(&bob, &room, &parent).await["m.replace"];
    assert_eq!(replace["event_id"], second.as_str());
    assert_eq!(replace["content"]["m.new_content"]["body"], "three");
    assert!(bundle(&bob, &room, &second).await["m.replace"].is_null(), "edits are not edited");
    // The content of the event itself is what it was.
    let event = bob.get_ok(&at(&room, format!("event/{parent}"))).await;
    assert_eq!(event["content"]["body"], "one");
    // Without the newest, the one before it counts.
    alice.redact(&room, &second).await;
    assert_eq!(bundle(&bob, &room, &parent).await["m.replace"]["event_id"], first.as_str());
    // A redacted event has no edits.
    alice.redact(&room, &parent).await;
    assert!(bundle(&bob, &room, &parent).await["m.replace"].is_null());
}

#[tokio::test]
async fn threads_are_counted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    for user in [&bob, &carol] {
        user.join(&room).await;
    }
    let root = alice.send_text(&room, "root").await;
    say(&alice, &room, related("one", "m.thread", &root)).await;
    let last = say(&bob, &room, related("two", "m.thread", &root)).await;
    let improved = say(&bob, &room, edit("two!", &last)).await;
    let thread = bundle(&alice, &room, &root).await["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(true)));
    assert_eq!(thread["latest_event"]["event_id"], last.as_str());
    // The latest event has its own aggregations.
    let inner = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(inner["event_id"], improved.as_str(), "{thread}");
    let of = async |user: &TestUser| {
        bundle(user, &room, &root).await["m.thread"]["current_user_participated"].clone()
    };
    assert_eq!((of(&bob).await, of(&carol).await), (json!(true), json!(false)));
    bob.redact(&room, &last).await;
    let thread = bundle(&alice, &room, &root).await["m.thread"].clone();
    assert_eq!(thread["count"], 1, "{thread}");
    assert_eq!(text(&thread["latest_event"]["content"], "body"), "one");
}

#[tokio::test]
async fn come_by_every_way_to_read() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for n in 0..3 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let root = alice.send_text(&room, "root").await;
    let reply = say(&alice, &room, related("reply", "m.thread", &root)).await;
    let edited = say(&alice, &room, edit("better", &reply)).await;
    let bundled = |events: &Value, event: &EventId, kind: &str| {
        let event = list(events).iter().find(|e| e["event_id"] == event.as_str()).unwrap();
        assert!(event["unsigned"]["m.relations"][kind].is_object(), "{event}");
    };
    bundled(&alice.get_ok(&at(&room, "messages?dir=b")).await["chunk"], &root, "m.thread");
    let context = alice.get_ok(&at(&room, format!("context/{reply}"))).await;
    bundled(&json!([context["event"]]), &reply, "m.replace");
    bundled(&context["events_before"], &root, "m.thread");
    let relations = alice.get_ok(&at_v1(&room, format!("relations/{root}"))).await;
    bundled(&relations["chunk"], &reply, "m.replace");
    let small = filter(&json!({ "room": { "timeline": { "limit": 3 } } }));
    let sync = alice.sync(None, &small).await;
    bundled(timeline(&sync, &room), &root, "m.thread");
    bundled(timeline(&sync, &room), &reply, "m.replace");
    assert_eq!(list(timeline(&sync, &room))[2]["event_id"], edited.as_str());
}
