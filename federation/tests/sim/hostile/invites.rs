//! Invitations of the server's users by the peer: what the server puts its name to.

use hearth_rooms::{CreateRoomOptions, schema::Membership};
use ruma::{CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    Scene,
    elsewhere::Elsewhere,
    event_after,
    forgeries::{altered_content, forgeries},
    new_room_with,
    peer::event_id,
    play,
};

/// An answer holds no signature of the server's.
fn must_be_unsigned(scene: &Scene, what: &str, (status, answer): &(u16, Value)) {
    assert!((400..500).contains(status), "{}: {what}: {status} {answer}", scene.version);
    assert!(answer.get("event").is_none(), "{what}: {answer}");
    assert!(!answer.to_string().contains("ed25519:"), "{what}: {answer}");
}

fn must_be_signed(scene: &Scene, event: &Value) {
    for name in [&scene.peer.name, &scene.victim.name] {
        let signature = &event["signatures"][name.as_str()]["ed25519:sim"];
        assert!(signature.is_string(), "{name}: {event}");
    }
}

async fn membership(scene: &Scene, user: &OwnedUserId, room: &OwnedRoomId) -> Option<Membership> {
    let row = scene.victim.rooms().unwrap().user_room(user, room).await.unwrap();
    row.map(|row| row.details.membership)
}

/// Invitations of the right form that are not the one that the endpoint takes.
fn other_events(scene: &Scene, invitation: &Value) -> Vec<(&'static str, Value)> {
    let mut wrong = Vec::new();
    let mut change = |what: &'static str, field: &str, value: Value| {
        let mut event = invitation.clone();
        event[field] = value;
        wrong.push((what, scene.peer.sign(&scene.version, event)));
    };
    change("for a third server's user", "state_key", json!("@someone:third.sim"));
    change("for nobody", "state_key", json!("@nobody:s0.sim"));
    change("for no user", "state_key", json!("nobody"));
    change("by a third server's user", "sender", json!("@someone:third.sim"));
    change("by a user of the server", "sender", json!(scene.victim.user(1)));
    for membership in ["join", "knock", "leave", "ban"] {
        change(membership, "content", json!({ "membership": membership }));
    }
    change("of another type", "type", json!("m.room.name"));
    change("of another room", "room_id", json!("!other:mallory.sim"));
    change("with a field that invitations do not have", "org.example.more", json!(true));
    change("with a redaction in it", "redacts", json!(format!("${:0>43}", 1)));
    change("with auth events that are none", "auth_events", json!([1, 2]));
    wrong
}

#[test]
fn invite_v2_takes_no_forged_events() {
    play(|scene| async move {
        let room = Elsewhere::new(&scene, "inviting", "public");
        let user = scene.victim.user(0);
        let invitation = room.invitation(&user);
        let altered = altered_content(&scene, invitation.clone());
        let mut wrong = forgeries(&scene, |_| invitation.clone()).to_vec();
        wrong.extend(other_events(&scene, &invitation));
        wrong.push(("with an altered content", altered));
        for (what, event) in wrong {
            must_be_unsigned(&scene, what, &room.invite(&event).await);
            assert_eq!(membership(&scene, &user, &room.room_id).await, None, "{what}");
        }
        let (status, answer) = room.invite(&room.sign(invitation)).await;
        assert_eq!(status, 200, "{answer}");
        must_be_signed(&scene, &answer["event"]);
        let invited = membership(&scene, &user, &room.room_id).await;
        assert_eq!(invited, Some(Membership::Invite));
        scene.must_go_on().await;
    });
}

/// What the invitation shows of the room is proven too, where it is more than hearsay.
#[test]
fn invitations_that_show_forged_events_are_refused() {
    play(|scene| async move {
        let user = scene.victim.user(0);
        for place in 0..4 {
            let mut room = Elsewhere::new(&scene, &format!("shown{place}"), "public");
            let honest = room.state.clone();
            room.state[place]["signatures"] = json!({});
            let forged = room.state[place]["type"].clone();
            let invitation = room.sign(room.invitation(&user));
            let answer = room.invite(&invitation).await;
            if scene.version == RoomVersionId::V12 {
                must_be_unsigned(&scene, "unsigned state", &answer);
                assert_eq!(membership(&scene, &user, &room.room_id).await, None);
            } else {
                // What cannot be proven is not shown; the rest of the invitation may be honest.
                assert_eq!(answer.0, 200, "{}", answer.1);
                let rooms = scene.victim.rooms().unwrap();
                let row = rooms.out_of_band(&room.room_id, &user).await.unwrap().unwrap();
                let shown = row.stripped_state.iter();
                let shown: Vec<Value> =
                    shown.map(|event| serde_json::from_str(event.get()).unwrap()).collect();
                let is_forged = |event: &Value| {
                    event["type"] == forged && event["state_key"] != json!(user.as_str())
                };
                assert!(!shown.iter().any(is_forged), "{forged}: {shown:?}");
            }
            room.state = honest;
            assert_eq!(room.invite(&invitation).await.0, 200);
        }
        scene.must_go_on().await;
    });
}

/// Version 1 of the endpoint is for rooms that are here.
#[test]
fn invite_v1_takes_no_forged_events() {
    play(|scene| async move {
        let user = scene.victim.user(1);
        let (room_id, invitation, shown) = room_to_invite_to(&scene, &user).await;
        let send = async |event: &Value| {
            let id = event_id(&scene.version, event);
            let path = format!("/_matrix/federation/v1/invite/{room_id}/{id}");
            let mut body = event.clone();
            body["unsigned"] = json!({ "invite_room_state": shown });
            let (status, answer) =
                scene.peer.ask(&scene.victim.name, "PUT", &path, Some(body)).await;
            (status.as_u16(), answer)
        };
        let altered = altered_content(&scene, invitation.clone());
        let mut wrong = forgeries(&scene, |_| invitation.clone()).to_vec();
        wrong.extend(other_events(&scene, &invitation));
        wrong.push(("with an altered content", altered));
        for (what, event) in wrong {
            must_be_unsigned(&scene, what, &send(&event).await);
            assert_eq!(membership(&scene, &user, &room_id).await, None, "{what}");
        }
        let honest = scene.peer.sign(&scene.version, invitation);
        let (status, answer) = send(&honest).await;
        assert_eq!(status, 200, "{answer}");
        must_be_signed(&scene, &answer[1]["event"]);
        // It becomes part of the room when it comes with the room's other events.
        assert!(!scene.holds_in(&room_id, &honest).await);
        assert_eq!(scene.error_of(answer[1]["event"].clone()).await, None);
        assert!(scene.holds_in(&room_id, &honest).await);
        let invited = membership(&scene, &user, &room_id).await;
        assert_eq!(invited, Some(Membership::Invite));
        scene.must_go_on().await;
    });
}

/// A room of the server's where the peer's user may invite: its ID, an unsigned invitation, and what an
/// invitation has to show of the room.
async fn room_to_invite_to(scene: &Scene, user: &OwnedUserId) -> (OwnedRoomId, Value, Value) {
    let Scene { victim, peer, version, .. } = scene;
    let levels = [("invite".to_owned(), CanonicalJsonValue::Integer(0.into()))].into();
    let options =
        CreateRoomOptions { power_level_content_override: levels, ..CreateRoomOptions::default() };
    let room_id = new_room_with(victim, version, options).await;
    let (join, joined) = peer.join(&victim.name, &room_id, &peer.user("mallory"), version).await;
    let content = json!({ "membership": "invite" });
    let mut invitation = event_after(version, &join, &joined, "m.room.member", content);
    invitation["state_key"] = json!(user);
    // The endpoint's form wants it.
    invitation["origin"] = json!(peer.name);
    let state = joined["state"].as_array().unwrap();
    let of_type = |kind: &str| state.iter().find(|event| event["type"] == kind).unwrap();
    let rules = json!(event_id(version, of_type("m.room.join_rules")));
    invitation["auth_events"].as_array_mut().unwrap().push(rules);
    (room_id, invitation, json!([of_type("m.room.create")]))
}
