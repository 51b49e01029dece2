//! Who has which keys (CS "POST /keys/query"; SS "End-to-End Encryption", "Device Management").
//!
//! `local` reads those of this server's users, `remote` finds those of others: in the lists that are kept
//! here ([`crate::remote_lists`]), or by asking their servers.

mod local;
mod remote;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use hearth_storage::Direction;
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    encryption::{CrossSigningKey, DeviceKeys, KeyUsage},
    serde::Raw,
};

pub(crate) use self::remote::{CheckedKeys, TOO_LATE, check_signing_keys, kept_name};
use crate::{
    E2ee, E2eeError,
    cross_signing::SigningKey,
    schema::USER_SIGNATURES,
    signed::{add_signature, shown, to_bytes},
};

/// Users whose keys one request is told. Some clients ask for all members of a large room at once.
const MAX_USERS: usize = 5_000;
/// Bytes of keys in one answer: those of as many users with a few devices each. Of more than that, the
/// servers of the users that are left out are told of as failed.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Why users are left out of an answer.
const TOO_MUCH: &str = "the answer would be too large: ask for fewer users";
/// How long a client may have other servers waited for.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
/// Signatures that one user made on another's master keys, the former ones too, that are looked at.
const MAX_SIGNED_KEYS: usize = 50;

/// Devices that are asked for; none means all.
pub type KeysWanted = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// What a client is told.
#[derive(Clone, Debug, Default)]
pub struct QueriedKeys {
    /// Device keys, with names in `unsigned`, and the signatures that the asking user may see.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// The asking user's own user-signing key.
    pub user_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Servers that did not answer, and why.
    pub failures: BTreeMap<OwnedServerName, String>,
}

/// What another server is told of users of this one.
#[derive(Clone, Debug, Default)]
pub struct ServerKeys {
    /// Device keys.
    pub device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    /// Master keys.
    pub master_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
    /// Self-signing keys.
    pub self_signing_keys: BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
}

/// The whole list of a user of this server, for another server (SS "GET /user/devices/{userId}").
#[derive(Clone, Debug, Default)]
pub struct DeviceListForServer {
    /// The list's version.
    pub stream_id: u64,
    /// Devices that have keys: ID, keys, name.
    pub devices: Vec<(OwnedDeviceId, Raw<DeviceKeys>, Option<String>)>,
    /// The master key.
    pub master_key: Option<Raw<CrossSigningKey>>,
    /// The self-signing key.
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
}

/// What everybody may see of one user's keys.
#[derive(Debug, Default)]
struct UserKeys {
    devices: BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>,
    master: Option<Bytes>,
    self_signing: Option<Bytes>,
}

impl UserKeys {
    /// About how many bytes of an answer they take.
    fn size(&self) -> usize {
        let devices =
            self.devices.iter().map(|(id, keys)| id.as_str().len() + keys.json().get().len());
        let keys = [&self.master, &self.self_signing].into_iter().flatten().map(Bytes::len);
        devices.chain(keys).sum()
    }
}

/// What is left of an answer's bytes, for all who add to it.
#[derive(Debug)]
struct Budget(AtomicUsize);

impl Budget {
    fn new() -> Self {
        Self(AtomicUsize::new(MAX_ANSWER_BYTES))
    }

    /// Takes what these keys need. False, and nothing is left for anybody, if that is too much.
    fn take(&self, keys: &UserKeys) -> bool {
        let size = keys.size();
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(size))
        });
        taken.is_ok_and(|left| left > size)
    }

    fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl QueriedKeys {
    /// Tells that a user is not in the answer who could be.
    fn leave_out(&mut self, user_id: &UserId) {
        self.failures.insert(user_id.server_name().to_owned(), TOO_MUCH.to_owned());
    }

    fn add(&mut self, user_id: OwnedUserId, keys: UserKeys) -> Result<(), E2eeError> {
        let UserKeys { devices, master, self_signing } = keys;
        self.device_keys.insert(user_id.clone(), devices);
        if let Some(key) = master {
            self.master_keys.insert(user_id.clone(), shown(&key)?);
        }
        if let Some(key) = self_signing {
            self.self_signing_keys.insert(user_id, shown(&key)?);
        }
        Ok(())
    }
}

impl E2ee {
    /// The keys of users anywhere, as the asking user may see them. Lists of other servers' users are
    /// kept while a room is shared with them, and asked for otherwise; servers are waited for up to
    /// `timeout`, a minute at most.
    ///
    /// Servers that do not answer are told of beside what was found, and so are those of users who are
    /// left out because the answer would be too large.
    pub async fn query_keys(
        &self,
        asker: &UserId,
        wanted: KeysWanted,
        timeout: Duration,
    ) -> Result<QueriedKeys, E2eeError> {
        let mut answer = QueriedKeys::default();
        let mut elsewhere: BTreeMap<OwnedServerName, KeysWanted> = BTreeMap::new();
        let budget = Budget::new();
        for (number, (user_id, devices)) in wanted.into_iter().enumerate() {
            if number >= MAX_USERS || budget.is_spent() {
                answer.leave_out(&user_id);
            } else if self.identity().is_local(&user_id) {
                // Many users are many reads: others get their turn between them.
                tokio::task::consume_budget().await;
                let keys = self.local_keys(&user_id, &devices).await?;
                if budget.take(&keys) {
                    answer.add(user_id, keys)?;
                } else {
                    answer.leave_out(&user_id);
                }
            } else {
                let server = user_id.server_name().to_owned();
                elsewhere.entry(server).or_default().insert(user_id, devices);
            }
        }
        self.add_remote_keys(&mut answer, elsewhere, &budget, timeout.min(MAX_TIMEOUT)).await?;
        self.add_what_only_they_see(asker, &mut answer).await?;
        Ok(answer)
    }

    /// The asking user's own user-signing key, if they ask for their own keys, and what it signed.
    async fn add_what_only_they_see(
        &self,
        asker: &UserId,
        answer: &mut QueriedKeys,
    ) -> Result<(), E2eeError> {
        let Some(json) = self.signing_key_json(asker, &KeyUsage::UserSigning).await? else {
            return Ok(());
        };
        if answer.device_keys.contains_key(asker) {
            answer.user_signing_keys.insert(asker.to_owned(), shown(&json)?);
        }
        let key = SigningKey::stored(&json)?;
        for (user_id, master) in &mut answer.master_keys {
            tokio::task::consume_budget().await;
            if user_id != asker
                && let Some(signed) = self.signed_by(asker, &key, user_id, master).await?
            {
                *master = signed;
            }
        }
        Ok(())
    }

    /// A master key with the signature that this user-signing key made on it, if it did.
    async fn signed_by(
        &self,
        asker: &UserId,
        key: &SigningKey,
        user_id: &OwnedUserId,
        master: &Raw<CrossSigningKey>,
    ) -> Result<Option<Raw<CrossSigningKey>>, E2eeError> {
        let (signer, forward) = (asker.to_owned(), Direction::Forward);
        let rows =
            self.store().page_prefix(&USER_SIGNATURES, &signer, user_id, forward, MAX_SIGNED_KEYS);
        let rows = rows.await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let master = SigningKey::stored(&Bytes::copy_from_slice(master.json().get().as_bytes()))?;
        let Some((_, row)) = rows.into_iter().find(|((_, key_id), _)| *key_id == master.key_id)
        else {
            return Ok(None);
        };
        let signatures: BTreeMap<String, String> = serde_json::from_slice(&row.record)
            .map_err(|error| E2eeError::Internal(error.to_string()))?;
        // What a former key signed is of no use to anybody.
        let Some(signature) = signatures.get(&key.key_id) else { return Ok(None) };
        let mut object = master.object;
        add_signature(&mut object, asker, &key.key_id, signature);
        shown(&to_bytes(&object)?).map(Some)
    }
}

#[cfg(test)]
mod tests;
