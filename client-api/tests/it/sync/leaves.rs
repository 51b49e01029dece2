//! Rooms that were left, kicked from or banned from.

use hearth_testkit::{TestServer, encode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{at, bodies, joined, next, state_of, words};

fn left<'a>(sync: &'a Value, room: &RoomId) -> &'a Value {
    &sync["rooms"]["leave"][room.as_str()]
}

fn include_leave() -> String {
    format!("&filter={}", encode(&json!({ "room": { "include_leave": true } }).to_string()))
}

#[tokio::test]
async fn end_with_the_leaving() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    alice.send_text(&room, "while there").await;
    bob.leave(&room).await;
    alice.send_text(&room, "afterwards").await;
    let update = bob.sync(Some(&since), "").await;
    assert!(joined(&update, &room).is_null());
    assert_eq!(words(&left(&update, &room)["timeline"]["events"]), ["while there", "bob leave"]);
    // That was all.
    let quiet = bob.sync(Some(&next(&update)), "").await;
    assert!(left(&quiet, &room).is_null(), "{quiet}");
    assert!(left(&bob.sync(None, "").await, &room).is_null(), "not without include_leave");
    let whole = bob.sync(None, &include_leave()).await;
    let room_left = left(&whole, &room);
    assert_eq!(bodies(&room_left["timeline"]["events"]), ["while there"]);
    // Back again, what was missed comes with the join.
    bob.join(&room).await;
    let update = bob.sync(Some(&next(&update)), "").await;
    assert_eq!(words(&joined(&update, &room)["timeline"]["events"]).last().unwrap(), "bob join");
}

#[tokio::test]
async fn kicks_and_bans_are_leaves() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    for what in ["kick", "ban"] {
        bob.join(&room).await;
        let since = bob.now().await;
        let body = json!({ "user_id": bob.user_id, "reason": "enough" });
        alice.post_ok(&at(&room, what), body).await;
        let update = bob.wait_for_sync(&since).await;
        let event = state_of(
            &left(&update, &room)["timeline"]["events"],
            "m.room.member",
            "@bob:localhost",
        );
        assert_eq!(event["content"]["reason"], "enough");
        assert_eq!(event["sender"], "@alice:localhost");
    }
}

#[tokio::test]
async fn joining_and_leaving_between_two_syncs() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let since = bob.now().await;
    bob.join(&room).await;
    alice.send_text(&room, "hello, bob").await;
    bob.leave(&room).await;
    alice.send_text(&room, "goodbye, bob").await;
    let update = bob.sync(Some(&since), "").await;
    let events = &left(&update, &room)["timeline"]["events"];
    assert_eq!(words(events).last().unwrap(), "bob leave", "{update}");
    assert!(!bodies(events).contains(&"goodbye, bob".to_owned()));
    // And the other way round, the room is simply joined.
    bob.join(&room).await;
    let since = bob.now().await;
    bob.leave(&room).await;
    bob.join(&room).await;
    let update = bob.sync(Some(&since), "").await;
    assert!(joined(&update, &room).is_object() && left(&update, &room).is_null(), "{update}");
}
