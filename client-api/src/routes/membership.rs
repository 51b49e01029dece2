//! Joining, inviting, leaving and what moderators do; who is in a room (CS "Room membership").

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_rooms::{RoomError, read::MembersRequest, schema::Membership};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, UInt, UserId,
    api::client::membership::{
        ban_user, forget_room, get_member_events, get_mutual_rooms,
        invite_user::{self, v3::InvitationRecipient},
        join_room_by_id, join_room_by_id_or_alias, joined_members, joined_rooms, kick_user,
        leave_room, unban_user,
    },
    events::room::member::MembershipState,
};
use serde_json::json;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        alias,
        events::{body, client_events},
        message::token,
        profile::member_profile_of,
    },
};

/// `POST /_matrix/client/*/join/{roomIdOrAlias}`
pub(crate) async fn join_by_id_or_alias(
    app: ClientApi,
    request: Ruma<join_room_by_id_or_alias::v3::Request, LocalUser>,
) -> Result<join_room_by_id_or_alias::v3::Response, ApiError> {
    let (room_id, via) =
        alias::resolve(&app, &request.room_id_or_alias, request.via.clone()).await?;
    join(&app, &request.identity, &room_id, request.reason.as_deref(), via).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

/// `POST /_matrix/client/*/rooms/{roomId}/join`
pub(crate) async fn join_by_id(
    app: ClientApi,
    request: Ruma<join_room_by_id::v3::Request, LocalUser>,
) -> Result<join_room_by_id::v3::Response, ApiError> {
    let reason = request.reason.as_deref();
    join(&app, &request.identity, &request.room_id, reason, Vec::new()).await?;
    Ok(join_room_by_id::v3::Response::new(request.body.room_id))
}

async fn join(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    reason: Option<&str>,
    via: Vec<OwnedServerName>,
) -> Result<(), ApiError> {
    caller.may_write()?;
    if caller.0.is_guest() {
        must_admit_guests(app, room_id, caller.user_id(), &via).await?;
    }
    let profile = member_profile_of(app, caller.user_id()).await?;
    app.rooms().join_via(room_id, caller.user_id(), &profile, reason, via).await?;
    if let Err(error) = succeed(app, room_id, caller.user_id()).await {
        let error = MatrixError::from(error);
        tracing::warn!(%room_id, %error, "a joined room does not take over from the one before it");
    }
    Ok(())
}

/// A room that replaces another one takes over what this server and the user have of that one.
async fn succeed(app: &ClientApi, room_id: &RoomId, user_id: &UserId) -> Result<(), ApiError> {
    if let Some(old) = app.rooms().succeed(room_id).await? {
        app.users().inherit_room_settings(user_id, &old, room_id).await?;
    }
    Ok(())
}

/// Guests may enter only rooms whose `m.room.guest_access` lets them (CS "Guest Access"). Of a room that is
/// not here, its servers are asked.
async fn must_admit_guests(
    app: &ClientApi,
    room_id: &RoomId,
    user_id: &UserId,
    via: &[OwnedServerName],
) -> Result<(), ApiError> {
    let mut via = via.to_vec();
    if let Some(row) = app.rooms().user_room(user_id, room_id).await? {
        via.push(row.details.sender.server_name().to_owned());
    }
    let preview = app.rooms().preview_via(room_id, Some(user_id), via).await;
    match preview {
        Ok(preview) if preview.summary.guest_can_join => Ok(()),
        Ok(_) | Err(RoomError::UnknownRoom) => {
            Err(MatrixError::guest_access_forbidden("Guests are not allowed in this room").into())
        }
        Err(error) => Err(error.into()),
    }
}

/// `POST /_matrix/client/*/rooms/{roomId}/invite`
pub(crate) async fn invite(
    app: ClientApi,
    request: Ruma<invite_user::v3::Request, LocalUser>,
) -> Result<invite_user::v3::Response, ApiError> {
    let caller = request.identity.may_write()?;
    let InvitationRecipient::UserId(invited) = &request.recipient else {
        return Err(MatrixError::threepid_denied("This server invites Matrix users only").into());
    };
    let (room_id, target) = (&request.room_id, &invited.user_id);
    if app.identity().is_local(target) && !app.users().is_active(target).await? {
        return Err(MatrixError::not_found("There is no such user").into());
    }
    must_take_invites(&app, target).await?;
    let profile = member_profile_of(&app, target).await?;
    let reason = invited.reason.as_deref();
    app.rooms().invite(room_id, caller.user_id(), target, &profile, reason, false).await?;
    Ok(invite_user::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/leave`
pub(crate) async fn leave(
    app: ClientApi,
    request: Ruma<leave_room::v3::Request, LocalUser>,
) -> Result<leave_room::v3::Response, ApiError> {
    let user_id = request.identity.user_id();
    app.rooms().leave(&request.room_id, user_id, request.reason.as_deref()).await?;
    app.users().set_typing(&request.room_id, user_id, None);
    Ok(leave_room::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/forget`
pub(crate) async fn forget(
    app: ClientApi,
    request: Ruma<forget_room::v3::Request, LocalUser>,
) -> Result<forget_room::v3::Response, ApiError> {
    app.rooms().forget(&request.room_id, request.identity.user_id()).await?;
    Ok(forget_room::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/kick`
pub(crate) async fn kick(
    app: ClientApi,
    request: Ruma<kick_user::v3::Request, LocalUser>,
) -> Result<kick_user::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id();
    let (room_id, target) = (&request.room_id, &request.user_id);
    app.rooms().kick(room_id, caller, target, request.reason.as_deref()).await?;
    app.users().set_typing(room_id, target, None);
    Ok(kick_user::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/ban`
pub(crate) async fn ban(
    app: ClientApi,
    request: Ruma<ban_user::v3::Request, LocalUser>,
) -> Result<ban_user::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id();
    let (room_id, target) = (&request.room_id, &request.user_id);
    app.rooms().ban(room_id, caller, target, request.reason.as_deref()).await?;
    app.users().set_typing(room_id, target, None);
    Ok(ban_user::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/unban`
pub(crate) async fn unban(
    app: ClientApi,
    request: Ruma<unban_user::v3::Request, LocalUser>,
) -> Result<unban_user::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id();
    let (room_id, target) = (&request.room_id, &request.user_id);
    app.rooms().unban(room_id, caller, target, request.reason.as_deref()).await?;
    Ok(unban_user::v3::Response::new())
}

/// `GET /_matrix/client/*/rooms/{roomId}/members`
pub(crate) async fn members(
    app: ClientApi,
    request: Ruma<get_member_events::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let caller = &request.identity;
    let named = |state: &Option<MembershipState>| {
        state
            .as_ref()
            .map(|state| {
                membership(state)
                    .ok_or_else(|| MatrixError::invalid_param("There is no such membership"))
            })
            .transpose()
    };
    let asked = MembersRequest {
        membership: named(&request.membership)?,
        not_membership: named(&request.not_membership)?,
        at: token(request.at.as_deref(), "at")?,
    };
    let events = app.rooms().members(&request.room_id, caller.user_id(), &asked).await?;
    let chunk = client_events(&app, caller, &request.room_id, &events).await?;
    let mut answer = body();
    answer.events("chunk", &chunk);
    Ok(answer.finish())
}

/// `GET /_matrix/client/*/rooms/{roomId}/joined_members`
pub(crate) async fn joined_members(
    app: ClientApi,
    request: Ruma<joined_members::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let caller = request.identity.user_id();
    let members = app.rooms().joined_members(&request.room_id, caller).await?;
    let joined: BTreeMap<_, _> = members
        .iter()
        .map(|(user_id, member)| {
            let mut shown = serde_json::Map::new();
            if let Some(name) = &member.display_name {
                shown.insert("display_name".to_owned(), json!(name));
            }
            if let Some(url) = &member.avatar_url {
                shown.insert("avatar_url".to_owned(), json!(url));
            }
            (user_id, shown)
        })
        .collect();
    Ok(RawJson(Bytes::from(json!({ "joined": joined }).to_string())))
}

/// `GET /_matrix/client/*/joined_rooms`
pub(crate) async fn joined_rooms(
    app: ClientApi,
    request: Ruma<joined_rooms::v3::Request, LocalUser>,
) -> Result<joined_rooms::v3::Response, ApiError> {
    let rooms = app.rooms().joined_rooms(request.identity.user_id()).await?;
    Ok(joined_rooms::v3::Response::new(rooms))
}

/// Refuses whoever is not in the room.
pub(crate) async fn must_be_joined(
    app: &ClientApi,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<(), ApiError> {
    let row = app.rooms().user_room(user_id, room_id).await?;
    match row {
        Some(row) if row.details.membership == Membership::Join => Ok(()),
        _ => Err(RoomError::NotJoined.into()),
    }
}

/// Takes a user out of all their rooms, for an account that ends. A room that refuses is logged and
/// left behind: the account cannot be used again either way.
pub(crate) async fn leave_all(app: &ClientApi, user_id: &UserId) -> Result<(), ApiError> {
    for (room_id, row) in app.rooms().user_rooms(user_id).await? {
        if matches!(
            row.details.membership,
            Membership::Join | Membership::Invite | Membership::Knock
        ) && let Err(error) = app.rooms().leave(&room_id, user_id, None).await
        {
            tracing::warn!(%room_id, %error, "a deactivated user could not leave a room");
        }
    }
    Ok(())
}

/// Rooms in one answer of `mutual_rooms`.
const MUTUAL_PAGE: usize = 500;

/// `GET /_matrix/client/v1/mutual_rooms`
pub(crate) async fn mutual_rooms(
    app: ClientApi,
    request: Ruma<get_mutual_rooms::v1::Request, LocalUser>,
) -> Result<get_mutual_rooms::v1::Response, ApiError> {
    let caller = request.identity.user_id();
    if caller == request.user_id {
        return Err(MatrixError::invalid_param("You share all your rooms with yourself").into());
    }
    let mut rooms: Vec<OwnedRoomId> = app.rooms().mutual_rooms(caller, &request.user_id).await?;
    rooms.sort_unstable();
    let count = UInt::try_from(rooms.len()).unwrap_or(UInt::MAX);
    // The token is the last room of the page before.
    let after = request.from.as_deref().unwrap_or_default();
    let mut page: Vec<OwnedRoomId> =
        rooms.into_iter().filter(|room_id| room_id.as_str() > after).collect();
    let more = page.len() > MUTUAL_PAGE;
    page.truncate(MUTUAL_PAGE);
    let next = page.last().filter(|_| more).map(ToString::to_string);
    let mut response = get_mutual_rooms::v1::Response::new(count, page);
    response.next_batch = next;
    Ok(response)
}

fn membership(named: &MembershipState) -> Option<Membership> {
    match named {
        MembershipState::Invite => Some(Membership::Invite),
        MembershipState::Join => Some(Membership::Join),
        MembershipState::Knock => Some(Membership::Knock),
        MembershipState::Leave => Some(Membership::Leave),
        MembershipState::Ban => Some(Membership::Ban),
        _ => None,
    }
}

/// Refuses to invite somebody who blocks invites (CS "Invite permission").
pub(crate) async fn must_take_invites(app: &ClientApi, target: &UserId) -> Result<(), ApiError> {
    if app.users().blocks_invites(target).await? {
        return Err(MatrixError::invite_blocked(format!("{target} does not take invites")).into());
    }
    Ok(())
}
