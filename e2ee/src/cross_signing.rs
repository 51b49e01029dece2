//! Cross-signing keys (CS "Cross-signing").

mod key;

use hearth_storage::Commit;
use ruma::{
    OwnedUserId, UserId,
    encryption::{CrossSigningKey, KeyUsage},
    serde::{JsonObject, Raw},
};

pub(crate) use self::key::SigningKey;
use crate::{
    E2ee, E2eeError,
    schema::{CROSS_SIGNING_KEYS, USER_SIGNATURES},
    signatures::gone,
    signed::{
        add_signature, device_signing_key, say_the_same, signatures_of, stored_object, to_bytes,
    },
    verify::verify_object,
};

/// Signatures of a user on others' keys that one commit forgets.
const FORGOTTEN_PER_COMMIT: usize = 500;

/// What a user uploads (CS "POST /keys/device_signing/upload").
#[derive(Clone, Debug, Default)]
pub struct CrossSigningUpload {
    /// The key that stands for the user.
    pub master_key: Option<Raw<CrossSigningKey>>,
    /// The key that signs the user's devices.
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
    /// The key that signs other users' master keys.
    pub user_signing_key: Option<Raw<CrossSigningKey>>,
}

/// What became of an upload of cross-signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossSigningOutcome {
    /// They are stored, or were before.
    Stored,
    /// They would take the place of others: the user must prove first who they are.
    MustConfirm,
}

/// A user's three keys, as far as there are any.
#[derive(Debug, Default)]
struct Keys {
    master: Option<SigningKey>,
    self_signing: Option<SigningKey>,
    user_signing: Option<SigningKey>,
}

impl Keys {
    fn check(user_id: &UserId, upload: &CrossSigningUpload) -> Result<Self, E2eeError> {
        let check = |key: &Option<Raw<CrossSigningKey>>, usage: KeyUsage| {
            let key = key.as_ref().map(|key| key.json().get());
            key.map(|json| SigningKey::check(user_id, &usage, json)).transpose()
        };
        Ok(Self {
            master: check(&upload.master_key, KeyUsage::Master)?,
            self_signing: check(&upload.self_signing_key, KeyUsage::SelfSigning)?,
            user_signing: check(&upload.user_signing_key, KeyUsage::UserSigning)?,
        })
    }

    async fn stored(e2ee: &E2ee, user_id: &UserId) -> Result<Self, E2eeError> {
        Ok(Self {
            master: e2ee.signing_key(user_id, &KeyUsage::Master).await?,
            self_signing: e2ee.signing_key(user_id, &KeyUsage::SelfSigning).await?,
            user_signing: e2ee.signing_key(user_id, &KeyUsage::UserSigning).await?,
        })
    }

    fn each(&self) -> [(KeyUsage, Option<&SigningKey>); 3] {
        [
            (KeyUsage::Master, self.master.as_ref()),
            (KeyUsage::SelfSigning, self.self_signing.as_ref()),
            (KeyUsage::UserSigning, self.user_signing.as_ref()),
        ]
    }

    /// Which of these keys are not among the others?
    fn news(&self, others: &Self) -> [bool; 3] {
        let is_new = |key: Option<&SigningKey>, other: Option<&SigningKey>| match (key, other) {
            (Some(key), Some(other)) => !say_the_same(&key.object, &other.object),
            (key, _) => key.is_some(),
        };
        [
            is_new(self.master.as_ref(), others.master.as_ref()),
            is_new(self.self_signing.as_ref(), others.self_signing.as_ref()),
            is_new(self.user_signing.as_ref(), others.user_signing.as_ref()),
        ]
    }
}

impl E2ee {
    /// Stores cross-signing keys after verifying them. A new master key takes the place of all others.
    /// A first upload needs no confirmation, nor do keys that are there already.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`]; [`E2eeError::MissingParam`] without any master key;
    /// [`E2eeError::InvalidSignature`]; [`E2eeError::Forbidden`] if a key has the ID of a device.
    pub async fn upload_cross_signing_keys(
        &self,
        user_id: &UserId,
        upload: CrossSigningUpload,
        confirmed: bool,
    ) -> Result<CrossSigningOutcome, E2eeError> {
        let new = Keys::check(user_id, &upload)?;
        let (e2ee, owner) = (self.clone(), user_id.to_owned());
        let work = move || async move { e2ee.take_cross_signing(&owner, new, confirmed).await };
        self.users().in_turn(user_id, work).await
    }

    /// In the user's turn.
    async fn take_cross_signing(
        &self,
        user_id: &OwnedUserId,
        mut new: Keys,
        confirmed: bool,
    ) -> Result<CrossSigningOutcome, E2eeError> {
        if !self.users().is_active(user_id).await? {
            return Err(gone());
        }
        let old = Keys::stored(self, user_id).await?;
        let Some(master) = new.master.as_ref().or(old.master.as_ref()) else {
            return Err(E2eeError::MissingParam("there is no master key".to_owned()));
        };
        for key in new.self_signing.iter().chain(&new.user_signing) {
            master.verify(user_id, &key.object)?;
        }
        let news = new.news(&old);
        if !news.contains(&true) {
            return Ok(CrossSigningOutcome::Stored);
        }
        self.must_be_no_devices(user_id, &new).await?;
        let master = master.clone();
        if let Some(key) = &mut new.master {
            key.object = self.with_verified_signatures(user_id, key).await?;
        }
        for key in new.self_signing.iter_mut().chain(&mut new.user_signing) {
            key.object = with_signature_of(user_id, &key.object, &master);
        }
        if old.master.is_some() && !confirmed {
            return Ok(CrossSigningOutcome::MustConfirm);
        }
        self.store_cross_signing(user_id, &old, &new, news).await?;
        Ok(CrossSigningOutcome::Stored)
    }

    /// Device IDs and public keys share one space of names (CS "Cross-signing").
    async fn must_be_no_devices(&self, user_id: &UserId, keys: &Keys) -> Result<(), E2eeError> {
        for (_, key) in keys.each() {
            if let Some(key) = key
                && self.is_device(user_id, key.public_key.as_str().into()).await?
            {
                return Err(E2eeError::Forbidden("a key's ID is in use by a device".to_owned()));
            }
        }
        Ok(())
    }

    /// A master key with the signatures of its user's devices and its own, which must verify. Those of
    /// devices whose keys are not here are left out: nobody could verify them.
    async fn with_verified_signatures(
        &self,
        user_id: &UserId,
        key: &SigningKey,
    ) -> Result<JsonObject, E2eeError> {
        let mut object = key.object.clone();
        object.remove("signatures");
        for (key_id, signature) in signatures_of(&key.object, user_id) {
            if key_id == key.key_id {
                key.verify(user_id, &key.object)?;
            } else if !self.is_signed_by_device(user_id, &key.object, key_id).await? {
                continue;
            }
            add_signature(&mut object, user_id, key_id, signature);
        }
        Ok(object)
    }

    /// Verifies the signature of a user's own device on an object. False if the keys of such a device
    /// are not here.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidSignature`]
    pub(crate) async fn is_signed_by_device(
        &self,
        user_id: &UserId,
        object: &JsonObject,
        key_id: &str,
    ) -> Result<bool, E2eeError> {
        let Some(device_id) = key_id.strip_prefix("ed25519:") else { return Ok(false) };
        let Some(keys) = self.device_keys(user_id, device_id.into()).await? else {
            return Ok(false);
        };
        let keys = stored_object(&keys)?;
        let Some(public_key) = device_signing_key(&keys, device_id.into()) else {
            return Ok(false);
        };
        verify_object(object, user_id, key_id, public_key)?;
        Ok(true)
    }

    async fn store_cross_signing(
        &self,
        user_id: &OwnedUserId,
        old: &Keys,
        new: &Keys,
        news: [bool; 3],
    ) -> Result<(), E2eeError> {
        let [new_master, _, new_user_signing] = news;
        let mut commit = Commit::new(user_id);
        let each = new.each().into_iter().zip(old.each()).zip(news);
        for (((usage, key), (_, before)), is_new) in each {
            let usage = usage.as_str().to_owned();
            match (key, before) {
                // Signatures that came since stay on a key that is no news.
                (Some(key), _) if is_new || new_master => {
                    let json = to_bytes(&key.object)?;
                    commit.put(&CROSS_SIGNING_KEYS, user_id, &usage, &json);
                }
                // The master key that signed it is not the user's any more.
                (None, Some(_)) if new_master => {
                    commit.delete(&CROSS_SIGNING_KEYS, user_id, &usage);
                }
                _ => {}
            }
        }
        self.note_list_change(&mut commit, user_id, None).await?;
        self.store().commit(commit).await?;
        self.announce_list(user_id).await;
        if old.user_signing.is_some() && (new_master || new_user_signing) {
            self.forget_user_signatures(user_id).await?;
        }
        Ok(())
    }

    /// Forgets what the user's former user-signing key signed. Nobody is shown it any more; what a crash
    /// leaves only takes place.
    async fn forget_user_signatures(&self, user_id: &OwnedUserId) -> Result<(), E2eeError> {
        let rows = self.user_signatures(user_id).await?;
        for chunk in rows.chunks(FORGOTTEN_PER_COMMIT) {
            let mut commit = Commit::new(user_id);
            for (subject, _) in chunk {
                commit.delete(&USER_SIGNATURES, user_id, subject);
            }
            self.store().commit(commit).await?;
        }
        Ok(())
    }
}

/// The object with this master key's signature alone.
fn with_signature_of(user_id: &UserId, object: &JsonObject, master: &SigningKey) -> JsonObject {
    let mut bare = object.clone();
    bare.remove("signatures");
    for (key_id, signature) in signatures_of(object, user_id) {
        if key_id == master.key_id {
            add_signature(&mut bare, user_id, key_id, signature);
        }
    }
    bare
}

#[cfg(test)]
mod tests;
