//! `GET` and `POST /login`, `POST /v1/login/get_token`.

use hearth_testkit::{TestServer, TestUser};
use http::Method;
use serde_json::{Value, json};

use super::with_password;
use crate::support::{V1, V3, list, of_type, refused, text, tidy};

fn path() -> String {
    format!("{V3}/login")
}

fn body(identifier: &Value, password: &str) -> Value {
    json!({ "type": "m.login.password", "identifier": identifier, "password": password })
}

fn user(name: &str) -> Value {
    json!({ "type": "m.id.user", "user": name })
}

#[tokio::test]
async fn by_password() {
    let server = TestServer::start().await;
    let client = server.client();
    server.register("alice").await;
    let password = TestUser::password_of("alice");
    of_type(&client.get_ok(&path()).await["flows"], "m.login.password");

    let answer = client.post_ok(&path(), body(&user("alice"), &password)).await;
    insta::assert_json_snapshot!(tidy(&answer, &[]));
    let by_id = client.post_ok(&path(), body(&user("@alice:localhost"), &password)).await;
    assert_eq!(by_id["user_id"], "@alice:localhost");
    assert_ne!(by_id["device_id"], answer["device_id"]);
    // The deprecated top-level field.
    let old = json!({ "type": "m.login.password", "user": "alice", "password": password });
    assert_eq!(client.post_ok(&path(), old).await["user_id"], "@alice:localhost");
}

#[tokio::test]
async fn refuses_what_is_wrong_without_saying_what() {
    let server = TestServer::start().await;
    let client = server.client();
    server.register("alice").await;
    let password = TestUser::password_of("alice");
    let wrong =
        refused(client.post(&path(), body(&user("alice"), "guess")).await, 403, "M_FORBIDDEN");
    let nobody =
        refused(client.post(&path(), body(&user("zoe"), "guess")).await, 403, "M_FORBIDDEN");
    assert_eq!(wrong, nobody, "the answer would tell who has an account");
    let foreign = body(&user("@alice:elsewhere.example"), &password);
    refused(client.post(&path(), foreign).await, 403, "M_FORBIDDEN");
    let email = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@b.example" });
    refused(client.post(&path(), body(&email, &password)).await, 403, "M_FORBIDDEN");
    refused(client.post(&path(), json!({ "type": "m.login.magic" })).await, 400, "M_UNKNOWN");
    refused(client.post(&path(), json!({ "password": password })).await, 400, "M_BAD_JSON");
}

#[tokio::test]
async fn takes_over_the_device_that_it_names() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let mut body = body(&user("alice"), &alice.password());
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("a phone");
    let first = server.client().post_ok(&path(), body.clone()).await;
    assert_eq!(first["device_id"], "PHONE");
    let first = alice.with_token(text(&first, "access_token"));
    first.get_ok(&format!("{V3}/account/whoami")).await;
    // The display name is only for a device that is new.
    body["initial_device_display_name"] = json!("another name");
    let second = server.client().post_ok(&path(), body).await;
    let second = alice.with_token(text(&second, "access_token"));
    refused(first.get(&format!("{V3}/account/whoami")).await, 401, "M_UNKNOWN_TOKEN");
    let devices = second.get_ok(&format!("{V3}/devices")).await;
    assert_eq!(list(&devices["devices"]).len(), 2);
    assert_eq!(second.get_ok(&format!("{V3}/devices/PHONE")).await["display_name"], "a phone");
}

#[tokio::test]
async fn by_token_once() {
    let server = TestServer::builder().config(|c| c.users.login_token_enabled = true).start().await;
    let alice = server.register("alice").await;
    let flows = server.client().get_ok(&path()).await;
    assert_eq!(of_type(&flows["flows"], "m.login.token")["get_login_token"], true);
    let capabilities = alice.get_ok(&format!("{V3}/capabilities")).await;
    assert_eq!(capabilities["capabilities"]["m.get_login_token"]["enabled"], true);

    let get_token = format!("{V1}/login/get_token");
    let (status, answer) =
        with_password(&alice, Method::POST, &get_token, json!({}), "alice", &alice.password())
            .await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["expires_in_ms"].as_u64().unwrap() > 0);
    let body = json!({ "type": "m.login.token", "token": answer["login_token"] });
    let session = server.client().post_ok(&path(), body.clone()).await;
    assert_eq!(session["user_id"], "@alice:localhost");
    refused(server.client().post(&path(), body).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn by_token_is_off_by_default() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let body = json!({ "type": "m.login.token", "token": "made-up" });
    let (status, answer) = server.client().post(&path(), body).await;
    assert!(status == 403 || status == 400, "{answer}");
    let (status, _) = alice.post(&format!("{V1}/login/get_token"), json!({})).await;
    assert!(status.is_client_error());
}
