//! Rate limits, bounds on concurrency, shutdown.

use std::{net::SocketAddr, pin::pin, task::Poll};

use axum::extract::ConnectInfo;
use futures_util::poll;
use hearth_http::{ClassLimits, HttpConfig, Lane, Rate, RateLimits};
use ruma::api::{Metadata as _, client::account::whoami};

use crate::app::{Fixture, SECOND, fixture, fixture_with, request};

const SEND: &str = "/_matrix/client/v3/rooms/!a:b/send/m.x/1";
const SYNC: &str = "/_matrix/client/v3/sync?timeout=30000";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// Every class: 2 requests at once for a user, 3 for an address, one more each second.
fn strict() -> HttpConfig {
    let class = ClassLimits { user: Rate::new(1.0, 2), address: Rate::new(1.0, 3) };
    let rate_limits = RateLimits {
        login: class,
        message: class,
        membership: class,
        general: class,
        ..RateLimits::default()
    };
    HttpConfig { rate_limits, ..HttpConfig::default() }
}

async fn send_as(app: &Fixture, user: &str, address: [u8; 4]) -> u16 {
    let token = format!("token_of_{user}");
    let mut request = request("PUT", SEND, Some(&token), "{}");
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 1))));
    app.send(request).await.status.as_u16()
}

#[tokio::test]
async fn a_user_who_sends_too_much_is_told_when_to_come_back() {
    let app = fixture_with(strict());
    assert_eq!(app.ask("PUT", SEND, "{}").await.status, 200);
    assert_eq!(app.ask("PUT", SEND, "{}").await.status, 200);
    let refused = app.ask("PUT", SEND, "{}").await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(refused.json()["retry_after_ms"], 1_000);
    assert_eq!(refused.headers["retry-after"], "1");
    app.clock.advance(SECOND);
    assert_eq!(app.ask("PUT", SEND, "{}").await.status, 200);
}

#[tokio::test]
async fn users_at_one_address_share_its_limit() {
    let app = fixture_with(strict());
    let here = [192, 0, 2, 7];
    for user in ["a", "b", "c"] {
        assert_eq!(send_as(&app, user, here).await, 200);
    }
    assert_eq!(send_as(&app, "d", here).await, 429);
    assert_eq!(send_as(&app, "d", [192, 0, 2, 8]).await, 200);
}

#[tokio::test]
async fn some_users_are_free_of_their_limit() {
    let app = fixture_with(strict());
    for host in 0..10 {
        assert_eq!(send_as(&app, "free", [192, 0, 2, host]).await, 200);
    }
}

#[tokio::test]
async fn classes_have_limits_of_their_own() {
    let app = fixture_with(strict());
    for _ in 0..2 {
        assert_eq!(app.ask("PUT", SEND, "{}").await.status, 200);
    }
    assert_eq!(app.ask("PUT", SEND, "{}").await.status, 429);
    assert_eq!(app.ask("POST", "/_matrix/client/v3/createRoom", "").await.status, 200);
}

#[tokio::test]
async fn the_specification_says_what_else_is_limited() {
    let app = fixture_with(strict());
    const { assert!(whoami::v3::Request::RATE_LIMITED) };
    for _ in 0..2 {
        assert_eq!(app.get(WHOAMI).await.status, 200);
    }
    assert_eq!(app.get(WHOAMI).await.status, 429);
    for _ in 0..10 {
        let state = app.get("/_matrix/client/v3/rooms/!a:b/state/m.x/").await;
        assert_eq!(state.status, 200);
    }
}

#[tokio::test]
async fn an_address_is_refused_before_token_and_body_are_looked_at() {
    let app = fixture_with(strict());
    for _ in 0..3 {
        assert_eq!(app.send(request("PUT", SEND, None, "")).await.status, 401);
    }
    let never = futures_util::stream::pending::<Result<String, std::io::Error>>();
    let body = axum::body::Body::from_stream(never);
    assert_eq!(app.send(request("PUT", SEND, None, body)).await.status, 429);
}

#[tokio::test]
async fn the_forwarded_address_counts_behind_a_trusted_proxy_only() {
    let forwarded = |client: &str| {
        let mut request = request("PUT", SEND, None, "");
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        request
    };
    let proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let behind = fixture_with(HttpConfig { trusted_proxies: proxies, ..strict() });
    let exposed = fixture_with(strict());
    for client in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"] {
        assert_eq!(behind.send(forwarded(client)).await.status, 401);
        exposed.send(forwarded(client)).await;
    }
    assert_eq!(exposed.send(forwarded("203.0.113.5")).await.status, 429);
}

#[tokio::test]
async fn limits_can_be_switched_off() {
    let mut config = strict();
    config.rate_limits.enabled = false;
    let app = fixture_with(config);
    for _ in 0..20 {
        assert_eq!(app.ask("PUT", SEND, "{}").await.status, 200);
    }
}

#[tokio::test]
async fn long_polls_wait_apart_and_answer_at_shutdown() {
    let config = HttpConfig { max_in_flight: 1, max_long_polls: 2, ..HttpConfig::default() };
    let app = fixture_with(config);
    let (mut first, mut second) = (pin!(app.get(SYNC)), pin!(app.get(SYNC)));
    assert!(poll!(first.as_mut()).is_pending());
    assert!(poll!(second.as_mut()).is_pending());
    assert_eq!(app.http.in_flight(Lane::LongPoll), 2);
    let third = app.get(SYNC).await;
    assert_eq!(third.error(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(app.get(WHOAMI).await.status, 200);

    app.http.shutdown().request();
    assert!(app.http.shutdown().is_requested());
    assert_eq!(first.await.json()["next_batch"], "s1");
    assert_eq!(second.await.status, 200);
    assert_eq!(app.http.in_flight(Lane::LongPoll), 0);
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let app = fixture_with(HttpConfig { max_in_flight: 1, ..HttpConfig::default() });
    let body = futures_util::stream::pending::<Result<String, std::io::Error>>();
    let slow = request("PUT", SEND, Some("token_of_alice"), axum::body::Body::from_stream(body));
    {
        let mut slow = Box::pin(app.send(slow));
        assert!(matches!(futures_util::poll!(slow.as_mut()), Poll::Pending));
        let refused = app.get(WHOAMI).await;
        assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED".to_owned()));
        assert_eq!(refused.headers["retry-after"], "1");
    }
    // The client of the slow request went away.
    assert_eq!(app.http.in_flight(Lane::Short), 0);
    assert_eq!(app.get(WHOAMI).await.status, 200);
}

#[tokio::test]
async fn the_shutdown_signal_can_be_awaited_before_and_after() {
    let app = fixture();
    let shutdown = app.http.shutdown().clone();
    let mut waiting = pin!(shutdown.requested());
    assert!(poll!(waiting.as_mut()).is_pending());
    app.http.shutdown().request();
    waiting.await;
    shutdown.requested().await;
}

#[test]
fn the_configuration_names_what_is_wrong() {
    let refusal = |config: HttpConfig| config.validate().unwrap_err().to_string();
    let small = HttpConfig { max_json_bytes: 10, ..HttpConfig::default() };
    assert!(refusal(small).starts_with("http.max_json_bytes: "));
    let mut never = HttpConfig::default();
    never.rate_limits.message.user.per_second = 0.0;
    assert!(refusal(never).starts_with("http.rate_limits.message: "));
    assert!(HttpConfig::default().validate().is_ok());
    assert!(serde_json::from_str::<HttpConfig>(r#"{"max_jsonbytes": 1}"#).is_err());
    assert!(serde_json::from_str::<HttpConfig>(r#"{"trusted_proxies": ["x"]}"#).is_err());
}
