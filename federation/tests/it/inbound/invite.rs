//! Invitations of the server's users.

use hearth_testkit::encode;
use http::StatusCode;
use ruma::{RoomVersionId, UserId};
use serde_json::{Value, json};

use super::{Room, Scene, assert_error};

/// A room of the peer's, as far as an invitation needs one.
struct Theirs {
    room: Room,
    create: Value,
}

impl Theirs {
    fn new(scene: &Scene, version: RoomVersionId) -> Self {
        let creator = scene.peer.user("bob");
        let mut create = json!({
            "type": "m.room.create", "sender": creator, "state_key": "", "depth": 1,
            "content": { "room_version": version, "creator": creator },
            "auth_events": [], "prev_events": [],
        });
        let id = if version == RoomVersionId::V12 {
            create["content"].as_object_mut().unwrap().remove("creator");
            create = scene.peer.sign(&version, create);
            let id = hearth_testkit::peer::event_id(&version, &create);
            id.as_str().replacen('$', "!", 1)
        } else {
            create["room_id"] = json!("!theirs:peer.test");
            create = scene.peer.sign(&version, create);
            "!theirs:peer.test".to_owned()
        };
        Self { room: Room { id: id.try_into().unwrap(), version }, create }
    }

    fn invite(&self, scene: &Scene, sender: &UserId, invitee: &UserId) -> Value {
        let create = self.room.event_id(&self.create);
        let auth =
            if self.room.version == RoomVersionId::V12 { json!([]) } else { json!([create]) };
        scene.peer.sign(
            &self.room.version,
            json!({
                "type": "m.room.member", "sender": sender, "state_key": invitee,
                "content": { "membership": "invite" }, "room_id": self.room.id, "depth": 5,
                "auth_events": auth, "prev_events": [create],
            }),
        )
    }

    fn body(&self, event: &Value) -> Value {
        let name = json!({
            "type": "m.room.name", "state_key": "", "sender": self.create["sender"],
            "content": { "name": "theirs" },
        });
        let state = match self.room.version {
            RoomVersionId::V12 => json!([self.create]),
            _ => json!([name]),
        };
        json!({ "room_version": self.room.version, "event": event, "invite_room_state": state })
    }

    async fn put(&self, scene: &Scene, event: &Value, body: Value) -> (StatusCode, Value) {
        let path = self.room.event_path("v2/invite", event);
        scene.peer.put(scene.name(), &path, body).await
    }
}

#[tokio::test]
async fn an_invitation_is_countersigned_and_shown_to_its_user() {
    let scene = Scene::start().await;
    let bob = scene.peer.user("bob");
    for version in super::VERSIONS {
        let theirs = Theirs::new(&scene, version.clone());
        let invitee = scene.server.register(&format!("invitee{version}")).await;
        let event = theirs.invite(&scene, &bob, &invitee.user_id);
        let (status, answer) = theirs.put(&scene, &event, theirs.body(&event)).await;
        assert_eq!(status, StatusCode::OK, "version {version}: {answer}");
        let signed = &answer["event"];
        assert_eq!(theirs.room.event_id(signed), theirs.room.event_id(&event));
        assert!(signed["signatures"]["hs.test"].is_object());
        assert_eq!(signed["signatures"]["peer.test"], event["signatures"]["peer.test"]);

        let sync = invitee.sync(None, "").await;
        let shown = &sync["rooms"]["invite"][theirs.room.id.as_str()]["invite_state"]["events"];
        let shown = shown.as_array().unwrap_or_else(|| panic!("no invitation in {sync}"));
        for event in shown {
            assert!(event.get("signatures").is_none(), "stripped: {event}");
        }
        let membership = shown.iter().find(|event| event["type"] == "m.room.member").unwrap();
        assert_eq!(membership["sender"], bob.as_str());
        let kind = if version == RoomVersionId::V12 { "m.room.create" } else { "m.room.name" };
        assert!(shown.iter().any(|event| event["type"] == kind));
        // It may come twice.
        assert_eq!(theirs.put(&scene, &event, theirs.body(&event)).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn invitations_that_are_not_right_are_refused() {
    let scene = Scene::start().await;
    let theirs = Theirs::new(&scene, RoomVersionId::V10);
    let (bob, ann) = (scene.peer.user("bob"), &scene.ann.user_id);
    let right = theirs.invite(&scene, &bob, ann);

    let nobody = UserId::parse("@nobody:hs.test").unwrap();
    let of_nobody = theirs.invite(&scene, &bob, &nobody);
    let answer = theirs.put(&scene, &of_nobody, theirs.body(&of_nobody)).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let elsewhere = theirs.invite(&scene, &bob, &scene.peer.user("bea"));
    let answer = theirs.put(&scene, &elsewhere, theirs.body(&elsewhere)).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    let cat = UserId::parse("@cat:other.test").unwrap();
    let foreign = theirs.invite(&scene, &cat, ann);
    let answer = theirs.put(&scene, &foreign, theirs.body(&foreign)).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");

    let mut unsigned = right.clone();
    unsigned["signatures"] = json!({});
    let answer = theirs.put(&scene, &unsigned, theirs.body(&unsigned)).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let mut join = right.clone();
    join["content"]["membership"] = json!("join");
    let join = scene.peer.sign(&RoomVersionId::V10, join);
    let answer = theirs.put(&scene, &join, theirs.body(&join)).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    let mut unknown = theirs.body(&right);
    unknown["room_version"] = json!("org.example.9");
    let answer = theirs.put(&scene, &right, unknown).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION");
    let mut crowded = theirs.body(&right);
    crowded["invite_room_state"] = json!(vec![crowded["invite_room_state"][0].clone(); 51]);
    let (status, _) = theirs.put(&scene, &right, crowded).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let sync = scene.ann.sync(None, "").await;
    assert!(sync["rooms"]["invite"].as_object().is_none_or(serde_json::Map::is_empty), "{sync}");
}

#[tokio::test]
async fn before_version_12_a_shown_event_that_cannot_be_proven_is_left_out() {
    let scene = Scene::start().await;
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let theirs = Theirs::new(&scene, version.clone());
        let create = theirs.room.event_id(&theirs.create);
        let mut of_the_gone = json!({
            "type": "m.room.topic", "sender": "@cat:gone.test", "state_key": "", "depth": 4,
            "content": { "topic": "cats" }, "room_id": theirs.room.id,
            "auth_events": [create], "prev_events": [create],
        });
        of_the_gone = scene.peer.sign(&version, of_the_gone);
        let event = theirs.invite(&scene, &scene.peer.user("bob"), &scene.ann.user_id);
        let mut body = theirs.body(&event);
        body["invite_room_state"].as_array_mut().unwrap().push(of_the_gone);
        let (status, answer) = theirs.put(&scene, &event, body).await;
        if version == RoomVersionId::V12 {
            assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
            continue;
        }
        assert_eq!(status, StatusCode::OK, "{answer}");
        let sync = scene.ann.sync(None, "").await;
        let shown = &sync["rooms"]["invite"][theirs.room.id.as_str()]["invite_state"]["events"];
        let kinds: Vec<_> = shown.as_array().unwrap().iter().map(|event| &event["type"]).collect();
        assert_eq!(kinds, ["m.room.name", "m.room.member"]);
    }
}

#[tokio::test]
async fn from_version_12_on_the_create_event_must_come_along() {
    let scene = Scene::start().await;
    let theirs = Theirs::new(&scene, RoomVersionId::V12);
    let event = theirs.invite(&scene, &scene.peer.user("bob"), &scene.ann.user_id);
    let mut without = theirs.body(&event);
    without["invite_room_state"] = json!([]);
    let mut of_another = theirs.body(&event);
    let mut create = theirs.create.clone();
    create["content"]["m.federate"] = json!(true);
    let create = scene.peer.sign(&RoomVersionId::V12, create);
    of_another["invite_room_state"] = json!([create]);
    for body in [without, of_another] {
        let answer = theirs.put(&scene, &event, body).await;
        assert_error(&answer, StatusCode::BAD_REQUEST, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn who_does_not_want_invitations_gets_none() {
    let scene = Scene::start().await;
    let theirs = Theirs::new(&scene, RoomVersionId::V11);
    let event = theirs.invite(&scene, &scene.peer.user("bob"), &scene.ann.user_id);
    let user = encode(scene.ann.user_id.as_str());
    let path = format!("/_matrix/client/v3/user/{user}/account_data/m.invite_permission_config");
    scene.ann.put_ok(&path, json!({ "default_action": "block" })).await;
    let answer = theirs.put(&scene, &event, theirs.body(&event)).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_INVITE_BLOCKED");
}

/// A room in which everybody may invite.
async fn room_where_all_invite(scene: &Scene, version: RoomVersionId) -> Room {
    let levels = json!({ "invite": 0 });
    let body = json!({ "preset": "public_chat", "power_level_content_override": levels });
    scene.room(version, body).await
}

#[tokio::test]
async fn what_the_room_does_not_allow_is_not_countersigned() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V11;
    let room = scene.public_room(version.clone()).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let invitee = scene.server.register("invitee").await;
    let event = json!({
        "type": "m.room.member", "state_key": invitee.user_id,
        "content": { "membership": "invite" },
    });
    let event = scene.event(&room, &place, &[place.join_id(&room)], event);
    let body = json!({ "room_version": version, "event": event, "invite_room_state": [] });
    let path = room.event_path("v2/invite", &event);
    let answer = scene.peer.put(scene.name(), &path, body).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    assert!(!answer.1.to_string().contains("ed25519:"), "{}", answer.1);
}

#[tokio::test]
async fn an_invitation_into_a_room_that_is_here_comes_with_the_rooms_events() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V11;
    let room = room_where_all_invite(&scene, version.clone()).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let invitee = scene.server.register("invitee").await;
    let event = json!({
        "type": "m.room.member", "state_key": invitee.user_id,
        "content": { "membership": "invite" },
    });
    let event = scene.event(&room, &place, &[place.join_id(&room)], event);
    let body = json!({ "room_version": version, "event": event, "invite_room_state": [] });
    let path = room.event_path("v2/invite", &event);
    let (status, answer) = scene.peer.put(scene.name(), &path, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let signed = answer["event"].clone();
    assert!(signed["signatures"]["hs.test"].is_object());

    // Its maker may not have the answer: then there is no such event.
    let id = room.event_id(&event);
    assert!(scene.seen(&room, &id).await.is_none());
    let shown = async || invitee.sync(None, "").await["rooms"]["invite"][room.id.as_str()].clone();
    assert_eq!(shown().await, Value::Null);
    assert_eq!(scene.peer.send(scene.name(), vec![signed]).await, json!({ id.as_str(): {} }));
    assert!(shown().await.is_object());
}

#[tokio::test]
async fn the_first_form_of_invitations_needs_a_room_that_is_here() {
    let scene = Scene::start().await;
    let version = RoomVersionId::V10;
    let room = room_where_all_invite(&scene, version.clone()).await;
    let place = scene.join(&room, &scene.peer.user("bob")).await;
    let invitee = scene.server.register("invitee").await;
    // This form wants `origin`, which events have no more, in the event itself.
    let event = json!({
        "type": "m.room.member", "state_key": invitee.user_id, "origin": "peer.test",
        "content": { "membership": "invite" },
    });
    let event = scene.event(&room, &place, &[place.join_id(&room)], event);
    let (status, answer) =
        scene.peer.put(scene.name(), &room.event_path("v1/invite", &event), event.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer[0], 200);
    assert!(answer[1]["event"]["signatures"]["hs.test"].is_object(), "{answer}");

    // Its version cannot be told: only the first two may be assumed.
    let theirs = Theirs::new(&scene, version);
    let mut event = theirs.invite(&scene, &scene.peer.user("bob"), &scene.ann.user_id);
    event["origin"] = json!("peer.test");
    let event = scene.peer.sign(&theirs.room.version, event);
    let path = theirs.room.event_path("v1/invite", &event);
    let answer = scene.peer.put(scene.name(), &path, event).await;
    assert_error(&answer, StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION");
}
