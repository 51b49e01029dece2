//! This server's own keys: the one in use, and those before it.

use hearth_storage::{Commit, Direction, Keyspace, Store, postcard_record};
use hearth_types::ServerIdentity;
use ruma::{
    CanonicalJsonObject, OwnedServerName, canonical_json::to_canonical_value, serde::Base64,
    signatures::sign_json,
};
use serde::{Deserialize, Serialize};

use super::entry::{KnownKey, MAX_KEYS, ServerKeys};
use crate::FederationError;

/// How long others may rely on an answer without asking again.
const ANSWER_VALID_MS: u64 = 24 * 3_600 * 1_000;

/// Every key that this server has signed with, by its ID.
pub(crate) const OWN_KEYS: Keyspace<OwnedServerName, String, OwnKeyRow> =
    Keyspace::new("federation_own_keys");

/// One of this server's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnKeyRow {
    public_key: Vec<u8>,
    /// When another key took its place, in milliseconds since 1970.
    replaced_ms: Option<u64>,
}
postcard_record!(OwnKeyRow, version = 1);

/// This server's keys, old and new.
#[derive(Clone, Debug)]
pub(super) struct OwnKeys {
    current_id: String,
    current: Vec<u8>,
    /// ID, public key, when it was replaced.
    old: Vec<(String, Vec<u8>, u64)>,
}

impl OwnKeys {
    /// Reads the keys of earlier runs and records the one of this run. One that is in use no longer
    /// was replaced now: nothing was signed with it later.
    pub(super) async fn open(
        store: &Store,
        identity: &ServerIdentity,
        now_ms: u64,
    ) -> Result<Self, FederationError> {
        let server = identity.server_name().to_owned();
        let current_id = format!("ed25519:{}", identity.key_pair().version());
        let current = identity.key_pair().public_key().to_vec();
        let rows = store.page(&OWN_KEYS, &server, .., Direction::Backward, MAX_KEYS).await?;
        let mut commit = Commit::new(&server);
        let mut old = Vec::new();
        let in_use = OwnKeyRow { public_key: current.clone(), replaced_ms: None };
        let mut is_recorded = false;
        for (id, mut row) in rows {
            if id == current_id {
                is_recorded = row == in_use;
                continue;
            }
            let replaced_ms = row.replaced_ms.unwrap_or(now_ms);
            if row.replaced_ms.is_none() {
                row.replaced_ms = Some(now_ms);
                commit.put(&OWN_KEYS, &server, &id, &row);
            }
            old.push((id, row.public_key, replaced_ms));
        }
        if !is_recorded {
            commit.put(&OWN_KEYS, &server, &current_id, &in_use);
        }
        if !commit.is_empty() {
            store.commit(commit).await?;
        }
        Ok(Self { current_id, current, old })
    }

    /// The keys as the ring knows those of others. What this server signed counts at all times.
    pub(super) fn known(&self) -> ServerKeys {
        let current = KnownKey { public_key: self.current.clone(), valid_until_ms: u64::MAX };
        let old = self.old.iter().map(|(id, key, replaced_ms)| {
            (id.clone(), KnownKey { public_key: key.clone(), valid_until_ms: *replaced_ms })
        });
        let keys = old.chain([(self.current_id.clone(), current)]).collect();
        ServerKeys { fetched_ms: 0, valid_until_ms: u64::MAX, keys }
    }

    /// The signed answer to `GET /_matrix/key/v2/server`.
    pub(super) fn answer(
        &self,
        identity: &ServerIdentity,
        now_ms: u64,
    ) -> Result<CanonicalJsonObject, String> {
        let base64 = |key: &[u8]| Base64::<ruma::serde::base64::Standard, _>::new(key).encode();
        let old = self.old.iter().map(|(id, key, replaced_ms)| {
            let entry = serde_json::json!({ "expired_ts": replaced_ms, "key": base64(key) });
            (id.clone(), entry)
        });
        let old: serde_json::Map<_, _> = old.collect();
        let answer = serde_json::json!({
            "old_verify_keys": old,
            "server_name": identity.server_name(),
            "valid_until_ts": now_ms.saturating_add(ANSWER_VALID_MS),
            "verify_keys": { &self.current_id: { "key": base64(&self.current) } },
        });
        let ruma::CanonicalJsonValue::Object(mut answer) =
            to_canonical_value(answer).map_err(|error| error.to_string())?
        else {
            return Err("an answer that is no object".to_owned());
        };
        sign_json(identity.server_name().as_str(), identity.key_pair(), &mut answer)
            .map_err(|error| error.to_string())?;
        Ok(answer)
    }
}
