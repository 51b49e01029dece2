//! `/devices`: a user's own devices (CS "Device Management").

use hearth_http::{MatrixError, Ruma};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{
        Device, delete_device, delete_devices, get_device, get_devices, update_device,
    },
};

use crate::{ApiError, ClientApi, LocalUser, uia::confirm_password};

/// `GET /_matrix/client/*/devices`
pub(crate) async fn list(
    app: ClientApi,
    request: Ruma<get_devices::v3::Request, LocalUser>,
) -> Result<get_devices::v3::Response, ApiError> {
    let devices = app.users().devices(request.identity.user_id()).await?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(shown).collect()))
}

/// `GET /_matrix/client/*/devices/{deviceId}`
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_device::v3::Request, LocalUser>,
) -> Result<get_device::v3::Response, ApiError> {
    let device = app
        .users()
        .device(request.identity.user_id(), &request.device_id)
        .await?
        .ok_or_else(|| MatrixError::not_found("You have no such device"))?;
    Ok(get_device::v3::Response::new(shown(device)))
}

/// `PUT /_matrix/client/*/devices/{deviceId}`
pub(crate) async fn update(
    app: ClientApi,
    request: Ruma<update_device::v3::Request, LocalUser>,
) -> Result<update_device::v3::Response, ApiError> {
    let user_id = request.identity.user_id();
    match &request.display_name {
        Some(name) => {
            app.users().rename_device(user_id, &request.device_id, Some(name.clone())).await?;
        }
        // Nothing to change, but the device has to be there.
        None if app.users().device(user_id, &request.device_id).await?.is_none() => {
            return Err(MatrixError::not_found("You have no such device").into());
        }
        None => {}
    }
    Ok(update_device::v3::Response::new())
}

/// `DELETE /_matrix/client/*/devices/{deviceId}`
pub(crate) async fn delete(
    app: ClientApi,
    request: Ruma<delete_device::v3::Request, LocalUser>,
) -> Result<delete_device::v3::Response, ApiError> {
    confirm_password(&app, &request, request.auth.as_ref()).await?;
    let device_ids = [request.device_id.clone()];
    app.users().delete_devices(request.identity.user_id(), &device_ids).await?;
    Ok(delete_device::v3::Response::new())
}

/// `POST /_matrix/client/*/delete_devices`
pub(crate) async fn delete_many(
    app: ClientApi,
    request: Ruma<delete_devices::v3::Request, LocalUser>,
) -> Result<delete_devices::v3::Response, ApiError> {
    confirm_password(&app, &request, request.auth.as_ref()).await?;
    app.users().delete_devices(request.identity.user_id(), &request.devices).await?;
    Ok(delete_devices::v3::Response::new())
}

fn shown(device: hearth_users::Device) -> Device {
    let mut shown = Device::new(device.device_id);
    shown.display_name = device.display_name;
    shown.last_seen_ip = device.last_seen_ip;
    shown.last_seen_ts =
        device.last_seen_ts_ms.map(|ms| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms)));
    shown
}
