//! Small questions: aliases, profiles, the directory, spaces, OpenID tokens, the version (SS "Querying
//! for information", "Public Room Directory", "Spaces", "OpenID").

use axum::{Json, extract::State, routing::get};
use hearth_http::{ApiState as _, Class, Endpoints, Lane, MatrixError, RawJson, Ruma};
use hearth_rooms::{DirectoryPage, DirectoryQuery};
use http::{StatusCode, request::Parts};
use ruma::{
    ServerName, UInt,
    api::federation::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        discovery::get_server_version,
        query::{get_custom_information, get_profile_information, get_room_information},
        space::{SpaceHierarchyParentSummary, get_hierarchy},
    },
    directory::RoomNetwork,
    serde::Raw,
};
use serde_json::{Value, json};

use super::{Api, Origin, error::ApiError};

/// Servers that an alias's answer names: enough to join by.
const MAX_ALIAS_SERVERS: usize = 100;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new()
        .ruma(version)
        .route("/_matrix/federation/v1/openid/userinfo", get(openid_userinfo))
        .ruma(directory)
        .ruma(profile)
        .ruma(other_query)
        .ruma(public_rooms)
        .ruma(search_public_rooms)
        .ruma(hierarchy)
}

/// `GET /_matrix/federation/v1/version`
async fn version(
    _: Api,
    _: Ruma<get_server_version::v1::Request>,
) -> Result<get_server_version::v1::Response, ApiError> {
    let mut server = get_server_version::v1::Server::new();
    server.name = Some("Hearth".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::v1::Response::new();
    response.server = Some(server);
    Ok(response)
}

/// `GET /_matrix/federation/v1/openid/userinfo`. Not by ruma's type, for which a missing token is a missing
/// parameter (400) and not a missing token (401).
async fn openid_userinfo(State(api): State<Api>, head: Parts) -> Result<Json<Value>, ApiError> {
    let _place = api.http().admit(Lane::Short)?;
    if let Some(address) = api.http().client_address(&head) {
        api.http().limiter().charge_address(Class::General, address)?;
    }
    let query = head.uri.query().unwrap_or_default();
    let token = url::form_urlencoded::parse(query.as_bytes())
        .find_map(|(name, value)| (name == "access_token").then_some(value));
    let token = token.ok_or_else(|| MatrixError::missing_token("Missing access token"))?;
    let user = api.federation.users().openid_user(&token).await?;
    let user = user.ok_or_else(|| {
        let text = "The access token is unknown or has expired";
        MatrixError::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", text)
    })?;
    Ok(Json(json!({ "sub": user })))
}

/// `GET /_matrix/federation/v1/query/directory`
async fn directory(
    api: Api,
    request: Ruma<get_room_information::v1::Request, Origin>,
) -> Result<get_room_information::v1::Response, ApiError> {
    let alias = &request.room_alias;
    let own_name = api.federation.identity().server_name();
    if alias.server_name() != own_name {
        return Err(MatrixError::not_found("The alias is not one of this server's").into());
    }
    let room_id = api.rooms().resolve_alias(alias).await?;
    let others = api.rooms().remote_servers(&room_id).await?;
    let others = others.iter().take(MAX_ALIAS_SERVERS).cloned();
    let servers = [own_name.to_owned()].into_iter().chain(others).collect();
    Ok(get_room_information::v1::Response::new(room_id, servers))
}

/// `GET /_matrix/federation/v1/query/profile`
async fn profile(
    api: Api,
    request: Ruma<get_profile_information::v1::Request, Origin>,
) -> Result<get_profile_information::v1::Response, ApiError> {
    let nobody = || MatrixError::not_found("There is no such profile");
    if !api.federation.identity().is_local(&request.user_id) {
        return Err(nobody().into());
    }
    let profile = api.federation.users().profile(&request.user_id).await?.ok_or_else(nobody)?;
    let mut fields = profile.fields;
    if let Some(field) = &request.field {
        fields.retain(|name, _| name == field.as_str());
    }
    Ok(fields.into_iter().collect())
}

/// `GET /_matrix/federation/v1/query/{queryType}`: there are no others.
async fn other_query(
    _: Api,
    _: Ruma<get_custom_information::v1::Request, Origin>,
) -> Result<get_custom_information::v1::Response, ApiError> {
    Err(MatrixError::not_found("This server knows no such query").into())
}

/// `GET /_matrix/federation/v1/publicRooms`
async fn public_rooms(
    api: Api,
    request: Ruma<get_public_rooms::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let Ruma { body, identity, .. } = request;
    let query = DirectoryQuery {
        limit: body.limit.map(count),
        since: body.since,
        ..DirectoryQuery::default()
    };
    listing(&api, &identity.0, &body.room_network, query).await
}

/// `POST /_matrix/federation/v1/publicRooms`
async fn search_public_rooms(
    api: Api,
    request: Ruma<get_public_rooms_filtered::v1::Request, Origin>,
) -> Result<RawJson, ApiError> {
    let Ruma { body, identity, .. } = request;
    let room_types = body.filter.room_types.iter();
    let query = DirectoryQuery {
        search_term: body.filter.generic_search_term,
        room_types: room_types.map(|wanted| wanted.as_str().map(ToOwned::to_owned)).collect(),
        limit: body.limit.map(count),
        since: body.since,
    };
    listing(&api, &identity.0, &body.room_network, query).await
}

/// A page of the directory without the rooms that do not admit the asking server.
async fn listing(
    api: &Api,
    server: &ServerName,
    network: &RoomNetwork,
    query: DirectoryQuery,
) -> Result<RawJson, ApiError> {
    if !api.federation.config().share_directory {
        let text = "This server does not show its directory to other servers";
        return Err(MatrixError::forbidden(text).into());
    }
    if matches!(network, RoomNetwork::ThirdParty(_)) {
        // No bridge, so no room of a bridged network.
        return Ok(RawJson(DirectoryPage::default().to_json()?));
    }
    let mut found = api.rooms().public_rooms(&query).await?;
    let mut admitting = Vec::with_capacity(found.rooms.len());
    for room in found.rooms {
        if api.rooms().acl_admits(&room.room_id, server).await? {
            admitting.push(room);
        }
    }
    found.rooms = admitting;
    Ok(RawJson(found.to_json()?))
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
async fn hierarchy(
    api: Api,
    request: Ruma<get_hierarchy::v1::Request, Origin>,
) -> Result<get_hierarchy::v1::Response, ApiError> {
    let found = api
        .rooms()
        .hierarchy_for_server(&request.identity.0, &request.room_id, request.suggested_only)
        .await?;
    let children = found.room.children_state.into_iter().map(Raw::from_json).collect();
    let room = SpaceHierarchyParentSummary::new(found.room.summary, children);
    let mut response = get_hierarchy::v1::Response::new(room);
    response.children = found.children;
    response.inaccessible_children = found.inaccessible_children;
    Ok(response)
}

fn count(number: UInt) -> usize {
    usize::try_from(u64::from(number)).unwrap_or(usize::MAX)
}
