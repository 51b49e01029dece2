//! `/user/{userId}/account_data` and `/user/{userId}/rooms/{roomId}/account_data` (CS "Client Config").

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{find_type, joined, next, of_type, of_user, outcome, refused};

#[tokio::test]
async fn global() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let bob = server.register("bob").await;
    let path = of_user(&alice, "account_data/org.example.colors");
    refused(alice.get(&path).await, 404, "M_NOT_FOUND");
    let since = phone.now().await;
    let content = json!({ "sky": "blue", "n": 2 });
    assert_eq!(alice.put_ok(&path, content.clone()).await, json!({}));
    assert_eq!(alice.get_ok(&path).await, content);
    // It reaches the user's other devices, and nobody else.
    let update = phone.wait_for_sync(&since).await;
    let event = of_type(&update["account_data"]["events"], "org.example.colors");
    assert_eq!(*event, json!({ "type": "org.example.colors", "content": content }));
    let initial = phone.sync(None, "").await;
    of_type(&initial["account_data"]["events"], "org.example.colors");
    let theirs = bob.sync(None, "").await;
    assert!(find_type(&theirs["account_data"]["events"], "org.example.colors").is_none());
    refused(bob.get(&path).await, 403, "M_FORBIDDEN");
    refused(bob.put(&path, json!({})).await, 403, "M_FORBIDDEN");
    // Types may hold any character.
    let odd = of_user(&alice, format!("account_data/{}", encode("org.example/é x")));
    alice.put_ok(&odd, json!({ "a": 1 })).await;
    assert_eq!(alice.get_ok(&odd).await, json!({ "a": 1 }));
}

#[tokio::test]
async fn of_a_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let other = alice.create_public_room().await;
    let of = |room: &str, kind: &str| {
        of_user(&alice, format!("rooms/{}/account_data/{kind}", encode(room)))
    };
    let path = of(room.as_str(), "org.example.draft");
    refused(alice.get(&path).await, 404, "M_NOT_FOUND");
    let since = alice.now().await;
    alice.put_ok(&path, json!({ "text": "dear" })).await;
    assert_eq!(alice.get_ok(&path).await, json!({ "text": "dear" }));
    refused(alice.get(&of(other.as_str(), "org.example.draft")).await, 404, "M_NOT_FOUND");
    let update = alice.wait_for_sync(&since).await;
    let event = of_type(&joined(&update, &room)["account_data"]["events"], "org.example.draft");
    assert_eq!(event["content"], json!({ "text": "dear" }));
    assert!(joined(&update, &other).is_null());
    refused(bob.get(&path).await, 403, "M_FORBIDDEN");
    refused(
        alice.put(&of("not-a-room", "org.example.draft"), json!({})).await,
        400,
        "M_INVALID_PARAM",
    );
    // A later change replaces the earlier one.
    alice.put_ok(&path, json!({ "text": "hm" })).await;
    let update = alice.sync(Some(&next(&update)), "").await;
    let event = of_type(&joined(&update, &room)["account_data"]["events"], "org.example.draft");
    assert_eq!(event["content"], json!({ "text": "hm" }));
}

#[tokio::test]
async fn managed_types_are_not_set_here() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    for path in [
        of_user(&alice, "account_data/m.push_rules"),
        of_user(&alice, "account_data/m.fully_read"),
        of_user(&alice, format!("rooms/{}/account_data/m.fully_read", encode(room.as_str()))),
        of_user(&alice, format!("rooms/{}/account_data/m.push_rules", encode(room.as_str()))),
    ] {
        refused(alice.put(&path, json!({ "event_id": "$x" })).await, 405, "M_BAD_JSON");
    }
    let rules = alice.get_ok(&of_user(&alice, "account_data/m.push_rules")).await;
    assert!(rules["global"].is_object(), "{rules}");
    for body in ["[]", "3", "\"x\"", "null"] {
        let body = serde_json::from_str(body).unwrap();
        let answer = alice.put(&of_user(&alice, "account_data/org.example.x"), body).await;
        assert!(
            [(400, "M_BAD_JSON"), (400, "M_NOT_JSON")].contains(&outcome(&answer)),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn survives_a_restart() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = of_user(&alice, "account_data/org.example.x");
    alice.put_ok(&path, json!({ "kept": true })).await;
    let since = alice.now().await;
    server.restart().await;
    assert_eq!(alice.get_ok(&path).await, json!({ "kept": true }));
    // Nothing is told twice.
    let update = alice.sync(Some(&since), "").await;
    assert!(find_type(&update["account_data"]["events"], "org.example.x").is_none());
}
