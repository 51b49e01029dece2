//! `m.ignored_user_list` (CS "Ignoring Users").

use hearth_testkit::{TestServer, TestUser};
use serde_json::json;

use crate::support::{at, bodies, message, next, of_user, related, text, timeline, walk, words};

async fn ignore(user: &TestUser, whom: &[&TestUser]) {
    let ignored: serde_json::Map<_, _> =
        whom.iter().map(|user| (user.user_id.to_string(), json!({}))).collect();
    let path = of_user(user, "account_data/m.ignored_user_list");
    user.put_ok(&path, json!({ "ignored_users": ignored })).await;
}

#[tokio::test]
async fn messages_vanish_and_state_stays() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat",
        "power_level_content_override": { "users_default": 50 } }))
        .await;
    bob.join(&room).await;
    bob.send_text(&room, "before").await;
    ignore(&alice, &[&bob]).await;
    let since = alice.now().await;
    bob.send_text(&room, "spam").await;
    bob.send_state(&room, "m.room.topic", "", json!({ "topic": "bob's" })).await;
    alice.send_text(&room, "quiet here").await;
    let update = alice.sync(Some(&since), "").await;
    assert_eq!(words(timeline(&update, &room)), ["m.room.topic", "quiet here"]);
    let initial = alice.sync(None, "").await;
    assert_eq!(bodies(timeline(&initial, &room)), ["quiet here"]);
    let history = walk(&alice, &room, "b", None, "").await;
    assert_eq!(bodies(&json!(history)), ["quiet here"]);
    // Un-ignoring brings the next ones; a fresh sync also those that were missed.
    ignore(&alice, &[]).await;
    bob.send_text(&room, "sorry").await;
    let update = alice.sync(Some(&next(&update)), "").await;
    assert_eq!(bodies(timeline(&update, &room)), ["sorry"]);
    let initial = alice.sync(None, "").await;
    assert_eq!(bodies(timeline(&initial, &room)), ["before", "spam", "quiet here", "sorry"]);
}

#[tokio::test]
async fn invites_do_not_arrive() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    ignore(&alice, &[&bob]).await;
    let since = alice.now().await;
    let unwanted = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let wanted = carol.create_room(json!({ "invite": [alice.user_id] })).await;
    for update in [alice.sync(Some(&since), "").await, alice.sync(None, "").await] {
        let invites = &update["rooms"]["invite"];
        assert!(invites[unwanted.as_str()].is_null(), "{update}");
        assert!(invites[wanted.as_str()].is_object(), "{update}");
    }
}

#[tokio::test]
async fn aggregations_leave_them_out() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    carol.join(&room).await;
    let root = alice.send_text(&room, "root").await;
    let thread = |body: &str| related(body, "m.thread", &root);
    carol.send_event(&room, "m.room.message", thread("carol's")).await;
    bob.send_event(&room, "m.room.message", thread("bob's")).await;
    let path = at(&room, format!("event/{root}"));
    let of = async |user: &TestUser| {
        user.get_ok(&path).await["unsigned"]["m.relations"]["m.thread"].clone()
    };
    assert_eq!(of(&alice).await["count"], 2);
    ignore(&alice, &[&bob]).await;
    let bundle = of(&alice).await;
    assert_eq!(bundle["count"], 1, "{bundle}");
    assert_eq!(text(&bundle["latest_event"]["content"], "body"), "carol's");
    assert_eq!(of(&carol).await["count"], 2);
    // The ignored one notices nothing.
    bob.send_event(&room, "m.room.message", message("hello?")).await;
}
