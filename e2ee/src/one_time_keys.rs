//! One-time and fallback keys: what an upload must look like, what is stored, and how many are left (CS
//! "One-time and fallback keys").

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use hearth_storage::Commit;
use hearth_types::{StreamPosition, limits::MAX_ID_BYTES};
use quick_cache::sync::Cache;
use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    encryption::{DeviceKeys, OneTimeKey},
    serde::Raw,
};
use serde_json::{Map, Value};
use vodozemac::Curve25519PublicKey;

use crate::{
    E2ee, E2eeError,
    schema::{CLAIMED_KEYS, FALLBACK_KEYS, FallbackRow, KeyRow, ONE_TIME_KEYS},
    user_topic,
    verify::verify_object,
};

/// Devices whose counts are remembered.
const CACHED_COUNTS: usize = 50_000;
/// One-time keys of one upload; clients send 50 to 100. A commit must have room for them.
const MAX_KEYS_PER_UPLOAD: usize = 300;
/// Unclaimed one-time keys of one device; clients keep 50 to 100 private parts.
const MAX_KEYS_PER_DEVICE: usize = 1_000;
/// The algorithm of one-time keys that are signed by their device.
const SIGNED: &str = "signed_curve25519";
/// The algorithm of those that are not; clients stopped making them long ago.
const UNSIGNED: &str = "curve25519";
/// Fallback keys of one device: one for each algorithm, of which the specification knows one. The commit
/// that ends a device has room for so many.
pub(crate) const MAX_FALLBACK_KEYS: usize = 4;
/// One key as JSON; they have about 200 bytes.
pub(crate) const MAX_KEY_BYTES: usize = 2 << 10;
/// IDs of claimed keys that are remembered of one device, beyond what it has at once by far: a repeated
/// upload holds keys that were made a while ago at most. Older ones go with an upload.
const MAX_CLAIMED_REMEMBERED: usize = 500;
/// IDs of claimed keys that one upload forgets. A commit must have room for them.
const MAX_CLAIMED_FORGOTTEN: usize = 500;

/// What a device uploads (CS "POST /keys/upload").
#[derive(Clone, Debug, Default)]
pub struct KeyUpload {
    /// Its identity keys.
    pub device_keys: Option<Raw<DeviceKeys>>,
    /// One-time keys by their IDs.
    pub one_time_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    /// Fallback keys by their IDs; one for each algorithm.
    pub fallback_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
}

/// How many keys of a device are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// Unclaimed one-time keys by algorithm. The specification's own algorithm is there, with zero if
    /// need be, for every device that has device keys.
    pub one_time_keys: BTreeMap<OneTimeKeyAlgorithm, u64>,
    /// Algorithms whose fallback key was not handed out yet.
    pub unused_fallback_keys: Vec<OneTimeKeyAlgorithm>,
    /// When these last changed, as far as is remembered; the start of the server if that is not known:
    /// what changed before it may never have been told. Zero for a device that has no keys.
    pub changed: StreamPosition,
}

/// Counts of devices that sync. Filled and changed in the user's turn alone.
#[derive(Debug)]
pub(crate) struct CountsCache(pub(crate) Cache<(OwnedUserId, OwnedDeviceId), Arc<KeyCounts>>);

impl Default for CountsCache {
    fn default() -> Self {
        Self(Cache::new(CACHED_COUNTS))
    }
}

/// An uploaded one-time or fallback key that was checked.
#[derive(Clone, Debug)]
pub(crate) struct CheckedKey {
    algorithm: String,
    row: KeyRow,
}

impl CheckedKey {
    /// `algorithm:key`
    fn full_id(&self) -> String {
        full_id(&self.algorithm, &self.row)
    }
}

/// `algorithm:key`
pub(crate) fn full_id(algorithm: &str, row: &KeyRow) -> String {
    format!("{algorithm}:{}", row.key_id)
}

/// Refuses uploads that are larger than anything sensible, before anything is computed.
pub(crate) fn check_size(upload: &KeyUpload) -> Result<(), E2eeError> {
    let too_large = |text: &str| Err(E2eeError::TooLarge(text.to_owned()));
    if upload.one_time_keys.len() > MAX_KEYS_PER_UPLOAD {
        return too_large("too many one-time keys at once");
    }
    if upload.fallback_keys.len() > MAX_FALLBACK_KEYS {
        return too_large("too many fallback keys");
    }
    for (key_id, key) in upload.one_time_keys.iter().chain(&upload.fallback_keys) {
        if key_id.as_str().len() > MAX_ID_BYTES || key.json().get().len() > MAX_KEY_BYTES {
            return too_large("a key is too large");
        }
    }
    let algorithms: BTreeSet<_> = upload.fallback_keys.keys().map(|id| id.algorithm()).collect();
    if algorithms.len() < upload.fallback_keys.len() {
        let text = "there can be one fallback key for each algorithm".to_owned();
        return Err(E2eeError::InvalidParam(text));
    }
    Ok(())
}

/// Checks one-time or fallback keys against the device's Ed25519 key, which unsigned keys do without. Of
/// algorithms that nobody here can check none are taken.
pub(crate) fn check_keys(
    user_id: &UserId,
    device_id: &DeviceId,
    ed25519: Option<&str>,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<Vec<CheckedKey>, E2eeError> {
    let check = |(key_id, key): (&OwnedOneTimeKeyId, &Raw<OneTimeKey>)| {
        let (algorithm, name) = key_id.as_str().split_once(':').unwrap_or_default();
        let bad = |text: &str| E2eeError::BadJson(format!("the key {key_id} {text}"));
        match serde_json::from_str(key.json().get()).map_err(|_| bad("is no JSON"))? {
            Value::Object(object) if algorithm == SIGNED => {
                check_signed(user_id, device_id, ed25519, &object)
                    .map_err(|error| named(key_id, error))?;
            }
            Value::String(key) if algorithm == UNSIGNED => {
                check_curve25519(&key).map_err(|error| named(key_id, error))?;
            }
            _ if ![SIGNED, UNSIGNED].contains(&algorithm) => {
                let text = format!("{key_id}: no such algorithm is known here");
                return Err(E2eeError::InvalidParam(text));
            }
            _ => return Err(bad("is not of its algorithm's form")),
        }
        let row = KeyRow { key_id: name.to_owned(), json: key.json().get().to_owned() };
        Ok(CheckedKey { algorithm: algorithm.to_owned(), row })
    };
    keys.iter().map(check).collect()
}

fn check_signed(
    user_id: &UserId,
    device_id: &DeviceId,
    ed25519: Option<&str>,
    object: &Map<String, Value>,
) -> Result<(), E2eeError> {
    let key = object.get("key").and_then(Value::as_str);
    let key = key.ok_or_else(|| E2eeError::BadJson("it has no text `key`".to_owned()))?;
    check_curve25519(key)?;
    let ed25519 = ed25519.ok_or_else(|| {
        E2eeError::InvalidParam("its device has no device keys to verify it with".to_owned())
    })?;
    verify_object(object, user_id, &format!("ed25519:{device_id}"), ed25519)
}

fn check_curve25519(key: &str) -> Result<(), E2eeError> {
    let checked = Curve25519PublicKey::from_base64(key);
    let invalid = |error| E2eeError::InvalidParam(format!("not a Curve25519 key: {error}"));
    checked.map(drop).map_err(invalid)
}

/// The same error, telling of which key.
fn named(key_id: &OwnedOneTimeKeyId, error: E2eeError) -> E2eeError {
    match error {
        E2eeError::InvalidParam(text) => E2eeError::InvalidParam(format!("{key_id}: {text}")),
        E2eeError::BadJson(text) => E2eeError::BadJson(format!("{key_id}: {text}")),
        E2eeError::InvalidSignature(text) => {
            E2eeError::InvalidSignature(format!("{key_id}: {text}"))
        }
        error => error,
    }
}

/// The key itself in a key's JSON: what makes it another one, however it is signed.
pub(crate) fn public_part(json: &str) -> Bytes {
    let key = match serde_json::from_str(json) {
        Ok(Value::String(key)) => Some(key),
        Ok(Value::Object(mut object)) => match object.remove("key") {
            Some(Value::String(key)) => Some(key),
            _ => None,
        },
        _ => None,
    };
    key.unwrap_or_else(|| json.to_owned()).into()
}

/// Are these the same JSON, however it is written?
fn same_json(one: &str, other: &str) -> bool {
    one == other
        || matches!(
            (serde_json::from_str::<Value>(one), serde_json::from_str::<Value>(other)),
            (Ok(one), Ok(other)) if one == other
        )
}

impl E2ee {
    /// In the user's turn: adds uploaded one-time keys to a commit. Keys that are there or were claimed
    /// lately are passed over; another key under the ID of a claimed one is new, for the ID is free then.
    /// Returns how many are left then.
    pub(crate) async fn add_one_time_keys(
        &self,
        commit: &mut Commit,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        keys: &[CheckedKey],
    ) -> Result<BTreeMap<OneTimeKeyAlgorithm, u64>, E2eeError> {
        let rows = self.store().page_all_under(&ONE_TIME_KEYS, user_id, device_id).await?;
        let mut counts = BTreeMap::new();
        let mut known = HashMap::new();
        for ((_, algorithm, ..), row) in &rows {
            *counts.entry(algorithm.as_str().into()).or_default() += 1;
            known.insert(full_id(algorithm, row), row.json.as_str());
        }
        let mut new = Vec::new();
        for key in keys {
            match known.get(key.full_id().as_str()) {
                None => new.push(key),
                Some(json) if same_json(json, &key.row.json) => {}
                Some(json) => {
                    // In the form in which other servers say it: client SDKs read the keys from it, and
                    // report what went wrong.
                    let text = format!(
                        "One time key {} already exists. Old key: {json}; new key: {}",
                        key.full_id(),
                        key.row.json
                    );
                    return Err(E2eeError::InvalidParam(text));
                }
            }
        }
        if new.is_empty() {
            return Ok(counts);
        }
        let claimed = self.claimed_keys(commit, user_id, device_id).await?;
        new.retain(|key| claimed.get(&key.full_id()) != Some(&public_part(&key.row.json)));
        if rows.len() + new.len() > MAX_KEYS_PER_DEVICE {
            return Err(E2eeError::TooLarge("the device has too many one-time keys".to_owned()));
        }
        let position = commit.next_position();
        for (number, key) in (0..).zip(new) {
            let place = (device_id.clone(), key.algorithm.clone(), position, number);
            commit.put(&ONE_TIME_KEYS, user_id, &place, &key.row);
            *counts.entry(key.algorithm.as_str().into()).or_default() += 1;
        }
        Ok(counts)
    }

    /// Keys that were claimed lately, by their IDs; adds to the commit that the oldest ones are forgotten.
    async fn claimed_keys(
        &self,
        commit: &mut Commit,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
    ) -> Result<HashMap<String, Bytes>, E2eeError> {
        let mut rows = self.store().page_all_under(&CLAIMED_KEYS, user_id, device_id).await?;
        let surplus = rows.len().saturating_sub(MAX_CLAIMED_REMEMBERED).min(MAX_CLAIMED_FORGOTTEN);
        if surplus > 0 {
            rows.sort_unstable_by_key(|(_, claimed)| claimed.position);
            for (place, _) in rows.drain(..surplus) {
                commit.delete(&CLAIMED_KEYS, user_id, &place);
            }
        }
        Ok(rows.into_iter().map(|((_, id), claimed)| (id, claimed.record)).collect())
    }

    /// In the user's turn: adds uploaded fallback keys to a commit. Returns the algorithms that have an
    /// unused one then.
    pub(crate) async fn add_fallback_keys(
        &self,
        commit: &mut Commit,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        keys: &[CheckedKey],
    ) -> Result<Vec<OneTimeKeyAlgorithm>, E2eeError> {
        let rows = self.store().page_all_under(&FALLBACK_KEYS, user_id, device_id).await?;
        let mut fallback: BTreeMap<_, _> =
            rows.into_iter().map(|((_, algorithm), row)| (algorithm, row)).collect();
        for key in keys {
            let known = fallback.get(&key.algorithm).map(|row| &row.key);
            // A repeated upload does not make a used key unused.
            if known.is_some_and(|known| {
                known.key_id == key.row.key_id && same_json(&known.json, &key.row.json)
            }) {
                continue;
            }
            let row = FallbackRow { key: key.row.clone(), used: false };
            let place = (device_id.clone(), key.algorithm.clone());
            commit.put(&FALLBACK_KEYS, user_id, &place, &row);
            fallback.insert(key.algorithm.clone(), row);
        }
        if fallback.len() > MAX_FALLBACK_KEYS {
            return Err(E2eeError::TooLarge("too many fallback keys".to_owned()));
        }
        let unused = fallback.iter().filter(|(_, row)| !row.used);
        Ok(unused.map(|(algorithm, _)| algorithm.as_str().into()).collect())
    }

    /// What is left of a device's keys: from memory but for the first time.
    pub async fn key_counts(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Arc<KeyCounts>, E2eeError> {
        let key = (user_id.to_owned(), device_id.to_owned());
        if let Some(counts) = self.inner.counts.0.get(&key) {
            return Ok(counts);
        }
        // In the user's turn, or a change meanwhile would be lost.
        let e2ee = self.clone();
        let load = move || async move { e2ee.key_counts_in_turn(&key.0, &key.1).await };
        self.users().in_turn(user_id, load).await
    }

    /// The same for who has the user's turn.
    pub(crate) async fn key_counts_in_turn(
        &self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
    ) -> Result<Arc<KeyCounts>, E2eeError> {
        let key = (user_id.clone(), device_id.clone());
        if let Some(counts) = self.inner.counts.0.get(&key) {
            return Ok(counts);
        }
        // An upload of nothing.
        let mut nothing = Commit::new(user_id);
        let one_time_keys = self.add_one_time_keys(&mut nothing, user_id, device_id, &[]).await?;
        let unused_fallback_keys =
            self.add_fallback_keys(&mut nothing, user_id, device_id, &[]).await?;
        let changed = StreamPosition::ZERO;
        let mut counts = KeyCounts { one_time_keys, unused_fallback_keys, changed };
        if self.device_keys(user_id, device_id).await?.is_some() {
            counts.one_time_keys.entry(OneTimeKeyAlgorithm::SignedCurve25519).or_default();
        }
        if !counts.one_time_keys.is_empty() {
            counts.changed = self.inner.opened_at;
        }
        let counts = Arc::new(counts);
        self.inner.counts.0.insert(key, Arc::clone(&counts));
        Ok(counts)
    }

    /// In the user's turn: remembers what is left after a commit, and tells the device if it waits. Not
    /// the commit wakes it: it would look before this is remembered.
    pub(crate) fn set_key_counts(
        &self,
        user_id: &OwnedUserId,
        counts: Vec<(OwnedDeviceId, Arc<KeyCounts>)>,
    ) {
        for (device_id, counts) in counts {
            self.inner.counts.0.insert((user_id.clone(), device_id), counts);
        }
        self.store().notifier().poke(&user_topic(user_id));
    }

    /// In the user's turn: what is left of these devices is not known any more.
    pub(crate) fn forget_key_counts<'a>(
        &self,
        user_id: &OwnedUserId,
        device_ids: impl IntoIterator<Item = &'a OwnedDeviceId>,
    ) {
        for device_id in device_ids {
            self.inner.counts.0.remove(&(user_id.clone(), device_id.clone()));
        }
    }
}
