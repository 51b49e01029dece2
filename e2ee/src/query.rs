//! Who has which keys (CS "POST /keys/query"; SS "End-to-End Encryption", "Device Management").

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};

use crate::{E2ee, E2eeError};

/// Devices that are asked for; none means all.
pub type KeysWanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// What a client is told.
#[derive(Clone, Debug, Default)]
pub struct QueriedKeys {
    /// Device keys, with names in `unsigned`, and the signatures that the asking user may see.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// The asking user's own user-signing key.
    pub user_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Servers that did not answer, and why.
    pub failures: BTreeMap<OwnedServerName, String>,
}

/// What another server is told of users of this one.
#[derive(Clone, Debug, Default)]
pub struct ServerKeys {
    /// Device keys.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// The whole list of a user of this server, for another server (SS "GET /user/devices/{userId}").
#[derive(Clone, Debug, Default)]
pub struct DeviceListForServer {
    /// The list's version.
    pub stream_id: u64,
    /// Devices that have keys: ID, keys, name.
    pub devices: Vec<(OwnedDeviceId, Raw<DeviceKeys>, Option<String>)>,
    /// The master key.
    pub master_key: Option<Raw<CrossSigningKey>>,
    /// The self-signing key.
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
}

impl E2ee {
    /// The keys of users anywhere, as the asking user may see them. Lists of other servers' users are
    /// kept while a room is shared with them, and asked for otherwise.
    pub async fn query_keys(
        &self,
        asker: &UserId,
        wanted: KeysWanted,
        timeout: Duration,
    ) -> Result<QueriedKeys, E2eeError> {
        let _ = (asker, wanted, timeout);
        unimplemented!("cross-signing")
    }

    /// The keys of users of this server, for another one. Those who are not here are left out.
    pub async fn keys_for_server(&self, wanted: KeysWanted) -> Result<ServerKeys, E2eeError> {
        let _ = wanted;
        unimplemented!("cross-signing")
    }

    /// The device list of a user of this server; `None` if there is no such user.
    pub async fn devices_for_server(
        &self,
        user_id: &UserId,
    ) -> Result<Option<DeviceListForServer>, E2eeError> {
        let _ = user_id;
        unimplemented!("cross-signing")
    }
}
