//! Invitations of this server's users, and those to third-party identifiers (SS "Inviting to a room",
//! "Third-party invites").

use bytes::Bytes;
use hearth_http::{Endpoints, MatrixError, RawJson, Ruma};
use hearth_rooms::{CheckedPdu, MembershipShape, OutOfBand, SUPPORTED_VERSIONS};
use hearth_types::Pdu;
use ruma::{
    EventId, OwnedUserId, RoomId, RoomVersionId, ServerName,
    api::federation::membership::{RawStrippedState, create_invite},
    events::TimelineEventType,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Api, Origin, answer::PduAnswer, error::ApiError, membership::check_one};

/// Events that an invitation may show of its room.
const MAX_SHOWN: usize = 50;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(invite).ruma(invite_v1)
}

/// An invitation as it came.
struct Invite<'a> {
    origin: &'a ServerName,
    room_id: &'a RoomId,
    event_id: &'a EventId,
    version: RoomVersionId,
    event: Box<RawValue>,
    shown: Vec<RawStrippedState>,
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
async fn invite(
    api: Api,
    request: Ruma<create_invite::v2::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let Ruma { body, identity, .. } = request;
    let invite = Invite {
        origin: &identity.0,
        room_id: &body.room_id,
        event_id: &body.event_id,
        version: body.room_version,
        event: body.event,
        shown: body.invite_room_state,
    };
    let signed = take(&api, invite).await?;
    PduAnswer::default().pdu("event", signed).finish().await
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`
///
/// It does not say which version the room has; only versions 1 and 2 may be assumed, which this server
/// does not serve. Of a room that is here the version is known.
async fn invite_v1(
    api: Api,
    request: Ruma<create_invite::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let Ruma { body, identity, json, .. } = request;
    let version = match api.rooms().head(&body.room_id).await? {
        Some(head) => head.version.clone(),
        None => RoomVersionId::V1,
    };
    let event =
        serde_json::from_slice(&json).map_err(|error| MatrixError::bad_json(error.to_string()))?;
    let invite = Invite {
        origin: &identity.0,
        room_id: &body.room_id,
        event_id: &body.event_id,
        version,
        event,
        shown: body.unsigned.invite_room_state,
    };
    let signed = take(&api, invite).await?;
    // ruma's type would leave out the object around the event.
    Ok(RawJson::from([b"[200,{\"event\":", &*signed, b"}]"].concat()))
}

/// What is read of an invitation before it is checked.
#[derive(Deserialize)]
struct Outline {
    state_key: OwnedUserId,
    sender: OwnedUserId,
}

/// Checks an invitation, signs it, and keeps it for its user. The answer is the event with both
/// signatures.
async fn take(api: &Api, invite: Invite<'_>) -> Result<Bytes, ApiError> {
    if !SUPPORTED_VERSIONS.contains(&invite.version) {
        let text = "This server does not serve rooms of this version";
        let version = invite.version.to_string();
        return Err(MatrixError::incompatible_room_version(text)
            .with("room_version", version)
            .into());
    }
    let (rooms, room_id) = (api.rooms(), invite.room_id);
    rooms.require_admitted(room_id, invite.origin).await?;
    let outline: Outline = serde_json::from_str(invite.event.get())
        .map_err(|error| MatrixError::invalid_param(format!("not an invitation: {error}")))?;
    if outline.sender.server_name() != invite.origin {
        let text = "The inviter is not one of your server's users";
        return Err(MatrixError::invalid_param(text).into());
    }
    must_take_invites(api, &outline).await?;
    let event = check_one(api, &invite.version, room_id, invite.event_id, invite.event).await?;
    let shown = checked_state(api, &invite.version, room_id, invite.shown).await?;

    let shape = MembershipShape {
        room_id,
        sender: invite.origin,
        user_id: &outline.state_key,
        membership: "invite",
    };
    let pdu: &RawValue = serde_json::from_slice(event.pdu().json())
        .map_err(|error| MatrixError::internal(&error))?;
    let signed = rooms.countersign(&invite.version, pdu, shape)?;
    let signed = Bytes::from(signed.get().as_bytes().to_vec());
    // Signatures are no part of the ID.
    let event = Pdu::parse(event.pdu().id().to_owned(), signed.clone())
        .map_err(|error| MatrixError::internal(&error))?;
    rooms
        .admit_out_of_band(OutOfBand {
            room_id: room_id.to_owned(),
            room_version: invite.version,
            user_id: outline.state_key,
            event: CheckedPdu::new(event),
            stripped_state: shown,
        })
        .await?;
    Ok(signed)
}

/// Refuses invitations of users who are not here, or who do not want them (CS "Invite permission").
async fn must_take_invites(api: &Api, outline: &Outline) -> Result<(), ApiError> {
    let user_id = &outline.state_key;
    let users = api.federation.users();
    if !api.federation.identity().is_local(user_id) {
        return Err(MatrixError::invalid_param("The invitee is not a user of this server").into());
    }
    if !users.is_active(user_id).await? {
        return Err(MatrixError::forbidden("There is no such user on this server").into());
    }
    if users.blocks_invites(user_id).await? {
        return Err(MatrixError::invite_blocked(format!("{user_id} does not take invites")).into());
    }
    Ok(())
}

/// The four fields of stripped state (CS "Stripped state").
#[derive(Deserialize, Serialize)]
struct Stripped {
    content: Box<RawValue>,
    sender: OwnedUserId,
    state_key: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The state that came with an invitation, as the client may see it. From room version 12 on, whose
/// create event names the room, all of it must be full events of the room, properly signed, the create
/// event among them. Before, what is not is left out: it may be an event of a server that is gone, whose
/// key cannot be had any more.
async fn checked_state(
    api: &Api,
    version: &RoomVersionId,
    room_id: &RoomId,
    shown: Vec<RawStrippedState>,
) -> Result<Vec<Box<RawValue>>, ApiError> {
    let refused = |text: String| ApiError::from(MatrixError::invalid_param(text));
    if shown.len() > MAX_SHOWN {
        return Err(refused(format!("More than {MAX_SHOWN} events of state")));
    }
    let needs_create =
        version.rules().is_some_and(|rules| rules.authorization.room_create_event_id_as_room_id);
    let mut full = Vec::new();
    let mut stripped = Vec::new();
    for event in shown {
        match event {
            RawStrippedState::Pdu(event) => full.push(event),
            #[expect(deprecated, reason = "servers before Matrix 1.16 send it")]
            RawStrippedState::Stripped(event) if !needs_create => {
                let event: Stripped = serde_json::from_str(event.json().get())
                    .map_err(|error| refused(format!("not stripped state: {error}")))?;
                stripped.push(raw(&event)?);
            }
            _ => return Err(refused("Stripped state must be full events".to_owned())),
        }
    }
    let mut has_create = false;
    for verdict in api.federation.checker().check(version, room_id, full).await {
        let event = match verdict {
            Ok(event) => event,
            Err(dropped) if needs_create => {
                return Err(refused(format!("an event of the state is not valid: {dropped}")));
            }
            Err(dropped) => {
                tracing::debug!(%room_id, %dropped, "an event of an invitation is left out");
                continue;
            }
        };
        has_create |= makes(event.pdu(), room_id);
        stripped.push(strip(event.pdu())?);
    }
    if needs_create && !has_create {
        return Err(refused("The create event is missing".to_owned()));
    }
    Ok(stripped)
}

/// Is this the create event whose ID the room has?
fn makes(pdu: &Pdu, room_id: &RoomId) -> bool {
    let hash = room_id.as_str().strip_prefix('!');
    *pdu.kind() == TimelineEventType::RoomCreate && pdu.id().as_str().strip_prefix('$') == hash
}

fn strip(pdu: &Pdu) -> Result<Box<RawValue>, ApiError> {
    let no_state = || MatrixError::invalid_param("Not a state event");
    raw(&Stripped {
        content: pdu.content().to_owned(),
        sender: pdu.sender().to_owned(),
        state_key: pdu.state_key().ok_or_else(no_state)?.to_owned(),
        kind: pdu.kind().to_string(),
    })
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, ApiError> {
    Ok(to_raw_value(value).map_err(|error| MatrixError::internal(&error))?)
}
