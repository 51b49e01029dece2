//! The second server does what the first does not, whatever the first does instead.

use axum::{Json, Router, routing::get};
use hearth_testkit::{Fate, Passage, Peer, TestUser};
use http::StatusCode;
use ruma::{OwnedRoomId, ServerName};
use serde_json::{Value, json};

use crate::support::{World, membership, via_path};

/// Short, because a server that is silent takes all of it.
const TIMEOUT_S: u64 = 5;

async fn world(names: &[&str]) -> World {
    World::start_with(names, |config| config.request_timeout_s = TIMEOUT_S).await
}

/// From now on this server says nothing to requests whose path has this part.
fn silence(world: &World, server: &'static str, part: &'static str) {
    world.network().judge(move |passage: &Passage| {
        let is_meant = passage.to == server && passage.path.contains(part);
        if is_meant { Fate::Silence } else { Fate::Arrives }
    });
}

/// Templates that no event can be made of, and others' answers to what they are asked for.
fn unfit_templates() -> [(StatusCode, Value); 4] {
    [
        (StatusCode::FORBIDDEN, json!({ "errcode": "M_FORBIDDEN", "error": "not you" })),
        (StatusCode::OK, json!({ "room_version": "11", "event": { "type": "m.room.message" } })),
        (StatusCode::OK, json!({ "room_version": "11" })),
        (StatusCode::INTERNAL_SERVER_ERROR, json!({})),
    ]
}

/// A template as it should be.
fn template(membership: &str, room_id: &OwnedRoomId, user: &TestUser) -> Value {
    json!({
        "room_version": "11",
        "event": {
            "auth_events": ["$wAY3BnfwwuNp44MUKOQCQxB9Y4LIPNB4EGUvJ6Lh5Yw"],
            "content": { "membership": membership },
            "depth": 5,
            "origin_server_ts": 1_700_000_000_000_u64,
            "prev_events": ["$wAY3BnfwwuNp44MUKOQCQxB9Y4LIPNB4EGUvJ6Lh5Yw"],
            "room_id": room_id,
            "sender": user.user_id,
            "state_key": user.user_id,
            "type": "m.room.member",
        },
    })
}

/// A wish is granted by the second server; `what` is `join` or `knock`, `rule` the join rule.
async fn second_grants(what: &'static str, rule: &str) {
    let world = world(&["a.test", "b.test"]).await;
    let peer = Peer::new("p.test", world.network());
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": rule } });
    let room = json!({ "initial_state": [rules], "room_version": "11" });
    let (make, send) = (format!("make_{what}"), format!("send_{what}"));
    let make_path = format!("/_matrix/federation/v1/{make}/");
    for (status, answer) in unfit_templates() {
        peer.answers(&make_path, status, answer.clone());
        let room_id = ann.create_room(room.clone()).await;
        let path = via_path(what, room_id.as_str(), &["p.test", "a.test"]);
        bob.post_ok(&path, json!({})).await;
        assert_eq!(membership(&ann, &room_id, &bob.user_id).await, what, "{answer}");
        assert!(peer.heard(&make_path).iter().any(|heard| heard.path.contains(&make)));
    }
    let answers = [
        (StatusCode::FORBIDDEN, json!({ "errcode": "M_FORBIDDEN", "error": "not you" })),
        (StatusCode::OK, json!("nonsense")),
        (StatusCode::BAD_REQUEST, json!({ "errcode": "M_BAD_JSON", "error": "what?" })),
    ];
    for (status, answer) in answers {
        for version in ["v1", "v2"] {
            peer.answers(&format!("/_matrix/federation/{version}/{send}/"), status, answer.clone());
        }
        let room_id = ann.create_room(room.clone()).await;
        peer.answers(&make_path, StatusCode::OK, template(what, &room_id, &bob));
        let path = via_path(what, room_id.as_str(), &["p.test", "a.test"]);
        bob.post_ok(&path, json!({})).await;
        assert_eq!(membership(&ann, &room_id, &bob.user_id).await, what, "{answer}");
        let pushed = |version| peer.heard(&format!("/_matrix/federation/{version}/{send}/"));
        assert!(!pushed("v1").is_empty() || !pushed("v2").is_empty(), "it was tried");
    }
    silence(&world, "p.test", "make_");
    let room_id = ann.create_room(room.clone()).await;
    let path = via_path(what, room_id.as_str(), &["p.test", "a.test"]);
    bob.post_ok(&path, json!({})).await;
    assert_eq!(membership(&ann, &room_id, &bob.user_id).await, what, "after silence");
}

#[tokio::test]
async fn the_second_server_lets_in_whom_the_first_does_not() {
    second_grants("join", "public").await;
}

#[tokio::test]
async fn the_second_server_takes_the_knock_that_the_first_does_not() {
    second_grants("knock", "knock").await;
}

/// Invites bob, as somebody of `a.test`, to a room that somebody of `c.test` has named.
async fn invited(world: &World, ann: &TestUser, cat: &TestUser, bob: &TestUser) -> OwnedRoomId {
    let powers = json!({ "users": { (ann.user_id.as_str()): 100, (cat.user_id.as_str()): 100 } });
    let room = json!({
        "preset": "public_chat", "room_version": "11", "power_level_content_override": powers,
    });
    let room_id = ann.create_room(room).await;
    cat.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    let since = ann.now().await;
    let named = cat.send_state(&room_id, "m.room.name", "", json!({ "name": "Lounge" })).await;
    world.wait_for_event(ann, &since, &room_id, &named).await;
    ann.invite(&room_id, &bob.user_id).await;
    world.wait_for_membership(cat, &room_id, &bob.user_id, "invite").await;
    room_id
}

#[tokio::test]
async fn the_second_server_takes_the_leave_that_the_first_does_not() {
    let world = world(&["a.test", "b.test", "c.test"]).await;
    let (ann, cat) = (world.user("a.test", "ann").await, world.user("c.test", "cat").await);
    let bob = world.user("b.test", "bob").await;
    let first = ServerName::parse("a.test").unwrap();
    let make = "/_matrix/federation/v1/make_leave/{room}/{user}";
    let mut faults = Vec::new();
    // Each is put before those that came earlier.
    for (status, answer) in unfit_templates() {
        faults.push(Some(
            Router::new().route(make, get(move || async move { (status, Json(answer)) })),
        ));
    }
    faults.push(None);
    for fault in faults {
        match fault {
            Some(router) => world.network().put_before(&first, router),
            None => silence(&world, "a.test", "make_leave"),
        }
        let room_id = invited(&world, &ann, &cat, &bob).await;
        drop(world.network().take_passages());
        bob.leave(&room_id).await;
        world.wait_for_membership(&cat, &room_id, &bob.user_id, "leave").await;
        world.wait_for_membership(&ann, &room_id, &bob.user_id, "leave").await;
        let passages = world.network().take_passages();
        let asked = passages.iter().filter(|passage| passage.path.contains("make_leave"));
        let asked: Vec<_> = asked.map(|passage| passage.to.as_str()).collect();
        assert_eq!(asked, ["a.test", "c.test"]);
    }
}
