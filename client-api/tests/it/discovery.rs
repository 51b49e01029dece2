//! `/versions`, `/capabilities`, `/.well-known/matrix/client`.

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{V3, refused};

#[tokio::test]
async fn versions() {
    let server = TestServer::start().await;
    let answer = server.client().get_ok("/_matrix/client/versions").await;
    insta::assert_json_snapshot!(answer);
    let alice = server.register("alice").await;
    assert_eq!(alice.get_ok("/_matrix/client/versions").await, answer);
}

#[tokio::test]
async fn capabilities() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let path = format!("{V3}/capabilities");
    insta::assert_json_snapshot!(alice.get_ok(&path).await);
    refused(server.client().get(&path).await, 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn well_known() {
    let path = "/.well-known/matrix/client";
    let server = TestServer::start().await;
    let (status, _) = server.client().get(path).await;
    assert_eq!(status, 404, "nothing is known unless configured");
    let server = TestServer::builder()
        .config(|c| c.client.base_url = "https://matrix.example.org".parse().ok())
        .start()
        .await;
    let answer = server.client().get_ok(path).await;
    assert_eq!(answer, json!({ "m.homeserver": { "base_url": "https://matrix.example.org" } }));
    let headers = http::HeaderMap::new();
    let raw = server.client().send(http::Method::GET, path, headers, None).await;
    assert_eq!(raw.headers["access-control-allow-origin"], "*");
}
