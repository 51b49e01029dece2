//! `/directory/room/{roomAlias}` and `/rooms/{roomId}/aliases` (CS "Room aliases").

use hearth_http::{MatrixError, Ruma};
use hearth_rooms::RoomError;
use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomOrAliasId,
    api::client::{
        alias::{create_alias, delete_alias, get_alias},
        room::aliases,
    },
};

use crate::{ApiError, ClientApi, LocalUser, config::AliasCreation};

/// `GET /_matrix/client/*/directory/room/{roomAlias}`
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_alias::v3::Request>,
) -> Result<get_alias::v3::Response, ApiError> {
    let found = app.rooms().find_alias(&request.room_alias).await?;
    Ok(get_alias::v3::Response::new(found.room_id, found.servers))
}

/// `PUT /_matrix/client/*/directory/room/{roomAlias}`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_alias::v3::Request, LocalUser>,
) -> Result<create_alias::v3::Response, ApiError> {
    let caller = request.identity.may_write()?;
    if app.config().alias_creation == AliasCreation::Admins {
        caller.must_be_admin()?;
    }
    let created =
        app.rooms().create_alias(&request.room_alias, &request.room_id, caller.user_id()).await;
    match created {
        // Elsewhere a taken alias is a bad request (CS "createRoom").
        Err(error @ RoomError::AliasInUse) => {
            Err(MatrixError::new(StatusCode::CONFLICT, "M_UNKNOWN", error.to_string()).into())
        }
        created => Ok(created.map(|()| create_alias::v3::Response::new())?),
    }
}

/// `DELETE /_matrix/client/*/directory/room/{roomAlias}`
pub(crate) async fn delete(
    app: ClientApi,
    request: Ruma<delete_alias::v3::Request, LocalUser>,
) -> Result<delete_alias::v3::Response, ApiError> {
    let caller = request.identity.may_write()?;
    app.rooms().delete_alias(&request.room_alias, caller.user_id()).await?;
    Ok(delete_alias::v3::Response::new())
}

/// `GET /_matrix/client/*/rooms/{roomId}/aliases`: for members, and for all where the room is
/// world-readable.
pub(crate) async fn of_room(
    app: ClientApi,
    request: Ruma<aliases::v3::Request, LocalUser>,
) -> Result<aliases::v3::Response, ApiError> {
    app.rooms().access(&request.room_id, request.identity.user_id()).await?;
    let aliases = app.rooms().room_aliases(&request.room_id).await?;
    Ok(aliases::v3::Response::new(aliases))
}

/// The room that a room ID or an alias means, and servers to reach it by: those in `via`, then those
/// that the alias names.
pub(crate) async fn resolve(
    app: &ClientApi,
    room: &RoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    match <&ruma::RoomId>::try_from(room) {
        Ok(room_id) => Ok((room_id.to_owned(), via)),
        Err(alias) => {
            let found = app.rooms().find_alias(alias).await?;
            via.extend(found.servers);
            Ok((found.room_id, via))
        }
    }
}
