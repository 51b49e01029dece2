//! Devices that go: with them go their keys, their queue, and the way to address them.
//!
//! What makes a device addressable goes in the commit that ends it; a row (`SWEEPS`) tells that the rest
//! is to follow, which is done at once, again a while later (for what was on its way), and after a
//! restart.

use std::{
    collections::HashSet,
    fmt,
    ops::{Bound, ControlFlow},
    sync::Weak,
    time::Duration,
};

use async_trait::async_trait;
use hearth_storage::{Commit, Direction, KeyPart, Keyspace, Record};
use hearth_users::{DeviceChange, DeviceKeeper, UsersError};
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use crate::{
    E2ee, E2eeError,
    e2ee::Inner,
    one_time_keys::MAX_FALLBACK_KEYS,
    schema::{
        BACKUP_KEYS, BACKUP_VERSIONS, CLAIMED_KEYS, CROSS_SIGNING_KEYS, DEHYDRATED, DEVICE_KEYS,
        FALLBACK_KEYS, ONE_TIME_KEYS, SENT_TRANSACTIONS, SWEEPS, TO_DEVICE, USER_SIGNATURES,
    },
};

/// Rows that one commit of a sweep deletes.
const ROWS_PER_COMMIT: usize = 500;
/// Messages that were on their way to a device when it went have arrived after this time.
const SWEEP_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// In `SWEEPS` the place of what belongs to the account as a whole; no device has an empty ID.
const WHOLE_ACCOUNT: &str = "";

/// Hears of devices that change.
pub(crate) struct Keeper {
    e2ee: Weak<Inner>,
    /// Users whose list changes with the change of devices that is under way.
    changing: Mutex<HashSet<OwnedUserId>>,
}

impl Keeper {
    pub(crate) fn new(e2ee: &E2ee) -> Self {
        Self { e2ee: std::sync::Arc::downgrade(&e2ee.inner), changing: Mutex::default() }
    }

    fn e2ee(&self) -> Option<E2ee> {
        Some(E2ee { inner: self.e2ee.upgrade()? })
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
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
        let Some(e2ee) = self.e2ee() else { return Ok(()) };
        let added = match change {
            DeviceChange::Created(device_id) => e2ee.refuse_asleep(user_id, device_id).await,
            DeviceChange::Renamed(device_id) => e2ee.add_renaming(commit, user_id, device_id).await,
            DeviceChange::Removed(device_ids) => {
                e2ee.add_removal(commit, user_id, device_ids).await
            }
            DeviceChange::Deactivating => {
                commit.put(&SWEEPS, &user_id.to_owned(), &WHOLE_ACCOUNT.into(), &());
                Ok(false)
            }
            DeviceChange::Deactivated => e2ee.add_deactivation(commit, user_id).await,
        };
        let list_changes = added.map_err(|error| match error {
            E2eeError::Users(error) => error,
            error => UsersError::Internal(error.to_string()),
        })?;
        if list_changes {
            self.changing.lock().insert(user_id.to_owned());
        }
        Ok(())
    }

    async fn changed(&self, user_id: &UserId, change: DeviceChange<'_>) {
        let list_changed = self.changing.lock().remove(user_id);
        let Some(e2ee) = self.e2ee() else { return };
        match change {
            DeviceChange::Created(_) | DeviceChange::Renamed(_) | DeviceChange::Deactivating => {}
            DeviceChange::Removed(device_ids) => e2ee.removed(user_id, device_ids).await,
            DeviceChange::Deactivated => match e2ee.unswept(user_id).await {
                Ok(rest) => e2ee.removed(user_id, &rest).await,
                // The next start does it.
                Err(error) => tracing::error!(%error, %user_id, "an account leaves rows behind"),
            },
        }
        if list_changed {
            e2ee.announce_list(user_id).await;
        }
    }
}

impl E2ee {
    async fn add_renaming(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<bool, E2eeError> {
        if self.device_keys(user_id, device_id).await?.is_none() {
            return Ok(false);
        }
        self.note_list_change(commit, user_id, Some(device_id)).await?;
        Ok(true)
    }

    /// In the user's turn: adds to a commit that devices go. Does the user's list change? After the
    /// commit call [`Self::removed`], and if so [`Self::announce_list`]. Not in one commit with another
    /// note of a changed list.
    pub(crate) async fn add_removal(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        device_ids: &[OwnedDeviceId],
    ) -> Result<bool, E2eeError> {
        let changes = self.add_removal_rows(commit, user_id, device_ids).await?;
        self.note_list_changes(commit, user_id, &changes).await?;
        Ok(!changes.is_empty())
    }

    /// The same without the note of a changed list. Returns the devices among these that have keys, which
    /// others know.
    pub(crate) async fn add_removal_rows<'a>(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
        device_ids: &'a [OwnedDeviceId],
    ) -> Result<Vec<Option<&'a DeviceId>>, E2eeError> {
        let owner = user_id.to_owned();
        let mut changes = Vec::new();
        for device_id in device_ids {
            let fallback = self
                .store()
                .page_prefix(
                    &FALLBACK_KEYS,
                    &owner,
                    device_id,
                    Direction::Forward,
                    MAX_FALLBACK_KEYS,
                )
                .await?;
            for (place, _) in fallback {
                commit.delete(&FALLBACK_KEYS, &owner, &place);
            }
            if self.device_keys(user_id, device_id).await?.is_some() {
                commit.delete(&DEVICE_KEYS, &owner, device_id);
                changes.push(Some(&**device_id));
            }
            commit.put(&SWEEPS, &owner, device_id, &());
        }
        Ok(changes)
    }

    async fn add_deactivation(
        &self,
        commit: &mut Commit,
        user_id: &UserId,
    ) -> Result<bool, E2eeError> {
        let owner = user_id.to_owned();
        let dehydrated: Vec<_> = self.dehydrated_device_id(user_id).await?.into_iter().collect();
        let mut changes = self.add_removal_rows(commit, user_id, &dehydrated).await?;
        if !dehydrated.is_empty() {
            commit.delete(&DEHYDRATED, &owner, &());
        }
        let usages = self
            .store()
            .page(&CROSS_SIGNING_KEYS, &owner, .., Direction::Forward, ROWS_PER_COMMIT)
            .await?;
        if !usages.is_empty() {
            changes.push(None);
        }
        for (usage, _) in usages {
            commit.delete(&CROSS_SIGNING_KEYS, &owner, &usage);
        }
        commit.put(&SWEEPS, &owner, &WHOLE_ACCOUNT.into(), &());
        self.note_list_changes(commit, user_id, &changes).await?;
        Ok(!changes.is_empty())
    }

    /// Still in the user's turn, after the commit: deletes what devices leave, and again a while later.
    pub(crate) async fn removed(&self, user_id: &UserId, device_ids: &[OwnedDeviceId]) {
        let owner = user_id.to_owned();
        self.forget_key_counts(&owner, device_ids);
        for device_id in device_ids {
            // The row in `SWEEPS` stays.
            if let Err(error) = self.sweep(&owner, device_id).await {
                tracing::error!(%error, %user_id, %device_id, "a device leaves rows behind");
            }
        }
        let (e2ee, device_ids) = (self.clone(), device_ids.to_vec());
        self.spawn(async move {
            tokio::time::sleep(SWEEP_AGAIN_AFTER).await;
            for device_id in device_ids {
                e2ee.finish_removal(&owner, device_id).await;
            }
        });
    }

    /// The devices of a user whose rest is still to go, the whole account among them.
    async fn unswept(&self, user_id: &UserId) -> Result<Vec<OwnedDeviceId>, E2eeError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.store().page_all(&SWEEPS, &user_id.to_owned(), all).await?;
        Ok(rows.into_iter().map(|(device_id, ())| device_id).collect())
    }

    /// Finishes what a crash left. At the start, when nothing is on its way any more.
    pub(crate) async fn finish_removals(&self) -> Result<(), E2eeError> {
        let read = |view: &hearth_storage::Snapshot| {
            let mut sweeps = Vec::new();
            view.for_each(&SWEEPS, |user_id, device_id, ()| {
                sweeps.push((user_id, device_id));
                ControlFlow::Continue(())
            })?;
            Ok(sweeps)
        };
        for (user_id, device_id) in self.store().bulk(read).await? {
            if device_id.as_str() == WHOLE_ACCOUNT {
                self.finish_deactivation(&user_id).await;
            } else {
                self.finish_removal(&user_id, device_id).await;
            }
        }
        Ok(())
    }

    /// Deactivates once more an account that was being deactivated: whoever asked for it cannot get in to
    /// ask again. What is done already is done twice; the last sweep comes a while later.
    async fn finish_deactivation(&self, user_id: &UserId) {
        if let Err(error) = self.users().deactivate(user_id, false).await {
            tracing::error!(%error, %user_id, "a deactivated account leaves rows behind");
        }
    }

    /// Sweeps for the last time, in a turn of its own.
    async fn finish_removal(&self, user_id: &OwnedUserId, device_id: OwnedDeviceId) {
        let (e2ee, owner) = (self.clone(), user_id.clone());
        let work = move || async move {
            // Who has logged in again with this ID meanwhile found nothing old, for the first sweep was
            // in the turn that ended the device. What is there now is the new device's.
            if !e2ee.is_device(&owner, &device_id).await? {
                e2ee.sweep(&owner, &device_id).await?;
                e2ee.forget_key_counts(&owner, [&device_id]);
            }
            let mut commit = Commit::new(&owner);
            commit.delete(&SWEEPS, &owner, &device_id);
            e2ee.store().commit(commit).await?;
            Ok::<_, E2eeError>(())
        };
        if let Err(error) = self.users().in_turn(user_id, work).await {
            tracing::error!(%error, %user_id, "a device that went leaves rows behind");
        }
    }

    /// Deletes everything that belongs to a device, or to an account beside its devices.
    async fn sweep(
        &self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
    ) -> Result<(), E2eeError> {
        if device_id.as_str() == WHOLE_ACCOUNT {
            self.delete_all(&USER_SIGNATURES, user_id, &()).await?;
            self.delete_all(&BACKUP_VERSIONS, user_id, &()).await?;
            return self.delete_all(&BACKUP_KEYS, user_id, &()).await;
        }
        self.delete_all(&ONE_TIME_KEYS, user_id, device_id).await?;
        self.delete_all(&CLAIMED_KEYS, user_id, device_id).await?;
        self.delete_all(&TO_DEVICE, user_id, device_id).await?;
        self.delete_all(&SENT_TRANSACTIONS, user_id, device_id).await
    }

    /// Deletes all rows under a prefix, some at a time. Not durable at once: the row in `SWEEPS` is.
    async fn delete_all<C, V, X>(
        &self,
        keyspace: &Keyspace<OwnedUserId, C, V>,
        user_id: &OwnedUserId,
        prefix: &X,
    ) -> Result<(), E2eeError>
    where
        C: KeyPart + Send + Sync,
        V: Record + Send + Sync,
        X: KeyPart + Sync,
    {
        loop {
            let rows = self
                .store()
                .page_prefix(keyspace, user_id, prefix, Direction::Forward, ROWS_PER_COMMIT)
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut commit = Commit::new(user_id).lazy();
            for (place, _) in &rows {
                commit.delete(keyspace, user_id, place);
            }
            self.store().commit(commit).await?;
            if rows.len() < ROWS_PER_COMMIT {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
