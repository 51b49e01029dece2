//! Unread counts of rooms that are new to a connection.

use hearth_users::AccountDataScope;
use ruma::{
    RoomId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
    push::RuleKind,
};
use serde_json::{json, value::to_raw_value};

use super::{Phone, room, window};
use crate::world::{World, user};

/// What a connection that begins says of a room.
async fn counts(world: &World, user_id: &UserId, room_id: &RoomId) -> (u64, u64) {
    let answer = Phone::of(user_id, window(0, 9)).ask(world).await;
    let told = |field: &str| room(&answer, room_id)[field].as_u64().unwrap();
    (told("notification_count"), told("highlight_count"))
}

#[tokio::test]
async fn whatever_changes_them_changes_them_for_clients_that_begin_anew() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let one = world.room(&alice).await;
    world.join(&one, &bob).await;
    world.join(&one, &carol).await;
    let of_bob = async || counts(&world, &bob, &one).await;
    assert_eq!(of_bob().await, (0, 0));
    let first = world.text(&one, &alice, "a").await;
    assert_eq!(of_bob().await, (1, 0));
    assert_eq!(of_bob().await, (1, 0));
    assert_eq!(counts(&world, &carol, &one).await, (1, 0), "of another user");
    let to_bob = json!({
        "msgtype": "m.text", "body": "b", "m.mentions": {"user_ids": ["@bob:x"]},
    });
    let mention = world.send(&one, &carol, "m.room.message", to_bob).await;
    assert_eq!(of_bob().await, (2, 1));
    world.read(&one, &bob, ReceiptType::ReadPrivate, ReceiptThread::Main, &first).await;
    assert_eq!(of_bob().await, (1, 1));
    // Rules of one's own count by the events, not by the ledger.
    let mute = async |muted: bool| {
        let (kind, rule) = (RuleKind::Override, ".m.rule.master");
        world.users.set_push_rule_enabled(&bob, kind, rule, muted).await.unwrap();
    };
    mute(true).await;
    assert_eq!(of_bob().await, (0, 0));
    mute(false).await;
    assert_eq!(of_bob().await, (1, 1));
    let ignored = async |list: serde_json::Value| {
        let (scope, content) = (AccountDataScope::Global, json!({"ignored_users": list}));
        let content = to_raw_value(&content).unwrap();
        let kind = "m.ignored_user_list";
        world.users.set_account_data(&bob, scope, kind, &content).await.unwrap();
    };
    ignored(json!({"@carol:x": {}})).await;
    assert_eq!(of_bob().await, (0, 0));
    ignored(json!({})).await;
    assert_eq!(of_bob().await, (1, 1));
    world.redact(&one, &alice, &mention).await;
    assert_eq!(of_bob().await, (0, 0));
    world.text(&one, &alice, "c").await;
    assert_eq!(of_bob().await, (1, 0));
    world.rooms.leave(&one, &bob, None).await.unwrap();
    world.join(&one, &bob).await;
    assert_eq!(of_bob().await, (0, 0), "read when they joined");
}
