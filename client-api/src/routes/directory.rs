//! `/publicRooms` and `/directory/list/room/{roomId}` (CS "Published room directory").

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_rooms::{DirectoryPage, DirectoryQuery, PublicRoom};
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
use serde_json::{Map, Value, json};

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
        return Ok(answer(DirectoryPage::default()));
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
    Ok(answer(page))
}

fn count(number: UInt) -> usize {
    usize::try_from(u64::from(number)).unwrap_or(usize::MAX)
}

fn answer(page: DirectoryPage) -> RawJson {
    let rooms: Vec<Value> = page.rooms.into_iter().map(entry).collect();
    let mut answer = Map::new();
    answer.insert("chunk".to_owned(), Value::Array(rooms));
    answer.insert("total_room_count_estimate".to_owned(), json!(page.total_estimate));
    for (key, token) in [("next_batch", page.next_batch), ("prev_batch", page.prev_batch)] {
        if let Some(token) = token {
            answer.insert(key.to_owned(), Value::String(token));
        }
    }
    RawJson(Bytes::from(Value::Object(answer).to_string()))
}

fn entry(room: PublicRoom) -> Value {
    let mut entry = Map::new();
    let texts = [
        ("name", room.name),
        ("topic", room.topic),
        ("canonical_alias", room.canonical_alias.map(Into::into)),
        ("avatar_url", room.avatar_url),
        ("room_type", room.room_type),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            entry.insert(key.to_owned(), Value::String(text));
        }
    }
    entry.insert("room_id".to_owned(), json!(room.room_id));
    entry.insert("num_joined_members".to_owned(), json!(room.joined_members));
    entry.insert("join_rule".to_owned(), json!(room.join_rule));
    entry.insert("world_readable".to_owned(), json!(room.world_readable));
    entry.insert("guest_can_join".to_owned(), json!(room.guest_can_join));
    Value::Object(entry)
}
