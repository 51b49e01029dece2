//! `/delayed_events`, and sending with a delay (MSC4140, under its unstable name).

use axum::{
    Json,
    extract::{FromRequest as _, Path, Query, Request, State, rejection::PathRejection},
};
use bytes::Bytes;
use hearth_delayed::{
    Action, DelayedError, DelayedEvent, ListRequest, NewDelayed, Order, Outcome, Reason, Since,
    Status, Unsent,
};
use hearth_http::{ApiState as _, Caller, Class, Lane, MatrixError, Policy, RawJson};
use http::{StatusCode, Uri, request::Parts};
use ruma::{OwnedRoomId, OwnedTransactionId, RoomId, events::TimelineEventType};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json, value::RawValue};

use crate::{ApiError, ClientApi, LocalUser};

/// The query parameter that delays an event sent by the usual endpoints.
const DELAY: &str = "org.matrix.msc4140.delay";
/// The code of a delay that is too long, at MSC4140's own endpoint.
const DELAY_TOO_LONG: &str = "ORG.MATRIX.MSC4140_MAX_DELAY_EXCEEDED";
/// The longest delay, in the refusal of a longer one.
pub(crate) const MAX_DELAY: &str = "org.matrix.msc4140.max_delay";
/// The longest ID in a path, in bytes, as everywhere.
const MAX_PATH_PARAM_BYTES: usize = 255;

/// The event that a request wants to have sent later.
pub(crate) struct Scheduled {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) event_type: TimelineEventType,
    pub(crate) state_key: Option<String>,
    pub(crate) content: Box<RawValue>,
    pub(crate) delay_ms: u64,
    pub(crate) transaction_id: Option<OwnedTransactionId>,
}

/// The delay that a request to one of the usual endpoints asks for, in milliseconds.
pub(crate) fn delay_of(uri: &Uri) -> Result<Option<u64>, MatrixError> {
    let query = uri.query().unwrap_or_default();
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    let Some((_, delay)) = parameters.find(|(name, _)| name == DELAY) else { return Ok(None) };
    let delay_ms =
        delay.parse().map_err(|_| MatrixError::invalid_param("The delay is no number"))?;
    Ok(Some(delay_ms))
}

/// Leaves an event with the server.
pub(crate) async fn schedule(
    app: &ClientApi,
    caller: &LocalUser,
    event: Scheduled,
) -> Result<RawJson, ApiError> {
    let delay_id = app.delayed().schedule(new_delayed(caller, event)?).await?;
    Ok(told(&delay_id))
}

fn told(delay_id: &str) -> RawJson {
    RawJson(Bytes::from(json!({ "delay_id": delay_id }).to_string()))
}

fn new_delayed(caller: &LocalUser, event: Scheduled) -> Result<NewDelayed, MatrixError> {
    let Scheduled { room_id, event_type, state_key, content, delay_ms, transaction_id } = event;
    let event = Unsent {
        user_id: caller.may_write()?.user_id().to_owned(),
        device_id: caller.device_id().to_owned(),
        room_id,
        event_type: event_type.to_string(),
        state_key,
        content,
    };
    Ok(NewDelayed { event, delay_ms, transaction_id })
}

/// The body of MSC4140's own endpoint for scheduling.
#[derive(Deserialize)]
pub(crate) struct Body {
    delay_ms: Option<u64>,
    /// What `delay_ms` was called before.
    delay: Option<u64>,
    state_key: Option<String>,
    content: Box<RawValue>,
}

/// `PUT …/rooms/{roomId}/delayed_event/{eventType}/{txnId}`
pub(crate) async fn put(
    State(app): State<ClientApi>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let (head, body) = request.into_parts();
    let policy = Policy::from(Class::Message).allow_guests();
    let caller = Caller::<LocalUser>::of(&app, &head, policy).await?;
    let request = Request::from_parts(head, body);
    let hearth_http::Json(body) = hearth_http::Json::<Body>::from_request(request, &app).await?;
    let Path((room_id, event_type, transaction_id)) =
        path.map_err(|_| MatrixError::invalid_param("The path cannot be decoded"))?;
    if transaction_id.len() > MAX_PATH_PARAM_BYTES {
        return Err(MatrixError::invalid_param("The transaction ID is too long").into());
    }
    let delay_ms = body.delay_ms.or(body.delay);
    let delay_ms = delay_ms.ok_or_else(|| MatrixError::bad_json("There is no delay"))?;
    if !body.content.get().starts_with('{') {
        return Err(MatrixError::bad_json("The content is no object").into());
    }
    let event = Scheduled {
        room_id: RoomId::parse(&room_id)
            .map_err(|_| MatrixError::invalid_param("This cannot be a room ID"))?,
        event_type: event_type.into(),
        state_key: body.state_key,
        content: body.content,
        delay_ms,
        transaction_id: Some(transaction_id.into()),
    };
    match app.delayed().schedule(new_delayed(&caller.session, event)?).await {
        Err(DelayedError::DelayTooLong { max_ms }) => {
            let message = "The requested delay exceeds the allowed maximum";
            let error = MatrixError::new(StatusCode::BAD_REQUEST, DELAY_TOO_LONG, message);
            Err(error.with(MAX_DELAY, max_ms).into())
        }
        scheduled => Ok(told(&scheduled?)),
    }
}

/// `POST …/delayed_events/{delay_id}/{action}`: for whoever knows the ID.
pub(crate) async fn manage(
    State(app): State<ClientApi>,
    path: Result<Path<(String, String)>, PathRejection>,
    head: Parts,
) -> Result<Json<Value>, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let Path((delay_id, action)) =
        path.map_err(|_| MatrixError::invalid_param("The path cannot be decoded"))?;
    let action = action_of(&action)?;
    charge(&app, &head, class_of(action))?;
    act(&app, &delay_id, action).await
}

/// The body of the older form.
#[derive(Deserialize)]
pub(crate) struct Managing {
    action: String,
}

/// `POST …/delayed_events/{delay_id}`, with the action in the body: what MSC4140 had before.
pub(crate) async fn manage_by_body(
    State(app): State<ClientApi>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let (head, body) = request.into_parts();
    // Anybody may send a body.
    charge(&app, &head, Class::General)?;
    let request = Request::from_parts(head.clone(), body);
    let hearth_http::Json(body) =
        hearth_http::Json::<Managing>::from_request(request, &app).await?;
    let Path(delay_id) =
        path.map_err(|_| MatrixError::invalid_param("The path cannot be decoded"))?;
    let action = action_of(&body.action)?;
    if action == Action::Send {
        charge(&app, &head, class_of(action))?;
    }
    act(&app, &delay_id, action).await
}

fn action_of(name: &str) -> Result<Action, MatrixError> {
    match name {
        "send" => Ok(Action::Send),
        "cancel" => Ok(Action::Cancel),
        "restart" => Ok(Action::Restart),
        _ => Err(MatrixError::unrecognized("No such action")),
    }
}

fn class_of(action: Action) -> Class {
    if action == Action::Send { Class::Message } else { Class::General }
}

fn charge(app: &ClientApi, head: &Parts, class: Class) -> Result<(), MatrixError> {
    let Some(address) = app.http().client_address(head) else { return Ok(()) };
    app.http().limiter().charge_address(class, address)
}

async fn act(app: &ClientApi, delay_id: &str, action: Action) -> Result<Json<Value>, ApiError> {
    if delay_id.len() > MAX_PATH_PARAM_BYTES {
        return Err(DelayedError::NotFound.into());
    }
    app.delayed().manage(delay_id, action).await?;
    Ok(Json(json!({})))
}

/// `GET …/delayed_events/{delay_id}`
pub(crate) async fn get(
    State(app): State<ClientApi>,
    path: Result<Path<String>, PathRejection>,
    head: Parts,
) -> Result<Json<Value>, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let caller = reader(&app, &head).await?;
    let Path(delay_id) =
        path.map_err(|_| MatrixError::invalid_param("The path cannot be decoded"))?;
    if delay_id.len() > MAX_PATH_PARAM_BYTES {
        return Err(DelayedError::NotFound.into());
    }
    let event = app.delayed().get(caller.user_id(), &delay_id).await?;
    Ok(Json(shown(event)))
}

/// `GET …/delayed_events`
pub(crate) async fn list(
    State(app): State<ClientApi>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
    head: Parts,
) -> Result<Json<Value>, ApiError> {
    let _place = app.http().admit(Lane::Short)?;
    let caller = reader(&app, &head).await?;
    let Query(query) = query.map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    let backwards = query.dir == Some(Direction::B);
    let page = app.delayed().list(caller.user_id(), &query.into()).await?;
    let events: Vec<Value> = page.events.into_iter().map(shown).collect();
    let mut body = json!({ "delayed_events": events });
    if let Some(next) = page.next {
        let name = if backwards { "prev_batch" } else { "next_batch" };
        put_field(&mut body, name, json!(next));
    }
    Ok(Json(body))
}

async fn reader(app: &ClientApi, head: &Parts) -> Result<LocalUser, MatrixError> {
    let policy = Policy::from(Class::General).allow_guests();
    Ok(Caller::<LocalUser>::of(app, head, policy).await?.session)
}

/// An event under the names that MSC4140 has when it is merged, and under those that it had before: clients speak
/// both at its unstable endpoints.
fn shown(event: DelayedEvent) -> Value {
    let mut shown = json!({
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.event_type,
        "delay_ms": event.delay_ms,
        "delay": event.delay_ms,
        "delayed_since_ts": event.running_since_ms,
        "running_since": event.running_since_ms,
        "content": event.content,
    });
    if let Some(state_key) = event.state_key {
        put_field(&mut shown, "state_key", json!(state_key));
    }
    let Some(finalised_ms) = event.finalised_ms else { return shown };
    let mut finalised = json!({ "finalised_ts": finalised_ms });
    put_field(&mut shown, "origin_server_ts", json!(finalised_ms));
    let outcome = [
        ("event_id", event.event_id.map(|event_id| json!(event_id))),
        (
            "error",
            event.error.map(|(errcode, error)| json!({ "errcode": errcode, "error": error })),
        ),
    ];
    for (name, value) in outcome {
        let Some(value) = value else { continue };
        put_field(&mut finalised, name, value.clone());
        put_field(&mut shown, name, value);
    }
    put_field(&mut shown, "finalised", finalised);
    shown
}

/// Sets a field of an object.
pub(crate) fn put_field(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(key.to_owned(), value);
    }
}

/// What a list is narrowed by. A word that is none of these is refused.
#[derive(Deserialize)]
pub(crate) struct ListQuery {
    status: Option<Status>,
    room_id: Option<OwnedRoomId>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    outcome: Option<Outcome>,
    reason: Option<Reason>,
    #[serde(default)]
    order_by: Order,
    dir: Option<Direction>,
    #[serde(default, deserialize_with = "since")]
    since_ts: Since,
    from: Option<String>,
}

/// A time in milliseconds, or `end`.
fn since<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Since, D::Error> {
    let since = String::deserialize(deserializer)?;
    match since.as_str() {
        "end" => Ok(Since::End),
        since => since.parse().map(Since::At).map_err(D::Error::custom),
    }
}

#[derive(PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    F,
    B,
}

impl From<ListQuery> for ListRequest {
    fn from(query: ListQuery) -> Self {
        Self {
            status: query.status,
            room_id: query.room_id,
            event_type: query.event_type,
            outcome: query.outcome,
            reason: query.reason,
            order: query.order_by,
            backwards: query.dir == Some(Direction::B),
            since: query.since_ts,
            from: query.from,
        }
    }
}
