//! `/_synapse/admin/v1/register`: registration by shared secret, which existing tools speak. Not of the
//! Matrix specification; 404 unless a secret is configured.

use axum::{Json, extract::State};
use hearth_users::{NewSession, SharedSecretRegistration};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{ApiError, ClientApi};

#[derive(Deserialize)]
pub(crate) struct Registration {
    nonce: String,
    username: String,
    password: String,
    displayname: Option<String>,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    mac: String,
}

/// `GET /_synapse/admin/v1/register`: a nonce for one registration.
pub(crate) async fn nonce(State(app): State<ClientApi>) -> Result<Json<Value>, ApiError> {
    let nonce = app.users().create_registration_nonce()?;
    Ok(Json(json!({ "nonce": nonce })))
}

/// `POST /_synapse/admin/v1/register`: an account for whoever knows the secret.
pub(crate) async fn register(
    State(app): State<ClientApi>,
    hearth_http::Json(registration): hearth_http::Json<Registration>,
) -> Result<Json<Value>, ApiError> {
    let users = app.users();
    let user_id = users
        .register_with_shared_secret(SharedSecretRegistration {
            nonce: registration.nonce,
            username: registration.username,
            password: registration.password,
            display_name: registration.displayname,
            is_admin: registration.admin,
            user_type: registration.user_type,
            mac: registration.mac,
        })
        .await?;
    let tokens = users.create_session(&user_id, NewSession::default()).await?;
    Ok(Json(json!({
        "access_token": tokens.access_token,
        "user_id": tokens.user_id,
        "home_server": app.identity().server_name(),
        "device_id": tokens.device_id,
    })))
}
