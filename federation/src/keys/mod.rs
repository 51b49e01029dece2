//! Server signing keys: other servers' (fetched, cached, vouched for) and our own as served (SS
//! "Retrieving server keys").

use std::{collections::BTreeMap, fmt, sync::Arc};

use hearth_storage::Store;
use hearth_types::{Clock, ServerIdentity};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, signatures::PublicKeyMap,
};

use crate::{FederationConfig, FederationError, client::Client};

/// The keys of other servers. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    store: Store,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    client: Client,
    config: FederationConfig,
}

/// Keys that are needed: for each server and key ID, the time at which the key must be valid; `None`
/// if any will do (room versions before 5).
pub type WantedKeys =
    BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, MilliSecondsSinceUnixEpoch>>;

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Reads what is kept, and records this server's own key.
    pub async fn open(
        store: Store,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        client: Client,
        config: FederationConfig,
    ) -> Result<Self, FederationError> {
        Ok(Self(Arc::new(Inner { store, identity, clock, client, config })))
    }

    /// The keys that can be had of those wanted: from memory, from the store, from their servers (in
    /// parallel, bounded), else from the notaries. Missing ones are left out.
    pub async fn keys(&self, _wanted: &WantedKeys) -> PublicKeyMap {
        unimplemented!("fed-trust")
    }
}
