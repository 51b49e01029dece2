//! Device lists of other servers' users: kept while a room is shared with them, followed by their
//! servers' updates, fetched again when one is missing (SS "Device Management").

use ruma::{
    ServerName,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
};

use crate::{E2ee, E2eeError};

/// Who fetches which list.
#[derive(Debug, Default)]
pub(crate) struct RemoteLists {}

impl E2ee {
    /// Takes an `m.device_list_update` of one of that server's users: durable when this returns. What
    /// cannot be applied for want of earlier ones marks the list as stale, and it is fetched again behind
    /// this call.
    pub async fn receive_device_list_update(
        &self,
        origin: &ServerName,
        update: DeviceListUpdateContent,
    ) -> Result<(), E2eeError> {
        let _ = (origin, update);
        unimplemented!("lists")
    }

    /// Takes an `m.signing_key_update` of one of that server's users: durable when this returns.
    pub async fn receive_signing_key_update(
        &self,
        origin: &ServerName,
        update: SigningKeyUpdateContent,
    ) -> Result<(), E2eeError> {
        let _ = (origin, update);
        unimplemented!("lists")
    }
}
