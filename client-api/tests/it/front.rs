//! What is the same for every endpoint: CORS, unknown paths and methods, sizes, rate limits.

use bytes::Bytes;
use hearth_http::{ClassLimits, Rate};
use hearth_testkit::{Response, TestServer};
use http::{HeaderMap, Method};
use serde_json::json;

use crate::support::{V3, at, message, refused};

#[track_caller]
fn has_cors(response: &Response) {
    assert_eq!(response.headers["access-control-allow-origin"], "*", "{response:?}");
}

#[tokio::test]
async fn browsers_are_let_in() {
    let server = TestServer::start().await;
    let client = server.client();
    let mut headers = HeaderMap::new();
    headers.insert("origin", "https://app.example".parse().unwrap());
    headers.insert("access-control-request-method", "PUT".parse().unwrap());
    headers.insert("access-control-request-headers", "authorization,content-type".parse().unwrap());
    for path in [
        "/_matrix/client/v3/sync",
        "/_matrix/client/v3/rooms/!a:b/send/m.room.message/1",
        "/_matrix/client/v3/nowhere",
    ] {
        let answer = client.send(Method::OPTIONS, path, headers.clone(), None).await;
        assert!(answer.status.is_success(), "{answer:?}");
        has_cors(&answer);
        let methods = answer.headers["access-control-allow-methods"].to_str().unwrap().to_owned();
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            assert!(methods.contains(method), "{methods}");
        }
        let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap();
        for name in ["x-requested-with", "content-type", "authorization"] {
            assert!(allowed.to_ascii_lowercase().contains(name), "{allowed}");
        }
    }
    // On answers and refusals alike.
    for path in
        ["/_matrix/client/versions", "/_matrix/client/v3/sync", "/_matrix/client/v3/nowhere"]
    {
        has_cors(&client.send(Method::GET, path, HeaderMap::new(), None).await);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_unrecognized() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for path in [
        "/_matrix/client/v3/nowhere",
        "/_matrix/client/v9/sync",
        "/_matrix/nothing",
        "/_matrix/client/v3/rooms/!a:b/nothing",
        "/_matrix/",
    ] {
        refused(alice.get(path).await, 404, "M_UNRECOGNIZED");
        refused(server.client().get(path).await, 404, "M_UNRECOGNIZED");
    }
    for (method, path) in [
        (Method::DELETE, "/_matrix/client/v3/sync"),
        (Method::PATCH, "/_matrix/client/v3/account/whoami"),
        (Method::GET, "/_matrix/client/v3/createRoom"),
        (Method::POST, "/_matrix/client/versions"),
        (Method::PUT, "/_matrix/client/v3/login"),
    ] {
        refused(alice.json(method, path, Some(json!({}))).await, 405, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn old_paths_still_work() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let whoami = alice.get_ok("/_matrix/client/r0/account/whoami").await;
    assert_eq!(whoami["user_id"], "@alice:localhost");
    alice.get_ok("/_matrix/client/r0/sync?timeout=0").await;
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let huge = json!({ "msgtype": "m.text", "body": "x".repeat(2 * 1024 * 1024) });
    refused(alice.put(&at(&room, "send/m.room.message/1"), huge).await, 413, "M_TOO_LARGE");
    alice.send_text(&room, "still here").await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let few = ClassLimits { user: Rate::new(0.01, 3), address: Rate::new(100.0, 1_000) };
    let server = TestServer::builder()
        .config(|c| {
            c.http.rate_limits.enabled = true;
            c.http.rate_limits.message = few;
        })
        .start()
        .await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    for n in 0..3 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let path = at(&room, "send/m.room.message/again");
    let body = Bytes::from(message("again").to_string());
    let answer = alice.send(Method::PUT, &path, HeaderMap::new(), Some(body)).await;
    let retry_s: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=100).contains(&retry_s), "{answer:?}");
    has_cors(&answer);
    let error = refused((answer.status, answer.json()), 429, "M_LIMIT_EXCEEDED");
    assert!(error["retry_after_ms"].as_u64().is_none_or(|ms| ms <= 100_000), "{error}");
    // Others, and other kinds of requests, go on.
    bob.send_text(&room, "hello").await;
    alice.sync(None, "").await;
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let few = ClassLimits { user: Rate::new(0.01, 5), address: Rate::new(0.01, 8) };
    let server = TestServer::builder()
        .config(|c| {
            c.http.rate_limits.enabled = true;
            c.http.rate_limits.login = few;
        })
        .start()
        .await;
    let client = server.client();
    let guess = |n: u8| {
        json!({ "type": "m.login.password", "password": format!("guess {n}"),
            "identifier": { "type": "m.id.user", "user": "alice" } })
    };
    let mut outcomes = Vec::new();
    for n in 0..12 {
        let (status, _) = client.post(&format!("{V3}/login"), guess(n)).await;
        outcomes.push(status.as_u16());
    }
    assert_eq!(outcomes[0], 403, "{outcomes:?}");
    assert_eq!(outcomes[11], 429, "{outcomes:?}");
    assert!(outcomes.iter().all(|status| [403, 429].contains(status)), "{outcomes:?}");
}

#[tokio::test]
async fn messages_to_devices_are_slowed_down() {
    let few = ClassLimits { user: Rate::new(0.01, 5), address: Rate::new(100.0, 100) };
    let server = TestServer::builder()
        .config(|c| {
            c.http.rate_limits.enabled = true;
            c.http.rate_limits.general = few;
        })
        .start()
        .await;
    let alice = server.register("alice").await;
    let mut outcomes = Vec::new();
    for n in 0..12 {
        let path = format!("{V3}/sendToDevice/m.test/{n}");
        let messages = json!({ "messages": { "@bob:there.test": { "*": { "n": n } } } });
        outcomes.push(alice.put(&path, messages).await.0.as_u16());
    }
    assert_eq!((outcomes[0], outcomes[11]), (200, 429), "{outcomes:?}");
}
