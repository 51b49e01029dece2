//! Joins of restricted rooms: what a server vouches for with its signature, and what not.

use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    Scene,
    forgeries::{altered_content, forgeries},
    new_room,
    peer::event_id,
    play_in, set_state,
};

/// Versions with restricted rooms.
const RESTRICTED: [RoomVersionId; 2] = [RoomVersionId::V10, RoomVersionId::V12];

/// A room that the members of the scene's room may join.
async fn restricted_room(scene: &Scene) -> OwnedRoomId {
    let room_id = new_room(&scene.victim, &scene.version).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": scene.room_id }]);
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    set_state(&scene.victim, &room_id, "m.room.join_rules", &rules).await;
    room_id
}

async fn template(scene: &Scene, room_id: &OwnedRoomId, localpart: &str) -> Value {
    let user = scene.peer.user(localpart);
    scene.peer.join_template(&scene.victim.name, room_id, &user, &scene.version).await
}

async fn send_join(scene: &Scene, room_id: &OwnedRoomId, event: &Value) -> (u16, Value) {
    let id = event_id(&scene.version, event);
    let path = format!("/_matrix/federation/v2/send_join/{room_id}/{id}");
    let (status, answer) =
        scene.peer.ask(&scene.victim.name, "PUT", &path, Some(event.clone())).await;
    (status.as_u16(), answer)
}

/// Events that would have the server's signature, if it were given for the asking.
fn other_events(scene: &Scene, join: &Value) -> Vec<(&'static str, Value)> {
    let mut wrong = Vec::new();
    let mut change = |what: &'static str, change: &dyn Fn(&mut Value)| {
        let mut event = join.clone();
        change(&mut event);
        wrong.push((what, scene.peer.sign(&scene.version, event)));
    };
    change("another type", &|event| event["type"] = json!("m.room.power_levels"));
    change("a message", &|event| event["type"] = json!("m.room.message"));
    change("another's join", &|event| event["state_key"] = json!(scene.peer.user("other")));
    let victim = scene.victim.user(1);
    change("a user of the server's", &|event| {
        event["sender"] = json!(victim);
        event["state_key"] = json!(victim);
    });
    change("sent by the voucher", &|event| {
        event["sender"] = event["content"]["join_authorised_via_users_server"].clone();
    });
    for membership in ["leave", "invite", "knock", "ban"] {
        change(membership, &|event| event["content"]["membership"] = json!(membership));
    }
    change("of another room", &|event| event["room_id"] = json!(scene.room_id));
    change("a field that joins do not have", &|event| event["org.example.more"] = json!(true));
    change("a redaction in it", &|event| event["redacts"] = json!(format!("${:0>43}", 1)));
    change("auth events that are none", &|event| event["auth_events"] = json!([{ "a": 1 }]));
    wrong
}

#[test]
fn nothing_but_the_restricted_join_is_countersigned() {
    play_in(&RESTRICTED, |scene| async move {
        let room_id = restricted_room(&scene).await;
        let join = template(&scene, &room_id, "mallory").await;
        assert!(join["content"]["join_authorised_via_users_server"].is_string(), "{join}");
        let mut wrong = forgeries(&scene, |_| join.clone()).to_vec();
        wrong.extend(other_events(&scene, &join));
        wrong.push(("altered content", altered_content(&scene, join.clone())));
        for (what, event) in wrong {
            let (status, answer) = send_join(&scene, &room_id, &event).await;
            assert!((400..500).contains(&status), "{what}: {status} {answer}");
            assert!(!answer.to_string().contains("ed25519:"), "{what}: {answer}");
            assert!(!scene.holds_in(&room_id, &event).await, "{what}");
        }
        let event = scene.peer.sign(&scene.version, join);
        let (status, answer) = send_join(&scene, &room_id, &event).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["event"]["signatures"]["s0.sim"]["ed25519:sim"].is_string());
        assert!(scene.holds_in(&room_id, &event).await);
        scene.must_go_on().await;
    });
}

/// Who may join is asked again when the join comes.
#[test]
fn nobody_is_vouched_for_who_does_not_meet_the_conditions() {
    play_in(&RESTRICTED, |scene| async move {
        let room_id = restricted_room(&scene).await;
        let mut join = template(&scene, &room_id, "mallory").await;
        let stranger = scene.peer.user("stranger");
        join["sender"] = json!(stranger);
        join["state_key"] = json!(stranger);
        let event = scene.peer.sign(&scene.version, join);
        let (status, answer) = send_join(&scene, &room_id, &event).await;
        assert_eq!(status, 403, "{answer}");
        assert!(!answer.to_string().contains("ed25519:"), "{answer}");
        assert!(!scene.holds_in(&room_id, &event).await);
        scene.must_go_on().await;
    });
}
