//! Devices of this server's users and their keys (SS "Device Management", "End-to-End Encryption").
//!
//! Clients cannot upload keys yet, so no device has any: who asks is told so, and encrypts for nobody
//! here. A device list names devices by their keys; one without keys has no entry in it.

use std::collections::BTreeMap;

use hearth_http::{Endpoints, MatrixError, Ruma};
use ruma::{
    UInt, UserId,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
};

use super::{Api, Origin, error::ApiError};

/// Users whose keys one request may ask for: rooms are larger, but no server has so many new members
/// at a time.
const MAX_USERS: usize = 1_000;
/// The version of every device list: none has changed.
const FIRST_VERSION: UInt = UInt::MIN;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(devices).ruma(query).ruma(claim)
}

/// `GET /_matrix/federation/v1/user/devices/{userId}`
async fn devices(
    api: Api,
    request: Ruma<get_devices::v1::Request, Origin>,
) -> Result<get_devices::v1::Response, ApiError> {
    let user_id = request.body.user_id;
    if !is_here(&api, &user_id).await? {
        return Err(MatrixError::not_found("There is no such user on this server").into());
    }
    Ok(get_devices::v1::Response::new(user_id, FIRST_VERSION))
}

/// `POST /_matrix/federation/v1/user/keys/query`. Users who are not here are left out of the answer.
async fn query(
    api: Api,
    request: Ruma<get_keys::v1::Request, Origin>,
) -> Result<get_keys::v1::Response, ApiError> {
    bounded(request.device_keys.len())?;
    let mut device_keys = BTreeMap::new();
    for user_id in request.body.device_keys.into_keys() {
        if is_here(&api, &user_id).await? {
            device_keys.insert(user_id, BTreeMap::new());
        }
    }
    Ok(get_keys::v1::Response::new(device_keys))
}

/// `POST /_matrix/federation/v1/user/keys/claim`. Devices without one-time keys are left out of the
/// answer.
async fn claim(
    _: Api,
    request: Ruma<claim_keys::v1::Request, Origin>,
) -> Result<claim_keys::v1::Response, ApiError> {
    bounded(request.one_time_keys.len())?;
    Ok(claim_keys::v1::Response::new(BTreeMap::new()))
}

fn bounded(users: usize) -> Result<(), ApiError> {
    if users <= MAX_USERS {
        return Ok(());
    }
    Err(MatrixError::invalid_param(format!("More than {MAX_USERS} users are asked for")).into())
}

async fn is_here(api: &Api, user_id: &UserId) -> Result<bool, ApiError> {
    let federation = &api.federation;
    Ok(federation.identity().is_local(user_id) && federation.users().is_active(user_id).await?)
}
