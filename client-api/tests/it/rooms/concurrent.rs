//! Many clients at once: everything arrives once, and in one order for everybody.

use hearth_testkit::{TestServer, TestUser};
use ruma::OwnedRoomId;
use serde_json::json;

use crate::support::{all_different, bodies, ids, list, next, same, timeline, walk};

const EACH: usize = 20;

/// Reads by long-poll until this many messages came.
async fn read(user: TestUser, room: OwnedRoomId, since: String, count: usize) -> Vec<String> {
    let (mut since, mut seen) = (since, Vec::new());
    while seen.len() < count {
        let update = user.wait_for_sync(&since).await;
        let events = timeline(&update, &room);
        let messages = list(events).iter().filter(|event| event["type"] == "m.room.message");
        seen.extend(messages.map(|event| event["event_id"].as_str().unwrap().to_owned()));
        since = next(&update);
    }
    seen
}

#[tokio::test]
async fn senders_and_readers() {
    let server = TestServer::start().await;
    let mut users = Vec::new();
    for name in ["alice", "bob", "carol", "dave"] {
        users.push(server.register(name).await);
    }
    let room = users[0].create_public_room().await;
    for user in &users[1..] {
        user.join(&room).await;
    }
    let count = EACH * users.len();
    let mut readers = Vec::new();
    for user in &users[..2] {
        let since = user.now().await;
        readers.push(tokio::spawn(read(user.clone(), room.clone(), since, count)));
    }
    let senders: Vec<_> = users
        .iter()
        .cloned()
        .map(|user| {
            let room = room.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    user.send_text(&room, &format!("{}:{n}", user.user_id)).await;
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let history = json!(walk(&users[0], &room, "f", None, "&limit=30").await);
    all_different(list(&history));
    let messages: Vec<_> =
        list(&history).iter().filter(|event| event["type"] == "m.room.message").cloned().collect();
    assert_eq!(messages.len(), count);
    for reader in readers {
        assert_eq!(reader.await.unwrap(), ids(&json!(messages)), "the order of /messages");
    }
    // Each sender's messages are in the order of sending.
    for user in &users {
        let own: Vec<_> = messages
            .iter()
            .filter(|event| event["sender"] == user.user_id.as_str())
            .cloned()
            .collect();
        let expected: Vec<_> = (0..EACH).map(|n| format!("{}:{n}", user.user_id)).collect();
        assert_eq!(bodies(&json!(own)), expected);
    }
}

#[tokio::test]
async fn joiners() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let mut joins = Vec::new();
    for n in 0..12 {
        let user = server.register(&format!("user{n}")).await;
        let room = room.clone();
        joins.push(tokio::spawn(async move {
            user.join(&room).await;
            user.send_text(&room, "here").await;
            user.user_id.to_string()
        }));
    }
    let mut expected = vec!["@alice:localhost".to_owned()];
    for join in joins {
        expected.push(join.await.unwrap());
    }
    let members = alice.get_ok(&crate::support::at(&room, "joined_members")).await;
    same(members["joined"].as_object().unwrap().keys().cloned(), expected);
}
