//! `/admin/lock`, `/admin/suspend`, `/admin/whois` (CS "Server Administration").

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_users::Account;
use ruma::{
    UserId,
    api::client::admin::{
        get_user_info, is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};
use serde_json::{Map, Value, json};

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/v1/admin/lock/{userId}`
pub(crate) async fn is_locked(
    app: ClientApi,
    request: Ruma<is_user_locked::v1::Request, LocalUser>,
) -> Result<is_user_locked::v1::Response, ApiError> {
    let account = account(&app, &request.identity, &request.user_id).await?;
    Ok(is_user_locked::v1::Response::new(account.is_locked))
}

/// `PUT /_matrix/client/v1/admin/lock/{userId}`
pub(crate) async fn lock(
    app: ClientApi,
    request: Ruma<lock_user::v1::Request, LocalUser>,
) -> Result<lock_user::v1::Response, ApiError> {
    not_oneself(&request.identity, &request.user_id)?;
    account(&app, &request.identity, &request.user_id).await?;
    app.users().set_locked(&request.user_id, request.locked).await?;
    Ok(lock_user::v1::Response::new(request.locked))
}

/// `GET /_matrix/client/v1/admin/suspend/{userId}`
pub(crate) async fn is_suspended(
    app: ClientApi,
    request: Ruma<is_user_suspended::v1::Request, LocalUser>,
) -> Result<is_user_suspended::v1::Response, ApiError> {
    let account = account(&app, &request.identity, &request.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(account.is_suspended))
}

/// `PUT /_matrix/client/v1/admin/suspend/{userId}`
pub(crate) async fn suspend(
    app: ClientApi,
    request: Ruma<suspend_user::v1::Request, LocalUser>,
) -> Result<suspend_user::v1::Response, ApiError> {
    not_oneself(&request.identity, &request.user_id)?;
    account(&app, &request.identity, &request.user_id).await?;
    app.users().set_suspended(&request.user_id, request.suspended).await?;
    Ok(suspend_user::v1::Response::new(request.suspended))
}

/// `GET /_matrix/client/*/admin/whois/{userId}`: about oneself, or for administrators.
pub(crate) async fn whois(
    app: ClientApi,
    request: Ruma<get_user_info::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    if request.identity.user_id() != request.user_id {
        request.identity.must_be_admin()?;
    }
    let devices = app.users().devices(&request.user_id).await?;
    let devices: Map<String, Value> = devices
        .into_iter()
        .map(|device| {
            let connection =
                json!({"ip": device.last_seen_ip, "last_seen": device.last_seen_ts_ms});
            (device.device_id.to_string(), json!({"sessions": [{"connections": [connection]}]}))
        })
        .collect();
    let body = json!({ "user_id": request.user_id, "devices": devices });
    Ok(RawJson(Bytes::from(body.to_string())))
}

async fn account(
    app: &ClientApi,
    caller: &LocalUser,
    user_id: &UserId,
) -> Result<Account, ApiError> {
    caller.must_be_admin()?;
    if !app.identity().is_local(user_id) {
        return Err(MatrixError::invalid_param("Not a user of this server").into());
    }
    let account = app.users().account(user_id).await?;
    account.ok_or_else(|| MatrixError::not_found("There is no such account").into())
}

fn not_oneself(caller: &LocalUser, user_id: &UserId) -> Result<(), ApiError> {
    if caller.user_id() == user_id {
        return Err(MatrixError::forbidden("You cannot do this to yourself").into());
    }
    Ok(())
}
