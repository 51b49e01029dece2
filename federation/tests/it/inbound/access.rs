//! Who may ask at all: signed requests, and the rooms' access lists.

use hearth_testkit::{encode, peer::template_path};
use http::{Method, StatusCode};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::{Scene, assert_error};

#[tokio::test]
async fn nothing_but_keys_and_names_is_told_to_who_does_not_sign() {
    let scene = Scene::start().await;
    let get = |path: &str| (Method::GET, path.to_owned(), None);
    let put = |path: &str| (Method::PUT, path.to_owned(), Some(json!({})));
    let post = |path: &str| (Method::POST, path.to_owned(), Some(json!({})));
    let requests = [
        get("v1/backfill/!r:hs.test?v=%24a&limit=1"),
        get("v1/event/%24a"),
        get("v1/event_auth/!r:hs.test/%24a"),
        get("v1/hierarchy/!r:hs.test"),
        get("v1/make_join/!r:hs.test/@a:peer.test?ver=10"),
        get("v1/make_knock/!r:hs.test/@a:peer.test?ver=10"),
        get("v1/make_leave/!r:hs.test/@a:peer.test"),
        get("v1/media/download/abc"),
        get("v1/media/thumbnail/abc?width=1&height=1"),
        get("v1/publicRooms"),
        get("v1/query/directory?room_alias=%23a:hs.test"),
        get("v1/query/profile?user_id=@ann:hs.test"),
        get("v1/query/other"),
        get("v1/state/!r:hs.test?event_id=%24a"),
        get("v1/state_ids/!r:hs.test?event_id=%24a"),
        get("v1/timestamp_to_event/!r:hs.test?ts=1&dir=f"),
        get("v1/user/devices/@ann:hs.test"),
        post("v1/get_missing_events/!r:hs.test"),
        post("v1/publicRooms"),
        post("v1/user/keys/claim"),
        post("v1/user/keys/query"),
        put("v1/exchange_third_party_invite/!r:hs.test"),
        put("v1/invite/!r:hs.test/%24a"),
        put("v1/send/txn"),
        put("v1/send_knock/!r:hs.test/%24a"),
        put("v2/invite/!r:hs.test/%24a"),
        put("v2/send_join/!r:hs.test/%24a"),
        put("v2/send_leave/!r:hs.test/%24a"),
    ];
    for (method, path, body) in requests {
        let path = format!("/_matrix/federation/{path}");
        let answer = scene.peer.ask_unsigned(scene.name(), method, &path, body).await;
        assert_error(&answer, StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED");
    }
}

#[tokio::test]
async fn a_server_that_a_room_keeps_out_is_refused_everywhere() {
    // The list names it in another case, and without its port.
    let scene = Scene::with_peer("Peer.Test:8449").await;
    let version = RoomVersionId::V11;
    let room = scene.public_room(version.clone()).await;
    let bob = scene.peer.user("bob");
    let place = scene.join(&room, &bob).await;
    let who = (&*room.id, &*scene.peer.user("bea"));
    let join = scene.peer.signed_membership(scene.name(), "make_join", who, &version).await;
    let who = (&*room.id, &*bob);
    let leave = scene.peer.signed_membership(scene.name(), "make_leave", who, &version).await;
    let message = scene.ann.send_text(&room.id, "hello").await;
    let acl = json!({ "allow": ["*"], "deny": ["pEER.tEST"] });
    let acl = scene.ann.send_state(&room.id, "m.room.server_acl", "", acl).await;

    let id = encode(message.as_str());
    for path in [
        room.path("state", &format!("?event_id={id}")),
        room.path("state_ids", &format!("?event_id={id}")),
        room.path("event_auth", &format!("/{id}")),
        room.path("backfill", &format!("?limit=10&v={id}")),
        room.path("timestamp_to_event", "?ts=0&dir=f"),
        format!("{}?ver=11", template_path("make_join", &room.id, &bob)),
        format!("{}?ver=11", template_path("make_knock", &room.id, &bob)),
        template_path("make_leave", &room.id, &bob),
    ] {
        let answer = scene.peer.get(scene.name(), &path).await;
        assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    }
    let body = json!({ "earliest_events": [], "latest_events": [message], "limit": 10 });
    let answer = scene.peer.post(scene.name(), &room.path("get_missing_events", ""), body).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    for (what, event) in
        [("v2/send_join", &join), ("v2/send_leave", &leave), ("v1/send_knock", &leave)]
    {
        let answer =
            scene.peer.put(scene.name(), &room.event_path(what, event), event.clone()).await;
        assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    }
    let invite = json!({
        "type": "m.room.member", "state_key": scene.ann.user_id, "origin": scene.peer.name(),
        "content": { "membership": "invite" },
    });
    let invite = scene.event(&room, &place, &[place.join_id(&room)], invite);
    let body = json!({ "room_version": version, "event": invite, "invite_room_state": [] });
    let answer = scene.peer.put(scene.name(), &room.event_path("v2/invite", &invite), body).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let path = room.event_path("v1/invite", &invite);
    let answer = scene.peer.put(scene.name(), &path, invite).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let exchange = json!({
        "type": "m.room.member", "room_id": room.id, "sender": scene.ann.user_id, "state_key": bob,
        "content": { "membership": "invite", "third_party_invite": { "display_name": "b", "signed": {
            "mxid": bob, "token": "t", "signatures": {},
        } } },
    });
    let path = room.path("exchange_third_party_invite", "");
    let answer = scene.peer.put(scene.name(), &path, exchange).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");

    // Each event of a transaction is refused by itself.
    let other = scene.public_room(version).await;
    let there = scene.join(&other, &bob).await;
    let refused = scene.message(&room, &place, &[acl], "let me in");
    let taken = scene.message(&other, &there, &[there.join_id(&other)], "hello");
    let results = scene.peer.send(scene.name(), vec![refused.clone(), taken.clone()]).await;
    assert!(results[room.event_id(&refused).as_str()]["error"].is_string(), "{results}");
    assert_eq!(results[other.event_id(&taken).as_str()], json!({}));
    assert!(scene.seen(&room, &room.event_id(&refused)).await.is_none());
    // Nor is the room shown as one to join.
    let listed: Value = scene.peer.get_ok(scene.name(), "/_matrix/federation/v1/publicRooms").await;
    assert!(!listed["chunk"].to_string().contains(room.id.as_str()), "{listed}");
    let answer = scene.peer.get(scene.name(), &room.path("hierarchy", "")).await;
    assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}
