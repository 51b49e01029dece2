//! Dehydrated devices (MSC3814): a device without a session, whose keys and queue are there, so that a
//! user without any other device misses nothing.
//!
//! Its messages are not deleted when they are read: whoever rehydrates it may be cut off and begin
//! again. They go with the device, which its user replaces or deletes afterwards.

use bytes::Bytes;
use hearth_storage::Commit;
use hearth_types::StreamPosition;
use hearth_users::UsersError;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;

use crate::{
    E2ee, E2eeError, KeyUpload,
    schema::{DEHYDRATED, DehydratedRow},
    upload::CheckedUpload,
};

/// The largest data of a dehydrated device in bytes: what only the user can read.
const MAX_DATA_BYTES: usize = 64 * 1024;
/// The longest ID of a device in bytes, as for those that log in.
const MAX_DEVICE_ID_BYTES: usize = 255;
/// The longest name of a device in bytes, as for those that log in.
const MAX_NAME_BYTES: usize = 1024;
/// What a token of [`E2ee::dehydrated_events`] begins with.
const TOKEN_PREFIX: &str = "d";

/// What a user uploads.
#[derive(Clone, Debug)]
pub struct DehydratedUpload {
    /// The device's ID.
    pub device_id: OwnedDeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// What only the user can read.
    pub device_data: Box<RawValue>,
    /// Its keys, as those of any device.
    pub keys: KeyUpload,
}

impl DehydratedUpload {
    fn check(&self) -> Result<(), E2eeError> {
        let invalid = |text: &str| Err(E2eeError::InvalidParam(text.to_owned()));
        if self.device_id.as_str().is_empty() || self.device_id.as_str().len() > MAX_DEVICE_ID_BYTES
        {
            return invalid("device_id: 1 to 255 bytes");
        }
        if self.display_name.as_ref().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            return invalid("initial_device_display_name: too long");
        }
        if !self.device_data.get().starts_with('{') {
            return Err(E2eeError::BadJson("device_data: not an object".to_owned()));
        }
        if self.device_data.get().len() > MAX_DATA_BYTES {
            return Err(E2eeError::TooLarge("device_data: too large".to_owned()));
        }
        if self.keys.device_keys.is_none() {
            return Err(E2eeError::MissingParam("device_keys is missing".to_owned()));
        }
        Ok(())
    }
}

/// What is stored of it.
#[derive(Clone, Debug)]
pub struct DehydratedDevice {
    /// The device's ID.
    pub device_id: OwnedDeviceId,
    /// What only the user can read.
    pub device_data: Box<RawValue>,
}

/// Some of the messages that it got.
#[derive(Clone, Debug)]
pub struct DehydratedEvents {
    /// The events, in order.
    pub events: Vec<Bytes>,
    /// What to ask with for the next ones.
    pub next_batch: String,
}

impl E2ee {
    /// Stores a dehydrated device with its keys. The one before goes first, with its keys and its queue,
    /// also if it has the same ID.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], also for the ID of a device that has a session;
    /// [`E2eeError::MissingParam`], [`E2eeError::BadJson`], [`E2eeError::InvalidSignature`],
    /// [`E2eeError::TooLarge`].
    pub async fn put_dehydrated_device(
        &self,
        user_id: &UserId,
        upload: DehydratedUpload,
    ) -> Result<(), E2eeError> {
        upload.check()?;
        let DehydratedUpload { device_id, display_name, device_data, keys } = upload;
        let checked = self.check_upload(user_id, &device_id, keys).await?;
        let row = DehydratedRow {
            device_id: device_id.to_string(),
            device_data: device_data.get().to_owned(),
            display_name,
        };
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move {
            if e2ee.users().device(&owner, &device_id).await?.is_some() {
                let text = "device_id: a device that is logged in has it".to_owned();
                return Err(E2eeError::InvalidParam(text));
            }
            e2ee.put_dehydrated_now(&owner, &device_id, &row, &checked).await
        };
        self.users().in_turn(user_id, work).await
    }

    /// In the user's turn: one commit takes the device before and brings this one. Only if both have one
    /// ID are there two commits, because their rows are the same; what can be refused is seen before.
    async fn put_dehydrated_now(
        &self,
        owner: &OwnedUserId,
        device_id: &OwnedDeviceId,
        row: &DehydratedRow,
        keys: &CheckedUpload,
    ) -> Result<(), E2eeError> {
        let mut before = self.dehydrated_with_rows(owner).await?;
        if before.as_ref() == Some(device_id) {
            self.check_others(owner, keys).await?;
            self.remove_dehydrated_now(owner).await?;
            before = None;
        }
        let gone = Vec::from_iter(before);
        let mut commit = Commit::new(owner);
        let mut changes = self.add_removal_rows(&mut commit, owner, &gone).await?;
        commit.put(&DEHYDRATED, owner, &(), row);
        let effect = self.add_upload_rows(&mut commit, owner, device_id, keys).await?;
        changes.extend(effect.list_changed.then_some(Some(&**device_id)));
        self.note_list_changes(&mut commit, owner, &changes).await?;
        let committed = self.store().commit(commit).await?;
        if !gone.is_empty() {
            self.removed(owner, &gone).await;
        }
        // Tells of both.
        self.upload_stored(owner, device_id, effect, committed).await;
        Ok(())
    }

    /// In the user's turn: nobody logs in with the ID of the dehydrated device, whose keys and queue are not
    /// theirs. The user's list does not change.
    pub(crate) async fn refuse_asleep(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<bool, E2eeError> {
        let dehydrated = self.dehydrated_device_id(user_id).await?;
        if dehydrated.is_some_and(|dehydrated| dehydrated == device_id) {
            return Err(UsersError::InvalidDeviceId.into());
        }
        Ok(false)
    }

    /// The dehydrated device, if its rows are its own: not if somebody has logged in with its ID, as
    /// was possible once.
    async fn dehydrated_with_rows(
        &self,
        owner: &OwnedUserId,
    ) -> Result<Option<OwnedDeviceId>, E2eeError> {
        let Some(device_id) = self.dehydrated_device_id(owner).await? else { return Ok(None) };
        let is_awake = self.users().device(owner, &device_id).await?.is_some();
        Ok((!is_awake).then_some(device_id))
    }

    /// In the user's turn: the device goes with all that is its. Returns its ID.
    async fn remove_dehydrated_now(
        &self,
        owner: &OwnedUserId,
    ) -> Result<Option<OwnedDeviceId>, E2eeError> {
        let Some(device_id) = self.dehydrated_device_id(owner).await? else { return Ok(None) };
        let gone = Vec::from_iter(self.dehydrated_with_rows(owner).await?);
        let mut commit = Commit::new(owner);
        commit.delete(&DEHYDRATED, owner, &());
        let list_changed = self.add_removal(&mut commit, owner, &gone).await?;
        self.store().commit(commit).await?;
        self.removed(owner, &gone).await;
        if list_changed {
            self.announce_list(owner).await;
        }
        Ok(Some(device_id))
    }

    /// The user's dehydrated device.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn dehydrated_device(&self, user_id: &UserId) -> Result<DehydratedDevice, E2eeError> {
        let row = self.store().get(&DEHYDRATED, &user_id.to_owned(), &()).await?;
        let DehydratedRow { device_id, device_data, .. } = row.ok_or_else(none)?;
        let device_data = RawValue::from_string(device_data)
            .map_err(|error| E2eeError::Internal(format!("a stored device: {error}")))?;
        Ok(DehydratedDevice { device_id: device_id.into(), device_data })
    }

    /// Deletes it with its keys and its queue. Returns its ID.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn delete_dehydrated_device(
        &self,
        user_id: &UserId,
    ) -> Result<OwnedDeviceId, E2eeError> {
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work =
            move || async move { e2ee.remove_dehydrated_now(&owner).await?.ok_or_else(none) };
        self.users().in_turn(user_id, work).await
    }

    /// The messages that it got, from behind `next_batch`; none when there are no more.
    ///
    /// # Errors
    ///
    /// [`E2eeError::Forbidden`] if the user's dehydrated device is another one,
    /// [`E2eeError::NotFound`] if there is none, [`E2eeError::InvalidParam`] for a token that is none.
    pub async fn dehydrated_events(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        next_batch: Option<&str>,
    ) -> Result<DehydratedEvents, E2eeError> {
        let known = self.dehydrated_device_id(user_id).await?.ok_or_else(none)?;
        if known != device_id {
            let text = "Your dehydrated device is another one".to_owned();
            return Err(E2eeError::Forbidden(text));
        }
        let since = match next_batch {
            Some(token) => position_of(token)?,
            None => StreamPosition::ZERO,
        };
        let until = self.store().notifier().published().max(since);
        let page = self.to_device(user_id, device_id, since, until).await?;
        let next_batch = format!("{TOKEN_PREFIX}{}", page.until);
        Ok(DehydratedEvents { events: page.events, next_batch })
    }
}

fn none() -> E2eeError {
    E2eeError::NotFound("You have no dehydrated device".to_owned())
}

fn position_of(token: &str) -> Result<StreamPosition, E2eeError> {
    let number = token.strip_prefix(TOKEN_PREFIX).and_then(|number| number.parse().ok());
    let position = number.map(StreamPosition::new).filter(|at| *at <= StreamPosition::MAX);
    position.ok_or_else(|| E2eeError::InvalidParam("next_batch: unknown token".to_owned()))
}

#[cfg(test)]
mod tests;
