//! Templates of memberships that a resident server crafts (`make_join`, `make_leave`, `make_knock`).

use hearth_rooms::{MemberProfile, RemoteMembership, RoomError};
use ruma::{OwnedEventId, RoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{Scene, peer::event_id, play};

const ELSEWHERE: &str = "!elsewhere:mallory.sim";
/// The version of that room.
const VERSION: RoomVersionId = RoomVersionId::V10;

/// A membership that is made from another server's template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Join,
    Knock,
    Leave,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Join, Self::Knock, Self::Leave];

    const fn membership(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Knock => "knock",
            Self::Leave => "leave",
        }
    }

    const fn make(self) -> &'static str {
        match self {
            Self::Join => "/_matrix/federation/v1/make_join/",
            Self::Knock => "/_matrix/federation/v1/make_knock/",
            Self::Leave => "/_matrix/federation/v1/make_leave/",
        }
    }

    const fn send(self) -> &'static str {
        match self {
            Self::Join => "/_matrix/federation/v2/send_join/",
            Self::Knock => "/_matrix/federation/v1/send_knock/",
            Self::Leave => "/_matrix/federation/v2/send_leave/",
        }
    }
}

/// A template as it ought to be, for a user of the victim's.
fn template(scene: &Scene, kind: Kind) -> Value {
    let user = scene.victim.user(0);
    json!({
        "type": "m.room.member",
        "room_id": ELSEWHERE,
        "sender": user,
        "state_key": user,
        "content": { "membership": kind.membership() },
        "auth_events": [format!("${:0>43}", 3)],
        "prev_events": [format!("${:0>43}", 1)],
        "depth": 5,
        "origin_server_ts": 1,
    })
}

/// The peer invites the user whose leave is to be tried.
async fn invite(scene: &Scene) {
    let event = scene.peer.sign(
        &VERSION,
        json!({
            "type": "m.room.member",
            "room_id": ELSEWHERE,
            "sender": scene.peer.user("mallory"),
            "state_key": scene.victim.user(0),
            "content": { "membership": "invite" },
            "auth_events": [format!("${:0>43}", 1)],
            "prev_events": [format!("${:0>43}", 2)],
            "depth": 4,
        }),
    );
    let id = event_id(&VERSION, &event);
    let path = format!("/_matrix/federation/v2/invite/{ELSEWHERE}/{id}");
    let body = json!({ "room_version": VERSION, "event": event, "invite_room_state": [] });
    let (status, answer) = scene.peer.ask(&scene.victim.name, "PUT", &path, Some(body)).await;
    assert_eq!(status, 200, "{answer}");
}

/// The server's user does it by way of the peer, which gives a template that is changed so. The template
/// is asked for.
async fn attempt(
    scene: &Scene,
    kind: Kind,
    change: impl Fn(&mut Value),
) -> Result<OwnedEventId, RoomError> {
    let mut event = template(scene, kind);
    change(&mut event);
    attempt_with(scene, kind, json!({ "room_version": VERSION, "event": event })).await
}

/// The same with this answer.
async fn attempt_with(scene: &Scene, kind: Kind, answer: Value) -> Result<OwnedEventId, RoomError> {
    if kind == Kind::Leave {
        invite(scene).await;
    }
    scene.peer.answers(kind.make(), 200, answer);
    let asked = scene.peer.heard(kind.make()).len();
    let remote = scene.victim.rooms().unwrap().remote().unwrap();
    let wish = RemoteMembership {
        room_id: RoomId::parse(ELSEWHERE).unwrap(),
        user_id: scene.victim.user(0),
        profile: MemberProfile::default(),
        reason: None,
        via: vec![scene.peer.name.clone()],
    };
    let done = match kind {
        Kind::Join => remote.join(wish).await,
        Kind::Knock => remote.knock(wish).await,
        Kind::Leave => remote.leave(wish).await,
    };
    assert_eq!(scene.peer.heard(kind.make()).len(), asked + 1, "{kind:?}");
    done
}

/// Such a template is refused, and nothing is signed that could be sent. An invitation ends all the
/// same.
async fn refused(scene: &Scene, kind: Kind, change: impl Fn(&mut Value)) {
    let done = attempt(scene, kind, change).await;
    assert_eq!(done.is_ok(), kind == Kind::Leave, "{kind:?}: {done:?}");
    let sent = scene.peer.heard(kind.send());
    assert!(sent.is_empty(), "{sent:?}");
}

/// The ways in which a template can ask for another event than the one that was wanted.
fn crafted_templates(kind: Kind) {
    play(move |scene| async move {
        let third = "@someone:third.sim";
        let ids =
            |count: usize| json!((0..count).map(|n| format!("${n:0>43}")).collect::<Vec<_>>());
        refused(&scene, kind, |event| event["type"] = json!("m.room.power_levels")).await;
        refused(&scene, kind, |event| event["room_id"] = json!("!other:mallory.sim")).await;
        refused(&scene, kind, |event| event["sender"] = json!(third)).await;
        refused(&scene, kind, |event| event["state_key"] = json!(third)).await;
        refused(&scene, kind, |event| event["content"]["membership"] = json!("ban")).await;
        refused(&scene, kind, |event| event["content"] = json!("text")).await;
        refused(&scene, kind, |event| event["depth"] = json!("deep")).await;
        refused(&scene, kind, |event| event["depth"] = json!(9_007_199_254_740_992_u64)).await;
        refused(&scene, kind, |event| event["prev_events"] = json!([])).await;
        refused(&scene, kind, |event| event["prev_events"] = ids(21)).await;
        refused(&scene, kind, |event| event["auth_events"] = ids(11)).await;
        // As it ought to be, it is signed and sent; so it is at the limits.
        drop(attempt(&scene, kind, |_| ()).await);
        assert_eq!(scene.peer.heard(kind.send()).len(), 1);
        let at_limits = |event: &mut Value| {
            event["depth"] = json!(9_007_199_254_740_991_u64);
            event["prev_events"] = ids(20);
            event["auth_events"] = ids(10);
        };
        drop(attempt(&scene, kind, at_limits).await);
        assert_eq!(scene.peer.heard(kind.send()).len(), 2);
        scene.must_go_on().await;
    });
}

#[test]
fn crafted_join_templates_are_refused() {
    crafted_templates(Kind::Join);
}

#[test]
fn crafted_knock_templates_are_refused() {
    crafted_templates(Kind::Knock);
}

#[test]
fn crafted_leave_templates_of_a_known_invitation_are_refused() {
    crafted_templates(Kind::Leave);
}

#[test]
fn a_template_of_an_unknown_room_version_is_refused() {
    play(|scene| async move {
        for kind in Kind::ALL {
            let event = template(&scene, kind);
            let answer = json!({ "room_version": "org.example.99", "event": event });
            let done = attempt_with(&scene, kind, answer).await;
            assert_eq!(done.is_ok(), kind == Kind::Leave, "{kind:?}: {done:?}");
            assert!(scene.peer.heard(kind.send()).is_empty());
        }
        scene.must_go_on().await;
    });
}

/// What is signed is built here: of the template's content only the membership's own fields count.
#[test]
fn what_a_template_smuggles_in_is_not_signed() {
    play(|scene| async move {
        for kind in Kind::ALL {
            let smuggle = |event: &mut Value| {
                event["content"]["org.example.smuggled"] = json!(true);
                event["content"]["displayname"] = json!("not mine");
                event["org.example.top"] = json!(true);
                event["redacts"] = json!("$something");
                event["unsigned"] = json!({ "age": 1 });
            };
            drop(attempt(&scene, kind, smuggle).await);
            let sent = scene.peer.heard(kind.send());
            assert_eq!(sent.len(), 1, "{kind:?}");
            for event in sent {
                assert_eq!(event["content"]["membership"], kind.membership());
                assert!(event["content"].get("org.example.smuggled").is_none());
                assert_ne!(event["content"]["displayname"], "not mine");
                for field in ["org.example.top", "redacts", "unsigned"] {
                    assert!(event.get(field).is_none(), "{field}");
                }
                assert_ne!(event["origin_server_ts"], 1);
            }
        }
        scene.must_go_on().await;
    });
}
