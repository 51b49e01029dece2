//! EDUs that must have no effect.

use hearth_types::StreamPosition;
use hearth_users::ReceiptEntry;
use serde_json::json;

use super::{Scene, new_room, play};

async fn send(scene: &Scene, id: &str, edu: serde_json::Value) {
    let (status, answer) =
        scene.peer.transaction(&scene.victim.name, id, Vec::new(), vec![edu]).await;
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn nobody_types_for_users_of_other_servers() {
    play(|scene| async move {
        let users = scene.victim.users().unwrap();
        for (id, user) in [("own", scene.victim.user(0)), ("third", third_user())] {
            let content = json!({ "room_id": scene.room_id, "user_id": user, "typing": true });
            send(&scene, id, json!({ "edu_type": "m.typing", "content": content })).await;
            assert!(users.typing(&scene.room_id).user_ids.is_empty());
        }
        let user = scene.peer.user("mallory");
        let content = json!({ "room_id": scene.room_id, "user_id": user, "typing": true });
        send(&scene, "honest", json!({ "edu_type": "m.typing", "content": content })).await;
        assert_eq!(users.typing(&scene.room_id).user_ids.len(), 1);
    });
}

#[test]
fn nobody_types_in_rooms_that_they_are_not_in() {
    play(|scene| async move {
        let other = new_room(&scene.victim, &scene.version).await;
        let user = scene.peer.user("mallory");
        let content = json!({ "room_id": other, "user_id": user, "typing": true });
        send(&scene, "elsewhere", json!({ "edu_type": "m.typing", "content": content })).await;
        assert!(scene.victim.users().unwrap().typing(&other).user_ids.is_empty());
    });
}

#[test]
fn receipts_of_users_of_other_servers_are_dropped() {
    play(|scene| async move {
        let event_id = super::event_id(&scene.version, &scene.join);
        for (id, user) in [
            ("own", scene.victim.user(0)),
            ("third", third_user()),
            ("honest", scene.peer.user("mallory")),
        ] {
            let read = json!({ "data": { "ts": 1 }, "event_ids": [event_id] });
            let content = json!({ scene.room_id.as_str(): { "m.read": { user.as_str(): read } } });
            send(&scene, id, json!({ "edu_type": "m.receipt", "content": content })).await;
        }
        let receipts = receipts(&scene).await;
        let readers: Vec<_> = receipts.iter().map(|receipt| receipt.user_id.clone()).collect();
        assert_eq!(readers, [scene.peer.user("mallory")]);
    });
}

#[test]
fn nonsense_does_not_harm_the_transaction() {
    play(|scene| async move {
        let name = &scene.victim.name;
        let edus = vec![
            json!({}),
            json!({ "edu_type": "m.typing" }),
            json!({ "edu_type": "m.receipt", "content": { "!r:x": 7 } }),
            json!({ "edu_type": "m.presence", "content": { "push": "all" } }),
            json!({ "edu_type": "org.example.unknown", "content": {} }),
        ];
        let good = scene.peer.sign(&scene.version, scene.message());
        let (status, answer) =
            scene.peer.transaction(name, "nonsense", vec![good.clone()], edus).await;
        assert_eq!(status, 200, "{answer}");
        assert!(scene.holds(&good).await);
        let many = vec![json!({}); 101];
        let (status, _) = scene.peer.transaction(name, "many", Vec::new(), many).await;
        assert_eq!(status, 400);
        scene.must_go_on().await;
    });
}

/// Receipts of the room as the victim's user sees them.
pub(super) async fn receipts(scene: &Scene) -> Vec<ReceiptEntry> {
    let (users, viewer) = (scene.victim.users().unwrap(), scene.victim.user(0));
    users.receipts(&scene.room_id, &viewer, StreamPosition::MAX).await.unwrap()
}

fn third_user() -> ruma::OwnedUserId {
    ruma::UserId::parse("@someone:third.sim").unwrap()
}
