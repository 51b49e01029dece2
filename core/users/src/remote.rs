//! What this crate asks and tells other servers: declared here, implemented by the federation crate,
//! plugged in by the binary.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_storage::Commit;
use ruma::{OwnedDeviceId, RoomId, UserId};

use crate::{Profile, Users, UsersError};

/// Profiles of other servers' users.
#[async_trait]
pub trait RemoteProfiles: Send + Sync + 'static {
    /// Asks the user's server; `None` if it knows no such profile. Bounded in time and size.
    async fn remote_profile(&self, user_id: &UserId) -> Result<Option<Profile>, UsersError>;
}

/// Hears what this server's users do that no log holds.
pub trait EphemeralWatcher: Send + Sync + 'static {
    /// A user of this server began or stopped typing in a room. Must not block.
    fn typing(&self, room_id: &RoomId, user_id: &UserId, typing: bool);

    /// What others see of the presence of a user of this server changed. Must not block.
    fn presence(&self, user_id: &UserId);
}

/// What happens to a user's devices.
#[derive(Clone, Copy, Debug)]
pub enum DeviceChange<'a> {
    /// There is a device with this ID, which no session has so far. It can be refused, with
    /// [`UsersError::InvalidDeviceId`].
    Created(&'a OwnedDeviceId),
    /// A device got another name.
    Renamed(&'a OwnedDeviceId),
    /// Devices go, with their sessions.
    Removed(&'a [OwnedDeviceId]),
    /// The account is being deactivated: nobody gets in any more, its devices are still there. Whoever keeps
    /// something must remember it with this commit, and call [`Users::deactivate`] again after a crash.
    Deactivating,
    /// The account is deactivated; its devices have gone.
    Deactivated,
}

/// Keeps what belongs to devices elsewhere.
#[async_trait]
pub trait DeviceKeeper: Send + Sync + 'static {
    /// Adds to the commit, whose home is the user, what shall happen together with the change: up to
    /// eight operations for each device. Called in the user's [turn](Users::in_turn).
    async fn changing(
        &self,
        user_id: &UserId,
        change: DeviceChange<'_>,
        commit: &mut Commit,
    ) -> Result<(), UsersError>;

    /// The change is durable. Still in the user's turn.
    async fn changed(&self, user_id: &UserId, change: DeviceChange<'_>);
}

impl Users {
    /// Plugs in who keeps what belongs to devices; the last one counts.
    pub fn set_device_keeper(&self, keeper: Arc<dyn DeviceKeeper>) {
        *self.inner.keeper.write() = Some(keeper);
    }

    /// Takes it out again when the server stops: what is plugged in may hold these users in its turn.
    pub fn unset_device_keeper(&self) {
        let taken = self.inner.keeper.write().take();
        drop(taken);
    }

    /// Plugs in somebody beside [the](Self::set_device_keeper) keeper, for as long as these users live: it must
    /// not hold them in its turn. All such together add up to two operations for each of a user's devices.
    pub fn add_device_keeper(&self, keeper: Arc<dyn DeviceKeeper>) {
        self.inner.further_keepers.write().push(keeper);
    }

    pub(crate) fn device_keepers(&self) -> Vec<Arc<dyn DeviceKeeper>> {
        let first = self.inner.keeper.read().clone();
        first.into_iter().chain(self.inner.further_keepers.read().iter().cloned()).collect()
    }

    /// Plugs in who tells other servers of typing and presence; the last one counts.
    pub fn set_ephemeral_watcher(&self, watcher: Arc<dyn EphemeralWatcher>) {
        *self.inner.watcher.write() = Some(watcher);
    }

    pub(crate) fn tell_typing(&self, room_id: &RoomId, user_id: &UserId, typing: bool) {
        if self.inner.identity.is_local(user_id)
            && let Some(watcher) = &*self.inner.watcher.read()
        {
            watcher.typing(room_id, user_id, typing);
        }
    }

    pub(crate) fn tell_presence(&self, user_id: &UserId) {
        if self.inner.identity.is_local(user_id)
            && let Some(watcher) = &*self.inner.watcher.read()
        {
            watcher.presence(user_id);
        }
    }

    /// Plugs in the way to other servers.
    pub fn set_remote(&self, remote: Arc<dyn RemoteProfiles>) {
        *self.inner.remote.write() = Some(remote);
    }

    /// Takes it out again when the server stops: what is plugged in may hold these users in its turn.
    pub fn unset_remote(&self) {
        let taken = self.inner.remote.write().take();
        drop(taken);
    }

    /// The profile of any user: from their server, if that is another one and can be reached.
    ///
    /// # Errors
    ///
    /// [`UsersError::Remote`] if their server does not answer.
    pub async fn find_profile(&self, user_id: &UserId) -> Result<Option<Profile>, UsersError> {
        if self.inner.identity.is_local(user_id) {
            return self.profile(user_id).await;
        }
        let remote = self.inner.remote.read().clone();
        match remote {
            Some(remote) => remote.remote_profile(user_id).await,
            None => Ok(None),
        }
    }
}
