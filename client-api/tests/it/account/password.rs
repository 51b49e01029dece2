//! `POST /account/password`.

use hearth_testkit::{TestServer, TestUser};
use http::{Method, StatusCode};
use serde_json::json;

use super::with_password;
use crate::support::{V3, refused};

fn path() -> String {
    format!("{V3}/account/password")
}

fn login(password: &str) -> serde_json::Value {
    json!({ "type": "m.login.password", "password": password,
        "identifier": { "type": "m.id.user", "user": "alice" } })
}

#[tokio::test]
async fn ends_the_other_sessions() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let body = json!({ "new_password": "a wholly new one" });
    let (status, answer) =
        with_password(&alice, Method::POST, &path(), body, "alice", &alice.password()).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
    let whoami = format!("{V3}/account/whoami");
    alice.get_ok(&whoami).await;
    refused(phone.get(&whoami).await, 401, "M_UNKNOWN_TOKEN");
    let client = server.client();
    let old = login(&TestUser::password_of("alice"));
    refused(client.post(&format!("{V3}/login"), old).await, 403, "M_FORBIDDEN");
    client.post_ok(&format!("{V3}/login"), login("a wholly new one")).await;
}

#[tokio::test]
async fn keeps_them_when_asked_to() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let body = json!({ "new_password": "a wholly new one", "logout_devices": false });
    let (status, answer) =
        with_password(&alice, Method::POST, &path(), body, "alice", &alice.password()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    phone.get_ok(&format!("{V3}/account/whoami")).await;
}

#[tokio::test]
async fn refuses_weak_ones() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let body = json!({ "new_password": "short" });
    let (status, answer) = alice.post(&path(), body.clone()).await;
    let answer = if status == StatusCode::UNAUTHORIZED {
        with_password(&alice, Method::POST, &path(), body, "alice", &alice.password()).await
    } else {
        (status, answer)
    };
    refused(answer, 400, "M_WEAK_PASSWORD");
    server.login("alice").await;
}
