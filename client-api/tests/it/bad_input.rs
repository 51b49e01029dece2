//! Requests that no client should send: the specification's error, and nothing stored.

use bytes::Bytes;
use hearth_testkit::{TestServer, TestUser, encode};
use http::{HeaderMap, Method};
use ruma::OwnedRoomId;
use serde_json::{Value, json};

use crate::support::{V1, V3, at, at_v1, bodies, message, of_user, outcome, refused, walk};

async fn start() -> (TestServer, TestUser, OwnedRoomId) {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    (server, alice, room)
}

async fn raw(
    user: &TestUser,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> (http::StatusCode, Value) {
    let answer = user.send(method, path, HeaderMap::new(), Some(body.into())).await;
    (answer.status, answer.json())
}

/// Every main endpoint that takes a body.
fn with_bodies(user: &TestUser, room: &OwnedRoomId) -> Vec<(Method, String)> {
    vec![
        (Method::POST, format!("{V3}/register")),
        (Method::POST, format!("{V3}/login")),
        (Method::POST, format!("{V3}/refresh")),
        (Method::POST, format!("{V3}/account/password")),
        (Method::POST, format!("{V3}/account/deactivate")),
        (Method::POST, format!("{V3}/delete_devices")),
        (Method::PUT, format!("{V3}/devices/{}", user.device_id)),
        (Method::POST, format!("{V3}/createRoom")),
        (Method::POST, format!("{V3}/publicRooms")),
        (Method::POST, format!("{V3}/user_directory/search")),
        (Method::PUT, format!("{V3}/profile/{}/displayname", user.user_id)),
        (Method::PUT, format!("{V3}/presence/{}/status", user.user_id)),
        (Method::PUT, format!("{V3}/pushrules/global/content/x")),
        (Method::PUT, format!("{V3}/directory/list/room/{}", encode(room.as_str()))),
        (Method::PUT, format!("{V3}/directory/room/{}", encode("#a:localhost"))),
        (Method::PUT, of_user(user, "account_data/org.example.x")),
        (Method::POST, of_user(user, "filter")),
        (Method::PUT, at(room, "send/m.room.message/bad")),
        (Method::PUT, at(room, "state/m.room.topic/")),
        (Method::POST, at(room, "invite")),
        (Method::POST, at(room, "kick")),
        (Method::POST, at(room, "ban")),
        (Method::POST, at(room, "unban")),
        (Method::POST, at(room, "upgrade")),
        (Method::PUT, at(room, format!("typing/{}", user.user_id))),
        (Method::POST, at(room, "read_markers")),
    ]
}

#[tokio::test]
async fn what_is_not_json() {
    let (_server, alice, room) = start().await;
    let before = alice.get_ok(&at(&room, "messages?dir=b&limit=1")).await;
    for (method, path) in with_bodies(&alice, &room) {
        for body in
            ["{", "{\"a\":}", "hello", "{\"a\":1,}", "{'a':1}", "\u{0}", "{} {}", "{\"a\":NaN}"]
        {
            let answer = raw(&alice, method.clone(), &path, body).await;
            assert_eq!(
                outcome(&answer),
                (400, "M_NOT_JSON"),
                "{method} {path} {body:?}: {answer:?}"
            );
        }
        let answer = raw(&alice, method.clone(), &path, &b"{\"a\":\"\xff\xfe\"}"[..]).await;
        assert_eq!(outcome(&answer), (400, "M_NOT_JSON"), "{method} {path}: {answer:?}");
    }
    let after = alice.get_ok(&at(&room, "messages?dir=b&limit=1")).await;
    assert_eq!(after["chunk"][0]["event_id"], before["chunk"][0]["event_id"]);
}

#[tokio::test]
async fn what_is_no_object() {
    let (_server, alice, room) = start().await;
    for (method, path) in with_bodies(&alice, &room) {
        for body in ["[]", "\"x\"", "5", "null", "true", "[{}]"] {
            let answer = raw(&alice, method.clone(), &path, body).await;
            assert_eq!(outcome(&answer), (400, "M_BAD_JSON"), "{method} {path} {body}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn wrong_types() {
    let (_server, alice, room) = start().await;
    for (method, path, body) in [
        (Method::POST, format!("{V3}/createRoom"), json!({ "invite": "bob" })),
        (Method::POST, format!("{V3}/createRoom"), json!({ "is_direct": "yes" })),
        (Method::POST, format!("{V3}/createRoom"), json!({ "creation_content": 5 })),
        (Method::POST, format!("{V3}/createRoom"), json!({ "room_version": 12 })),
        (Method::POST, at(&room, "invite"), json!({ "user_id": 5 })),
        (Method::POST, at(&room, "invite"), json!({ "user_id": "bob" })),
        (Method::POST, at(&room, "ban"), json!({ "user_id": ["@bob:localhost"] })),
        (Method::POST, at(&room, "kick"), json!({ "user_id": "@bob:localhost", "reason": 5 })),
        (Method::POST, at(&room, "upgrade"), json!({ "new_version": 12 })),
        (Method::PUT, at(&room, format!("typing/{}", alice.user_id)), json!({ "typing": 1 })),
        (Method::POST, at(&room, "read_markers"), json!({ "m.read": 5 })),
        (Method::POST, format!("{V3}/login"), json!({ "type": 5 })),
        (
            Method::POST,
            format!("{V3}/login"),
            json!({ "type": "m.login.password", "identifier": "alice", "password": "x" }),
        ),
        (
            Method::POST,
            format!("{V3}/register"),
            json!({ "username": 5, "password": "long enough" }),
        ),
        (Method::POST, format!("{V3}/user_directory/search"), json!({ "search_term": 5 })),
        (Method::PUT, format!("{V3}/devices/{}", alice.device_id), json!({ "display_name": {} })),
        (
            Method::PUT,
            format!("{V3}/pushrules/global/override/x"),
            json!({ "actions": [], "conditions": "all" }),
        ),
        (
            Method::PUT,
            format!("{V3}/directory/room/{}", encode("#a:localhost")),
            json!({ "room_id": 5 }),
        ),
    ] {
        let answer = alice.json(method.clone(), &path, Some(body.clone())).await;
        assert_eq!(outcome(&answer), (400, "M_BAD_JSON"), "{method} {path} {body}: {answer:?}");
    }
}

#[tokio::test]
async fn bad_levels_and_members() {
    let (_server, alice, room) = start().await;
    for content in [
        json!({ "users_default": "5" }),
        json!({ "users_default": 1.5 }),
        json!({ "users": { "not a user": 5 } }),
        json!({ "users": [] }),
        json!({ "events": { "m.room.name": "high" } }),
    ] {
        let (status, answer) =
            alice.put(&at(&room, "state/m.room.power_levels/"), content.clone()).await;
        assert!(status == 400 || status == 403, "{content}: {status} {answer}");
    }
    let bad_member = at(&room, "state/m.room.member/nobody");
    let (status, answer) = alice.put(&bad_member, json!({ "membership": "invite" })).await;
    assert!(status == 400 || status == 403, "{answer}");
    let (status, answer) =
        alice.put(&at(&room, "state/m.room.member/@bob:localhost"), json!({})).await;
    assert!(status == 400 || status == 403, "{answer}");
}

#[tokio::test]
async fn numbers_that_events_cannot_hold() {
    let (_server, alice, room) = start().await;
    for number in [
        "1.5",
        "1e3",
        "9007199254740992",
        "-9007199254740992",
        "1e400",
        "-0.0",
        "123456789012345678901234567890",
    ] {
        for path in [at(&room, "send/org.example.n/x"), at(&room, "state/org.example.n/")] {
            let body = format!("{{\"n\":{number}}}");
            let answer = raw(&alice, Method::PUT, &path, body).await;
            assert_eq!(answer.0, 400, "{number}: {answer:?}");
            assert!(
                ["M_BAD_JSON", "M_NOT_JSON"].contains(&outcome(&answer).1),
                "{number}: {answer:?}"
            );
        }
        let body = format!("{{\"creation_content\":{{\"n\":{number}}}}}");
        let answer = raw(&alice, Method::POST, &format!("{V3}/createRoom"), body).await;
        assert_eq!(answer.0, 400, "{number}: {answer:?}");
    }
    for number in ["9007199254740991", "-9007199254740991", "0"] {
        let path = at(&room, format!("send/org.example.n/ok{number}"));
        let (status, answer) = raw(&alice, Method::PUT, &path, format!("{{\"n\":{number}}}")).await;
        assert_eq!(status, 200, "{number}: {answer}");
    }
    let rooms = alice.get_ok(&format!("{V3}/joined_rooms")).await;
    assert_eq!(rooms["joined_rooms"], json!([room]));
}

#[tokio::test]
async fn sizes() {
    let (_server, alice, room) = start().await;
    let send = |txn: &str| at(&room, format!("send/m.room.message/{txn}"));
    refused(alice.put(&send("big"), message(&"x".repeat(66_000))).await, 413, "M_TOO_LARGE");
    refused(alice.put(&send("edge"), message(&"x".repeat(65_500))).await, 413, "M_TOO_LARGE");
    alice.put_ok(&send("fits"), message(&"y".repeat(64_000))).await;
    let long = "x".repeat(256);
    for path in [
        at(&room, format!("send/{long}/1")),
        at(&room, format!("state/{long}/")),
        at(&room, format!("state/org.example.x/{long}")),
        at(&room, format!("state/org.example.x/{}", encode(&"é".repeat(128)))),
    ] {
        let (status, answer) = alice.put(&path, json!({ "x": 1 })).await;
        assert!(status == 400 || status == 413, "{answer}");
    }
    alice.put_ok(&at(&room, format!("state/org.example.x/{}", &long[1..])), json!({})).await;
    let (status, answer) = alice
        .put(&at(&room, format!("send/m.room.message/{}", "t".repeat(20_000))), message("x"))
        .await;
    assert!(status.is_client_error() || status.is_success(), "{status}: {answer}");
    assert_ne!(status, 500);
    let history = walk(&alice, &room, "f", None, "").await;
    let said = bodies(&json!(history));
    assert!(
        said.iter().any(|body| body.starts_with('y'))
            && !said.iter().any(|body| body.starts_with("xx"))
    );
}

#[tokio::test]
async fn deep_nesting() {
    let (_server, alice, room) = start().await;
    for depth in [200, 20_000] {
        for (open, close) in [("{\"a\":", "}"), ("[", "]")] {
            let body = format!("{{\"x\":{}1{}}}", open.repeat(depth), close.repeat(depth));
            for (method, path) in [
                (Method::PUT, at(&room, "send/org.example.deep/1")),
                (Method::PUT, at(&room, "state/org.example.deep/")),
                (Method::PUT, of_user(&alice, "account_data/org.example.deep")),
                (Method::POST, of_user(&alice, "filter")),
                (Method::POST, format!("{V3}/createRoom")),
            ] {
                let answer = raw(&alice, method, &path, body.clone()).await;
                assert!(answer.0.is_client_error(), "{path}: {answer:?}");
            }
        }
    }
    alice.send_text(&room, "alive").await;
}

#[tokio::test]
async fn duplicate_keys() {
    let (_server, alice, room) = start().await;
    let path = at(&room, "send/org.example.twice/1");
    let (status, answer) = raw(&alice, Method::PUT, &path, "{\"a\":1,\"a\":2}").await;
    // Refused, or one of them taken: but what is stored is what is signed.
    if status == 200 {
        let event = alice
            .get_ok(&at(&room, format!("event/{}", answer["event_id"].as_str().unwrap())))
            .await;
        assert_eq!(event["content"], json!({ "a": 2 }));
        let response = alice
            .send(
                Method::GET,
                &at(&room, format!("event/{}", answer["event_id"].as_str().unwrap())),
                HeaderMap::new(),
                None,
            )
            .await;
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        assert_eq!(text.matches("\"a\":").count(), 1, "{text}");
    } else {
        refused((status, answer), 400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn odd_ids() {
    let (_server, alice, room) = start().await;
    let long = format!("!{}:localhost", "x".repeat(300));
    for bad in ["nonsense", "!", "@alice:localhost", "", "!%00:localhost", &long] {
        let bad = encode(bad);
        for rest in [
            "state",
            "messages?dir=b",
            "members",
            "joined_members",
            "context/$x",
            "event/$x",
            "aliases",
        ] {
            let (status, answer) = alice.get(&format!("{V3}/rooms/{bad}/{rest}")).await;
            assert!(status.is_client_error(), "{bad}/{rest}: {status} {answer}");
        }
        for rest in ["join", "leave", "forget"] {
            let (status, answer) = alice.post(&format!("{V3}/rooms/{bad}/{rest}"), json!({})).await;
            assert!(status.is_client_error(), "{bad}/{rest}: {status} {answer}");
        }
        let (status, answer) =
            alice.put(&format!("{V3}/rooms/{bad}/send/m.room.message/1"), message("x")).await;
        assert!(status.is_client_error(), "{bad}: {status} {answer}");
    }
    for bad in ["x", "$", "!a:b", &"$x".repeat(200)] {
        let bad = encode(bad);
        for path in [
            at(&room, format!("event/{bad}")),
            at(&room, format!("context/{bad}")),
            at_v1(&room, format!("relations/{bad}")),
        ] {
            let (status, answer) = alice.get(&path).await;
            assert!(status == 400 || status == 404, "{path}: {status} {answer}");
        }
        let (status, answer) = alice.put(&at(&room, format!("redact/{bad}/1")), json!({})).await;
        assert!(status.is_client_error(), "{bad}: {status} {answer}");
    }
    for bad in ["alice", "@", "@alice", &format!("@{}:localhost", "x".repeat(300))] {
        for path in
            [format!("{V3}/profile/{}", encode(bad)), format!("{V3}/user/{}/filter/1", encode(bad))]
        {
            let (status, answer) = alice.get(&path).await;
            assert!(status.is_client_error(), "{path}: {status} {answer}");
        }
    }
    // Percent-encoding that is none.
    for path in ["/_matrix/client/v3/rooms/%ff%fe/state", "/_matrix/client/v3/profile/%zz"] {
        let (status, answer) = alice.get(path).await;
        assert!(status.is_client_error(), "{path}: {status} {answer}");
    }
}

#[tokio::test]
async fn unknown_rooms_tell_nothing() {
    let (server, alice, room) = start().await;
    let zoe = server.register("zoe").await;
    let secret = alice.create_room(json!({})).await;
    let nowhere = OwnedRoomId::try_from("!nowhere:localhost").unwrap();
    for rest in [
        "state",
        "messages?dir=b",
        "members",
        "joined_members",
        "state/m.room.name/",
        "event/$x",
        "context/$x",
        "initialSync",
    ] {
        let (unknown, foreign) =
            (zoe.get(&at(&nowhere, rest)).await, zoe.get(&at(&secret, rest)).await);
        assert_eq!(outcome(&unknown), outcome(&foreign), "{rest} tells that the room exists");
        assert!([403, 404].contains(&outcome(&unknown).0), "{rest}: {unknown:?}");
    }
    for (method, rest) in
        [(Method::PUT, "send/m.room.message/1"), (Method::PUT, "state/m.room.topic/")]
    {
        for there in [&nowhere, &secret] {
            let (status, answer) =
                zoe.json(method.clone(), &at(there, rest), Some(message("x"))).await;
            assert!(status == 403 || status == 404, "{rest}: {answer}");
        }
    }
    let read = format!("{V1}/room_summary/{}", encode(room.as_str()));
    zoe.get_ok(&read).await;
}

#[tokio::test]
async fn foreign_tokens() {
    let (server, alice, room) = start().await;
    let bob = server.register("bob").await;
    let other = bob.create_public_room().await;
    for n in 0..3 {
        bob.send_text(&other, &n.to_string()).await;
    }
    let page = bob.get_ok(&at(&other, "messages?dir=b&limit=1")).await;
    let end = encode(page["end"].as_str().unwrap());
    // A token of another room gives no access to that room, and breaks nothing.
    let (status, answer) = alice.get(&at(&room, format!("messages?dir=b&from={end}"))).await;
    assert!(status == 200 || status == 400, "{answer}");
    assert!(!answer.to_string().contains(other.as_str()), "{answer}");
    // Another user's sync token tells nothing of theirs.
    let since = bob.now().await;
    bob.send_text(&other, "bob's secret").await;
    let update = alice.sync(Some(&since), "").await;
    assert!(!update.to_string().contains("bob's secret"), "{update}");
    for token in [
        "",
        "s",
        "s-1",
        "s99999999999999999999999",
        "%00",
        "s1_2_3_4",
        "\u{fffd}",
        &"9".repeat(4_000),
    ] {
        let token = encode(token);
        for path in [
            format!("{V3}/sync?timeout=0&since={token}"),
            at(&room, format!("messages?dir=f&from={token}")),
            at(&room, format!("members?at={token}")),
        ] {
            let (status, answer) = alice.get(&path).await;
            assert!(status == 400 || status == 200, "{path}: {status} {answer}");
        }
    }
}
