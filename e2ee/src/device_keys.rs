//! Device keys: upload and what is stored of them (CS "Device keys").

use bytes::Bytes;
use ruma::{DeviceId, OwnedDeviceId, UserId};

use crate::{E2ee, E2eeError};

impl E2ee {
    /// The stored keys of one device of a user of this server.
    pub(crate) async fn device_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Bytes>, E2eeError> {
        let _ = (user_id, device_id);
        unimplemented!("keys")
    }

    /// The stored keys of all devices of a user of this server.
    pub(crate) async fn all_device_keys(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<(OwnedDeviceId, Bytes)>, E2eeError> {
        let _ = user_id;
        unimplemented!("keys")
    }

    /// Can this user of this server be sent something on this device? True for devices with a session
    /// and for a dehydrated one.
    pub(crate) async fn is_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<bool, E2eeError> {
        let _ = (user_id, device_id);
        unimplemented!("keys")
    }

    /// All devices that this user of this server can be sent something on.
    pub(crate) async fn addressable_devices(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<OwnedDeviceId>, E2eeError> {
        let _ = user_id;
        unimplemented!("keys")
    }
}
