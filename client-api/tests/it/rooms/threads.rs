//! `GET /v1/rooms/{roomId}/threads`.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{at_v1, bodies, of_user, refused, related};

#[tokio::test]
async fn are_listed_by_their_latest_event() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let first = alice.send_text(&room, "first").await;
    let second = alice.send_text(&room, "second").await;
    let bobs = bob.send_text(&room, "bob's").await;
    alice.send_text(&room, "no thread").await;
    let reply = async |user: &hearth_testkit::TestUser, root: &ruma::EventId, body: &str| {
        user.send_event(&room, "m.room.message", related(body, "m.thread", root)).await
    };
    reply(&alice, &first, "a1").await;
    reply(&alice, &second, "a2").await;
    reply(&bob, &bobs, "b1").await;
    reply(&bob, &first, "b2").await;
    let of = async |user: &hearth_testkit::TestUser, query: &str| {
        user.get_ok(&at_v1(&room, format!("threads{query}"))).await
    };
    let all = of(&alice, "").await;
    assert_eq!(bodies(&all["chunk"]), ["first", "bob's", "second"]);
    let bundle = &all["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(bundle["count"], 2);
    assert_eq!(bundle["latest_event"]["content"]["body"], "b2");
    assert_eq!(bundle["current_user_participated"], true);
    assert_eq!(bodies(&of(&alice, "?include=all").await["chunk"]), ["first", "bob's", "second"]);
    assert_eq!(bodies(&of(&alice, "?include=participated").await["chunk"]), ["first", "second"]);
    assert_eq!(bodies(&of(&bob, "?include=participated").await["chunk"]), ["first", "bob's"]);

    let mut seen = Vec::new();
    let mut from = String::new();
    for _ in 0..5 {
        let page = of(&alice, &format!("?limit=1{from}")).await;
        seen.extend(bodies(&page["chunk"]));
        let Some(next) = page["next_batch"].as_str() else { break };
        from = format!("&from={}", encode(next));
    }
    assert_eq!(seen, ["first", "bob's", "second"]);

    // The root of somebody ignored is shown without its content.
    let ignored = json!({ "ignored_users": { "@bob:localhost": {} } });
    alice.put_ok(&of_user(&alice, "account_data/m.ignored_user_list"), ignored).await;
    let all = of(&alice, "").await;
    assert!(!all.to_string().contains("bob's"), "{all}");
    refused(zoe.get(&at_v1(&room, "threads")).await, 403, "M_FORBIDDEN");
    let (status, answer) = alice.get(&at_v1(&room, "threads?from=nonsense")).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn end_when_their_replies_are_redacted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let root = alice.send_text(&room, "root").await;
    let reply =
        alice.send_event(&room, "m.room.message", related("reply", "m.thread", &root)).await;
    let listed = async || bodies(&alice.get_ok(&at_v1(&room, "threads")).await["chunk"]);
    assert_eq!(listed().await, ["root"]);
    alice.redact(&room, &reply).await;
    let event = alice.get_ok(&crate::support::at(&room, format!("event/{root}"))).await;
    assert!(event["unsigned"]["m.relations"]["m.thread"].is_null(), "{event}");
}
