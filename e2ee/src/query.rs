//! Who has which keys (CS "POST /keys/query"; SS "End-to-End Encryption", "Device Management").
//!
//! `local` reads those of this server's users, `remote` finds those of others: in the lists that are kept
//! here ([`crate::remote_lists`]), or by asking their servers.

mod local;
mod remote;

use std::{collections::BTreeMap, time::Duration};

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

/// Users whose keys one request may ask for. Some clients ask for all members of a large room at once.
const MAX_USERS: usize = 5_000;
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

impl QueriedKeys {
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
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`] if too many are asked for. Servers that do not answer are told of
    /// beside what was found.
    pub async fn query_keys(
        &self,
        asker: &UserId,
        wanted: KeysWanted,
        timeout: Duration,
    ) -> Result<QueriedKeys, E2eeError> {
        if wanted.len() > MAX_USERS {
            let message = format!("more than {MAX_USERS} users are asked for");
            return Err(E2eeError::InvalidParam(message));
        }
        let mut answer = QueriedKeys::default();
        let mut elsewhere: BTreeMap<OwnedServerName, KeysWanted> = BTreeMap::new();
        for (user_id, devices) in wanted {
            if self.identity().is_local(&user_id) {
                // Many users are many reads: others get their turn between them.
                tokio::task::consume_budget().await;
                let keys = self.local_keys(&user_id, &devices).await?;
                answer.add(user_id, keys)?;
            } else {
                let server = user_id.server_name().to_owned();
                elsewhere.entry(server).or_default().insert(user_id, devices);
            }
        }
        self.add_remote_keys(&mut answer, elsewhere, timeout.min(MAX_TIMEOUT)).await?;
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
