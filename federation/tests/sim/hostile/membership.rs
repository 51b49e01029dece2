//! Memberships: templates that a resident server crafts, and events that come by `send_join`,
//! `send_leave`, `send_knock` and `invite`.

use hearth_rooms::{MemberProfile, RemoteMembership, RoomError};
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};

use super::{Scene, new_room, peer::event_id, play};

const ELSEWHERE: &str = "!elsewhere:mallory.sim";

fn wish(scene: &Scene) -> RemoteMembership {
    RemoteMembership {
        room_id: RoomId::parse(ELSEWHERE).unwrap(),
        user_id: scene.victim.user(0),
        profile: MemberProfile::default(),
        reason: None,
        via: vec![scene.peer.name.clone()],
    }
}

async fn join(scene: &Scene) -> Result<OwnedEventId, RoomError> {
    let remote = scene.victim.rooms().unwrap().remote().unwrap().clone();
    remote.join(wish(scene)).await
}

/// A template as it ought to be, for a user of the victim's.
fn template(scene: &Scene, membership: &str) -> Value {
    let user = scene.victim.user(0);
    json!({
        "type": "m.room.member",
        "room_id": ELSEWHERE,
        "sender": user,
        "state_key": user,
        "content": { "membership": membership },
        "auth_events": [],
        "prev_events": [format!("${:0>43}", 1)],
        "depth": 5,
        "origin_server_ts": 1,
    })
}

/// Each of these templates is refused, and nothing is signed.
async fn refused(scene: &Scene, kind: &str, change: impl Fn(&mut Value)) {
    let mut event = template(scene, kind);
    change(&mut event);
    let answer = json!({ "room_version": "10", "event": event });
    scene.peer.answers(&format!("/_matrix/federation/v1/make_{kind}/"), 200, answer);
    let remote = scene.victim.rooms().unwrap().remote().unwrap().clone();
    let result = match kind {
        "join" => remote.join(wish(scene)).await,
        "knock" => remote.knock(wish(scene)).await,
        _ => remote.leave(wish(scene)).await,
    };
    if kind != "leave" {
        assert!(result.is_err());
    }
    let signed = [
        scene.peer.heard(&format!("/_matrix/federation/v2/send_{kind}")),
        scene.peer.heard(&format!("/_matrix/federation/v1/send_{kind}")),
    ];
    assert!(signed.iter().all(Vec::is_empty), "{signed:?}");
}

/// The ways in which a template can ask for another event than the one that was wanted.
fn crafted_templates(kind: &'static str) {
    play(move |scene| async move {
        let third = "@someone:third.sim";
        refused(&scene, kind, |event| event["type"] = json!("m.room.power_levels")).await;
        refused(&scene, kind, |event| event["room_id"] = json!("!other:mallory.sim")).await;
        refused(&scene, kind, |event| event["sender"] = json!(third)).await;
        refused(&scene, kind, |event| event["state_key"] = json!(third)).await;
        refused(&scene, kind, |event| event["content"]["membership"] = json!("ban")).await;
        refused(&scene, kind, |event| event["content"] = json!("text")).await;
        refused(&scene, kind, |event| event["depth"] = json!("deep")).await;
        scene.must_go_on().await;
    });
}

#[test]
fn crafted_join_templates_are_refused() {
    crafted_templates("join");
}

#[test]
fn crafted_knock_templates_are_refused() {
    crafted_templates("knock");
}

#[test]
fn crafted_leave_templates_are_refused() {
    crafted_templates("leave");
}

#[test]
fn a_template_of_an_unknown_room_version_is_refused() {
    play(|scene| async move {
        let answer = json!({ "room_version": "org.example.99", "event": template(&scene, "join") });
        scene.peer.answers("/_matrix/federation/v1/make_join/", 200, answer);
        assert!(join(&scene).await.is_err());
        assert!(scene.peer.heard("/_matrix/federation/v2/send_join").is_empty());
        scene.must_go_on().await;
    });
}

/// What is signed is built here: of the template's content only the membership's own fields count.
#[test]
fn what_a_template_smuggles_in_is_not_signed() {
    play(|scene| async move {
        let mut event = template(&scene, "join");
        event["content"]["org.example.smuggled"] = json!(true);
        event["content"]["displayname"] = json!("not mine");
        event["org.example.top"] = json!(true);
        event["redacts"] = json!("$something");
        event["unsigned"] = json!({ "age": 1 });
        let answer = json!({ "room_version": "10", "event": event });
        scene.peer.answers("/_matrix/federation/v1/make_join/", 200, answer);
        assert!(join(&scene).await.is_err());
        let sent = scene.peer.heard("/_matrix/federation/v2/send_join");
        for event in sent {
            assert_eq!(event["content"]["membership"], "join");
            assert!(event["content"].get("org.example.smuggled").is_none());
            assert_ne!(event["content"]["displayname"], "not mine");
            for field in ["org.example.top", "redacts", "unsigned"] {
                assert!(event.get(field).is_none(), "{field}");
            }
            assert_ne!(event["origin_server_ts"], 1);
        }
    });
}

/// A state that does not hold together makes no room.
#[test]
fn a_join_into_an_invented_room_is_refused() {
    play(|scene| async move {
        let answer = json!({ "room_version": "10", "event": template(&scene, "join") });
        scene.peer.answers("/_matrix/federation/v1/make_join/", 200, answer);
        let message = scene.peer.sign(&scene.version, scene.message());
        for state in [json!([]), json!([message]), json!([{}]), json!([scene.join])] {
            let answer = json!({
                "origin": "mallory.sim", "state": state, "auth_chain": [],
                "event": null, "members_omitted": false,
            });
            scene.peer.answers("/_matrix/federation/v2/send_join/", 200, answer);
            assert!(join(&scene).await.is_err());
            let rooms = scene.victim.rooms().unwrap();
            let room_id = RoomId::parse(ELSEWHERE).unwrap();
            assert!(rooms.head(&room_id).await.unwrap().is_none());
        }
        scene.must_go_on().await;
    });
}

/// Sends an event by one of the membership endpoints; must be refused with an error of the caller's.
async fn refused_at(scene: &Scene, endpoint: &str, event: Value) {
    let id = event_id(&scene.version, &event);
    let path = format!("/_matrix/federation/{endpoint}/{}/{id}", scene.room_id);
    let (status, answer) =
        scene.peer.ask(&scene.victim.name, "PUT", &path, Some(event.clone())).await;
    assert!(status.is_client_error(), "{endpoint}: {status} {answer}");
    assert!(!scene.holds(&event).await);
}

/// An unsigned membership event of a user of the peer.
async fn member(scene: &Scene, localpart: &str, membership: &str) -> Value {
    let user = scene.peer.user(localpart);
    let template =
        scene.peer.join_template(&scene.victim.name, &scene.room_id, &user, &scene.version).await;
    let mut event = template;
    event["content"] = json!({ "membership": membership });
    event
}

#[test]
fn send_join_takes_only_joins_of_the_peers_own_users() {
    play(|scene| async move {
        let honest = member(&scene, "eve", "join").await;
        let sign = |event: Value| scene.peer.sign(&scene.version, event);
        let mut wrong = Vec::new();
        let mut of_third = honest.clone();
        of_third["sender"] = json!("@someone:third.sim");
        of_third["state_key"] = json!("@someone:third.sim");
        wrong.push(sign(of_third));
        let mut of_another = honest.clone();
        of_another["state_key"] = json!(scene.peer.user("other"));
        wrong.push(sign(of_another));
        let mut leave = honest.clone();
        leave["content"]["membership"] = json!("leave");
        wrong.push(sign(leave));
        let mut message = honest.clone();
        message["type"] = json!("m.room.message");
        wrong.push(sign(message));
        let mut unsigned = sign(honest.clone());
        unsigned["signatures"] = json!({});
        wrong.push(unsigned);
        let mut altered = sign(honest.clone());
        altered["depth"] = json!(99);
        wrong.push(altered);
        let mut large = honest.clone();
        large["content"]["reason"] = json!("x".repeat(70_000));
        wrong.push(sign(large));
        for event in wrong {
            refused_at(&scene, "v2/send_join", event).await;
        }
        scene.must_go_on().await;
    });
}

#[test]
fn send_join_for_another_room_than_the_paths_is_refused() {
    play(|scene| async move {
        let other = new_room(&scene.victim, &scene.version).await;
        let mut event = member(&scene, "eve", "join").await;
        event["room_id"] = json!(other);
        refused_at(&scene, "v2/send_join", scene.peer.sign(&scene.version, event)).await;
        scene.must_go_on().await;
    });
}

#[test]
fn send_leave_takes_only_leaves_of_the_peers_own_users() {
    play(|scene| async move {
        let sign = |event: Value| scene.peer.sign(&scene.version, event);
        let join = member(&scene, "eve", "join").await;
        refused_at(&scene, "v2/send_leave", sign(join)).await;
        let mut kick = member(&scene, "eve", "leave").await;
        kick["sender"] = json!(scene.peer.user("mallory"));
        kick["state_key"] = json!(scene.victim.user(0));
        refused_at(&scene, "v2/send_leave", sign(kick)).await;
        let mut forged = member(&scene, "eve", "leave").await;
        forged["sender"] = json!(scene.victim.user(0));
        forged["state_key"] = json!(scene.victim.user(0));
        refused_at(&scene, "v2/send_leave", sign(forged)).await;
        scene.must_go_on().await;
    });
}

#[test]
fn send_knock_takes_only_knocks_that_the_room_allows() {
    play(|scene| async move {
        let sign = |event: Value| scene.peer.sign(&scene.version, event);
        // The room is public: nobody knocks there.
        let knock = member(&scene, "eve", "knock").await;
        refused_at(&scene, "v1/send_knock", sign(knock)).await;
        let join = member(&scene, "eve", "join").await;
        refused_at(&scene, "v1/send_knock", sign(join)).await;
        scene.must_go_on().await;
    });
}

/// An invitation that is none, is for nobody here, or in somebody else's name.
#[test]
fn false_invitations_are_refused() {
    play(|scene| async move {
        let invite = json!({
            "type": "m.room.member",
            "room_id": "!invented:mallory.sim",
            "sender": scene.peer.user("mallory"),
            "state_key": scene.victim.user(0),
            "content": { "membership": "invite" },
            "auth_events": [format!("${:0>43}", 1)],
            "prev_events": [format!("${:0>43}", 2)],
            "depth": 9,
        });
        let version = ruma::RoomVersionId::V10;
        let mut wrong = Vec::new();
        let mut change = |field: &str, value: Value| {
            let mut event = invite.clone();
            event[field] = value;
            wrong.push(scene.peer.sign(&version, event));
        };
        change("state_key", json!("@someone:third.sim"));
        change("sender", json!("@someone:third.sim"));
        change("sender", json!(scene.victim.user(1)));
        change("content", json!({ "membership": "join" }));
        change("type", json!("m.room.name"));
        change("room_id", json!("!other:mallory.sim"));
        let mut unsigned = scene.peer.sign(&version, invite.clone());
        unsigned["signatures"] = json!({});
        wrong.push(unsigned);
        for event in wrong {
            let id = event_id(&version, &event);
            let path = format!("/_matrix/federation/v2/invite/!invented:mallory.sim/{id}");
            let body = json!({ "room_version": "10", "event": event, "invite_room_state": [] });
            let (status, answer) =
                scene.peer.ask(&scene.victim.name, "PUT", &path, Some(body)).await;
            assert!(status.is_client_error(), "{status} {answer} for {event}");
        }
        let rooms = scene.victim.rooms().unwrap().user_rooms(&scene.victim.user(0)).await.unwrap();
        assert_eq!(rooms.len(), 1, "only the room of the scene");
        scene.must_go_on().await;
    });
}
