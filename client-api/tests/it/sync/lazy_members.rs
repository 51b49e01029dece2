//! Lazy-loading of room members (CS "Lazy-loading room members").

use std::collections::BTreeSet;

use hearth_testkit::{TestServer, TestUser};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use crate::support::{filter, joined, list, next, set, text, word};

fn lazy(limit: u8) -> String {
    filter(
        &json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": limit } } }),
    )
}

/// The members in the state part of a response.
fn members(update: &Value, room: &RoomId) -> BTreeSet<String> {
    list(&joined(update, room)["state"]["events"])
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| text(event, "state_key").to_owned())
        .collect()
}

async fn crowd(server: &TestServer) -> (Vec<TestUser>, OwnedRoomId) {
    let mut users = Vec::new();
    for name in ["alice", "bob", "carol", "dave", "erin"] {
        users.push(server.register(name).await);
    }
    let body = json!({ "preset": "public_chat", "name": "so that no heroes are needed" });
    let room = users[0].create_room(body).await;
    for user in &users[1..] {
        user.join(&room).await;
    }
    for n in 0..6 {
        users[0].send_text(&room, &n.to_string()).await;
    }
    (users, room)
}

#[tokio::test]
async fn initially_only_senders_and_oneself() {
    let server = TestServer::start().await;
    let (users, room) = crowd(&server).await;
    users[1].send_text(&room, "from bob").await;
    let initial = users[4].sync(None, &lazy(2)).await;
    assert_eq!(
        members(&initial, &room),
        set(["@alice:localhost", "@bob:localhost", "@erin:localhost"])
    );
    let whole = filter(&json!({ "room": { "timeline": { "limit": 2 } } }));
    assert_eq!(members(&users[4].sync(None, &whole).await, &room).len(), 5);
}

#[tokio::test]
async fn later_those_who_speak_up() {
    let server = TestServer::start().await;
    let (users, room) = crowd(&server).await;
    let (alice, carol) = (&users[0], &users[2]);
    let since = next(&alice.sync(None, &lazy(2)).await);
    carol.send_text(&room, "from carol").await;
    let update = alice.sync(Some(&since), &lazy(10)).await;
    assert!(members(&update, &room).contains("@carol:localhost"), "{update}");
    // A client may be told again what it knows, unless it asks to be: then it must.
    let since = next(&update);
    carol.send_text(&room, "again").await;
    let redundant = filter(&json!({ "room": { "state":
        { "lazy_load_members": true, "include_redundant_members": true } } }));
    let update = alice.sync(Some(&since), &redundant).await;
    assert!(members(&update, &room).contains("@carol:localhost"), "{update}");
}

#[tokio::test]
async fn all_changes_of_a_gap() {
    let server = TestServer::start().await;
    let (users, room) = crowd(&server).await;
    let alice = &users[0];
    let since = next(&alice.sync(None, &lazy(10)).await);
    users[3].leave(&room).await;
    let frank = server.register("frank").await;
    frank.join(&room).await;
    for n in 0..6 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let update = alice.sync(Some(&since), &lazy(2)).await;
    assert_eq!(joined(&update, &room)["timeline"]["limited"], true);
    let members = members(&update, &room);
    assert!(
        members.contains("@dave:localhost") && members.contains("@frank:localhost"),
        "{members:?}"
    );
    assert!(!members.contains("@bob:localhost"), "{members:?}");
}

#[tokio::test]
async fn heroes_are_members_too() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    bob.join(&room).await;
    for n in 0..6 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let initial = alice.sync(None, &lazy(2)).await;
    assert_eq!(joined(&initial, &room)["summary"]["m.heroes"], json!(["@bob:localhost"]));
    assert!(members(&initial, &room).contains("@bob:localhost"), "{initial}");
}

#[tokio::test]
async fn a_join_brings_ones_own_member_event() {
    let server = TestServer::start().await;
    let (users, room) = crowd(&server).await;
    let zoe = server.register("zoe").await;
    let since = next(&zoe.sync(None, &lazy(3)).await);
    zoe.join(&room).await;
    for n in 0..4 {
        users[0].send_text(&room, &n.to_string()).await;
    }
    let update = zoe.sync(Some(&since), &lazy(3)).await;
    let mut seen: Vec<_> =
        list(&joined(&update, &room)["state"]["events"]).iter().map(word).collect();
    seen.extend(list(&joined(&update, &room)["timeline"]["events"]).iter().map(word));
    assert!(seen.contains(&"zoe join".to_owned()), "{seen:?}");
}
