//! `/rooms/{roomId}/send` and `/messages`; also `/context` and `/event`, which read the same timeline.

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_rooms::{
    Draft,
    read::{MessagesRequest, TimelineFilter, TimelineToken},
    schema::TransactionKey,
};
use hearth_storage::Direction;
use ruma::{
    EventId, OwnedEventId, RoomId, TransactionId, UInt,
    api::{
        Direction as Asked,
        client::{
            context::get_context,
            message::{get_message_events, send_message_event},
            room::{get_event_by_timestamp, get_room_event},
        },
    },
    events::TimelineEventType,
};
use serde_json::{json, value::RawValue};

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        delayed_events::{Scheduled, delay_of, schedule},
        events::{Chunk, body, client_events, ignored},
    },
};

/// `PUT /_matrix/client/*/rooms/{roomId}/send/{eventType}/{txnId}`
pub(crate) async fn send(
    app: ClientApi,
    request: Ruma<send_message_event::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let delay_ms = delay_of(&request.uri)?;
    let send_message_event::v3::Request { room_id, event_type, txn_id, body, .. } = request.body;
    let event_type = TimelineEventType::from(event_type);
    let content = body.into_json();
    if let Some(delay_ms) = delay_ms {
        let (state_key, transaction_id) = (None, Some(txn_id));
        let event = Scheduled { room_id, event_type, state_key, content, delay_ms, transaction_id };
        return schedule(&app, &request.identity, event).await;
    }
    let event_id =
        send_event(&app, &request.identity, &room_id, event_type, &txn_id, content).await?;
    Ok(sent(&event_id))
}

/// The answer to who sent an event.
pub(crate) fn sent(event_id: &EventId) -> RawJson {
    RawJson(Bytes::from(json!({ "event_id": event_id }).to_string()))
}

/// Sends a message-like event once for each transaction ID of a device.
pub(crate) async fn send_event(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    event_type: TimelineEventType,
    transaction_id: &TransactionId,
    content: Box<RawValue>,
) -> Result<OwnedEventId, ApiError> {
    caller.may_write()?;
    let key = transaction(caller, format!("send/{event_type}"), transaction_id);
    let draft = Draft::message(caller.user_id().to_owned(), event_type, content);
    let event_id = app.rooms().send(room_id, draft, Some(key)).await?;
    app.users().presence_active(caller.user_id());
    app.sync().viewed(caller.user_id(), room_id);
    Ok(event_id)
}

/// The key under which a request of this device is remembered.
pub(crate) fn transaction(
    caller: &LocalUser,
    scope: String,
    transaction_id: &TransactionId,
) -> TransactionKey {
    TransactionKey {
        user_id: caller.user_id().to_owned(),
        device_id: caller.device_id().to_owned(),
        scope,
        transaction_id: transaction_id.to_owned(),
    }
}

/// `GET /_matrix/client/*/rooms/{roomId}/messages`
pub(crate) async fn messages(
    app: ClientApi,
    request: Ruma<get_message_events::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let caller = &request.identity;
    let asked = MessagesRequest {
        from: token(request.from.as_deref(), "from")?,
        to: token(request.to.as_deref(), "to")?,
        direction: direction(request.dir),
        limit: limit(request.limit),
        filter: filter(&request)?,
    };
    let ignored = ignored(&app, caller).await?;
    let room_id = &request.room_id;
    let page = app.rooms().messages(room_id, caller.user_id(), &ignored, &asked).await?;
    let chunk = client_events(&app, caller, room_id, &page.events).await?;
    let state = client_events(&app, caller, room_id, &page.state).await?;
    let mut answer = body();
    answer.text("start", &page.start.to_string());
    if let Some(end) = page.end {
        answer.text("end", &end.to_string());
    }
    answer.events("chunk", &chunk);
    if !state.is_empty() {
        answer.events("state", &state);
    }
    Ok(answer.finish())
}

/// `GET /_matrix/client/*/rooms/{roomId}/context/{eventId}`
pub(crate) async fn context(
    app: ClientApi,
    request: Ruma<get_context::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let caller = &request.identity;
    let (room_id, event_id) = (&request.room_id, &request.event_id);
    let ignored = ignored(&app, caller).await?;
    let filter = filter(&request)?;
    let context = app
        .rooms()
        .context(room_id, caller.user_id(), &ignored, event_id, limit(request.limit), &filter)
        .await?;
    let event = client_events(&app, caller, room_id, &[context.event]).await?;
    let before = client_events(&app, caller, room_id, &context.before).await?;
    let after = client_events(&app, caller, room_id, &context.after).await?;
    let state = client_events(&app, caller, room_id, &context.state).await?;
    let mut answer = body();
    answer.text("start", &context.start.to_string());
    answer.text("end", &context.end.to_string());
    if let Some(event) = event.first() {
        answer.raw("event", event);
    }
    answer.events("events_before", &before);
    answer.events("events_after", &after);
    answer.events("state", &state);
    Ok(answer.finish())
}

/// `GET /_matrix/client/*/rooms/{roomId}/event/{eventId}`
pub(crate) async fn event(
    app: ClientApi,
    request: Ruma<get_room_event::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let caller = &request.identity;
    let (room_id, event_id) = (&request.room_id, &request.event_id);
    let event = app.rooms().readable_event(room_id, caller.user_id(), event_id).await?;
    let shown: Chunk = client_events(&app, caller, room_id, &[event]).await?;
    let shown = shown.into_iter().next();
    let shown = shown.ok_or_else(|| MatrixError::not_found("There is no such event"))?;
    Ok(RawJson(String::from(Box::<str>::from(shown)).into()))
}

/// `GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event`
pub(crate) async fn by_timestamp(
    app: ClientApi,
    request: Ruma<get_event_by_timestamp::v1::Request, LocalUser>,
) -> Result<get_event_by_timestamp::v1::Response, ApiError> {
    let user_id = request.identity.user_id();
    let event = app
        .rooms()
        .timestamp_to_event(&request.room_id, user_id, request.ts, direction(request.dir))
        .await?;
    Ok(get_event_by_timestamp::v1::Response::new(
        event.pdu.id().to_owned(),
        event.pdu.origin_server_ts(),
    ))
}

/// The filter of a request: read from the query itself, since ruma's type has no place for the
/// conditions on relations.
fn filter<T>(request: &Ruma<T, LocalUser>) -> Result<TimelineFilter, ApiError> {
    let query = request.uri.query().unwrap_or_default();
    let given = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "filter");
    Ok(match given {
        Some((_, json)) => TimelineFilter::parse(&json)?,
        None => TimelineFilter::default(),
    })
}

/// A pagination token of a query.
pub(crate) fn token(
    text: Option<&str>,
    name: &'static str,
) -> Result<Option<TimelineToken>, ApiError> {
    let parse = |text: &str| {
        text.parse::<TimelineToken>().map_err(|_| {
            MatrixError::invalid_param(format!("{name} is not a token of this server"))
        })
    };
    Ok(text.filter(|text| !text.is_empty()).map(parse).transpose()?)
}

/// The direction of a query.
pub(crate) fn direction(asked: Asked) -> Direction {
    match asked {
        Asked::Backward => Direction::Backward,
        Asked::Forward => Direction::Forward,
    }
}

/// The limit of a query; whoever uses it has a bound of their own.
pub(crate) fn limit(asked: UInt) -> usize {
    usize::try_from(u64::from(asked)).unwrap_or(usize::MAX)
}
