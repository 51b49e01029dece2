//! What this crate asks of other servers: declared here, implemented by the federation crate, plugged
//! in by the binary. A server without federation has none.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::federation::{device::get_devices, keys::claim_keys, keys::get_keys},
};

use tokio::time::Instant;

use crate::E2ee;

/// Another server did not answer, or not with what was asked; the text says why.
#[derive(Debug, thiserror::Error)]
pub enum RemoteKeysError {
    /// The answer is larger than is taken, or than that server makes them: one about less may do.
    #[error("{0}")]
    TooLarge(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Keys of other servers' users. Every call is bounded in time and size.
#[async_trait]
pub trait RemoteKeys: Send + Sync + 'static {
    /// `POST /user/keys/query`
    async fn query(
        &self,
        server: &ServerName,
        users: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        timeout: Duration,
    ) -> Result<get_keys::v1::Response, RemoteKeysError>;

    /// `POST /user/keys/claim`. Not repeated: what was claimed is gone.
    async fn claim(
        &self,
        server: &ServerName,
        keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
        timeout: Duration,
    ) -> Result<claim_keys::v1::Response, RemoteKeysError>;

    /// `GET /user/devices/{userId}`
    async fn devices(
        &self,
        user_id: &UserId,
        timeout: Duration,
    ) -> Result<get_devices::v1::Response, RemoteKeysError>;
}

/// How long the other server may take for what must be done by then. The rest is for what is around its
/// part: if it were as long as the whole, a silent server would be left before it is noted as silent, and
/// be asked again each time.
pub(crate) fn patience(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.saturating_sub(left / 10)
}

impl E2ee {
    /// Plugs in the way to other servers.
    pub fn set_remote(&self, remote: Arc<dyn RemoteKeys>) {
        *self.inner.remote.write() = Some(remote);
    }

    /// Takes it out again when the server stops: what is plugged in may hold this in its turn.
    pub fn unset_remote(&self) {
        let taken = self.inner.remote.write().take();
        drop(taken);
    }

    /// The way to other servers, if there is one.
    pub(crate) fn remote(&self) -> Option<Arc<dyn RemoteKeys>> {
        self.inner.remote.read().clone()
    }
}
