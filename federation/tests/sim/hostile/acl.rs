//! Server ACLs, and the ways around them that a peer may try.

use hearth_rooms::Draft;
use serde_json::json;

use super::{Scene, event_id, peer::Peer, play};

async fn set_acl(scene: &Scene, deny: &str) {
    let content = json!({ "allow": ["*"], "deny": [deny], "allow_ip_literals": true });
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let event_type = "m.room.server_acl".into();
    let draft = Draft::state(scene.victim.user(0), event_type, String::new(), content);
    scene.victim.rooms().unwrap().send(&scene.room_id, draft, None).await.unwrap();
}

/// Every endpoint that must honour ACLs refuses `peer` (SS "Server Access Control Lists").
async fn is_kept_out(scene: &Scene, peer: &Peer) {
    let (room, user) = (&scene.room_id, peer.user("eve"));
    let event = event_id(&scene.version, &scene.join);
    let get = |path: String| ("GET", path, None);
    let put = |path: String| ("PUT", path, Some(scene.join.clone()));
    let requests = [
        get(format!("/_matrix/federation/v1/make_join/{room}/{user}?ver={}", scene.version)),
        get(format!("/_matrix/federation/v1/make_leave/{room}/{user}")),
        get(format!("/_matrix/federation/v1/make_knock/{room}/{user}?ver={}", scene.version)),
        put(format!("/_matrix/federation/v2/send_join/{room}/{event}")),
        put(format!("/_matrix/federation/v2/send_leave/{room}/{event}")),
        put(format!("/_matrix/federation/v1/send_knock/{room}/{event}")),
        get(format!("/_matrix/federation/v1/state/{room}?event_id={event}")),
        get(format!("/_matrix/federation/v1/state_ids/{room}?event_id={event}")),
        get(format!("/_matrix/federation/v1/backfill/{room}?v={event}&limit=5")),
        get(format!("/_matrix/federation/v1/event_auth/{room}/{event}")),
        (
            "POST",
            format!("/_matrix/federation/v1/get_missing_events/{room}"),
            Some(json!({ "earliest_events": [], "latest_events": [event] })),
        ),
    ];
    for (method, path, body) in requests {
        let (status, answer) = peer.ask(&scene.victim.name, method, &path, body).await;
        assert_eq!(status, 403, "{method} {path}: {answer}");
        assert_eq!(answer["errcode"], "M_FORBIDDEN", "{method} {path}");
    }
}

#[test]
fn a_denied_server_is_kept_out_of_every_endpoint() {
    play(|scene| async move {
        set_acl(&scene, "mallory.sim").await;
        is_kept_out(&scene, &scene.peer).await;
    });
}

#[test]
fn events_of_a_denied_server_are_refused_one_by_one() {
    play(|scene| async move {
        set_acl(&scene, "mallory.sim").await;
        let event = scene.peer.sign(&scene.version, scene.message());
        assert!(scene.error_of(event.clone()).await.is_some());
        assert!(!scene.holds(&event).await);
    });
}

#[test]
fn the_case_of_the_pattern_does_not_matter() {
    play(|scene| async move {
        set_acl(&scene, "MALLORY.*").await;
        is_kept_out(&scene, &scene.peer).await;
    });
}

#[test]
fn neither_case_nor_port_of_the_name_matter() {
    play(|scene| async move {
        set_acl(&scene, "mallory.sim").await;
        for (name, number) in [("mallory.sim:8449", 67), ("MALLORY.sim", 68)] {
            let peer = Peer::new(name, number, &scene.network);
            is_kept_out(&scene, &peer).await;
        }
    });
}

#[test]
fn typing_and_receipts_of_a_denied_server_are_dropped() {
    play(|scene| async move {
        set_acl(&scene, "mallory.sim").await;
        let user = scene.peer.user("mallory");
        let event = event_id(&scene.version, &scene.join);
        let read = json!({ "data": { "ts": 1 }, "event_ids": [event] });
        let receipt = json!({ scene.room_id.as_str(): { "m.read": { user.as_str(): read } } });
        let typing = json!({ "room_id": scene.room_id, "user_id": user, "typing": true });
        let edus = vec![
            json!({ "edu_type": "m.typing", "content": typing }),
            json!({ "edu_type": "m.receipt", "content": receipt }),
        ];
        let (status, _) =
            scene.peer.transaction(&scene.victim.name, "edus", Vec::new(), edus).await;
        assert_eq!(status, 200);
        let users = scene.victim.users().unwrap();
        assert!(users.typing(&scene.room_id).user_ids.is_empty());
        assert!(super::edus::receipts(&scene).await.is_empty());
    });
}
