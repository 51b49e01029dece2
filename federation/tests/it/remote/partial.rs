//! Rooms that were joined with part of their state.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use hearth_testkit::{Fate, Passage, TestUser};
use ruma::{OwnedRoomId, ServerName};
use serde_json::json;

use crate::support::{World, membership, via_path};

/// A room of three servers, whose state the third does not get: it is joined, but partial.
struct Scene {
    world: World,
    ann: TestUser,
    cat: TestUser,
    bob: TestUser,
    room_id: OwnedRoomId,
    silent: Arc<AtomicBool>,
}

async fn scene() -> Scene {
    let world = World::start(&["a.test", "b.test", "c.test"]).await;
    let silent = Arc::new(AtomicBool::new(true));
    let judged = Arc::clone(&silent);
    world.network().judge(move |passage: &Passage| {
        let is_state = passage.path.starts_with("/_matrix/federation/v1/state/");
        if is_state && judged.load(Ordering::SeqCst) { Fate::Silence } else { Fate::Arrives }
    });
    let (ann, cat) = (world.user("a.test", "ann").await, world.user("c.test", "cat").await);
    let bob = world.user("b.test", "bob").await;
    let room_id = ann.create_public_room().await;
    silent.store(false, Ordering::SeqCst);
    cat.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    // Waits until the state is whole.
    members(&cat, &room_id).await;
    silent.store(true, Ordering::SeqCst);
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    Scene { world, ann, cat, bob, room_id, silent }
}

async fn members(user: &TestUser, room_id: &OwnedRoomId) -> Vec<String> {
    let answer = user.get_ok(&TestUser::room_path(room_id, "joined_members")).await;
    let mut members: Vec<_> = answer["joined"].as_object().unwrap().keys().cloned().collect();
    members.sort();
    members
}

const ALL: [&str; 3] = ["@ann:a.test", "@bob:b.test", "@cat:c.test"];

#[tokio::test]
async fn a_restart_goes_on_completing_the_state() {
    let Scene { mut world, ann, bob, room_id, silent, .. } = scene().await;
    let since = ann.now().await;
    let said = bob.send_text(&room_id, "while partial").await;
    world.wait_for_event(&ann, &since, &room_id, &said).await;
    world.restart("b.test").await;
    assert_ne!(world.count_requests("b.test", "/_matrix/federation/v1/state/"), 0);
    silent.store(false, Ordering::SeqCst);
    world.restart("b.test").await;
    assert_eq!(members(&bob, &room_id).await, ALL);
}

#[tokio::test]
async fn another_server_completes_the_state_if_the_one_of_the_join_is_gone() {
    let Scene { mut world, cat, bob, room_id, silent, .. } = scene().await;
    world.wait_for_membership(&cat, &room_id, &bob.user_id, "join").await;
    silent.store(false, Ordering::SeqCst);
    world.cut("a.test", "b.test");
    world.restart("b.test").await;
    assert_eq!(members(&bob, &room_id).await, ALL);
    assert_eq!(membership(&bob, &room_id, &cat.user_id).await, "join");
}

#[tokio::test]
async fn the_server_that_answered_the_join_is_asked_first() {
    // Of this name, not the first in the alphabet.
    let world = World::start(&["a.test", "b.test", "c.test"]).await;
    let (ann, cat) = (world.user("a.test", "ann").await, world.user("c.test", "cat").await);
    let bob = world.user("b.test", "bob").await;
    let room_id = ann.create_public_room().await;
    cat.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    members(&cat, &room_id).await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["c.test"]), json!({})).await;
    members(&bob, &room_id).await;
    let passages = world.network().take_passages();
    let from = ServerName::parse("b.test").unwrap();
    let asked = passages.iter().find(|passage| {
        passage.from == from && passage.path.starts_with("/_matrix/federation/v1/state/")
    });
    assert_eq!(asked.map(|passage| passage.to.as_str()), Some("c.test"));
}
