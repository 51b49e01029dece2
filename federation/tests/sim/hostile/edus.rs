//! EDUs that must have no effect.

use std::time::Duration;

use hearth_types::StreamPosition;
use hearth_users::{NewSession, ReceiptEntry};
use ruma::{OwnedUserId, presence::PresenceState};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Scene, new_room, peer::Peer, play};

async fn send(scene: &Scene, id: &str, edu: Value) {
    let (status, answer) =
        scene.peer.transaction(&scene.victim.name, id, Vec::new(), vec![edu]).await;
    assert_eq!(status, 200, "{answer}");
}

/// All that EDUs can change.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    typing: Vec<OwnedUserId>,
    receipts: usize,
    presence: Vec<(PresenceState, Option<String>)>,
    /// What is on the disk, but for the answers to transactions and how servers are reached.
    rows: Vec<(&'static str, Vec<u8>, Vec<u8>)>,
}

impl Seen {
    async fn now(scene: &Scene, user_ids: &[&OwnedUserId]) -> Self {
        // What is synced lazily is on the disk then.
        sleep(Duration::from_secs(1)).await;
        let users = scene.victim.users().unwrap();
        let mut presence = Vec::new();
        for user_id in user_ids {
            let seen = users.presence(user_id).await.unwrap();
            presence.push((seen.state, seen.status_msg));
        }
        let but = [
            "meta",
            "federation_transactions",
            "federation_transaction_order",
            "federation_destinations",
            "federation_outbound_cursors",
            "log_cursors",
        ];
        Self {
            typing: users.typing(&scene.room_id).user_ids,
            receipts: receipts(scene).await.len(),
            presence,
            rows: scene.victim.rows(&but),
        }
    }
}

/// One EDU of every kind in a user's name.
fn of_every_kind(scene: &Scene, user_id: &OwnedUserId) -> [Value; 6] {
    let event_id = super::event_id(&scene.version, &scene.join);
    let read = json!({ "data": { "ts": 1 }, "event_ids": [event_id] });
    let receipt = json!({ scene.room_id.as_str(): { "m.read": { user_id.as_str(): read } } });
    let typing = json!({ "room_id": scene.room_id, "user_id": user_id, "typing": true });
    let presence = json!({ "push": [{
        "user_id": user_id, "presence": "online", "last_active_ago": 1, "status_msg": "hello",
    }] });
    let messages = json!({ scene.victim.user(0).as_str(): { "PHONE": { "secret": 1 } } });
    let to_device = json!({
        "sender": user_id, "type": "m.example", "message_id": "one", "messages": messages,
    });
    let keys = json!({ "algorithms": [], "device_id": "D", "keys": {}, "signatures": {}, "user_id": user_id });
    let device = json!({
        "user_id": user_id, "device_id": "D", "stream_id": 1, "prev_id": [], "keys": keys,
    });
    let master = json!({ "user_id": user_id, "usage": ["master"], "keys": { "ed25519:x": "x" } });
    let signing = json!({ "user_id": user_id, "master_key": master });
    [
        json!({ "edu_type": "m.typing", "content": typing }),
        json!({ "edu_type": "m.receipt", "content": receipt }),
        json!({ "edu_type": "m.presence", "content": presence }),
        json!({ "edu_type": "m.direct_to_device", "content": to_device }),
        json!({ "edu_type": "m.device_list_update", "content": device }),
        json!({ "edu_type": "m.signing_key_update", "content": signing }),
    ]
}

/// A user of a third server and one of this server's, both in the room: nothing that another server says
/// in their names changes anything. What the third server says itself does.
#[test]
fn edus_in_the_name_of_other_servers_users_change_nothing() {
    play(|scene| async move {
        let third = Peer::new("third.sim", 64, &scene.network);
        let user = third.user("someone");
        third.join(&scene.victim.name, &scene.room_id, &user, &scene.version).await;
        let own = scene.victim.user(0);
        let phone = NewSession { device_id: Some("PHONE".into()), ..NewSession::default() };
        scene.victim.users().unwrap().create_session(&own, phone).await.unwrap();
        let watched = [&user, &own];
        let before = Seen::now(&scene, &watched).await;
        for (number, name) in watched.into_iter().enumerate() {
            for (kind, edu) in of_every_kind(&scene, name).into_iter().enumerate() {
                send(&scene, &format!("{number}-{kind}"), edu.clone()).await;
                assert_eq!(Seen::now(&scene, &watched).await, before, "{edu}");
            }
        }
        let mut before = before;
        for (kind, edu) in of_every_kind(&scene, &user).into_iter().enumerate() {
            let (to, id) = (&scene.victim.name, format!("own-{kind}"));
            let (status, answer) = third.transaction(to, &id, Vec::new(), vec![edu.clone()]).await;
            assert_eq!(status, 200, "{answer}");
            let after = Seen::now(&scene, &watched).await;
            assert_ne!(after, before, "{edu}");
            before = after;
        }
        scene.must_go_on().await;
    });
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

fn third_user() -> OwnedUserId {
    ruma::UserId::parse("@someone:third.sim").unwrap()
}
