//! Pushers go with the device that set them: when it logs out, or is deleted, or the password changes.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use hearth_storage::Commit;
use hearth_users::{DeviceChange, DeviceKeeper, UsersError};
use ruma::{OwnedDeviceId, UserId};

use crate::{pushers::add_deletion, registry::Entry, service::Inner};

/// What is plugged into the users.
pub(crate) struct Keeper(pub(crate) Weak<Inner>);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Inner {
    fn set_by(&self, user_id: &UserId, devices: &[OwnedDeviceId]) -> Vec<Arc<Entry>> {
        let mut entries = self.registry.of_user(user_id);
        entries.retain(|entry| devices.contains(&entry.row().device_id));
        entries
    }
}

#[async_trait]
impl DeviceKeeper for Keeper {
    async fn changing(
        &self,
        user_id: &UserId,
        change: DeviceChange<'_>,
        commit: &mut Commit,
    ) -> Result<(), UsersError> {
        if let (Some(inner), DeviceChange::Removed(devices)) = (self.0.upgrade(), change) {
            for entry in inner.set_by(user_id, devices) {
                add_deletion(commit, &entry);
            }
        }
        Ok(())
    }

    async fn changed(&self, user_id: &UserId, change: DeviceChange<'_>) {
        if let (Some(inner), DeviceChange::Removed(devices)) = (self.0.upgrade(), change) {
            let gone = inner.set_by(user_id, devices);
            for forgotten in join_all(gone.iter().map(|entry| inner.forget(entry))).await {
                if let Err(error) = forgotten {
                    // The row is of no use, and the next start finds it.
                    tracing::warn!(%error, %user_id, "a pusher's progress outlives it");
                }
            }
        }
    }
}
