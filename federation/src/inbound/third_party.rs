//! Third-party identifiers that have found their user (SS "Third-party invites").

use hearth_http::{Class, Endpoints, MatrixError, Ruma};
use ruma::{
    CanonicalJsonObject, UserId,
    api::federation::thirdparty::{
        bind_callback::v1::{self as bind_callback, ThirdPartyInvite},
        exchange_invite::v1 as exchange_invite,
    },
    events::{
        StateEventType,
        room::member::{SignedContent, ThirdPartyInvite as Proof},
    },
    serde::Raw,
};
use serde::Deserialize;

use super::{Api, Origin, error::ApiError};

/// Invitations that one bound identifier brings: each may cost a request to another server.
const MAX_INVITES: usize = 10;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(exchange).ruma_with(Class::Membership, on_bind)
}

/// The part of an invitation's content that proves whose it is.
#[derive(Deserialize)]
struct Content {
    membership: String,
    third_party_invite: Invited,
}

#[derive(Deserialize)]
struct Invited {
    signed: CanonicalJsonObject,
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
async fn exchange(
    api: Api,
    request: Ruma<exchange_invite::Request, Origin>,
) -> Result<exchange_invite::Response, ApiError> {
    let (rooms, room_id) = (api.rooms(), &request.room_id);
    rooms.require_admitted(room_id, &request.identity.0).await?;
    let content: Content = request
        .content
        .deserialize_as_unchecked()
        .map_err(|error| MatrixError::bad_json(format!("not an invitation: {error}")))?;
    if request.kind != StateEventType::RoomMember || content.membership != "invite" {
        return Err(MatrixError::bad_json("Not an invitation").into());
    }
    let signed = content.third_party_invite.signed;
    let (sender, target) = (&request.sender, &request.state_key);
    rooms.exchange_third_party_invite(room_id, sender, target, signed).await?;
    Ok(exchange_invite::Response::new())
}

/// `PUT /_matrix/federation/v1/3pid/onbind`: nobody signs it, so nothing is believed but what the
/// invitations' rooms can prove.
async fn on_bind(
    api: Api,
    request: Ruma<bind_callback::Request>,
) -> Result<bind_callback::Response, ApiError> {
    let user_id = &request.mxid;
    let federation = &api.federation;
    if !federation.identity().is_local(user_id) || !federation.users().is_active(user_id).await? {
        return Err(MatrixError::not_found("There is no such user on this server").into());
    }
    if request.invites.len() > MAX_INVITES {
        return Err(MatrixError::invalid_param("Too many invitations").into());
    }
    for invite in &request.invites {
        if let Err(error) = pass_on(&api, user_id, invite).await {
            tracing::debug!(room_id = %invite.room_id, ?error, "an invitation found no user");
        }
    }
    Ok(bind_callback::Response::new())
}

/// Has the inviter's server, which may be this one, make the real invitation.
async fn pass_on(api: &Api, user_id: &UserId, invite: &ThirdPartyInvite) -> Result<(), ApiError> {
    if invite.mxid != user_id {
        return Err(MatrixError::forbidden("The invitation is for another user").into());
    }
    let federation = &api.federation;
    if federation.identity().is_local(&invite.sender) {
        let signed = invite
            .signed
            .deserialize_as_unchecked()
            .map_err(|error| MatrixError::bad_json(error.to_string()))?;
        let rooms = api.rooms();
        rooms.exchange_third_party_invite(&invite.room_id, &invite.sender, user_id, signed).await?;
        return Ok(());
    }
    let request = exchange_request(user_id, invite)?;
    let client = federation.client();
    client
        .send(invite.sender.server_name(), request, client.limits())
        .await
        .map_err(|error| MatrixError::bad_request(error.to_string()))?;
    Ok(())
}

fn exchange_request(
    user_id: &UserId,
    invite: &ThirdPartyInvite,
) -> Result<exchange_invite::Request, ApiError> {
    let signed: Raw<SignedContent> = invite.signed.clone();
    // The inviter's server knows the name that the room shows for the identifier.
    let proof = Proof::new(String::new(), signed);
    let (room_id, sender) = (invite.room_id.clone(), invite.sender.clone());
    exchange_invite::Request::with_third_party_invite(room_id, sender, user_id.to_owned(), proof)
        .map_err(|error| MatrixError::bad_json(error.to_string()).into())
}
