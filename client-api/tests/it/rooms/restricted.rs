//! Restricted and knock-restricted rooms (CS "Restricted rooms").

use hearth_testkit::{TestServer, encode};
use serde_json::{Value, json};

use crate::support::{V3, at, refused};

fn rule(kind: &str, allowed: &str) -> Value {
    json!({ "join_rule": kind, "allow": [
        { "type": "org.example.unknown", "room_id": "!x:y" },
        { "type": "m.room_membership", "room_id": allowed },
    ] })
}

#[tokio::test]
async fn members_of_an_allowed_room_may_join() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let space = alice.create_public_room().await;
    bob.join(&space).await;
    for version in ["8", "10", "12"] {
        let body = json!({ "room_version": version, "initial_state": [
            { "type": "m.room.join_rules", "content": rule("restricted", space.as_str()) } ] });
        let room = alice.create_room(body).await;
        refused(carol.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
        bob.join(&room).await;
        let member = at(&room, "state/m.room.member/@bob:localhost");
        let content = alice.get_ok(&member).await;
        assert_eq!(content["join_authorised_via_users_server"], "@alice:localhost");
        // Who is invited needs no other room.
        alice.invite(&room, &carol.user_id).await;
        carol.join(&room).await;
        let content = alice.get_ok(&at(&room, "state/m.room.member/@carol:localhost")).await;
        assert!(content.get("join_authorised_via_users_server").is_none(), "{content}");
        // A change of one's own profile does not carry the authorization on.
        bob.send_text(&room, "here").await;
    }
}

#[tokio::test]
async fn nobody_who_may_invite_is_left() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let space = alice.create_public_room().await;
    bob.join(&space).await;
    let body = json!({ "room_version": "11",
        "power_level_content_override": { "invite": 100 },
        "initial_state": [
            { "type": "m.room.join_rules", "content": rule("restricted", space.as_str()) } ] });
    let room = alice.create_room(body).await;
    alice.leave(&room).await;
    let (status, answer) = bob.post(&at(&room, "join"), json!({})).await;
    assert!(status.is_client_error(), "{answer}");
}

#[tokio::test]
async fn knock_restricted_is_both() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let space = alice.create_public_room().await;
    bob.join(&space).await;
    let body = json!({ "room_version": "10", "initial_state": [
        { "type": "m.room.join_rules", "content": rule("knock_restricted", space.as_str()) } ] });
    let room = alice.create_room(body).await;
    bob.join(&room).await;
    refused(carol.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
    carol.post_ok(&format!("{V3}/knock/{}", encode(room.as_str())), json!({})).await;
    alice.invite(&room, &carol.user_id).await;
    carol.join(&room).await;
}
