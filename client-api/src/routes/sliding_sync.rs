//! Simplified sliding sync (MSC4186), as clients speak it today and as it was accepted. The answers are made
//! in `hearth-sync`.

use std::{future::pending, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Query, Request, State},
    response::{IntoResponse, Response},
};
use hearth_http::{ApiState, Caller, Json, Lane, MatrixError, Policy, RawJson};
use hearth_sync::{SlidingBody, SlidingRequest};
use http::request::Parts;
use ruma::{UserId, presence::PresenceState};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::sync::{end_of, known},
};

/// What stands in the query of the deployed form.
#[derive(Default, Deserialize)]
struct Parameters {
    pos: Option<String>,
    timeout: Option<u64>,
    #[serde(default)]
    set_presence: PresenceState,
}

/// Reads a body of one of the forms.
type Reader = fn(&[u8], &UserId, &Parts) -> Result<(SlidingBody, Parameters), ApiError>;

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`
pub(crate) async fn deployed(State(app): State<ClientApi>, request: Request) -> Response {
    respond(app, request, read_deployed).await
}

/// `POST /_matrix/client/v4/sync`
pub(crate) async fn accepted(State(app): State<ClientApi>, request: Request) -> Response {
    respond(app, request, read_accepted).await
}

async fn respond(app: ClientApi, request: Request, read: Reader) -> Response {
    match serve(app, request, read).await {
        Ok(body) => body.into_response(),
        Err(error) => error.into_response(),
    }
}

async fn serve(app: ClientApi, request: Request, read: Reader) -> Result<RawJson, ApiError> {
    let _place = app.http().admit(Lane::LongPoll)?;
    let (identity, request) = question(&app, request, read).await?;
    let waits = !request.timeout.is_zero();
    // Watched from before the first look: a session that ends meanwhile gets nothing any more.
    let end = async { if waits { end_of(&app, &identity).await } else { pending().await } };
    tokio::select! {
        biased;
        refusal = end => Err(refusal.into()),
        response = app.sync().sliding(request) => Ok(RawJson(response?.body)),
    }
}

/// Who asks, and what. Nothing of the request's own bytes outlasts this.
async fn question(
    app: &ClientApi,
    request: Request,
    read: Reader,
) -> Result<(LocalUser, SlidingRequest), ApiError> {
    let (head, body) = request.into_parts();
    let policy = Policy::default().long_poll().allow_guests();
    let identity = Caller::of(app, &head, policy).await?.session;
    let Json(json) = json(app, head.clone(), body).await?;
    let (body, parameters) = read(json.get().as_bytes(), identity.user_id(), &head)?;
    let request = SlidingRequest {
        user_id: identity.user_id().to_owned(),
        device_id: identity.device_id().to_owned(),
        body,
        pos: parameters.pos,
        timeout: Duration::from_millis(parameters.timeout.unwrap_or_default()),
        set_presence: known(parameters.set_presence)?,
    };
    Ok((identity, request))
}

async fn json(
    app: &ClientApi,
    head: Parts,
    body: Body,
) -> Result<Json<Box<RawValue>>, MatrixError> {
    Json::from_request(Request::from_parts(head, body), app).await
}

fn read_deployed(
    json: &[u8],
    user_id: &UserId,
    head: &Parts,
) -> Result<(SlidingBody, Parameters), ApiError> {
    let Query(parameters) = Query::try_from_uri(&head.uri)
        .map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    Ok((SlidingBody::deployed(json, user_id)?, parameters))
}

fn read_accepted(
    json: &[u8],
    _user_id: &UserId,
    _head: &Parts,
) -> Result<(SlidingBody, Parameters), ApiError> {
    let body = SlidingBody::accepted(json)?;
    let parameters = Parameters {
        pos: body.pos.clone(),
        timeout: body.timeout_ms,
        set_presence: body.set_presence.clone().unwrap_or_default(),
    };
    Ok((body, parameters))
}
