//! `POST /createRoom`.

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, at, list, refused, state_of, text, words};

fn path() -> String {
    format!("{V3}/createRoom")
}

async fn state(user: &TestUser, room: &RoomId) -> Value {
    user.get_ok(&at(room, "state")).await
}

fn content<'a>(state: &'a Value, kind: &str) -> &'a Value {
    &state_of(state, kind, "")["content"]
}

#[tokio::test]
async fn presets() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for (body, join_rule, guest_access) in [
        (json!({}), "invite", "can_join"),
        (json!({ "visibility": "private" }), "invite", "can_join"),
        (json!({ "visibility": "public" }), "public", "forbidden"),
        (json!({ "preset": "private_chat" }), "invite", "can_join"),
        (json!({ "preset": "trusted_private_chat" }), "invite", "can_join"),
        (json!({ "preset": "public_chat" }), "public", "forbidden"),
        (json!({ "preset": "private_chat", "visibility": "public" }), "invite", "can_join"),
    ] {
        let room = alice.create_room(body.clone()).await;
        let state = state(&alice, &room).await;
        assert_eq!(content(&state, "m.room.join_rules")["join_rule"], join_rule, "{body}");
        let guests = content(&state, "m.room.guest_access");
        assert_eq!(guests["guest_access"], guest_access, "{body}");
        let history = content(&state, "m.room.history_visibility");
        assert_eq!(history["history_visibility"], "shared", "{body}");
    }
}

#[tokio::test]
async fn events_come_in_the_order_of_the_specification() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    server.register("bob").await;
    let room = alice
        .create_room(json!({
            "preset": "private_chat",
            "room_alias_name": "pub",
            "name": "The Grand Duke Pub",
            "topic": "All about happy hour",
            "initial_state": [
                { "type": "m.room.history_visibility", "content": { "history_visibility": "joined" } },
                { "type": "org.example.first", "state_key": "k", "content": { "n": 1 } },
                { "type": "m.room.name", "content": { "name": "overridden" } },
            ],
            "invite": ["@bob:localhost"],
            "is_direct": true,
        }))
        .await;
    let history = alice.get_ok(&at(&room, "messages?dir=f&limit=50")).await;
    let order = words(&history["chunk"]);
    assert_eq!(
        order[..4],
        ["m.room.create", "alice join", "m.room.power_levels", "m.room.canonical_alias"]
    );
    assert_eq!(order.last().unwrap(), "bob invite");
    let place = |kind: &str| order.iter().rposition(|word| word == kind).unwrap();
    assert!(place("m.room.join_rules") < place("org.example.first"));
    assert!(place("m.room.history_visibility") < place("org.example.first"));
    assert!(place("org.example.first") < place("m.room.name"));
    assert!(place("m.room.name") < place("m.room.topic"));

    let state = state(&alice, &room).await;
    assert_eq!(content(&state, "m.room.name")["name"], "The Grand Duke Pub");
    assert_eq!(content(&state, "m.room.topic")["topic"], "All about happy hour");
    assert_eq!(content(&state, "m.room.history_visibility")["history_visibility"], "joined");
    assert_eq!(content(&state, "m.room.canonical_alias")["alias"], "#pub:localhost");
    assert_eq!(state_of(&state, "org.example.first", "k")["content"], json!({ "n": 1 }));
    let bob = state_of(&state, "m.room.member", "@bob:localhost");
    assert_eq!(
        (&bob["content"]["membership"], &bob["content"]["is_direct"]),
        (&json!("invite"), &json!(true))
    );
    let alias = encode("#pub:localhost");
    let found = alice.get_ok(&format!("{V3}/directory/room/{alias}")).await;
    assert_eq!(found["room_id"], room.as_str());
    assert_eq!(found["servers"], json!(["localhost"]));
}

#[tokio::test]
async fn the_creator_of_a_version_12_room_outranks_everybody() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "room_version": "12",
            "creation_content": { "additional_creators": ["@bob:localhost"], "m.federate": false } }))
        .await;
    let state = state(&alice, &room).await;
    let create = state_of(&state, "m.room.create", "");
    assert_eq!(room.as_str()[1..], text(create, "event_id")[1..], "the room's ID is the event's");
    assert!(!room.as_str().contains(':'));
    let expected = json!({ "room_version": "12", "additional_creators": ["@bob:localhost"],
        "m.federate": false });
    assert_eq!(create["content"], expected);
    assert_eq!(create["room_id"], room.as_str());
    let levels = content(&state, "m.room.power_levels");
    assert!(levels["users"].as_object().is_none_or(serde_json::Map::is_empty), "{levels}");
    let default = levels["state_default"].as_i64().unwrap_or(50);
    assert!(levels["events"]["m.room.tombstone"].as_i64().unwrap() > default, "{levels}");
    // A second creator has the power too.
    bob.join(&room).await;
    bob.send_state(&room, "m.room.name", "", json!({ "name": "bob's too" })).await;
    // Creators are not to be listed.
    let mut levels = levels.clone();
    levels["users"] = json!({ "@alice:localhost": 100 });
    let (status, answer) = alice.put(&at(&room, "state/m.room.power_levels/"), levels).await;
    assert!(status == 400 || status == 403, "{answer}");
    for bad in [json!(["not a user"]), json!("@bob:localhost"), json!([5])] {
        let body =
            json!({ "room_version": "12", "creation_content": { "additional_creators": bad } });
        let (status, answer) = alice.post(&path(), body).await;
        assert_eq!(status, 400, "{answer}");
    }
}

#[tokio::test]
async fn a_trusted_chat_makes_its_invitees_equals() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let body = |version: &str| {
        json!({ "preset": "trusted_private_chat", "room_version": version,
            "invite": ["@bob:localhost"], "creation_content": { "additional_creators": ["@zoe:localhost"] } })
    };
    let new = alice.create_room(body("12")).await;
    let creators =
        content(&state(&alice, &new).await, "m.room.create")["additional_creators"].clone();
    let mut creators: Vec<_> = list(&creators).iter().filter_map(Value::as_str).collect();
    creators.sort_unstable();
    assert_eq!(creators, ["@bob:localhost", "@zoe:localhost"]);
    let old = alice.create_room(body("11")).await;
    let levels = content(&state(&alice, &old).await, "m.room.power_levels").clone();
    assert_eq!(levels["users"], json!({ "@alice:localhost": 100, "@bob:localhost": 100 }));
    for room in [new, old] {
        bob.join(&room).await;
        bob.send_state(&room, "m.room.name", "", json!({ "name": "ours" })).await;
    }
}

#[tokio::test]
async fn power_levels_are_overridden_field_by_field() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let body = json!({
        "preset": "public_chat",
        "power_level_content_override": {
            "users": { "@bob:localhost": 40 },
            "invite": 30,
            "events": { "m.room.topic": 40 },
            "events_default": 10,
        },
    });
    let room = alice.create_room(body).await;
    let levels = content(&state(&alice, &room).await, "m.room.power_levels").clone();
    assert_eq!(levels["users"], json!({ "@bob:localhost": 40 }));
    assert_eq!((&levels["invite"], &levels["events_default"]), (&json!(30), &json!(10)));
    bob.join(&room).await;
    bob.send_state(&room, "m.room.topic", "", json!({ "topic": "bob's" })).await;
    let name = json!({ "name": "no" });
    refused(bob.put(&at(&room, "state/m.room.name/"), name).await, 403, "M_FORBIDDEN");
    // Levels under which the rest of the request cannot be carried out.
    let impossible = json!({ "room_version": "11", "name": "x",
        "power_level_content_override": { "users": { "@alice:localhost": 10 } } });
    refused(alice.post(&path(), impossible).await, 400, "M_INVALID_ROOM_STATE");
    let creator = json!({ "room_version": "12",
        "power_level_content_override": { "users": { "@alice:localhost": 100 } } });
    let (status, answer) = alice.post(&path(), creator).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn creation_content_cannot_lie() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let body = json!({ "room_version": "10", "creation_content":
        { "creator": "@mallory:localhost", "room_version": "1", "type": "m.space", "org.x": 1 } });
    let room = alice.create_room(body).await;
    let create = content(&state(&alice, &room).await, "m.room.create").clone();
    let expected = json!({ "creator": "@alice:localhost", "room_version": "10", "type": "m.space",
        "org.x": 1 });
    assert_eq!(create, expected);
}

#[tokio::test]
async fn bad_requests_make_no_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    alice.create_room(json!({ "room_alias_name": "taken" })).await;
    let before = alice.get_ok(&format!("{V3}/joined_rooms")).await;
    for (body, code) in [
        (json!({ "room_version": "99" }), "M_UNSUPPORTED_ROOM_VERSION"),
        (json!({ "room_version": "1" }), "M_UNSUPPORTED_ROOM_VERSION"),
        (json!({ "room_alias_name": "taken" }), "M_ROOM_IN_USE"),
        (json!({ "invite": ["bob"] }), "M_BAD_JSON"),
        (json!({ "initial_state": [{ "type": 5 }] }), "M_BAD_JSON"),
        (json!({ "name": 5 }), "M_BAD_JSON"),
        (json!([]), "M_BAD_JSON"),
    ] {
        refused(alice.post(&path(), body).await, 400, code);
    }
    for body in [
        json!({ "room_alias_name": "a:b" }),
        json!({ "room_alias_name": "x".repeat(260) }),
        json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] }),
        json!({ "name": "x".repeat(70_000) }),
        json!({ "initial_state": [{ "type": "m.room.power_levels", "content": { "users": 5 } }] }),
        json!({ "power_level_content_override": { "ban": "high" } }),
    ] {
        let (status, answer) = alice.post(&path(), body).await;
        assert!(status.is_client_error(), "{status}: {answer}");
    }
    assert_eq!(alice.get_ok(&format!("{V3}/joined_rooms")).await, before);
    let alias = format!("{V3}/directory/room/{}", encode("#taken:localhost"));
    assert_eq!(alice.get_ok(&alias).await["room_id"], before["joined_rooms"][0]);
}
