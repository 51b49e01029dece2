use hearth_rooms::{CreateRoomOptions, InitialState, Invitee, Preset, RoomError, json_object};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::fixture::{Server, profile, raw, user, versions};

fn invitee(name: &str) -> Invitee {
    Invitee { user_id: user(name), profile: profile(&user(name)) }
}

#[tokio::test]
async fn a_private_room_has_the_specified_events_in_order() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let types = server.timeline(&room).await;
    assert_eq!(
        types,
        [
            "m.room.create",
            "m.room.member",
            "m.room.power_levels",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.guest_access",
        ]
    );
    assert_eq!(server.state(&room, "m.room.join_rules", "").await["join_rule"], "invite");
    assert_eq!(server.state(&room, "m.room.guest_access", "").await["guest_access"], "can_join");
    let head = server.rooms.head(&room).await.unwrap().unwrap();
    assert_eq!((head.joined_members, head.joined_local_members, head.invited_members), (1, 1, 0));
    let row = server.rooms.user_room(&alice, &room).await.unwrap().unwrap();
    assert_eq!(row.position, row.joined_at);
    assert_eq!(server.rooms.user_rooms(&alice).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_version_makes_rooms_that_take_messages() {
    let server = Server::new().await;
    let alice = user("alice");
    for version in versions() {
        let room = server.public_room(&alice, version.clone()).await;
        assert_eq!(
            server.state(&room, "m.room.create", "").await["room_version"],
            version.as_str()
        );
        let event_id = server.say(&room, &alice, "hello").await.unwrap();
        let event = server.event(&room, &event_id).await;
        assert_eq!(event.pdu.prev_events().len(), 1);
        let create_named = event.header.auth_events.contains(&0);
        assert_eq!(create_named, *version != RoomVersionId::V12, "{version}");
        let own_id = room.as_str() == event_id_of_create(&server, &room).await.replace('$', "!");
        assert_eq!(own_id, *version == RoomVersionId::V12, "{version}");
    }
}

async fn event_id_of_create(server: &Server, room: &ruma::RoomId) -> String {
    server.rooms.event(room, 0).await.unwrap().header.event_id.to_string()
}

#[tokio::test]
async fn creators_have_their_power_by_level_before_version_12_and_by_name_since() {
    let server = Server::new().await;
    let alice = user("alice");
    for (version, level) in [(RoomVersionId::V11, json!(100)), (RoomVersionId::V12, Value::Null)] {
        let room = server.public_room(&alice, version).await;
        let levels = server.state(&room, "m.room.power_levels", "").await;
        assert_eq!(levels["users"][alice.as_str()], level);
    }
}

#[tokio::test]
async fn a_trusted_room_gives_its_guests_the_creators_power() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let options = CreateRoomOptions {
            preset: Some(Preset::TrustedPrivateChat),
            invite: vec![invitee("bob")],
            is_direct: true,
            room_version: Some(version.clone()),
            ..CreateRoomOptions::default()
        };
        let room = server.rooms.create_room(&alice, options).await.unwrap();
        let invite = server.state(&room, "m.room.member", bob.as_str()).await;
        assert_eq!(invite["membership"], "invite");
        assert_eq!(invite["is_direct"], true);
        assert_eq!(invite["displayname"], "BOB");
        server.join(&room, &bob).await.unwrap();
        server.put(&room, &bob, ("m.room.name", ""), json!({ "name": "ours" })).await.unwrap();
        let creators =
            server.state(&room, "m.room.create", "").await["additional_creators"].clone();
        let expected = if version == RoomVersionId::V12 { json!([bob]) } else { Value::Null };
        assert_eq!(creators, expected);
    }
}

#[tokio::test]
async fn wishes_go_over_the_preset() {
    let server = Server::new().await;
    let alice = user("alice");
    let initial = |event_type: &str, content: Value| InitialState {
        event_type: event_type.to_owned(),
        state_key: String::new(),
        content: raw(&content),
    };
    let options = CreateRoomOptions {
        public: true,
        alias_localpart: Some("lobby".to_owned()),
        name: Some("Lobby".to_owned()),
        topic: Some("Everything".to_owned()),
        initial_state: vec![
            initial("m.room.history_visibility", json!({ "history_visibility": "joined" })),
            initial("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
        ],
        creation_content: json_object(&raw(&json!({ "type": "m.space", "m.federate": false })))
            .unwrap(),
        power_level_content_override: json_object(&raw(&json!({ "events_default": 7 }))).unwrap(),
        ..CreateRoomOptions::default()
    };
    let room = server.rooms.create_room(&alice, options).await.unwrap();
    assert_eq!(server.state(&room, "m.room.create", "").await["type"], "m.space");
    assert_eq!(server.state(&room, "m.room.power_levels", "").await["events_default"], 7);
    let visibility = server.state(&room, "m.room.history_visibility", "").await;
    assert_eq!(visibility["history_visibility"], "joined");
    assert_eq!(server.state(&room, "m.room.join_rules", "").await["join_rule"], "public");
    let topic = server.state(&room, "m.room.topic", "").await;
    assert_eq!(topic["m.topic"]["m.text"][0]["body"], "Everything");
    assert_eq!(server.state(&room, "m.room.canonical_alias", "").await["alias"], "#lobby:hs.test");
    let alias = ruma::RoomAliasId::parse("#lobby:hs.test").unwrap();
    assert_eq!(server.rooms.resolve_alias(&alias).await.unwrap(), room);
    assert!(server.rooms.is_published(&room).await.unwrap());
    assert_eq!(
        server.timeline(&room).await.iter().filter(|t| *t == "m.room.history_visibility").count(),
        1
    );
}

#[tokio::test]
async fn refuses_rooms_that_cannot_be() {
    let server = Server::new().await;
    let alice = user("alice");
    let make = |options| server.rooms.create_room(&alice, options);
    let old = CreateRoomOptions { room_version: Some(RoomVersionId::V5), ..Default::default() };
    assert!(matches!(make(old).await, Err(RoomError::UnsupportedVersion(_))));
    let powerless = CreateRoomOptions {
        room_version: Some(RoomVersionId::V11),
        power_level_content_override: json_object(&raw(&json!({ "users": {} }))).unwrap(),
        ..Default::default()
    };
    assert!(matches!(make(powerless).await, Err(RoomError::InvalidRoomState(_))));
    let creator_named = CreateRoomOptions {
        power_level_content_override: json_object(&raw(
            &json!({ "users": { alice.as_str(): 100 } }),
        ))
        .unwrap(),
        ..Default::default()
    };
    assert!(matches!(make(creator_named).await, Err(RoomError::InvalidRoomState(_))));
    let bad_creators = CreateRoomOptions {
        creation_content: json_object(&raw(&json!({ "additional_creators": ["bob"] }))).unwrap(),
        ..Default::default()
    };
    assert!(matches!(make(bad_creators).await, Err(RoomError::InvalidParam(_))));
    let with_alias =
        || CreateRoomOptions { alias_localpart: Some("taken".to_owned()), ..Default::default() };
    make(with_alias()).await.unwrap();
    assert!(matches!(make(with_alias()).await, Err(RoomError::AliasInUse)));
    assert_eq!(server.rooms.user_rooms(&alice).await.unwrap().len(), 1);
}

#[tokio::test]
async fn invitations_beyond_one_commit_follow() {
    let server = Server::new().await;
    let alice = user("alice");
    let options = CreateRoomOptions {
        invite: (0..150).map(|n| invitee(&format!("u{n}"))).collect(),
        ..Default::default()
    };
    let room = server.rooms.create_room(&alice, options).await.unwrap();
    let head = server.rooms.head(&room).await.unwrap().unwrap();
    assert_eq!(head.invited_members, 150);
    assert_eq!(server.state(&room, "m.room.member", "@u149:hs.test").await["membership"], "invite");
}

#[tokio::test]
async fn rooms_made_in_the_same_millisecond_differ() {
    let server = Server::new().await;
    let alice = user("alice");
    assert_ne!(server.room(&alice).await, server.room(&alice).await);
}
