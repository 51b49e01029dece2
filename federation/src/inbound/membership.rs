//! Users of other servers who join, leave and knock by way of this one (SS "Joining Rooms", "Leaving
//! Rooms", "Knocking upon a room"). Invitations are in `invites`.

use bytes::Bytes;
use hearth_http::{Endpoints, MatrixError, RawJson, Ruma};
use hearth_rooms::{CheckedPdu, MembershipTemplate, TemplateKind};
use ruma::{
    CanonicalJsonObject, EventId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        create_join_event, create_knock_event, create_leave_event, prepare_join_event,
        prepare_knock_event, prepare_leave_event,
    },
};
use serde_json::value::{RawValue, to_raw_value};

use super::{Api, Origin, answer::PduAnswer, error::ApiError};

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new()
        .ruma(make_join)
        .ruma(send_join)
        .ruma(make_leave)
        .ruma(send_leave)
        .ruma(make_knock)
        .ruma(send_knock)
}

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
async fn make_join(
    api: Api,
    request: Ruma<prepare_join_event::v1::Request, Origin>,
) -> Result<prepare_join_event::v1::Response, ApiError> {
    let who = (&*request.room_id, &*request.user_id);
    let template = template(&api, &request.identity, who, TemplateKind::Join, &request.ver).await?;
    let mut response = prepare_join_event::v1::Response::new(raw(&template.event)?);
    response.room_version = Some(template.room_version);
    Ok(response)
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
async fn make_leave(
    api: Api,
    request: Ruma<prepare_leave_event::v1::Request, Origin>,
) -> Result<prepare_leave_event::v1::Response, ApiError> {
    let who = (&*request.room_id, &*request.user_id);
    let template = template(&api, &request.identity, who, TemplateKind::Leave, &[]).await?;
    let event = raw(&template.event)?;
    Ok(prepare_leave_event::v1::Response::new(Some(template.room_version), event))
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
async fn make_knock(
    api: Api,
    request: Ruma<prepare_knock_event::v1::Request, Origin>,
) -> Result<prepare_knock_event::v1::Response, ApiError> {
    let who = (&*request.room_id, &*request.user_id);
    let template =
        template(&api, &request.identity, who, TemplateKind::Knock, &request.ver).await?;
    let event = raw(&template.event)?;
    Ok(prepare_knock_event::v1::Response::new(template.room_version, event))
}

async fn template(
    api: &Api,
    origin: &Origin,
    (room_id, user_id): (&RoomId, &UserId),
    kind: TemplateKind,
    versions: &[RoomVersionId],
) -> Result<MembershipTemplate, ApiError> {
    let rooms = api.rooms();
    Ok(rooms.membership_template(&origin.0, room_id, user_id, kind, versions).await?)
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
async fn send_join(
    api: Api,
    request: Ruma<create_join_event::v2::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let (origin, room_id) = (&request.identity.0, &request.room_id);
    // The signature of a restricted join's voucher is one of those that are checked next; it goes
    // nowhere if any of them is wrong.
    let countersigned = api.rooms().countersign_join(origin, room_id, &request.pdu).await?;
    let is_countersigned = countersigned.is_some();
    let pdu = countersigned.unwrap_or_else(|| request.pdu.clone());
    let event = checked(&api, origin, room_id, &request.event_id, pdu).await?;
    let joined = api.rooms().accept_join(origin, room_id, event, request.omit_members).await?;
    api.federation.outbound().greet(origin, room_id);
    let mut answer = PduAnswer::default()
        .member("origin", &api.federation.identity().server_name())?
        .member("members_omitted", &joined.members_omitted)?
        .pdus("state", joined.state)
        .pdus("auth_chain", joined.auth_chain);
    if joined.members_omitted {
        answer = answer.member("servers_in_room", &joined.servers_in_room)?;
    }
    if is_countersigned {
        answer = answer.pdu("event", joined.event);
    }
    answer.finish().await
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
async fn send_leave(
    api: Api,
    request: Ruma<create_leave_event::v2::Request, Origin>,
) -> Result<create_leave_event::v2::Response, ApiError> {
    let (origin, room_id) = (&request.identity.0, &request.room_id);
    let pdu = request.pdu.clone();
    let event = checked(&api, origin, room_id, &request.event_id, pdu).await?;
    api.rooms().accept_leave(origin, room_id, event).await?;
    Ok(create_leave_event::v2::Response::new())
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
async fn send_knock(
    api: Api,
    request: Ruma<create_knock_event::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let (origin, room_id) = (&request.identity.0, &request.room_id);
    let pdu = request.pdu.clone();
    let event = checked(&api, origin, room_id, &request.event_id, pdu).await?;
    let shown: Vec<Bytes> = api.rooms().accept_knock(origin, room_id, event).await?;
    PduAnswer::default().pdus("knock_room_state", shown).finish().await
}

/// Proves one event of a room that is here, of a server that the room admits, and that it is the one
/// of the path.
async fn checked(
    api: &Api,
    origin: &ServerName,
    room_id: &RoomId,
    event_id: &EventId,
    pdu: Box<RawValue>,
) -> Result<CheckedPdu, ApiError> {
    let version = api.rooms().version(room_id).await?;
    api.rooms().require_admitted(room_id, origin).await?;
    check_one(api, &version, room_id, event_id, pdu).await
}

/// Proves one event, and that it is the one of the path.
pub(super) async fn check_one(
    api: &Api,
    version: &RoomVersionId,
    room_id: &RoomId,
    event_id: &EventId,
    pdu: Box<RawValue>,
) -> Result<CheckedPdu, ApiError> {
    // Before anything is fetched to verify it.
    if api.federation.checker().event_id(version, &pdu)? != event_id {
        let text = "The event's ID is not the one in the path";
        return Err(MatrixError::invalid_param(text).into());
    }
    let verdicts = api.federation.checker().check(version, room_id, vec![pdu]).await;
    let verdict = verdicts.into_iter().next();
    let event = verdict.ok_or_else(|| MatrixError::internal(&"an event was not checked"))??;
    Ok(event)
}

fn raw(event: &CanonicalJsonObject) -> Result<Box<RawValue>, ApiError> {
    Ok(to_raw_value(event).map_err(|error| MatrixError::internal(&error))?)
}
