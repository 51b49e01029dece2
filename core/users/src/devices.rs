//! Devices: list, rename, delete; when they were last seen.

use hearth_storage::{Keyspace, postcard_record};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use crate::{TokenHash, Users, UsersError};

pub(crate) const DEVICES: Keyspace<OwnedUserId, OwnedDeviceId, DeviceRow> =
    Keyspace::new("devices");
pub(crate) const DEVICES_SEEN: Keyspace<OwnedUserId, OwnedDeviceId, SeenRow> =
    Keyspace::new("devices_seen");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub(crate) display_name: Option<String>,
    pub(crate) created_ms: u64,
    /// The tokens in use.
    pub(crate) current: TokenPair,
    /// Refreshed tokens that nobody has used yet; their first use replaces `current`.
    pub(crate) next: Option<TokenPair>,
}
postcard_record!(DeviceRow, version = 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenPair {
    pub(crate) access: TokenHash,
    pub(crate) access_expires_ms: Option<u64>,
    pub(crate) refresh: Option<TokenHash>,
    pub(crate) refresh_expires_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenRow {
    pub(crate) ts_ms: u64,
    pub(crate) ip: Option<String>,
}
postcard_record!(SeenRow, version = 1);

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's ID.
    pub device_id: OwnedDeviceId,
    /// The name that its user gave it.
    pub display_name: Option<String>,
    /// When it last made a request, in milliseconds, give or take some minutes.
    pub last_seen_ts_ms: Option<u64>,
    /// From where.
    pub last_seen_ip: Option<String>,
}

impl Users {
    /// All devices of a user, by ID.
    pub async fn devices(&self, user_id: &UserId) -> Result<Vec<Device>, UsersError> {
        todo!()
    }

    /// One device of a user.
    pub async fn device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, UsersError> {
        todo!()
    }

    /// Names a device; `None` leaves the name as it is.
    pub async fn rename_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// Deletes devices with their tokens; unknown ones are passed over. Returns those that went.
    pub async fn delete_devices(
        &self,
        user_id: &UserId,
        device_ids: &[OwnedDeviceId],
    ) -> Result<Vec<OwnedDeviceId>, UsersError> {
        todo!()
    }
}
