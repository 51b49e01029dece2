//! `/publicRooms` and `/directory/list/room/{roomId}` (CS "Published room directory").

use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_rooms::{DirectoryPage, DirectoryQuery};
use ruma::{
    OwnedServerName, UInt,
    api::client::{
        directory::{
            get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility,
        },
        room::Visibility,
    },
    directory::RoomNetwork,
};

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/directory/list/room/{roomId}`
pub(crate) async fn visibility(
    app: ClientApi,
    request: Ruma<get_room_visibility::v3::Request>,
) -> Result<get_room_visibility::v3::Response, ApiError> {
    if app.rooms().head(&request.room_id).await?.is_none() {
        return Err(MatrixError::not_found("There is no such room").into());
    }
    let published = app.rooms().is_published(&request.room_id).await?;
    let visibility = if published { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// `PUT /_matrix/client/*/directory/list/room/{roomId}`
pub(crate) async fn set_visibility(
    app: ClientApi,
    request: Ruma<set_room_visibility::v3::Request, LocalUser>,
) -> Result<set_room_visibility::v3::Response, ApiError> {
    let caller = request.identity.may_write()?.user_id();
    let published = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(MatrixError::invalid_param("There is no such visibility").into()),
    };
    app.rooms().set_published(&request.room_id, caller, published).await?;
    Ok(set_room_visibility::v3::Response::new())
}

/// `GET /_matrix/client/*/publicRooms`
pub(crate) async fn list(
    app: ClientApi,
    request: Ruma<get_public_rooms::v3::Request>,
) -> Result<RawJson, ApiError> {
    let query = DirectoryQuery {
        limit: request.limit.map(count),
        since: request.body.since,
        ..DirectoryQuery::default()
    };
    page(&app, request.body.server, query).await
}

/// `POST /_matrix/client/*/publicRooms`
pub(crate) async fn search(
    app: ClientApi,
    request: Ruma<get_public_rooms_filtered::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    if matches!(request.room_network, RoomNetwork::ThirdParty(_)) {
        // No bridge, so no room of a bridged network.
        return Ok(RawJson(DirectoryPage::default().to_json()?));
    }
    let filter = request.body.filter;
    let query = DirectoryQuery {
        search_term: filter.generic_search_term,
        room_types: filter
            .room_types
            .iter()
            .map(|wanted| wanted.as_str().map(ToOwned::to_owned))
            .collect(),
        limit: request.body.limit.map(count),
        since: request.body.since,
    };
    page(&app, request.body.server, query).await
}

/// A page of this server's directory, or of another one's.
async fn page(
    app: &ClientApi,
    server: Option<OwnedServerName>,
    query: DirectoryQuery,
) -> Result<RawJson, ApiError> {
    let page = match server {
        Some(server) if server != app.identity().server_name() => {
            let remote = app
                .rooms()
                .remote()
                .ok_or_else(|| MatrixError::not_found("This server does not ask other servers"))?;
            remote.public_rooms(server, query).await?
        }
        _ => app.rooms().public_rooms(&query).await?,
    };
    Ok(RawJson(page.to_json()?))
}

fn count(number: UInt) -> usize {
    usize::try_from(u64::from(number)).unwrap_or(usize::MAX)
}
