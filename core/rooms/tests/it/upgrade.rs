use hearth_rooms::{CreateRoomOptions, Preset, RoomError, json_object};
use ruma::{RoomAliasId, RoomVersionId};
use serde_json::{Value, json};

use crate::fixture::{Server, profile, raw, user};

#[tokio::test]
async fn the_new_room_takes_over_what_the_old_one_was() {
    let server = Server::new().await;
    let (alice, bob, mallory) = (user("alice"), user("bob"), user("mallory"));
    let steps = [
        (RoomVersionId::V6, RoomVersionId::V12),
        (RoomVersionId::V10, RoomVersionId::V11),
        (RoomVersionId::V12, RoomVersionId::V12),
        (RoomVersionId::V12, RoomVersionId::V11),
    ];
    for (step, (from, to)) in steps.into_iter().enumerate() {
        let options = CreateRoomOptions {
            public: true,
            preset: Some(Preset::PublicChat),
            alias_localpart: Some(format!("room{step}")),
            name: Some("Room".to_owned()),
            topic: Some("Topic".to_owned()),
            room_version: Some(from.clone()),
            creation_content: json_object(&raw(&json!({ "type": "m.space" }))).unwrap(),
            ..CreateRoomOptions::default()
        };
        let old = server.rooms.create_room(&alice, options).await.unwrap();
        server.join(&old, &bob).await.unwrap();
        server.rooms.ban(&old, &alice, &mallory, Some("spam")).await.unwrap();
        let child = json!({ "via": ["hs.test"] });
        server.put(&old, &alice, ("m.space.child", "!c:hs.test"), child).await.unwrap();
        server.put(&old, &alice, ("m.space.child", "!gone:hs.test"), json!({})).await.unwrap();

        let refused =
            server.rooms.upgrade(&old, &bob, &profile(&bob), to.clone(), Vec::new()).await;
        assert!(matches!(refused, Err(RoomError::Forbidden(_))));
        let new = server
            .rooms
            .upgrade(&old, &alice, &profile(&alice), to.clone(), Vec::new())
            .await
            .unwrap();

        let tombstone = server.state(&old, "m.room.tombstone", "").await;
        assert_eq!(tombstone["replacement_room"], new.as_str());
        let create = server.state(&new, "m.room.create", "").await;
        assert_eq!(create["predecessor"]["room_id"], old.as_str());
        assert_eq!(create["type"], "m.space");
        assert_eq!(create["room_version"], to.as_str());
        assert_eq!(server.state(&new, "m.room.name", "").await["name"], "Room");
        assert_eq!(server.state(&new, "m.room.join_rules", "").await["join_rule"], "public");
        let ban = server.state(&new, "m.room.member", mallory.as_str()).await;
        assert_eq!((&ban["membership"], &ban["reason"]), (&json!("ban"), &json!("spam")));
        assert!(server.state(&new, "m.space.child", "!c:hs.test").await.is_object());
        assert_eq!(server.state(&new, "m.space.child", "!gone:hs.test").await, Value::Null);

        let alias = RoomAliasId::parse(format!("#room{step}:hs.test")).unwrap();
        assert_eq!(server.rooms.resolve_alias(&alias).await.unwrap(), new);
        assert_eq!(server.rooms.room_aliases(&new).await.unwrap(), std::slice::from_ref(&alias));
        assert_eq!(server.state(&new, "m.room.canonical_alias", "").await["alias"], alias.as_str());
        assert_eq!(server.state(&old, "m.room.canonical_alias", "").await, json!({}));
        assert!(server.rooms.is_published(&new).await.unwrap());
        assert!(!server.rooms.is_published(&old).await.unwrap());
        assert!(matches!(server.say(&old, &bob, "hello?").await, Err(RoomError::Forbidden(_))));
        server.join(&new, &bob).await.unwrap();
        server.say(&new, &bob, "hello!").await.unwrap();
    }
}

#[tokio::test]
async fn only_version_12_takes_further_creators() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let old = server.public_room(&alice, RoomVersionId::V11).await;
    server.join(&old, &bob).await.unwrap();
    let upgrade = |version: RoomVersionId| {
        let (server, old, alice) = (&server, &old, &alice);
        let bob = vec![bob.clone()];
        async move { server.rooms.upgrade(old, alice, &profile(alice), version, bob).await }
    };
    assert!(matches!(upgrade(RoomVersionId::V11).await, Err(RoomError::InvalidParam(_))));
    assert!(matches!(upgrade(RoomVersionId::V3).await, Err(RoomError::UnsupportedVersion(_))));
    let new = upgrade(RoomVersionId::V12).await.unwrap();
    let create = server.state(&new, "m.room.create", "").await;
    assert_eq!(create["additional_creators"], json!([bob]));
}

#[tokio::test]
async fn a_moderator_keeps_their_level() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let old = server.public_room(&alice, RoomVersionId::V11).await;
    server.join(&old, &bob).await.unwrap();
    let mut levels = server.state(&old, "m.room.power_levels", "").await;
    levels["users"][bob.as_str()] = json!(50);
    levels["events"]["m.room.tombstone"] = json!(50);
    server.put(&old, &alice, ("m.room.power_levels", ""), levels.clone()).await.unwrap();
    let new = server
        .rooms
        .upgrade(&old, &bob, &profile(&bob), RoomVersionId::V11, Vec::new())
        .await
        .unwrap();
    assert_eq!(server.state(&new, "m.room.power_levels", "").await, levels);
}

#[tokio::test]
async fn aliases_and_the_entry_follow_another_servers_upgrade_if_both_rooms_agree() {
    let server = Server::new().await;
    let alice = user("alice");
    let options = CreateRoomOptions {
        public: true,
        preset: Some(Preset::PublicChat),
        alias_localpart: Some("room".to_owned()),
        ..CreateRoomOptions::default()
    };
    let old = server.rooms.create_room(&alice, options).await.unwrap();
    let predecessor = json!({ "predecessor": { "room_id": old, "event_id": "$last" } });
    let options = CreateRoomOptions {
        room_version: Some(RoomVersionId::V11),
        creation_content: json_object(&raw(&predecessor)).unwrap(),
        ..CreateRoomOptions::default()
    };
    let new = server.rooms.create_room(&alice, options).await.unwrap();
    let alias = RoomAliasId::parse("#room:hs.test").unwrap();
    assert_eq!(server.rooms.succeed(&old).await.unwrap(), None, "it replaces nothing");
    assert_eq!(server.rooms.succeed(&new).await.unwrap(), None, "the old room does not say so");
    assert_eq!(server.rooms.resolve_alias(&alias).await.unwrap(), old);

    let tombstone = json!({ "body": "moved", "replacement_room": new });
    server.put(&old, &alice, ("m.room.tombstone", ""), tombstone).await.unwrap();
    for _ in 0..2 {
        assert_eq!(server.rooms.succeed(&new).await.unwrap().as_ref(), Some(&old));
        assert_eq!(server.rooms.resolve_alias(&alias).await.unwrap(), new);
        assert!(server.rooms.is_published(&new).await.unwrap());
        assert!(!server.rooms.is_published(&old).await.unwrap());
    }
}
