//! `/thirdparty/*`: networks that bridges speak with (CS "Third-party networks"). This server has no
//! bridges: it knows no protocol, and nothing on any.

use std::collections::BTreeMap;

use hearth_http::{MatrixError, Ruma};
use ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
    get_user_for_protocol, get_user_for_user_id,
};

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/thirdparty/protocols`
pub(crate) async fn protocols(
    _app: ClientApi,
    _request: Ruma<get_protocols::v3::Request, LocalUser>,
) -> Result<get_protocols::v3::Response, ApiError> {
    Ok(get_protocols::v3::Response::new(BTreeMap::new()))
}

/// `GET /_matrix/client/*/thirdparty/protocol/{protocol}`
pub(crate) async fn protocol(
    _app: ClientApi,
    _request: Ruma<get_protocol::v3::Request, LocalUser>,
) -> Result<get_protocol::v3::Response, ApiError> {
    Err(unknown_protocol())
}

/// `GET /_matrix/client/*/thirdparty/location/{protocol}`
pub(crate) async fn location(
    _app: ClientApi,
    _request: Ruma<get_location_for_protocol::v3::Request, LocalUser>,
) -> Result<get_location_for_protocol::v3::Response, ApiError> {
    Err(unknown_protocol())
}

/// `GET /_matrix/client/*/thirdparty/user/{protocol}`
pub(crate) async fn user(
    _app: ClientApi,
    _request: Ruma<get_user_for_protocol::v3::Request, LocalUser>,
) -> Result<get_user_for_protocol::v3::Response, ApiError> {
    Err(unknown_protocol())
}

/// `GET /_matrix/client/*/thirdparty/location`
pub(crate) async fn location_of_alias(
    _app: ClientApi,
    _request: Ruma<get_location_for_room_alias::v3::Request, LocalUser>,
) -> Result<get_location_for_room_alias::v3::Response, ApiError> {
    Err(MatrixError::not_found("No bridge knows this alias").into())
}

/// `GET /_matrix/client/*/thirdparty/user`
pub(crate) async fn user_of_id(
    _app: ClientApi,
    _request: Ruma<get_user_for_user_id::v3::Request, LocalUser>,
) -> Result<get_user_for_user_id::v3::Response, ApiError> {
    Err(MatrixError::not_found("No bridge knows this user").into())
}

fn unknown_protocol() -> ApiError {
    MatrixError::not_found("This server has no bridge to such a network").into()
}
