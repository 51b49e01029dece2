//! Accounts: registration, log-in, sessions, devices, password, deactivation, moderation.

mod admin;
mod deactivate;
mod devices;
mod guests;
mod login;
mod logout;
mod password;
mod refresh;
mod register;
mod shared_secret;
mod whoami;

use hearth_testkit::Client;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::text;

/// Does a request that wants the user's password, in the two steps of user-interactive
/// authentication; checks the first step's form and returns the second's answer.
pub(crate) async fn with_password(
    client: &Client,
    method: Method,
    path: &str,
    mut body: Value,
    user: &str,
    password: &str,
) -> (StatusCode, Value) {
    let (status, challenge) = client.json(method.clone(), path, Some(body.clone())).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{challenge}");
    assert_eq!(challenge["flows"], json!([{ "stages": ["m.login.password"] }]), "{challenge}");
    body["auth"] = password_stage(text(&challenge, "session"), user, password);
    client.json(method, path, Some(body)).await
}

/// The password stage of user-interactive authentication.
fn password_stage(session: &str, user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
        "session": session,
    })
}
