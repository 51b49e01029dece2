//! `GET /rooms/{roomId}/context/{eventId}`.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{at, bodies, filter, keys, refused, state_of, text};

#[tokio::test]
async fn surrounds_an_event() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "then" })).await;
    let mut events = Vec::new();
    for n in 0..7 {
        events.push(alice.send_text(&room, &n.to_string()).await);
    }
    alice.send_state(&room, "m.room.name", "", json!({ "name": "now" })).await;
    let path = |query: &str| at(&room, format!("context/{}{query}", encode(events[3].as_str())));
    let answer = alice.get_ok(&path("?limit=4")).await;
    assert_eq!(answer["event"]["event_id"], events[3].as_str());
    assert_eq!(bodies(&answer["events_before"]), ["2", "1"], "nearest first");
    assert_eq!(bodies(&answer["events_after"]), ["4", "5"]);
    // The state after the last of these events, not that of today.
    let name = state_of(&answer["state"], "m.room.name", "");
    assert_eq!(name["content"], json!({ "name": "then" }));
    let before =
        at(&room, format!("messages?dir=b&limit=2&from={}", encode(text(&answer, "start"))));
    assert_eq!(bodies(&alice.get_ok(&before).await["chunk"]), ["0"], "from before the earliest");
    let after = at(&room, format!("messages?dir=f&limit=1&from={}", encode(text(&answer, "end"))));
    assert_eq!(bodies(&alice.get_ok(&after).await["chunk"]), ["6"]);

    let alone = alice.get_ok(&path("?limit=0")).await;
    assert_eq!(alone["event"]["event_id"], events[3].as_str());
    assert_eq!(bodies(&alone["events_before"]).len() + bodies(&alone["events_after"]).len(), 0);
    let none =
        alice.get_ok(&path(&format!("?{}", &filter(&json!({ "types": ["org.x"] }))[1..]))).await;
    assert_eq!(none["event"]["event_id"], events[3].as_str(), "the filter spares the event itself");
    assert_eq!(bodies(&none["events_before"]).len() + bodies(&none["events_after"]).len(), 0);
}

#[tokio::test]
async fn loads_members_lazily() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    for user in [&bob, &carol] {
        user.join(&room).await;
    }
    let event = bob.send_text(&room, "hello").await;
    let lazy = filter(&json!({ "lazy_load_members": true }));
    let answer = alice.get_ok(&at(&room, format!("context/{event}?limit=0{lazy}"))).await;
    let members: Vec<_> =
        keys(&answer["state"]).into_iter().filter(|(kind, _)| kind == "m.room.member").collect();
    assert_eq!(members, [("m.room.member".to_owned(), "@bob:localhost".to_owned())]);
}

#[tokio::test]
async fn unknown_and_foreign_events_are_not_found() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    let other = alice.create_public_room().await;
    let event = alice.send_text(&other, "over there").await;
    refused(alice.get(&at(&room, format!("context/{event}"))).await, 404, "M_NOT_FOUND");
    refused(alice.get(&at(&room, "context/$unknown")).await, 404, "M_NOT_FOUND");
    let (status, _) = zoe.get(&at(&other, format!("context/{event}"))).await;
    assert!(status == 403 || status == 404);
}
