//! `/_synapse/admin/v1/register`: accounts for whoever knows the configured secret.

use hearth_testkit::{Client, TestServer, TestServerBuilder};
use hearth_users::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::support::{V3, refused, text};

const PATH: &str = "/_synapse/admin/v1/register";
const SECRET: &str = "a secret for tests";

/// A server on which [`register`] works.
pub(super) fn server_with_secret() -> TestServerBuilder {
    TestServer::builder().config(|c| {
        c.users.registration_shared_secret = Some(Secret::new(SECRET.to_owned()));
    })
}

/// Registers with the secret, in the form that existing tools use.
pub(super) async fn register(
    client: &Client,
    secret: &str,
    name: &str,
    admin: bool,
) -> (StatusCode, Value) {
    let nonce = text(&client.get_ok(PATH).await, "nonce").to_owned();
    client.post(PATH, body(&nonce, secret, name, admin)).await
}

fn body(nonce: &str, secret: &str, name: &str, admin: bool) -> Value {
    let password = format!("password of {name}");
    let role = if admin { "admin" } else { "notadmin" };
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update([nonce, name, &password, role].join("\0").as_bytes());
    let mac = mac
        .finalize()
        .into_bytes()
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    json!({ "nonce": nonce, "username": name, "password": password, "admin": admin, "mac": mac })
}

#[tokio::test]
async fn does_not_exist_without_a_secret() {
    let server = TestServer::start().await;
    let client = server.client();
    refused(client.get(PATH).await, 404, "M_UNRECOGNIZED");
    let body = body("nonce", SECRET, "alice", false);
    refused(client.post(PATH, body).await, 404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn makes_accounts_and_administrators() {
    let server = server_with_secret().start().await;
    let client = server.client();
    let (status, alice) = register(&client, SECRET, "alice", false).await;
    assert_eq!(status, StatusCode::OK, "{alice}");
    assert_eq!(alice["user_id"], "@alice:localhost");
    let alice = client.with_token(text(&alice, "access_token"));
    alice.get_ok(&format!("{V3}/account/whoami")).await;
    server.login("alice").await;
    let (_, root) = register(&client, SECRET, "root", true).await;
    let root = client.with_token(text(&root, "access_token"));
    let lock = "/_matrix/client/v1/admin/lock/@alice:localhost";
    assert_eq!(root.get_ok(lock).await, json!({ "locked": false }));
    refused(alice.get(lock).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn refuses_wrong_codes_and_used_nonces() {
    let server = server_with_secret().start().await;
    let client = server.client();
    refused(register(&client, "a wrong secret", "alice", false).await, 403, "M_FORBIDDEN");
    let nonce = text(&client.get_ok(PATH).await, "nonce").to_owned();
    client.post_ok(PATH, body(&nonce, SECRET, "alice", false)).await;
    let (status, answer) = client.post(PATH, body(&nonce, SECRET, "bob", false)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    refused(register(&client, SECRET, "alice", false).await, 400, "M_USER_IN_USE");
    // The role is part of what is signed.
    let nonce = text(&client.get_ok(PATH).await, "nonce").to_owned();
    let mut raised = body(&nonce, SECRET, "mallory", false);
    raised["admin"] = json!(true);
    refused(client.post(PATH, raised).await, 403, "M_FORBIDDEN");
}
