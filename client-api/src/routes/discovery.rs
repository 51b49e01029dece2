//! `/versions`, `/capabilities`, `/.well-known`: what this server can do and where it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_rooms::SUPPORTED_VERSIONS;
use ruma::api::client::discovery::{
    discover_homeserver, discover_support, get_capabilities, get_supported_versions,
};
use serde_json::{Map, Value, json};

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{calls, delayed_events::put_field},
};

/// Every version whose client-server API this server follows. Clients look features up by exact
/// entry, so all of them are listed.
const VERSIONS: &[&str] = &[
    "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8",
    "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18",
    "v1.19",
];

/// Features outside of the specification, or under the names they had before they were inside.
const UNSTABLE_FEATURES: &[&str] = &[
    "org.hearth.websocket",
    "org.matrix.msc4140",
    "org.matrix.msc4186",
    "org.matrix.msc4222",
    "org.matrix.simplified_msc3575",
    // In the specification by now, but published clients still look for these names.
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133.stable",
];

/// The feature of servers that name transports for MatrixRTC, announced where there are any.
const RTC_TRANSPORTS: &str = "org.matrix.msc4143";

/// `GET /_matrix/client/versions`
pub(crate) async fn versions(
    app: ClientApi,
    _request: Ruma<get_supported_versions::Request, Option<LocalUser>>,
) -> Result<get_supported_versions::Response, ApiError> {
    let versions = VERSIONS.iter().map(|&version| version.to_owned()).collect();
    let mut response = get_supported_versions::Response::new(versions);
    response.unstable_features =
        UNSTABLE_FEATURES.iter().map(|&name| (name.to_owned(), true)).collect();
    if !calls::transports(&app).is_empty() {
        response.unstable_features.insert(RTC_TRANSPORTS.to_owned(), true);
    }
    Ok(response)
}

/// `GET /_matrix/client/*/capabilities`
pub(crate) async fn capabilities(
    app: ClientApi,
    request: Ruma<get_capabilities::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let available: BTreeMap<_, _> =
        SUPPORTED_VERSIONS.iter().map(|version| (version.as_str(), "stable")).collect();
    let mut capabilities = json!({
        "m.change_password": {"enabled": true},
        "m.room_versions": {
            "default": app.rooms().config().default_version,
            "available": available,
        },
        "m.set_displayname": {"enabled": true},
        "m.set_avatar_url": {"enabled": true},
        "m.profile_fields": {"enabled": true},
        "m.3pid_changes": {"enabled": false},
        "m.get_login_token": {"enabled": app.users().config().login_token_enabled},
        "m.forget_forced_upon_leave": {"enabled": false},
        "org.matrix.msc4140.delayed_events": {
            "max_delay_ms": app.delayed().config().max_delay_ms(),
            "max_scheduled": app.delayed().config().max_scheduled,
        },
    });
    if request.identity.must_be_admin().is_ok() {
        put_field(
            &mut capabilities,
            "m.account_moderation",
            json!({"suspend": true, "lock": true}),
        );
    }
    let body = json!({ "capabilities": capabilities });
    Ok(RawJson(Bytes::from(body.to_string())))
}

/// `GET /.well-known/matrix/client`
pub(crate) async fn well_known_client(
    app: ClientApi,
    _request: Ruma<discover_homeserver::Request>,
) -> Result<RawJson, ApiError> {
    let base_url = app.config().base_url();
    let base_url =
        base_url.ok_or_else(|| MatrixError::not_found("This server does not say where it is"))?;
    let mut body = json!({ "m.homeserver": { "base_url": base_url } });
    let transports = calls::transports(&app);
    if !transports.is_empty() {
        // Where clients of MatrixRTC looked before there was an endpoint for it.
        put_field(&mut body, "org.matrix.msc4143.rtc_foci", Value::Array(transports));
    }
    Ok(RawJson(Bytes::from(body.to_string())))
}

/// `GET /.well-known/matrix/support`
pub(crate) async fn well_known_support(
    app: ClientApi,
    _request: Ruma<discover_support::Request>,
) -> Result<RawJson, ApiError> {
    let config = app.config();
    let contact = config.support_email.is_some() || config.support_user.is_some();
    if !contact && config.support_page.is_none() {
        return Err(MatrixError::not_found("This server names nobody to ask").into());
    }
    let mut body = Map::new();
    if contact {
        let mut admin = Map::new();
        admin.insert("role".to_owned(), json!("m.role.admin"));
        if let Some(email) = &config.support_email {
            admin.insert("email_address".to_owned(), json!(email));
        }
        if let Some(user_id) = &config.support_user {
            admin.insert("matrix_id".to_owned(), json!(user_id));
        }
        body.insert("contacts".to_owned(), json!([admin]));
    }
    if let Some(page) = &config.support_page {
        body.insert("support_page".to_owned(), json!(page));
    }
    Ok(RawJson(Bytes::from(Value::Object(body).to_string())))
}
