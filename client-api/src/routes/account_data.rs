//! `/user/{userId}/account_data` and the same for rooms (CS "Client Config").

use hearth_http::{MatrixError, Ruma};
use hearth_users::AccountDataScope;
use ruma::{
    api::client::config::{
        get_global_account_data, get_room_account_data, set_global_account_data,
        set_room_account_data,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/user/{userId}/account_data/{type}`
pub(crate) async fn get_global(
    app: ClientApi,
    request: Ruma<get_global_account_data::v3::Request, LocalUser>,
) -> Result<get_global_account_data::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let event_type = request.event_type.to_string();
    let content = read(&app, &request.identity, AccountDataScope::Global, &event_type).await?;
    Ok(get_global_account_data::v3::Response::new(Raw::from_json(content)))
}

/// `PUT /_matrix/client/*/user/{userId}/account_data/{type}`
pub(crate) async fn set_global(
    app: ClientApi,
    request: Ruma<set_global_account_data::v3::Request, LocalUser>,
) -> Result<set_global_account_data::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let event_type = request.event_type.to_string();
    let content = request.data.json();
    app.users()
        .set_account_data(&request.user_id, AccountDataScope::Global, &event_type, content)
        .await?;
    Ok(set_global_account_data::v3::Response::new())
}

/// `GET /_matrix/client/*/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn get_room(
    app: ClientApi,
    request: Ruma<get_room_account_data::v3::Request, LocalUser>,
) -> Result<get_room_account_data::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let event_type = request.event_type.to_string();
    let scope = AccountDataScope::Room(&request.room_id);
    let content = read(&app, &request.identity, scope, &event_type).await?;
    Ok(get_room_account_data::v3::Response::new(Raw::from_json(content)))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/account_data/{type}`
pub(crate) async fn set_room(
    app: ClientApi,
    request: Ruma<set_room_account_data::v3::Request, LocalUser>,
) -> Result<set_room_account_data::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let event_type = request.event_type.to_string();
    let scope = AccountDataScope::Room(&request.room_id);
    let content = request.data.json();
    app.users().set_account_data(&request.user_id, scope, &event_type, content).await?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn read(
    app: &ClientApi,
    caller: &LocalUser,
    scope: AccountDataScope<'_>,
    event_type: &str,
) -> Result<Box<RawValue>, ApiError> {
    let content = app.users().account_data(caller.user_id(), scope, event_type).await?;
    content.ok_or_else(|| MatrixError::not_found("No account data of this type").into())
}
