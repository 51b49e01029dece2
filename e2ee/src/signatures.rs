//! Signatures that users upload for devices and master keys (CS "POST /keys/signatures/upload").
//!
//! Those on a user's own devices and master key are added to these, for everybody to see. Those on
//! others' master keys are the signer's: nobody else is shown them, and only the signer's own devices are
//! told.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use bytes::Bytes;
use hearth_storage::{Commit, Positioned, StoreError, Topic};
use hearth_types::StreamPosition;
use hearth_users::UsersError;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::client::keys::upload_signatures::v3::SignedKeys, encryption::KeyUsage, serde::JsonObject,
};

use crate::{
    E2ee, E2eeError,
    cross_signing::SigningKey,
    device_lists::user_topic,
    schema::{CROSS_SIGNING_KEYS, DEVICE_KEYS, USER_SIGNATURES},
    signed::{
        MAX_KEY_OBJECT_BYTES, add_signature, keep_signatures, parse_key_object, say_the_same,
        signature, signatures_of, stored_object, to_bytes,
    },
};

/// Objects that one upload signs. Clients sign what somebody verified: a device or a user at a time.
const MAX_SIGNED_OBJECTS: usize = 200;
/// Other users whose master key one user has signed, each with one signature.
const MAX_SIGNED_USERS: usize = 10_000;
/// How long the servers of signed users may take to tell what is signed.
const MASTER_KEYS_TIMEOUT: Duration = Duration::from_secs(10);

/// What was not stored, and why: user, device ID or key, code and text.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, (&'static str, String)>>;

/// Signed objects of several users by their IDs, as they came.
type Uploaded = BTreeMap<OwnedUserId, BTreeMap<String, String>>;

/// The topic that changes with what a user signed of others.
fn signatures_topic(user_id: &UserId) -> Topic {
    Topic::new(&format!("{user_id}/signatures"))
}

impl E2ee {
    /// Stores signatures, each for itself.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`] if there are too many; what is wrong with one is told of that one.
    pub async fn upload_signatures(
        &self,
        user_id: &UserId,
        signed_keys: BTreeMap<OwnedUserId, SignedKeys>,
    ) -> Result<SignatureFailures, E2eeError> {
        let mut count = 0;
        let mut uploaded = Uploaded::new();
        for (owner, keys) in &signed_keys {
            let keys: BTreeMap<_, _> =
                keys.iter().map(|(id, json)| (id.to_owned(), json.get().to_owned())).collect();
            count += keys.len();
            uploaded.insert(owner.clone(), keys);
        }
        if count > MAX_SIGNED_OBJECTS {
            let message = format!("more than {MAX_SIGNED_OBJECTS} objects are signed");
            return Err(E2eeError::InvalidParam(message));
        }
        let own = uploaded.remove(user_id).unwrap_or_default();
        let masters = self.master_keys_of(user_id, uploaded.keys().cloned().collect()).await?;
        let (e2ee, signer) = (self.clone(), user_id.to_owned());
        let work =
            move || async move { e2ee.take_signatures(&signer, own, uploaded, masters).await };
        self.users().in_turn(user_id, work).await
    }

    /// The master keys of other users, wherever they are.
    async fn master_keys_of(
        &self,
        asker: &UserId,
        user_ids: Vec<OwnedUserId>,
    ) -> Result<BTreeMap<OwnedUserId, SigningKey>, E2eeError> {
        if user_ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let wanted = user_ids.into_iter().map(|user_id| (user_id, Vec::new())).collect();
        let answer = self.query_keys(asker, wanted, MASTER_KEYS_TIMEOUT).await?;
        let mut masters = BTreeMap::new();
        for (user_id, key) in answer.master_keys {
            let key = SigningKey::check(&user_id, &KeyUsage::Master, key.json().get())?;
            masters.insert(user_id, key);
        }
        Ok(masters)
    }

    /// In the signer's turn.
    async fn take_signatures(
        &self,
        signer: &OwnedUserId,
        own: BTreeMap<String, String>,
        others: Uploaded,
        masters: BTreeMap<OwnedUserId, SigningKey>,
    ) -> Result<SignatureFailures, E2eeError> {
        if !self.users().is_active(signer).await? {
            return Err(gone());
        }
        let mut taking = Taking::new(self, signer).await?;
        for (id, json) in own {
            let taken = taking.take_own(&id, &json).await;
            taking.note(signer, id, taken)?;
        }
        for (user_id, keys) in others {
            for (id, json) in keys {
                let master = masters.get(&user_id);
                let taken = taking.take_other(&user_id, &id, &json, master).await;
                taking.note(&user_id, id, taken)?;
            }
        }
        taking.finish().await
    }

    /// What a user signed of others: whose master key, and the signatures.
    pub(crate) async fn user_signatures(
        &self,
        signer: &UserId,
    ) -> Result<Vec<((OwnedUserId, String), Positioned<Bytes>)>, StoreError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        self.store().page_all(&USER_SIGNATURES, &signer.to_owned(), all).await
    }

    /// The users whose master keys this user signed after `since` and up to `until`: for the other
    /// devices of the signer, nobody else learns of it. Costs nothing if there are none.
    pub async fn newly_signed(
        &self,
        signer: &UserId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<BTreeSet<OwnedUserId>, E2eeError> {
        if since >= until
            || !self.store().notifier().changed_since(&signatures_topic(signer), since)
        {
            return Ok(BTreeSet::new());
        }
        let rows = self.user_signatures(signer).await?.into_iter();
        let new = rows.filter(|(_, row)| row.position > since && row.position <= until);
        Ok(new.map(|((user_id, _), _)| user_id).collect())
    }
}

/// The work on one upload.
struct Taking<'a> {
    e2ee: &'a E2ee,
    signer: &'a OwnedUserId,
    master: Option<SigningKey>,
    self_signing: Option<SigningKey>,
    user_signing: Option<SigningKey>,
    commit: Commit,
    /// The user's own devices, or the master key (none), that have new signatures.
    changed: Vec<Option<OwnedDeviceId>>,
    /// The master keys of others that are signed, by their users; read when they are asked for first.
    signed_others: Option<BTreeMap<OwnedUserId, Vec<String>>>,
    has_signed_others: bool,
    failures: SignatureFailures,
}

impl<'a> Taking<'a> {
    async fn new(e2ee: &'a E2ee, signer: &'a OwnedUserId) -> Result<Self, E2eeError> {
        Ok(Self {
            e2ee,
            signer,
            master: e2ee.signing_key(signer, &KeyUsage::Master).await?,
            self_signing: e2ee.signing_key(signer, &KeyUsage::SelfSigning).await?,
            user_signing: e2ee.signing_key(signer, &KeyUsage::UserSigning).await?,
            commit: Commit::new(signer),
            changed: Vec::new(),
            signed_others: None,
            has_signed_others: false,
            failures: SignatureFailures::new(),
        })
    }

    /// Notes why something was not taken. Only what is wrong with the upload is: a store that fails
    /// fails everything.
    fn note(
        &mut self,
        user_id: &UserId,
        id: String,
        taken: Result<(), E2eeError>,
    ) -> Result<(), E2eeError> {
        let Err(error) = taken else { return Ok(()) };
        let code = match &error {
            E2eeError::InvalidSignature(_) => "M_INVALID_SIGNATURE",
            E2eeError::NotFound(_) => "M_NOT_FOUND",
            E2eeError::InvalidParam(_) => "M_INVALID_PARAM",
            E2eeError::BadJson(_) => "M_BAD_JSON",
            E2eeError::TooLarge(_) => "M_TOO_LARGE",
            _ => return Err(error),
        };
        let of_user = self.failures.entry(user_id.to_owned()).or_default();
        of_user.insert(id, (code, error.to_string()));
        Ok(())
    }

    /// A device of the signer's, or their master key.
    async fn take_own(&mut self, id: &str, json: &str) -> Result<(), E2eeError> {
        let object = parse_key_object(json)?;
        let device_id: &DeviceId = id.into();
        if let Some(stored) = self.e2ee.device_keys(self.signer, device_id).await? {
            return self.take_device(device_id, &object, stored_object(&stored)?);
        }
        match self.master.clone() {
            Some(master) if master.public_key == id => self.take_master(&object, master).await,
            _ => Err(not_found("you have no such device or master key")),
        }
    }

    /// A device, signed by the self-signing key.
    fn take_device(
        &mut self,
        device_id: &DeviceId,
        object: &JsonObject,
        mut stored: JsonObject,
    ) -> Result<(), E2eeError> {
        must_say_the_same(object, &stored)?;
        let key = self.self_signing.as_ref();
        let key = key.ok_or_else(|| not_found("you have no self-signing key"))?;
        key.verify(self.signer, object)?;
        if !copy_signature(self.signer, object, &mut stored, &key.key_id) {
            return Ok(());
        }
        // Those of former self-signing keys say nothing any more.
        let own = format!("ed25519:{device_id}");
        keep_signatures(&mut stored, self.signer, &[&own, &key.key_id]);
        let json = stored_bytes(&stored)?;
        self.commit.put(&DEVICE_KEYS, self.signer, &device_id.to_owned(), &json);
        self.changed.push(Some(device_id.to_owned()));
        Ok(())
    }

    /// The master key, signed by the user's devices.
    async fn take_master(
        &mut self,
        object: &JsonObject,
        master: SigningKey,
    ) -> Result<(), E2eeError> {
        must_say_the_same(object, &master.object)?;
        let mut stored = master.object.clone();
        let (mut any, mut by_unknown) = (false, false);
        for (key_id, given) in signatures_of(object, self.signer) {
            if signature(&master.object, self.signer, key_id) == Some(given) {
                continue;
            }
            if key_id == master.key_id {
                master.verify(self.signer, object)?;
            } else if !self.e2ee.is_signed_by_device(self.signer, object, key_id).await? {
                by_unknown = true;
                continue;
            }
            any |= copy_signature(self.signer, object, &mut stored, key_id);
        }
        if any {
            self.store_master(master, stored)?;
        }
        if by_unknown {
            let text = "it is signed by a device that you do not have".to_owned();
            return Err(E2eeError::InvalidSignature(text));
        }
        must_be_signed(object, self.signer)
    }

    fn store_master(&mut self, master: SigningKey, stored: JsonObject) -> Result<(), E2eeError> {
        let (usage, json) = (KeyUsage::Master.as_str().to_owned(), stored_bytes(&stored)?);
        self.commit.put(&CROSS_SIGNING_KEYS, self.signer, &usage, &json);
        self.changed.push(None);
        self.master = Some(SigningKey { object: stored, ..master });
        Ok(())
    }

    /// Somebody else's master key, signed by the user-signing key.
    async fn take_other(
        &mut self,
        user_id: &UserId,
        id: &str,
        json: &str,
        master: Option<&SigningKey>,
    ) -> Result<(), E2eeError> {
        let object = parse_key_object(json)?;
        let master = master.filter(|master| master.public_key == id);
        let master = master.ok_or_else(|| not_found("the user has no such master key"))?;
        must_say_the_same(&object, &master.object)?;
        let key = self.user_signing.as_ref();
        let key = key.ok_or_else(|| not_found("you have no user-signing key"))?;
        key.verify(self.signer, &object)?;
        let given = signature(&object, self.signer, &key.key_id).unwrap_or_default();
        let record = serde_json::to_vec(&BTreeMap::from([(&key.key_id, given)]));
        let record = record.map_err(|error| E2eeError::Internal(error.to_string()))?;
        let row = Positioned { position: self.commit.next_position(), record: record.into() };
        let former = self.former_keys(user_id).await?;
        for key_id in former.into_iter().filter(|key_id| *key_id != master.key_id) {
            self.commit.delete(&USER_SIGNATURES, self.signer, &(user_id.to_owned(), key_id));
        }
        let subject = (user_id.to_owned(), master.key_id.clone());
        self.commit.put(&USER_SIGNATURES, self.signer, &subject, &row);
        self.has_signed_others = true;
        Ok(())
    }

    /// The keys of another user that are signed already, in the place of which comes a new one.
    ///
    /// # Errors
    ///
    /// [`E2eeError::TooLarge`] if it would be one user too many.
    async fn former_keys(&mut self, user_id: &UserId) -> Result<Vec<String>, E2eeError> {
        if self.signed_others.is_none() {
            let mut signed: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for ((user_id, key_id), _) in self.e2ee.user_signatures(self.signer).await? {
                signed.entry(user_id).or_default().push(key_id);
            }
            self.signed_others = Some(signed);
        }
        let signed = self.signed_others.get_or_insert_default();
        if !signed.contains_key(user_id) && signed.len() >= MAX_SIGNED_USERS {
            let message = format!("you have signed {MAX_SIGNED_USERS} users already");
            return Err(E2eeError::TooLarge(message));
        }
        Ok(std::mem::take(signed.entry(user_id.to_owned()).or_default()))
    }

    /// Makes it durable and tells those whom it concerns.
    async fn finish(self) -> Result<SignatureFailures, E2eeError> {
        let Self { e2ee, signer, mut commit, changed, has_signed_others, failures, .. } = self;
        if commit.is_empty() {
            return Ok(failures);
        }
        if has_signed_others {
            commit.touch(signatures_topic(signer));
            commit.touch(user_topic(signer));
        }
        let changes: Vec<_> = changed.iter().map(Option::as_deref).collect();
        e2ee.note_list_changes(&mut commit, signer, &changes).await?;
        e2ee.store().commit(commit).await?;
        if !changes.is_empty() {
            e2ee.announce_list(signer).await;
        }
        Ok(failures)
    }
}

/// Copies a signature; whether it was not there yet.
fn copy_signature(user_id: &UserId, from: &JsonObject, to: &mut JsonObject, key_id: &str) -> bool {
    let Some(given) = signature(from, user_id, key_id) else { return false };
    let is_new = signature(to, user_id, key_id) != Some(given);
    if is_new {
        add_signature(to, user_id, key_id, given);
    }
    is_new
}

/// Signatures must not make an object larger than the store takes.
fn stored_bytes(object: &JsonObject) -> Result<Bytes, E2eeError> {
    let json = to_bytes(object)?;
    if json.len() > MAX_KEY_OBJECT_BYTES {
        return Err(E2eeError::TooLarge("it has too many signatures".to_owned()));
    }
    Ok(json)
}

fn must_say_the_same(object: &JsonObject, stored: &JsonObject) -> Result<(), E2eeError> {
    if say_the_same(object, stored) {
        return Ok(());
    }
    Err(E2eeError::InvalidSignature("it is not the key that is known here".to_owned()))
}

fn must_be_signed(object: &JsonObject, user_id: &UserId) -> Result<(), E2eeError> {
    if signatures_of(object, user_id).next().is_some() {
        return Ok(());
    }
    Err(E2eeError::InvalidSignature("it has no signature of yours".to_owned()))
}

/// The device or the account has gone since its session was proven.
pub(crate) fn gone() -> E2eeError {
    E2eeError::Users(UsersError::UnknownToken { soft_logout: false })
}

fn not_found(message: &str) -> E2eeError {
    E2eeError::NotFound(message.to_owned())
}

#[cfg(test)]
mod tests;
