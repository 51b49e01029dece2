//! `GET /_matrix/client/unstable/org.hearth.websocket/sync`: sync responses pushed over a WebSocket, and
//! a few requests over the same socket. `docs/websocket.md` describes the protocol.

mod requests;
mod socket;

use std::time::Duration;

use axum::{
    extract::{
        Query, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use hearth_http::{ApiState, Authenticate, Lane, MatrixError};
use hearth_sync::SyncRequest;
use http::{HeaderMap, header};
use ruma::{api::client::sync::sync_events::v3::Filter, presence::PresenceState};
use serde::Deserialize;

use crate::{ApiError, ClientApi, routes::sync::known};

use self::socket::Socket;

/// The one subprotocol.
const PROTOCOL: &str = "m.json";
/// Greatest message from a client, in bytes: an event of the greatest size, escaped.
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// Greatest frame that is read at all: between this and the bound above, the refusal reaches the client
/// before the connection ends.
const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Read and write buffers: the defaults would cost every idle socket ten times as much.
const BUFFER_BYTES: usize = 4 * 1024;

/// The parameters of `/sync` that make sense here.
#[derive(Deserialize)]
pub(crate) struct Parameters {
    access_token: Option<String>,
    since: Option<String>,
    filter: Option<String>,
    #[serde(default)]
    full_state: bool,
    #[serde(default)]
    set_presence: PresenceState,
    #[serde(default)]
    use_state_after: bool,
}

/// Answers the handshake, or refuses as `/sync` would.
pub(crate) async fn open(
    State(app): State<ClientApi>,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let Query(parameters) =
        parameters.map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    let token = token(&headers, &parameters)?;
    let caller = app.authenticate(&token, None).await.map_err(MatrixError::from)?;
    if hearth_http::Session::is_locked(&caller) {
        return Err(MatrixError::user_locked().into());
    }
    if !offers_protocol(&headers) {
        return Err(MatrixError::invalid_param("Offer the subprotocol m.json").into());
    }
    let upgrade = upgrade.map_err(|_| MatrixError::invalid_param("Not a WebSocket handshake"))?;
    let place = app.http().admit(Lane::LongPoll)?;
    let question = SyncRequest {
        user_id: caller.user_id().to_owned(),
        device_id: caller.device_id().to_owned(),
        since: parameters.since,
        filter: parameters.filter.as_deref().map(parse_filter).transpose()?,
        full_state: parameters.full_state,
        set_presence: known(parameters.set_presence)?,
        timeout: Duration::ZERO,
        use_state_after: parameters.use_state_after,
        unstable_state_after: false,
    };
    let stream = app.sync().stream(question).await?;
    Ok(upgrade
        .protocols([PROTOCOL])
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .on_upgrade(move |socket| async move {
            Socket::new(app, caller, token, socket).run(stream).await;
            drop(place);
        }))
}

fn token(headers: &HeaderMap, parameters: &Parameters) -> Result<String, MatrixError> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| value.strip_prefix("Bearer "));
    let token = bearer.or(parameters.access_token.as_deref()).map(ToOwned::to_owned);
    token.ok_or_else(|| MatrixError::missing_token("No access token was sent"))
}

fn offers_protocol(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim() == PROTOCOL)
}

/// An inline filter, or the ID of a stored one.
fn parse_filter(text: &str) -> Result<Filter, MatrixError> {
    if text.starts_with('{') {
        let definition = serde_json::from_str(text)
            .map_err(|error| MatrixError::invalid_param(format!("filter: {error}")))?;
        return Ok(Filter::FilterDefinition(definition));
    }
    Ok(Filter::FilterId(text.to_owned()))
}
