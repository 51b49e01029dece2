//! `GET /events` and `GET /initialSync`: how clients followed rooms before `/sync`.

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, at, bodies, find_state, list, of_user, refused, state_of, text, words};

fn room_of<'a>(answer: &'a Value, room: &RoomId) -> &'a Value {
    let found = list(&answer["rooms"]).iter().find(|found| found["room_id"] == room.as_str());
    found.unwrap_or_else(|| panic!("no {room} in {answer}"))
}

async fn events(user: &TestUser, from: &str, more: &str) -> Value {
    user.get_ok(&format!("{V3}/events?from={}{more}", encode(from))).await
}

#[tokio::test]
async fn the_stream_goes_on_where_the_initial_sync_ends() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    alice.send_text(&room, "before").await;
    let data = of_user(&alice, "account_data/org.example.first");
    alice.put_ok(&data, json!({ "a": 0 })).await;
    let first = alice.get_ok(&format!("{V3}/initialSync")).await;
    assert_eq!(words(&first["account_data"]), ["org.example.first"], "and no rules of the server");
    let found = room_of(&first, &room);
    assert_eq!((&found["membership"], &found["visibility"]), (&json!("join"), &json!("private")));
    assert_eq!(bodies(&found["messages"]["chunk"]), ["before"]);
    assert_eq!(found["messages"]["chunk"][0]["room_id"], room.as_str());
    state_of(&found["state"], "m.room.create", "");
    let from = text(&first, "end").to_owned();

    let waiting = {
        let (alice, mut from) = (alice.clone(), from.clone());
        tokio::spawn(async move {
            loop {
                let update = events(&alice, &from, "&timeout=30000").await;
                assert_eq!(update["start"], from.as_str());
                // One's own presence may come first.
                if words(&update["chunk"]).contains(&"bob join".to_owned()) {
                    break update;
                }
                from = text(&update, "end").to_owned();
            }
        })
    };
    bob.join(&room).await;
    let update = waiting.await.unwrap();
    let joins = |chunk: &Value| words(chunk).iter().filter(|word| *word == "bob join").count();
    assert_eq!(joins(&update["chunk"]), 1, "{update}");
    bob.send_text(&room, "hello").await;
    let data = of_user(&alice, "account_data/org.example.data");
    alice.put_ok(&data, json!({ "a": 1 })).await;
    let update = events(&alice, text(&update, "end"), "").await;
    assert_eq!(bodies(&update["chunk"]), ["hello"]);
    assert!(words(&update["chunk"]).contains(&"org.example.data".to_owned()), "{update}");
    let rest = events(&alice, text(&update, "end"), "").await;
    assert_eq!(bodies(&rest["chunk"]), Vec::<String>::new());
    refused(alice.get(&format!("{V3}/events?from=nonsense")).await, 400, "M_INVALID_PARAM");
    refused(alice.get(&format!("{V3}/initialSync?limit=x")).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_room_that_is_new_brings_no_history() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "private_chat" })).await;
    alice.send_text(&room, "before").await;
    let now = bob.get_ok(&format!("{V3}/events")).await;
    alice.invite(&room, &bob.user_id).await;
    let invited = events(&bob, text(&now, "end"), "").await;
    let invite = state_of(&invited["chunk"], "m.room.member", "@bob:localhost");
    assert_eq!(invite["room_id"], room.as_str());
    let initial = bob.get_ok(&format!("{V3}/initialSync")).await;
    let found = room_of(&initial, &room);
    assert_eq!(
        (&found["membership"], &found["inviter"]),
        (&json!("invite"), &json!("@alice:localhost"))
    );
    bob.join(&room).await;
    let joined = events(&bob, text(&invited, "end"), "").await;
    assert!(words(&joined["chunk"]).contains(&"bob join".to_owned()), "{joined}");
    assert_eq!(bodies(&joined["chunk"]), Vec::<String>::new());
}

#[tokio::test]
async fn one_room_is_told_alone() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let (one, other) = (alice.create_public_room().await, alice.create_public_room().await);
    bob.join(&one).await;
    let event = alice.send_text(&one, "one").await;
    let receipt = at(&one, format!("receipt/m.read/{}", encode(event.as_str())));
    bob.post_ok(&receipt, json!({})).await;
    for (user, presence) in [(&alice, "online"), (&bob, "unavailable")] {
        let path = format!("{V3}/presence/{}/status", encode(user.user_id.as_str()));
        user.put_ok(&path, json!({ "presence": presence })).await;
    }
    let first = alice.get_ok(&at(&one, "initialSync?limit=1")).await;
    assert_eq!(words(&first["messages"]["chunk"]), ["one"]);
    let receipts = &first["receipts"][0]["content"][event.as_str()]["m.read"];
    assert!(receipts["@bob:localhost"]["ts"].is_u64(), "{first}");
    let online = |first: &Value| {
        let mut users: Vec<_> = list(&first["presence"])
            .iter()
            .map(|event| text(&event["content"], "user_id").to_owned())
            .collect();
        users.sort_unstable();
        users
    };
    assert_eq!(online(&first), ["@alice:localhost", "@bob:localhost"], "{first}");
    alice.send_text(&other, "other").await;
    alice.send_text(&one, "more").await;
    let only = format!("&room_id={}", encode(one.as_str()));
    let update = events(&alice, text(&first["messages"], "end"), &only).await;
    assert_eq!(bodies(&update["chunk"]), ["more"]);

    // Who has left sees the room as it was then, and nobody in it.
    bob.leave(&one).await;
    alice.send_text(&one, "behind bob").await;
    let left = bob.get_ok(&at(&one, "initialSync?limit=2")).await;
    assert_eq!(left["membership"], "leave");
    assert_eq!(words(&left["messages"]["chunk"]), ["more", "bob leave"]);
    assert_eq!((&left["presence"], &left["receipts"]), (&json!([]), &json!([])));
    let archived = bob.get_ok(&format!("{V3}/initialSync?archived=true&limit=2")).await;
    let found = room_of(&archived, &one);
    assert_eq!(found["membership"], "leave");
    assert_eq!(words(&found["messages"]["chunk"]), ["more", "bob leave"]);
    assert!(find_state(&found["state"], "m.room.create", "").is_some(), "{found}");
    let without = bob.get_ok(&format!("{V3}/initialSync")).await;
    assert_eq!(without["rooms"], json!([]));
}
