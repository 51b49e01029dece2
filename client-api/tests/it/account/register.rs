//! `POST /register`, `GET /register/available`, registration tokens.

use hearth_testkit::TestServer;
use hearth_users::Secret;
use http::StatusCode;
use serde_json::{Value, json};

use crate::support::{V1, V3, refused, text, tidy};

const PASSWORD: &str = "correct horse battery";

fn path() -> String {
    format!("{V3}/register")
}

#[tokio::test]
async fn is_closed_unless_configured() {
    let server = TestServer::builder().config(|c| c.users.open_registration = false).start().await;
    let client = server.client();
    let body = json!({ "username": "alice", "password": PASSWORD });
    refused(client.post(&path(), body).await, 403, "M_FORBIDDEN");
    let body =
        json!({ "username": "alice", "password": PASSWORD, "auth": { "type": "m.login.dummy" } });
    refused(client.post(&path(), body).await, 403, "M_FORBIDDEN");
    let login = json!({ "type": "m.login.password", "password": PASSWORD,
        "identifier": { "type": "m.id.user", "user": "alice" } });
    refused(client.post(&format!("{V3}/login"), login).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn takes_a_dummy_stage() {
    let server = TestServer::start().await;
    let client = server.client();
    let mut body = json!({
        "username": "alice",
        "password": PASSWORD,
        "device_id": "LAPTOP",
        "initial_device_display_name": "the laptop",
    });
    let (status, challenge) = client.post(&path(), body.clone()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert!(challenge["params"].is_null() || challenge["params"].is_object(), "{challenge}");
    assert!(challenge.get("errcode").is_none(), "nothing has failed yet: {challenge}");
    body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
    let answer = client.post_ok(&path(), body.clone()).await;
    assert_eq!(answer["user_id"], "@alice:localhost");
    assert_eq!(answer["device_id"], "LAPTOP");
    let alice = client.with_token(text(&answer, "access_token"));
    let device = alice.get_ok(&format!("{V3}/devices/LAPTOP")).await;
    assert_eq!(device["display_name"], "the laptop");
    // A session is spent with its request.
    body["username"] = json!("alice2");
    let (status, _) = client.post(&path(), body).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn asks_for_a_registration_token() {
    let server = TestServer::builder()
        .config(|c| {
            c.users.open_registration = false;
            c.users.registration_tokens = vec![Secret::new("let-me-in".to_owned())];
        })
        .start()
        .await;
    let client = server.client();
    let validity =
        |token: &str| format!("{V1}/register/m.login.registration_token/validity?token={token}");
    assert_eq!(client.get_ok(&validity("let-me-in")).await, json!({ "valid": true }));
    assert_eq!(client.get_ok(&validity("let-me-out")).await, json!({ "valid": false }));

    let body = |auth: Value| json!({ "username": "alice", "password": PASSWORD, "auth": auth });
    let start = json!({ "username": "alice", "password": PASSWORD });
    let (status, challenge) = client.post(&path(), start).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
    let session = text(&challenge, "session");

    let auth = |token: &str| json!({ "type": "m.login.registration_token", "token": token, "session": session });
    let failed =
        refused(client.post(&path(), body(auth("let-me-out"))).await, 401, "M_UNAUTHORIZED");
    assert_eq!(failed["session"], session, "the stage may be tried again: {failed}");
    assert_eq!(failed["flows"], challenge["flows"]);
    let dummy = json!({ "type": "m.login.dummy", "session": session });
    let (status, _) = client.post(&path(), body(dummy)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a stage of no flow completes nothing");

    let answer = client.post_ok(&path(), body(auth("let-me-in"))).await;
    assert_eq!(answer["user_id"], "@alice:localhost");
}

#[tokio::test]
async fn makes_names_sessions_and_refresh_tokens_as_asked() {
    let server = TestServer::start().await;
    let client = server.client();
    let register = async |mut body: Value| {
        let (_, challenge) = client.post(&path(), body.clone()).await;
        body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
        client.post_ok(&path(), body).await
    };
    let silent =
        register(json!({ "username": "bot", "password": PASSWORD, "inhibit_login": true })).await;
    assert_eq!(silent, json!({ "user_id": "@bot:localhost" }));

    let nameless = register(json!({ "password": PASSWORD })).await;
    assert!(text(&nameless, "user_id").ends_with(":localhost"));

    let body = json!({ "username": "carol", "password": PASSWORD, "refresh_token": true });
    let refreshable = register(body).await;
    assert!(refreshable["expires_in_ms"].as_u64().unwrap() > 0);
    insta::assert_json_snapshot!(tidy(&refreshable, &[]));
}

#[tokio::test]
async fn refuses_bad_names_and_passwords() {
    let server = TestServer::start().await;
    let client = server.client();
    server.register("alice").await;
    let available =
        async |name: &str| client.get(&format!("{V3}/register/available?username={name}")).await;
    assert_eq!(available("bob").await.1, json!({ "available": true }));
    refused(available("alice").await, 400, "M_USER_IN_USE");
    refused(available("b%20b").await, 400, "M_INVALID_USERNAME");
    refused(available(&"x".repeat(250)).await, 400, "M_INVALID_USERNAME");

    let register = async |name: &str, password: &str| {
        client.post(&path(), json!({ "username": name, "password": password })).await
    };
    refused(register("alice", PASSWORD).await, 400, "M_USER_IN_USE");
    for name in ["a b", "ALICE!", "@x:y", "ünal", "", &"x".repeat(250)] {
        refused(register(name, PASSWORD).await, 400, "M_INVALID_USERNAME");
    }
    let body = json!({ "username": "bob", "password": "short" });
    let (_, challenge) = client.post(&path(), body).await;
    let auth = json!({ "type": "m.login.dummy", "session": challenge["session"] });
    let body = json!({ "username": "bob", "password": "short", "auth": auth });
    refused(client.post(&path(), body).await, 400, "M_WEAK_PASSWORD");
}

#[tokio::test]
async fn lets_no_guests_in() {
    let server = TestServer::start().await;
    let answer = server.client().post(&format!("{}?kind=guest", path()), json!({})).await;
    assert_eq!(answer.0, StatusCode::FORBIDDEN, "{}", answer.1);
    assert!(["M_FORBIDDEN", "M_GUEST_ACCESS_FORBIDDEN"].contains(&text(&answer.1, "errcode")));
}
