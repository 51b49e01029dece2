//! Devices of this server's users and their keys (SS "Device Management", "End-to-End Encryption").

use hearth_http::{Endpoints, MatrixError, Ruma};
use ruma::{
    UInt,
    api::federation::{
        device::get_devices::{self, v1::UserDevice},
        keys::{claim_keys, get_keys},
    },
};

use super::{Api, Origin, error::ApiError};

/// Users whose keys one request may ask for: rooms are larger, but no server has so many new members
/// at a time.
const MAX_USERS: usize = 1_000;

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
    let list = api.federation.e2ee().devices_for_server(&user_id).await?;
    let list =
        list.ok_or_else(|| MatrixError::not_found("There is no such user on this server"))?;
    let stream_id = UInt::new_saturating(list.stream_id);
    let mut answer = get_devices::v1::Response::new(user_id, stream_id);
    answer.devices = list
        .devices
        .into_iter()
        .map(|(device_id, keys, display_name)| {
            let mut device = UserDevice::new(device_id, keys);
            device.device_display_name = display_name;
            device
        })
        .collect();
    answer.master_key = list.master_key;
    answer.self_signing_key = list.self_signing_key;
    Ok(answer)
}

/// `POST /_matrix/federation/v1/user/keys/query`. Users who are not here are left out of the answer.
async fn query(
    api: Api,
    request: Ruma<get_keys::v1::Request, Origin>,
) -> Result<get_keys::v1::Response, ApiError> {
    bounded(request.device_keys.len())?;
    let keys = api.federation.e2ee().keys_for_server(request.body.device_keys).await?;
    let mut answer = get_keys::v1::Response::new(keys.device_keys);
    answer.master_keys = keys.master_keys;
    answer.self_signing_keys = keys.self_signing_keys;
    Ok(answer)
}

/// `POST /_matrix/federation/v1/user/keys/claim`. Devices without one-time keys are left out of the
/// answer.
async fn claim(
    api: Api,
    request: Ruma<claim_keys::v1::Request, Origin>,
) -> Result<claim_keys::v1::Response, ApiError> {
    bounded(request.one_time_keys.len())?;
    let claimed = api.federation.e2ee().claim_local_keys(request.body.one_time_keys).await?;
    Ok(claim_keys::v1::Response::new(claimed))
}

fn bounded(users: usize) -> Result<(), ApiError> {
    if users <= MAX_USERS {
        return Ok(());
    }
    Err(MatrixError::invalid_param(format!("More than {MAX_USERS} users are asked for")).into())
}
