//! What servers tell of their users' devices and cross-signing keys, one change at a time.

use hearth_storage::{Commit, CommitError};
use ruma::{
    OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    encryption::KeyUsage,
};

use super::MAX_REMOTE_DEVICES;
use crate::{
    E2ee, E2eeError,
    query::{CheckedKeys, check_signing_keys, kept_name},
    schema::{CROSS_SIGNING_KEYS, REMOTE_DEVICES, REMOTE_LISTS, RemoteDeviceRow, RemoteListRow},
    signed::{check_device_id, checked_device_keys, to_bytes},
};

/// Updates of one list that are remembered. An update whose predecessor is forgotten has the list
/// fetched again; servers name the last one.
const MAX_UPDATES: usize = 50;

/// What an update means for what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Nothing is kept: there is nothing to change.
    NotKept,
    /// By its ID the list has it already.
    Former,
    /// The list has it already.
    Known,
    /// It follows what is known.
    Follows,
    /// Something before it is missing, or it is not what it should be.
    Gap,
}

impl RemoteListRow {
    /// Has the list everything up to this update?
    fn has(&self, stream_id: u64) -> bool {
        stream_id <= self.fetched || self.updates.contains(&stream_id)
    }

    fn fit(&self, update: &DeviceListUpdateContent) -> Fit {
        let stream_id = u64::from(update.stream_id);
        if self.stale {
            return Fit::Gap;
        }
        // One without any predecessor may follow something that was lost: servers forget what they could
        // not deliver for long. Some count nothing at all, and say so with every update; their stream IDs
        // mean nothing either.
        if update.prev_id.is_empty() {
            return Fit::Gap;
        }
        if self.has(stream_id) {
            return Fit::Former;
        }
        // So may one that comes behind a newer one.
        let is_newest = self.updates.iter().all(|known| *known < stream_id);
        let follows = update.prev_id.iter().all(|previous| self.has(u64::from(*previous)));
        if is_newest && follows { Fit::Follows } else { Fit::Gap }
    }

    fn remember(&mut self, stream_id: u64) {
        self.updates.push(stream_id);
        if self.updates.len() > MAX_UPDATES {
            self.updates.remove(0);
        }
    }
}

/// What an update tells of a device that is not deleted; `None` if its keys do not verify.
fn device_row(update: &DeviceListUpdateContent) -> Option<RemoteDeviceRow> {
    let DeviceListUpdateContent { user_id, device_id, keys, device_display_name, .. } = update;
    let keys = match keys.as_ref().map(|keys| checked_device_keys(user_id, device_id, keys)) {
        None => None,
        Some(Ok(object)) => Some(serde_json::Value::from(object).to_string()),
        Some(Err(error)) => {
            tracing::debug!(%user_id, %device_id, %error, "device keys are not taken");
            return None;
        }
    };
    Some(RemoteDeviceRow { keys, display_name: kept_name(device_display_name.clone()) })
}

impl E2ee {
    /// Takes an `m.device_list_update` of one of that server's users, with whom the caller has seen that
    /// a room is shared: durable when this returns. What cannot be applied for want of earlier ones marks
    /// the list as stale, and it is fetched again behind this call. Those who share a room are told in any
    /// case.
    ///
    /// # Errors
    ///
    /// Only if the store fails: an update of another server's user is passed over.
    pub async fn receive_device_list_update(
        &self,
        origin: &ServerName,
        update: DeviceListUpdateContent,
    ) -> Result<(), E2eeError> {
        if update.user_id.server_name() != origin || self.identity().is_local(&update.user_id) {
            return Ok(());
        }
        let (e2ee, user_id) = (self.clone(), update.user_id.clone());
        let work = move || async move { e2ee.take_list_update(update).await };
        let fit = self.users().in_turn(&user_id, work).await?;
        if fit == Fit::Gap {
            self.resync(&user_id);
        }
        Ok(())
    }

    /// In the user's turn.
    async fn take_list_update(&self, update: DeviceListUpdateContent) -> Result<Fit, E2eeError> {
        let user_id = update.user_id.clone();
        self.mark_fetch(&user_id);
        let row = self.remote_list(&user_id).await?;
        let mut fit = row.as_ref().map_or(Fit::NotKept, |row| row.fit(&update));
        let mut commit = Commit::new(&user_id);
        if let Some(mut row) = row {
            if fit == Fit::Former && self.agrees(&update).await? {
                fit = Fit::Known;
            }
            if fit == Fit::Follows && !self.apply(&mut commit, &mut row, &update).await? {
                fit = Fit::Gap;
            }
            match fit {
                Fit::Known => return Ok(fit),
                Fit::Former | Fit::Gap => (fit, row.stale) = (Fit::Gap, true),
                Fit::Follows | Fit::NotKept => row.remember(update.stream_id.into()),
            }
            commit.put(&REMOTE_LISTS, &user_id, &(), &row);
        }
        // An ID that no device can have is no device's: the list as a whole has changed.
        let device_id = Some(&*update.device_id).filter(|id| check_device_id(id).is_ok());
        self.note_list_change(&mut commit, &user_id, device_id).await?;
        self.store().commit(commit).await?;
        self.announce_list(&user_id).await;
        Ok(fit)
    }

    /// Says the list what this update says? If not, a former one may have been overtaken by others; or its
    /// server was put back to an earlier state, and counts from there on.
    async fn agrees(&self, update: &DeviceListUpdateContent) -> Result<bool, E2eeError> {
        let DeviceListUpdateContent { user_id, device_id, .. } = update;
        if check_device_id(device_id).is_err() {
            return Ok(false);
        }
        let kept = self.store().get(&REMOTE_DEVICES, user_id, device_id).await?;
        let Some(kept) = kept else {
            // Lists have only devices with keys.
            return Ok(update.deleted.unwrap_or_default() || update.keys.is_none());
        };
        let told = device_row(update).filter(|_| !update.deleted.unwrap_or_default());
        Ok(told.is_some_and(|told| told == kept))
    }

    /// Changes one device. False if the update is not what it should be.
    async fn apply(
        &self,
        commit: &mut Commit,
        row: &mut RemoteListRow,
        update: &DeviceListUpdateContent,
    ) -> Result<bool, E2eeError> {
        let DeviceListUpdateContent { user_id, device_id, .. } = update;
        if check_device_id(device_id).is_err() {
            return Ok(false);
        }
        let known = self.store().get(&REMOTE_DEVICES, user_id, device_id).await?.is_some();
        if update.deleted.unwrap_or_default() {
            if known {
                commit.delete(&REMOTE_DEVICES, user_id, device_id);
                row.devices = row.devices.saturating_sub(1);
            }
            return Ok(true);
        }
        if !known && row.devices as usize >= MAX_REMOTE_DEVICES {
            return Ok(false);
        }
        let Some(device) = device_row(update) else { return Ok(false) };
        commit.put(&REMOTE_DEVICES, user_id, device_id, &device);
        row.devices += u32::from(!known);
        Ok(true)
    }

    /// Takes an `m.signing_key_update` of one of that server's users, with whom the caller has seen that
    /// a room is shared: durable when this returns. Keys that do not verify have the list fetched again.
    ///
    /// # Errors
    ///
    /// Only if the store fails: an update of another server's user is passed over.
    pub async fn receive_signing_key_update(
        &self,
        origin: &ServerName,
        update: SigningKeyUpdateContent,
    ) -> Result<(), E2eeError> {
        if update.user_id.server_name() != origin || self.identity().is_local(&update.user_id) {
            return Ok(());
        }
        let (e2ee, user_id) = (self.clone(), update.user_id.clone());
        let work = move || async move { e2ee.take_signing_key_update(update).await };
        if self.users().in_turn(&user_id, work).await? {
            self.resync(&user_id);
        }
        Ok(())
    }

    /// In the user's turn; whether the list must be fetched again.
    async fn take_signing_key_update(
        &self,
        update: SigningKeyUpdateContent,
    ) -> Result<bool, E2eeError> {
        let user_id = update.user_id.clone();
        self.mark_fetch(&user_id);
        let mut commit = Commit::new(&user_id);
        let row = self.remote_list(&user_id).await?;
        let mut is_stale = row.as_ref().is_some_and(|row| row.stale);
        if let Some(mut row) = row.filter(|row| !row.stale)
            && !self.apply_signing_keys(&mut commit, &update).await?
        {
            is_stale = true;
            row.stale = true;
            commit.put(&REMOTE_LISTS, &user_id, &(), &row);
        }
        self.note_list_change(&mut commit, &user_id, None).await?;
        self.store().commit(commit).await?;
        self.announce_list(&user_id).await;
        Ok(is_stale)
    }

    /// Replaces the keys that an update has. False if one of them does not verify; then none is.
    async fn apply_signing_keys(
        &self,
        commit: &mut Commit,
        update: &SigningKeyUpdateContent,
    ) -> Result<bool, E2eeError> {
        let SigningKeyUpdateContent { user_id, master_key, self_signing_key, .. } = update;
        let known = self.signing_key(user_id, &KeyUsage::Master).await?;
        let is_replaced = master_key.is_some();
        let CheckedKeys { master, self_signing } = check_signing_keys(
            user_id,
            known.as_ref(),
            master_key.as_ref(),
            self_signing_key.as_ref(),
        );
        if is_replaced != master.is_some() || self_signing_key.is_some() != self_signing.is_some() {
            return Ok(false);
        }
        let keep = self_signing.is_some() || !is_replaced || {
            // The one that is known may be signed by the same key still.
            let known = known.as_ref().map(|key| &key.key_id);
            master.as_ref().map(|key| &key.key_id) == known
        };
        if !keep {
            let usage = KeyUsage::SelfSigning.as_str().to_owned();
            commit.delete(&CROSS_SIGNING_KEYS, user_id, &usage);
        }
        for (usage, key) in [(KeyUsage::Master, master), (KeyUsage::SelfSigning, self_signing)] {
            if let Some(key) = key {
                let json = to_bytes(&key.object)?;
                commit.put(&CROSS_SIGNING_KEYS, user_id, &usage.as_str().to_owned(), &json);
            }
        }
        Ok(true)
    }

    /// What is kept of a user must be fetched again before it is used: told by somebody who knows no
    /// more. Nobody need look again for that.
    pub(super) async fn mark_stale(&self, user_id: &UserId) -> Result<(), E2eeError> {
        if self.remote_list(user_id).await?.is_none_or(|row| row.stale)
            && !self.is_fetching(user_id)
        {
            return Ok(());
        }
        let (e2ee, user_id) = (self.clone(), user_id.to_owned());
        let owner = user_id.clone();
        let work = move || async move { e2ee.mark_stale_now(&user_id).await };
        self.users().in_turn(&owner, work).await
    }

    /// In the user's turn.
    async fn mark_stale_now(&self, user_id: &OwnedUserId) -> Result<(), E2eeError> {
        self.mark_fetch(user_id);
        let Some(mut row) = self.remote_list(user_id).await?.filter(|row| !row.stale) else {
            return Ok(());
        };
        row.stale = true;
        let mut commit = Commit::new(user_id);
        commit.put(&REMOTE_LISTS, user_id, &(), &row);
        let committed: Result<_, CommitError> = self.store().commit(commit).await;
        committed?;
        Ok(())
    }
}
