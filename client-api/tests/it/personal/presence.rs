//! `/presence/{userId}/status`, and presence in `/sync`.

use hearth_testkit::{TestServer, TestUser};
use serde_json::{Value, json};

use crate::support::{V3, list, next, refused};

fn of(user: &TestUser) -> String {
    format!("{V3}/presence/{}/status", user.user_id)
}

fn seen<'a>(sync: &'a Value, user: &TestUser) -> Option<&'a Value> {
    list(&sync["presence"]["events"])
        .iter()
        .find(|event| event["sender"] == user.user_id.as_str())
        .map(|event| &event["content"])
}

#[tokio::test]
async fn reaches_those_who_share_a_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let quiet = "&set_presence=offline";
    let mut since = next(&bob.sync(None, quiet).await);
    let strangers = next(&zoe.sync(None, quiet).await);
    let status = json!({ "presence": "unavailable", "status_msg": "at lunch" });
    assert_eq!(alice.put_ok(&of(&alice), status).await, json!({}));
    let content = loop {
        let path = format!("{V3}/sync?timeout=30000&set_presence=offline&since={since}");
        let update = bob.get_ok(&path).await;
        match seen(&update, &alice) {
            Some(content) if content["presence"] == "unavailable" => break content.clone(),
            _ => since = next(&update),
        }
    };
    assert_eq!(content["status_msg"], "at lunch");
    assert!(seen(&zoe.sync(Some(&strangers), quiet).await, &alice).is_none());
    let answer = bob.get_ok(&of(&alice)).await;
    assert_eq!(
        (&answer["presence"], &answer["status_msg"]),
        (&json!("unavailable"), &json!("at lunch"))
    );
    assert!(answer["last_active_ago"].is_null() || answer["last_active_ago"].is_u64(), "{answer}");
}

#[tokio::test]
async fn is_for_oneself_to_set_and_sharers_to_see() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let body = json!({ "presence": "online" });
    refused(bob.put(&of(&alice), body.clone()).await, 403, "M_FORBIDDEN");
    alice.put_ok(&of(&alice), body).await;
    refused(bob.get(&of(&alice)).await, 403, "M_FORBIDDEN");
    assert_eq!(alice.get_ok(&of(&alice)).await["presence"], "online");
    let (status, answer) = alice.put(&of(&alice), json!({ "presence": 5 })).await;
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = alice.put(&of(&alice), json!({})).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn syncing_is_being_online_unless_said_otherwise() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    alice.put_ok(&of(&alice), json!({ "presence": "offline" })).await;
    alice.sync(None, "&set_presence=offline").await;
    assert_eq!(bob.get_ok(&of(&alice)).await["presence"], "offline");
    alice.sync(None, "").await;
    assert_eq!(bob.get_ok(&of(&alice)).await["presence"], "online");
}

#[tokio::test]
async fn who_meets_in_a_room_hears_of_each_other() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let silent = server.register("silent").await;
    let room = alice.create_public_room().await;
    silent.join(&room).await;
    for user in [&alice, &bob] {
        user.put_ok(&of(user), json!({ "presence": "online" })).await;
    }
    let quiet = "&set_presence=offline";
    let (alices, bobs) = (next(&alice.sync(None, quiet).await), next(&bob.sync(None, quiet).await));
    bob.join(&room).await;
    let update = alice.sync(Some(&alices), quiet).await;
    assert_eq!(seen(&update, &bob).unwrap()["presence"], "online", "{update}");
    let update = bob.sync(Some(&bobs), quiet).await;
    assert_eq!(seen(&update, &alice).unwrap()["presence"], "online", "{update}");
    assert!(seen(&update, &silent).is_none(), "nobody has seen them: {update}");
    // Who comes in is told of, even if nobody has seen them yet.
    let late = server.register("late").await;
    let alices = next(&alice.sync(Some(&alices), quiet).await);
    late.join(&room).await;
    let update = alice.sync(Some(&alices), quiet).await;
    assert_eq!(seen(&update, &late).unwrap()["presence"], "offline", "{update}");
}
