//! The room summary: heroes and member counts.

use hearth_testkit::TestServer;
use serde_json::{Value, json};

use crate::support::{joined, next};

#[tokio::test]
async fn counts_members_and_names_heroes() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut users = Vec::new();
    for name in ["bob", "carol", "dave", "erin", "frank", "gina"] {
        users.push(server.register(name).await);
    }
    let room = alice.create_room(json!({})).await;
    let summary = async |since: Option<&str>| {
        let update = alice.sync(since, "").await;
        (next(&update), joined(&update, &room)["summary"].clone())
    };
    let (since, alone) = summary(None).await;
    assert_eq!(alone["m.joined_member_count"], 1);
    assert_eq!(alone["m.invited_member_count"].as_u64().unwrap_or(0), 0);
    assert_eq!(alone["m.heroes"], json!([]));

    alice.invite(&room, &users[0].user_id).await;
    let (since, invited) = summary(Some(&since)).await;
    assert_eq!(invited["m.invited_member_count"], 1, "{invited}");
    assert_eq!(invited["m.heroes"], json!(["@bob:localhost"]));
    users[0].join(&room).await;
    let (since, joined_by_bob) = summary(Some(&since)).await;
    assert_eq!(joined_by_bob["m.joined_member_count"], 2);
    assert_eq!(joined_by_bob["m.invited_member_count"], 0);

    for user in &users[1..] {
        alice.invite(&room, &user.user_id).await;
        user.join(&room).await;
    }
    let (_, full) = summary(None).await;
    assert_eq!(full["m.joined_member_count"], 7);
    let expected =
        ["bob", "carol", "dave", "erin", "frank"].map(|name| format!("@{name}:localhost"));
    assert_eq!(full["m.heroes"], json!(expected), "the first five, not oneself");

    for user in &users {
        user.leave(&room).await;
    }
    let (_, left) = summary(Some(&since)).await;
    assert_eq!(left["m.joined_member_count"], 1);
    let heroes: Vec<&Value> = left["m.heroes"].as_array().unwrap().iter().collect();
    assert_eq!(heroes.len(), 5, "those who left, when nobody is there: {left}");
}

#[tokio::test]
async fn is_left_out_while_nothing_changes() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let initial = alice.sync(None, "").await;
    alice.send_text(&room, "hello").await;
    let update = alice.sync(Some(&next(&initial)), "").await;
    // Optional when unchanged, but never wrong.
    let summary = &joined(&update, &room)["summary"];
    assert!(summary["m.joined_member_count"].as_u64().is_none_or(|count| count == 2), "{summary}");
    bob.leave(&room).await;
    let update = alice.sync(Some(&next(&update)), "").await;
    assert_eq!(joined(&update, &room)["summary"]["m.joined_member_count"], 1);
}
