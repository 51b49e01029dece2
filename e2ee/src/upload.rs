//! Uploads of a device's keys: checked first, then stored in the user's turn, all or nothing (CS "POST
//! /keys/upload").

use std::sync::Arc;

use hearth_storage::{Commit, Committed, run_blocking};
use hearth_users::TokenHash;
use ruma::{DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId, UserId};

use crate::{
    E2ee, E2eeError, KeyCounts, KeyUpload,
    device_keys::{CheckedDeviceKeys, stored_ed25519},
    one_time_keys::{CheckedKey, check_keys, check_size},
    signatures::gone,
};

/// Signatures that are verified on the async threads; more belong beside them.
const INLINE_SIGNATURES: usize = 10;

/// An upload whose signatures were verified.
#[derive(Clone, Debug)]
pub(crate) struct CheckedUpload {
    device_keys: Option<CheckedDeviceKeys>,
    /// The stored key that one-time keys were verified with.
    verified_with: Option<String>,
    one_time_keys: Vec<CheckedKey>,
    fallback_keys: Vec<CheckedKey>,
}

/// What an upload changes, as far as memory and others are concerned.
#[derive(Debug)]
pub(crate) struct UploadEffect {
    counts: KeyCounts,
    pub(crate) list_changed: bool,
}

impl E2ee {
    /// Stores what a device uploads, all or nothing, after verifying its signatures. Keys that are there
    /// already are passed over; another key under the same ID is refused. Returns what is left then. With a
    /// `token` only while the device has the session that it belongs to: one that logged in anew meanwhile
    /// has other keys.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], [`E2eeError::BadJson`], [`E2eeError::InvalidSignature`],
    /// [`E2eeError::TooLarge`]; [`E2eeError::Forbidden`] if the device has the ID of a cross-signing key;
    /// [`UsersError::UnknownToken`](hearth_users::UsersError::UnknownToken) if the session has ended.
    pub async fn upload_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        token: Option<TokenHash>,
        upload: KeyUpload,
    ) -> Result<Arc<KeyCounts>, E2eeError> {
        let checked = self.check_upload(user_id, device_id, upload).await?;
        let e2ee = self.clone();
        let (owner, device_id) = (user_id.to_owned(), device_id.to_owned());
        let store = move || async move {
            // It may have ended while the request was on its way: then it must leave nothing.
            if let Some(token) = token {
                e2ee.users().must_be_session(&owner, &device_id, token).await?;
            }
            e2ee.store_upload(&owner, &device_id, &checked).await
        };
        self.users().in_turn(user_id, store).await
    }

    /// Verifies everything in an upload. Needs no turn.
    pub(crate) async fn check_upload(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        upload: KeyUpload,
    ) -> Result<CheckedUpload, E2eeError> {
        check_size(&upload)?;
        let stored = match &upload.device_keys {
            Some(_) => None,
            None => self.device_keys(user_id, device_id).await?,
        };
        let stored = stored.map(|stored| stored_ed25519(device_id, &stored)).transpose()?;
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        let signatures = upload.one_time_keys.len() + upload.fallback_keys.len();
        let check = move || check(&user_id, &device_id, &upload, stored.flatten());
        if signatures <= INLINE_SIGNATURES {
            return check();
        }
        run_blocking(check).await.map_err(|error| E2eeError::Internal(error.to_string()))?
    }

    async fn store_upload(
        &self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        upload: &CheckedUpload,
    ) -> Result<Arc<KeyCounts>, E2eeError> {
        if !self.is_device(user_id, device_id).await? {
            return Err(gone());
        }
        let mut commit = Commit::new(user_id);
        let effect = self.add_upload(&mut commit, user_id, device_id, upload).await?;
        if commit.is_empty() {
            return self.key_counts_in_turn(user_id, device_id).await;
        }
        // Whoever looks when the commit is published waits for the end of this turn.
        self.forget_key_counts(user_id, [device_id]);
        let committed = self.store().commit(commit).await?;
        Ok(self.upload_stored(user_id, device_id, effect, committed).await)
    }

    /// In the user's turn: adds to a commit what an upload changes; nothing if all of it is there
    /// already. After the commit call [`Self::upload_stored`].
    pub(crate) async fn add_upload(
        &self,
        commit: &mut Commit,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        upload: &CheckedUpload,
    ) -> Result<UploadEffect, E2eeError> {
        let effect = self.add_upload_rows(commit, user_id, device_id, upload).await?;
        if effect.list_changed {
            self.note_list_change(commit, user_id, Some(device_id)).await?;
        }
        Ok(effect)
    }

    /// The same without the note of a changed list.
    pub(crate) async fn add_upload_rows(
        &self,
        commit: &mut Commit,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        upload: &CheckedUpload,
    ) -> Result<UploadEffect, E2eeError> {
        let list_changed = match &upload.device_keys {
            Some(keys) => self.add_device_keys(commit, user_id, device_id, keys).await?,
            None => false,
        };
        let mut has_device_keys = upload.device_keys.is_some();
        if !has_device_keys {
            let stored = self.device_keys(user_id, device_id).await?;
            has_device_keys = stored.is_some();
            let stored = stored.map(|stored| stored_ed25519(device_id, &stored)).transpose()?;
            if upload.verified_with.is_some() && upload.verified_with != stored.flatten() {
                let text = "the device's keys have changed meanwhile".to_owned();
                return Err(E2eeError::InvalidParam(text));
            }
        }
        let (keys, fallback) = (&upload.one_time_keys, &upload.fallback_keys);
        let mut counts = KeyCounts {
            one_time_keys: self.add_one_time_keys(commit, user_id, device_id, keys).await?,
            unused_fallback_keys: self
                .add_fallback_keys(commit, user_id, device_id, fallback)
                .await?,
            ..KeyCounts::default()
        };
        if has_device_keys {
            counts.one_time_keys.entry(OneTimeKeyAlgorithm::SignedCurve25519).or_default();
        }
        Ok(UploadEffect { counts, list_changed })
    }

    /// In the user's turn: is there nothing in the user's other keys that speaks against this upload?
    pub(crate) async fn check_others(
        &self,
        user_id: &OwnedUserId,
        upload: &CheckedUpload,
    ) -> Result<(), E2eeError> {
        match &upload.device_keys {
            Some(keys) => self.verified_others(user_id, keys).await.map(drop),
            None => Ok(()),
        }
    }

    /// In the user's turn, after the commit: remembers what is left and wakes who has to know.
    pub(crate) async fn upload_stored(
        &self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        effect: UploadEffect,
        committed: Committed,
    ) -> Arc<KeyCounts> {
        let counts = Arc::new(KeyCounts { changed: committed.last, ..effect.counts });
        self.set_key_counts(user_id, vec![(device_id.clone(), Arc::clone(&counts))]);
        if effect.list_changed {
            self.announce_list(user_id).await;
        }
        counts
    }
}

fn check(
    user_id: &UserId,
    device_id: &DeviceId,
    upload: &KeyUpload,
    stored: Option<String>,
) -> Result<CheckedUpload, E2eeError> {
    let device_keys = upload.device_keys.as_ref();
    let device_keys =
        device_keys.map(|keys| CheckedDeviceKeys::new(user_id, device_id, keys)).transpose()?;
    let ed25519 = device_keys.as_ref().map(|keys| keys.ed25519.as_str()).or(stored.as_deref());
    Ok(CheckedUpload {
        one_time_keys: check_keys(user_id, device_id, ed25519, &upload.one_time_keys)?,
        fallback_keys: check_keys(user_id, device_id, ed25519, &upload.fallback_keys)?,
        verified_with: if device_keys.is_some() { None } else { stored },
        device_keys,
    })
}

#[cfg(test)]
mod tests;
