//! Questions about rooms: events, history, state (SS "Backfilling and retrieving missing events",
//! "Retrieving events").

use hearth_http::{Endpoints, MatrixError, RawJson, Ruma};
use hearth_rooms::{MAX_BACKFILL, MAX_MISSING};
use hearth_storage::Direction;
use ruma::{
    UInt,
    api::{
        self,
        federation::{
            authorization::get_event_authorization,
            backfill::get_backfill,
            event::{
                get_event, get_event_by_timestamp, get_missing_events, get_room_state,
                get_room_state_ids,
            },
        },
    },
};

use super::{Api, Origin, answer::PduAnswer, error::ApiError};

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new()
        .ruma(event)
        .ruma(backfill)
        .ruma(missing_events)
        .ruma(state)
        .ruma(state_ids)
        .ruma(event_auth)
        .ruma(timestamp_to_event)
}

/// `GET /_matrix/federation/v1/event/{eventId}`
async fn event(
    api: Api,
    request: Ruma<get_event::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let found = api.rooms().event_for_server(&request.identity.0, &request.event_id).await?;
    let (_, pdu) = found.ok_or_else(|| MatrixError::not_found("There is no such event"))?;
    stamped(&api)?.pdus("pdus", vec![pdu]).finish().await
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
async fn backfill(
    api: Api,
    request: Ruma<get_backfill::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let limit = count(request.limit).min(MAX_BACKFILL);
    let pdus = api
        .rooms()
        .backfill_for_server(&request.identity.0, &request.room_id, &request.v, limit)
        .await?;
    stamped(&api)?.pdus("pdus", pdus).finish().await
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
async fn missing_events(
    api: Api,
    request: Ruma<get_missing_events::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let events = api
        .rooms()
        .missing_events_for_server(
            &request.identity.0,
            &request.room_id,
            &request.earliest_events,
            &request.latest_events,
            count(request.limit).min(MAX_MISSING),
            request.min_depth.into(),
        )
        .await?;
    PduAnswer::default().pdus("events", events).finish().await
}

/// `GET /_matrix/federation/v1/state/{roomId}`
async fn state(
    api: Api,
    request: Ruma<get_room_state::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let rooms = api.rooms();
    let state =
        rooms.state_for_server(&request.identity.0, &request.room_id, &request.event_id).await?;
    let answer = PduAnswer::default().pdus("auth_chain", state.auth_chain);
    answer.pdus("pdus", state.state).finish().await
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
async fn state_ids(
    api: Api,
    request: Ruma<get_room_state_ids::v1::Request, Origin>,
) -> Result<get_room_state_ids::v1::Response, ApiError> {
    let rooms = api.rooms();
    let ids = rooms
        .state_ids_for_server(&request.identity.0, &request.room_id, &request.event_id)
        .await?;
    Ok(get_room_state_ids::v1::Response::new(ids.auth_chain, ids.state))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
async fn event_auth(
    api: Api,
    request: Ruma<get_event_authorization::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let rooms = api.rooms();
    let chain = rooms
        .auth_chain_for_server(&request.identity.0, &request.room_id, &request.event_id)
        .await?;
    PduAnswer::default().pdus("auth_chain", chain).finish().await
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
async fn timestamp_to_event(
    api: Api,
    request: Ruma<get_event_by_timestamp::v1::Request, Origin>,
) -> Result<get_event_by_timestamp::v1::Response, ApiError> {
    let direction = match request.dir {
        api::Direction::Forward => Direction::Forward,
        api::Direction::Backward => Direction::Backward,
    };
    let (server, room_id) = (&request.identity.0, &request.room_id);
    let event =
        api.rooms().timestamp_to_event_for_server(server, room_id, request.ts, direction).await?;
    let (event_id, at) = (event.pdu.id().to_owned(), event.pdu.origin_server_ts());
    Ok(get_event_by_timestamp::v1::Response::new(event_id, at))
}

/// An answer that says who gives it, and when.
fn stamped(api: &Api) -> Result<PduAnswer, ApiError> {
    PduAnswer::default()
        .member("origin", &api.federation.identity().server_name())?
        .member("origin_server_ts", &api.federation.clock().now())
}

fn count(number: UInt) -> usize {
    usize::try_from(u64::from(number)).unwrap_or(usize::MAX)
}
