//! The keys of one server: read from its signed answers, kept, and judged by time.

use std::collections::BTreeMap;

use hearth_storage::postcard_record;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde::{Deserialize, Serialize};

/// How far ahead of its fetch an answer counts at most, whatever it says of itself (rooms/v5 "Signing
/// key validity period").
pub(super) const MAX_VALIDITY_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Keys of one server that are kept: more than any server goes through in years, and a small row.
pub(super) const MAX_KEYS: usize = 64;
/// Bytes of a key's ID. Longer ones are not kept.
const MAX_KEY_ID_BYTES: usize = 128;
/// Bytes of an Ed25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;

/// What is known of one server's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerKeys {
    /// When the newest answer was fetched, in milliseconds since 1970.
    pub(super) fetched_ms: u64,
    /// Until when the newest answer counts.
    pub(super) valid_until_ms: u64,
    /// By key ID.
    pub(super) keys: BTreeMap<String, KnownKey>,
}
postcard_record!(ServerKeys, version = 1);

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownKey {
    pub(super) public_key: Vec<u8>,
    /// What it signed at later times does not count.
    pub(super) valid_until_ms: u64,
}

/// Whose word an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    /// The server's whose keys they are.
    Itself,
    /// A notary's.
    Notary,
}

/// Why an answer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadAnswer(String);

impl ServerKeys {
    /// Was this key valid at that time?
    pub(super) fn has(&self, key_id: &str, at_ms: u64) -> bool {
        self.keys.get(key_id).is_some_and(|key| at_ms <= key.valid_until_ms)
    }

    /// The keys that were valid at a time.
    pub(super) fn valid_at(&self, at_ms: u64) -> PublicKeySet {
        let valid = self.keys.iter().filter(|(_, key)| at_ms <= key.valid_until_ms);
        valid.map(|(id, key)| (id.clone(), Base64::new(key.public_key.clone()))).collect()
    }

    /// Reads a server's answer (SS "Publishing Keys"). It must be of this server, and signed with one
    /// of the keys that it tells.
    pub(super) fn read(
        server: &ServerName,
        answer: &CanonicalJsonObject,
        now_ms: u64,
    ) -> Result<Self, BadAnswer> {
        let bad = |reason: &str| Err(BadAnswer(reason.to_owned()));
        if answer.get("server_name").and_then(CanonicalJsonValue::as_str) != Some(server.as_str()) {
            return bad("the keys are another server's");
        }
        let Some(valid_until_ms) = milliseconds(answer.get("valid_until_ts")) else {
            return bad("`valid_until_ts` is not a time");
        };
        let valid_until_ms = valid_until_ms.min(now_ms.saturating_add(MAX_VALIDITY_MS));
        let current = entries(answer, "verify_keys").filter_map(|(id, entry)| {
            let key = KnownKey { public_key: public_key(entry)?, valid_until_ms };
            Some((id.clone(), key))
        });
        let mut keys: BTreeMap<_, _> = current.take(MAX_KEYS).collect();
        let signers =
            keys.iter().map(|(id, key)| (id.clone(), Base64::new(key.public_key.clone())));
        verify_signed_by(server, signers.collect(), answer)?;
        let room = MAX_KEYS.saturating_sub(keys.len());
        let old = entries(answer, "old_verify_keys").filter_map(|(id, entry)| {
            let expired_ms = milliseconds(entry.get("expired_ts"))?;
            let key = KnownKey { public_key: public_key(entry)?, valid_until_ms: expired_ms };
            Some((id.clone(), key))
        });
        for (id, key) in old.take(room) {
            keys.entry(id).or_insert(key);
        }
        Ok(Self { fetched_ms: now_ms, valid_until_ms, keys })
    }

    /// What is known after another answer. The newer one decides about the keys that it names; those
    /// that it does not name any more have ended by its time, and stay for what they signed before.
    ///
    /// What a server tells itself is the newest. Of what a notary tells, it is not known when that was
    /// fetched: there the later validity counts.
    pub(super) fn merge(self, answer: Self, teller: Teller) -> Self {
        let is_newer = teller == Teller::Itself || answer.valid_until_ms >= self.valid_until_ms;
        let (old, mut new) = if is_newer { (self, answer) } else { (answer, self) };
        let mut old_keys: Vec<_> = old.keys.into_iter().collect();
        // Those that ended last are likeliest to be asked for.
        old_keys.sort_by_key(|(_, key)| std::cmp::Reverse(key.valid_until_ms));
        for (id, mut key) in old_keys {
            if new.keys.len() >= MAX_KEYS {
                break;
            }
            key.valid_until_ms = key.valid_until_ms.min(new.fetched_ms);
            new.keys.entry(id).or_insert(key);
        }
        new.fetched_ms = new.fetched_ms.max(old.fetched_ms);
        new
    }
}

/// What a server's answer says of its keys, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToldKeys {
    /// IDs of those in use.
    pub(crate) current: Vec<String>,
    /// IDs of those that were in use.
    pub(crate) old: Vec<String>,
    /// IDs of those in use that signed the answer.
    pub(crate) signed_with: Vec<String>,
    /// As the server says.
    pub(crate) valid_until_ms: u64,
}

/// Reads an answer as [`ServerKeys::read`] does, and tells what it says.
pub(crate) fn read_answer(
    server: &ServerName,
    json: &[u8],
    now_ms: u64,
) -> Result<ToldKeys, String> {
    let answer: CanonicalJsonObject =
        serde_json::from_slice(json).map_err(|error| error.to_string())?;
    ServerKeys::read(server, &answer, now_ms).map_err(|error| error.to_string())?;
    let ids = |field| entries(&answer, field).map(|(id, _)| id.clone()).collect::<Vec<_>>();
    let (current, old) = (ids("verify_keys"), ids("old_verify_keys"));
    let signatures = answer.get("signatures").and_then(CanonicalJsonValue::as_object);
    let signatures = signatures.and_then(|all| all.get(server.as_str())?.as_object());
    let signed = |id: &&String| signatures.is_some_and(|signatures| signatures.contains_key(*id));
    let signed_with = current.iter().filter(signed).cloned().collect();
    let valid_until_ms = milliseconds(answer.get("valid_until_ts")).unwrap_or_default();
    Ok(ToldKeys { current, old, signed_with, valid_until_ms })
}

/// Checks that `server` has signed an object with one of these keys. Signatures of others, and with
/// other keys, are left alone.
pub(super) fn verify_signed_by(
    server: &ServerName,
    keys: PublicKeySet,
    object: &CanonicalJsonObject,
) -> Result<(), BadAnswer> {
    let mut object = object.clone();
    let signatures = object
        .remove("signatures")
        .and_then(|signatures| signatures.as_object()?.get(server.as_str()).cloned())
        .ok_or_else(|| BadAnswer(format!("{server} has not signed the keys")))?;
    let signatures = CanonicalJsonObject::from([(server.to_string(), signatures)]);
    object.insert("signatures".to_owned(), signatures.into());
    let keys = PublicKeyMap::from([(server.to_string(), keys)]);
    verify_json(&keys, &object).map_err(|error| BadAnswer(error.to_string()))
}

/// The entries of a map of keys whose IDs can be kept.
fn entries<'a>(
    answer: &'a CanonicalJsonObject,
    field: &str,
) -> impl Iterator<Item = (&'a String, &'a CanonicalJsonObject)> {
    let map = answer.get(field).and_then(CanonicalJsonValue::as_object);
    map.into_iter()
        .flatten()
        .filter(|(id, _)| id.len() <= MAX_KEY_ID_BYTES && id.starts_with("ed25519:"))
        .filter_map(|(id, entry)| Some((id, entry.as_object()?)))
}

fn public_key(entry: &CanonicalJsonObject) -> Option<Vec<u8>> {
    let key = Base64::<ruma::serde::base64::Standard>::parse(entry.get("key")?.as_str()?).ok()?;
    let key = key.into_inner();
    (key.len() == PUBLIC_KEY_BYTES).then_some(key)
}

fn milliseconds(value: Option<&CanonicalJsonValue>) -> Option<u64> {
    value?.as_integer().and_then(|integer| u64::try_from(i64::from(integer)).ok())
}
