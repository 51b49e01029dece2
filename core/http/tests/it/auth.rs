//! Tokens and what they open.

use serde_json::{Value, json};

use crate::app::{fixture, request};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn the_token_comes_from_the_header_or_the_query() {
    let app = fixture();
    let by_header = app.get(WHOAMI).await;
    assert_eq!(by_header.status, 200);
    assert_eq!(by_header.json()["user_id"], "@alice:example.org");

    let path = format!("{WHOAMI}?a=b&access_token=token_of_bob");
    let by_query = app.send(request("GET", &path, None, "")).await;
    assert_eq!(by_query.json()["user_id"], "@bob:example.org");
    let escaped = format!("{WHOAMI}?access_token=token%5Fof_bob");
    assert_eq!(app.send(request("GET", &escaped, None, "")).await.status, 200);

    let mut lower = request("GET", WHOAMI, None, "");
    lower.headers_mut().insert("authorization", "bearer token_of_carol".parse().unwrap());
    assert_eq!(app.send(lower).await.json()["user_id"], "@carol:example.org");
}

#[tokio::test]
async fn a_missing_token_is_told_from_a_wrong_one() {
    let app = fixture();
    let without = app.send(request("GET", WHOAMI, None, "")).await;
    assert_eq!(without.error(), (401, "M_MISSING_TOKEN".to_owned()));
    assert_eq!(without.json().get("soft_logout"), None);

    let wrong = app.send(request("GET", WHOAMI, Some("nonsense"), "")).await;
    assert_eq!(wrong.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    assert_eq!(wrong.json()["soft_logout"], false);

    let expired = app.send(request("GET", WHOAMI, Some("expired"), "")).await;
    assert_eq!(expired.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    assert_eq!(expired.json()["soft_logout"], true);
}

#[tokio::test]
async fn a_header_that_is_no_bearer_token_is_no_token() {
    let app = fixture();
    for value in ["Basic abc", "Bearer", "Bearer ", "", "token_of_alice", "Bearer \u{e9}"] {
        let mut request = request("GET", WHOAMI, None, "");
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().insert("authorization", value);
        let answer = app.send(request).await;
        assert_eq!(answer.error(), (401, "M_MISSING_TOKEN".to_owned()));
    }
}

#[tokio::test]
async fn a_locked_account_can_only_log_out() {
    let app = fixture();
    let locked = app.send(request("GET", WHOAMI, Some("token_of_locked"), "")).await;
    assert_eq!(locked.error(), (401, "M_USER_LOCKED".to_owned()));
    assert_eq!(locked.json()["soft_logout"], true);
    let logout = request("POST", "/_matrix/client/v3/logout", Some("token_of_locked"), "");
    assert_eq!(app.send(logout).await.status, 200);
}

#[tokio::test]
async fn an_optional_token_may_be_left_out_but_not_be_wrong() {
    let app = fixture();
    let path = "/_matrix/client/versions";
    let anonymous = app.send(request("GET", path, None, "")).await;
    assert_eq!(anonymous.json()["user_id"], Value::Null);
    assert_eq!(app.get(path).await.json()["user_id"], "@alice:example.org");
    let wrong = app.send(request("GET", path, Some("nonsense"), "")).await;
    assert_eq!(wrong.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}

#[tokio::test]
async fn endpoints_without_authentication_ignore_tokens() {
    let app = fixture();
    let path = "/_matrix/client/v3/directory/room/%23a:example.org";
    for token in [None, Some("nonsense"), Some("token_of_alice")] {
        let answer = app.send(request("GET", path, token, "")).await;
        assert_eq!(answer.json(), json!({ "alias": "#a:example.org" }));
    }
}

#[tokio::test]
async fn the_token_is_checked_before_the_body_and_after_the_path() {
    let app = fixture();
    let send = "/_matrix/client/v3/rooms/!a:b/send/m.room.message/1";
    let answer = app.send(request("PUT", send, None, "not json")).await;
    assert_eq!(answer.error(), (401, "M_MISSING_TOKEN".to_owned()));
    let unknown = app.send(request("PUT", "/_matrix/client/v3/nothing", None, "")).await;
    assert_eq!(unknown.error(), (404, "M_UNRECOGNIZED".to_owned()));
}

#[tokio::test]
async fn a_store_that_fails_is_the_servers_fault() {
    let answer = fixture().send(request("GET", WHOAMI, Some("broken"), "")).await;
    assert_eq!(answer.error(), (500, "M_UNKNOWN".to_owned()));
    assert!(!String::from_utf8_lossy(&answer.body).contains("fire"));
}

/// A transaction with as many bytes as its proof says, or as it says otherwise.
async fn transaction(body: String, proof: Option<usize>) -> (u16, String) {
    let path = "/_matrix/federation/v1/send/1";
    let mut request = request("PUT", path, None, body);
    if let Some(proof) = proof {
        request.headers_mut().insert("x-length", proof.into());
    }
    fixture().send(request).await.error()
}

fn transaction_body(bytes: usize) -> String {
    let start = r#"{"origin":"a.b","origin_server_ts":1,"pdus":[],"pad":""#;
    format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2))
}

#[tokio::test]
async fn a_scheme_may_prove_the_body_after_it_was_read() {
    let none = "none".to_owned();
    assert_eq!(transaction(transaction_body(100), Some(100)).await, (200, none.clone()));
    let refused = (403, "M_FORBIDDEN".to_owned());
    assert_eq!(transaction(transaction_body(100), Some(99)).await, refused);
    // What is not JSON is refused before anything is proven about it, what has no proof before that.
    assert_eq!(transaction("[".to_owned(), Some(99)).await.0, 400);
    assert_eq!(transaction("[".to_owned(), None).await, refused);
}

#[tokio::test]
async fn a_policy_may_admit_larger_bodies() {
    let (some, more) = (1024 * 1024 + 1, 2 * 1024 * 1024 + 1);
    assert_eq!(transaction(transaction_body(some), Some(some)).await.0, 200);
    let too_large = (413, "M_TOO_LARGE".to_owned());
    assert_eq!(transaction(transaction_body(more), Some(more)).await, too_large);
}
