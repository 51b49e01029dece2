//! `/voip/turnServer` and `/rtc/transports`: servers that carry calls (CS "Voice over IP"; MSC4143).

use std::time::Duration;

use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hearth_http::{Caller, Class, MatrixError, Policy, RawJson, Ruma, Session as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::request::Parts;
use ruma::{UserId, api::client::voip::get_turn_server_info};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/voip/turnServer`. `{}` where there is none.
pub(crate) async fn turn_server(
    app: ClientApi,
    request: Ruma<get_turn_server_info::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let calls = &app.config().calls;
    let caller = &request.identity;
    if caller.is_guest() && !calls.turn_for_guests {
        return Err(MatrixError::guest_access_forbidden("Guests cannot use this").into());
    }
    if calls.turn_uris.is_empty() {
        return Ok(RawJson(Bytes::from_static(b"{}")));
    }
    let (username, password) = match &calls.turn_shared_secret {
        Some(secret) => {
            let expires_s = (app.clock().now_ms() / 1_000).saturating_add(calls.turn_lifetime_s);
            passing_credentials(secret.expose(), caller.user_id(), Duration::from_secs(expires_s))
        }
        None => (
            calls.turn_username.clone().unwrap_or_default(),
            calls
                .turn_password
                .as_ref()
                .map(|secret| secret.expose().to_owned())
                .unwrap_or_default(),
        ),
    };
    let body = json!({
        "username": username,
        "password": password,
        "uris": calls.turn_uris,
        "ttl": calls.turn_lifetime_s,
    });
    Ok(RawJson(Bytes::from(body.to_string())))
}

/// A user name that says until when (since the epoch) and for whom it is, and the password that only who
/// knows the secret can make for it: what TURN servers such as coturn check without asking anybody.
fn passing_credentials(secret: &str, user_id: &UserId, expires: Duration) -> (String, String) {
    let username = format!("{}:{user_id}", expires.as_secs());
    // A key of HMAC may have any length.
    let password = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map(|mut mac| {
        mac.update(username.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    });
    (username, password.unwrap_or_default())
}

/// `GET /_matrix/client/v1/rtc/transports`, also under its unstable name.
pub(crate) async fn rtc_transports(
    State(app): State<ClientApi>,
    head: Parts,
) -> Result<Json<Value>, ApiError> {
    Caller::of(&app, &head, Policy::from(Class::General).allow_guests()).await?;
    Ok(Json(json!({ "rtc_transports": transports(&app) })))
}

/// The configured transports of MatrixRTC.
pub(crate) fn transports(app: &ClientApi) -> Vec<Value> {
    let urls = app.config().calls.livekit_service_urls.iter();
    urls.map(|url| json!({ "type": "livekit", "livekit_service_url": url })).collect()
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn credentials_are_those_of_the_shared_secret() {
        // From `openssl dgst -sha1 -hmac secret -binary | base64` over the user name.
        let made = passing_credentials(
            "secret",
            user_id!("@alice:example.org"),
            Duration::from_secs(1_700_000_000),
        );
        assert_eq!(made.0, "1700000000:@alice:example.org");
        assert_eq!(made.1, "g/l/t/tR2Emj7Ax0fkxwtp3GUrQ=");
    }
}
