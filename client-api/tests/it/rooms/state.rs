//! `GET /rooms/{roomId}/state`, `GET` and `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{V3, at, keys, refused, state_of, text};

#[tokio::test]
async fn is_set_and_read() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let empty = json!({ "topic": "with an empty key" });
    // The empty state key may be left out, with or without the slash.
    for path in ["state/m.room.topic", "state/m.room.topic/"] {
        alice.put_ok(&at(&room, path), empty.clone()).await;
        assert_eq!(bob.get_ok(&at(&room, path)).await, empty);
    }
    let keyed = format!("state/org.example.thing/{}", encode("a key/with é"));
    let event = alice.put_ok(&at(&room, &keyed), json!({ "n": 1 })).await;
    assert_eq!(bob.get_ok(&at(&room, &keyed)).await, json!({ "n": 1 }));
    let whole = bob.get_ok(&at(&room, format!("{keyed}?format=event"))).await;
    assert_eq!(whole["event_id"], event["event_id"]);
    assert_eq!(whole["state_key"], "a key/with é");
    assert_eq!(whole["content"], json!({ "n": 1 }));
    let content = bob.get_ok(&at(&room, format!("{keyed}?format=content"))).await;
    assert_eq!(content, json!({ "n": 1 }));
    refused(bob.get(&at(&room, "state/org.example.none/")).await, 404, "M_NOT_FOUND");

    let all = bob.get_ok(&at(&room, "state")).await;
    let expected = [
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.topic", ""),
        ("m.room.member", "@alice:localhost"),
        ("m.room.member", "@bob:localhost"),
        ("org.example.thing", "a key/with é"),
    ];
    let expected = expected.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned()));
    assert_eq!(keys(&all), expected.collect());
    assert_eq!(text(state_of(&all, "m.room.topic", ""), "room_id"), room.as_str());
}

#[tokio::test]
async fn needs_power() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let put = async |path: &str| bob.put(&at(&room, path), json!({ "x": 1 })).await;
    refused(put("state/m.room.topic/").await, 403, "M_FORBIDDEN");
    refused(put("state/org.example.x/").await, 403, "M_FORBIDDEN");
    // A state key that is a user ID belongs to that user.
    refused(put("state/org.example.x/@alice:localhost").await, 403, "M_FORBIDDEN");
    let mut levels = alice.get_ok(&at(&room, "state/m.room.power_levels/")).await;
    levels["users"]["@bob:localhost"] = json!(50);
    alice.send_state(&room, "m.room.power_levels", "", levels.clone()).await;
    assert_eq!(put("state/org.example.x/").await.0, 200);
    assert_eq!(put("state/org.example.x/@bob:localhost").await.0, 200);
    refused(put("state/org.example.x/@alice:localhost").await, 403, "M_FORBIDDEN");
    // Nobody raises themselves.
    levels["users"]["@bob:localhost"] = json!(100);
    let path = at(&room, "state/m.room.power_levels/");
    refused(bob.put(&path, levels).await, 403, "M_FORBIDDEN");
    let create = at(&room, "state/m.room.create/");
    let (status, answer) = alice.put(&create, json!({ "room_version": "12" })).await;
    assert!(status.is_client_error(), "{answer}");
}

#[tokio::test]
async fn canonical_aliases_must_exist() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let other = alice.create_public_room().await;
    let directory = |alias: &str| format!("{V3}/directory/room/{}", encode(alias));
    alice.put_ok(&directory("#here:localhost"), json!({ "room_id": room })).await;
    alice.put_ok(&directory("#there:localhost"), json!({ "room_id": other })).await;
    let path = at(&room, "state/m.room.canonical_alias/");
    let missing = json!({ "alias": "#missing:localhost" });
    refused(alice.put(&path, missing.clone()).await, 400, "M_BAD_ALIAS");
    refused(alice.put(&path, json!({ "alias": "#there:localhost" })).await, 400, "M_BAD_ALIAS");
    let alternative = json!({ "alias": "#here:localhost", "alt_aliases": ["#missing:localhost"] });
    refused(alice.put(&path, alternative).await, 400, "M_BAD_ALIAS");
    refused(alice.put(&path, json!({ "alias": "nonsense" })).await, 400, "M_INVALID_PARAM");
    alice.put_ok(&path, json!({ "alias": "#here:localhost" })).await;
    // One that was there before may stay, although it leads nowhere any more.
    let bob = server.register("bob").await;
    bob.join(&room).await;
    bob.put_ok(&directory("#bobs:localhost"), json!({ "room_id": room })).await;
    alice.put_ok(&path, json!({ "alt_aliases": ["#bobs:localhost"] })).await;
    assert_eq!(bob.delete(&directory("#bobs:localhost"), None).await.0, 200);
    let both = json!({ "alias": "#here:localhost", "alt_aliases": ["#bobs:localhost"] });
    alice.put_ok(&path, both).await;
}

#[tokio::test]
async fn is_for_members_and_those_who_were() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let zoe = server.register("zoe").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    alice.send_state(&room, "m.room.name", "", json!({ "name": "then" })).await;
    bob.leave(&room).await;
    alice.send_state(&room, "m.room.name", "", json!({ "name": "now" })).await;
    // Whoever left sees the state as it was.
    assert_eq!(bob.get_ok(&at(&room, "state/m.room.name/")).await, json!({ "name": "then" }));
    let all = bob.get_ok(&at(&room, "state")).await;
    assert_eq!(state_of(&all, "m.room.name", "")["content"], json!({ "name": "then" }));
    refused(zoe.get(&at(&room, "state")).await, 403, "M_FORBIDDEN");
    refused(zoe.get(&at(&room, "state/m.room.name/")).await, 403, "M_FORBIDDEN");
    let visibility = json!({ "history_visibility": "world_readable" });
    alice.send_state(&room, "m.room.history_visibility", "", visibility).await;
    assert_eq!(zoe.get_ok(&at(&room, "state/m.room.name/")).await, json!({ "name": "now" }));
}
