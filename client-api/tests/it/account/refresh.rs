//! `POST /refresh` and soft logout (CS "Refreshing access tokens").

use std::{sync::Arc, time::Duration};

use hearth_testkit::{TestServer, TestUser};
use hearth_types::ManualClock;
use serde_json::{Value, json};

use crate::support::{V3, refused, text, tidy};

fn path() -> String {
    format!("{V3}/refresh")
}

fn whoami() -> String {
    format!("{V3}/account/whoami")
}

async fn login(server: &TestServer) -> Value {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": TestUser::password_of("alice"),
        "refresh_token": true,
    });
    server.client().post_ok(&format!("{V3}/login"), body).await
}

#[tokio::test]
async fn the_old_pair_lives_until_the_new_one_is_used() {
    let server = TestServer::start().await;
    server.register("alice").await;
    let client = server.client();
    let first = login(&server).await;
    let refresh = async |pair: &Value| {
        client.post(&path(), json!({ "refresh_token": pair["refresh_token"] })).await
    };
    let uses =
        async |pair: &Value| client.with_token(text(pair, "access_token")).get(&whoami()).await;

    let (status, second) = refresh(&first).await;
    assert_eq!(status, 200);
    insta::assert_json_snapshot!(tidy(&second, &[]));
    assert_ne!(second["access_token"], first["access_token"]);
    // The answer may have been lost: both the old tokens still work.
    assert_eq!(uses(&first).await.0, 200);
    let (status, third) = refresh(&first).await;
    assert_eq!(status, 200, "{third}");

    let (status, me) = uses(&third).await;
    assert_eq!((status.as_u16(), &me["device_id"]), (200, &first["device_id"]));
    refused(uses(&first).await, 401, "M_UNKNOWN_TOKEN");
    refused(refresh(&first).await, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(uses(&third).await.0, 200);
}

#[tokio::test]
async fn refuses_unknown_tokens() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let body = json!({ "refresh_token": "made-up" });
    refused(server.client().post(&path(), body).await, 401, "M_UNKNOWN_TOKEN");
    let body = json!({ "refresh_token": alice.token });
    refused(server.client().post(&path(), body).await, 401, "M_UNKNOWN_TOKEN");
    refused(server.client().post(&path(), json!({})).await, 400, "M_BAD_JSON");
}

#[tokio::test]
async fn expiry_is_a_soft_logout() {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let server = TestServer::builder().clock(Arc::clone(&clock) as _).start().await;
    let alice = server.register("alice").await;
    let client = server.client();
    let first = login(&server).await;
    let device = client.with_token(text(&first, "access_token"));
    device.get_ok(&whoami()).await;
    clock.advance(Duration::from_millis(first["expires_in_ms"].as_u64().unwrap() + 1));
    let expired = refused(device.get(&whoami()).await, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(expired["soft_logout"], true);
    // A token that cannot be refreshed lives on.
    alice.get_ok(&whoami()).await;
    let second = client.post_ok(&path(), json!({ "refresh_token": first["refresh_token"] })).await;
    let me = client.with_token(text(&second, "access_token")).get_ok(&whoami()).await;
    assert_eq!(me["device_id"], first["device_id"]);
}
