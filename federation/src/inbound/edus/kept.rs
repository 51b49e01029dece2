//! EDUs about encryption, kept until there is somebody to use them: messages to devices.
//!
//! A row each, under its server, once by their ID. They are durable before the transaction that brought
//! them is answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_storage::{Commit, CommitError, Keyspace, OwnerLocks, Positioned, StoreError};
use ruma::{OwnedServerName, ServerName, api::federation::transactions::edu::DirectDeviceContent};
use serde::Serialize;

use super::{DropReason, accounts_among};
use crate::Federation;

/// EDUs by server; clustering: the EDU's type, its subject (message ID with its sender, device with its
/// user, or user). The value is the content as JSON behind the position at which it was written.
pub(crate) const KEPT_EDUS: Keyspace<OwnedServerName, (String, String, String), Positioned<Bytes>> =
    Keyspace::new("federation_kept_edus");

/// How many rows of [`KEPT_EDUS`] a server has.
pub(crate) const KEPT_EDU_COUNTS: Keyspace<OwnedServerName, (), Bytes> =
    Keyspace::new("federation_kept_edu_counts");

/// One writer at a time for each server's rows.
pub(crate) type KeptLocks = OwnerLocks;

/// EDUs of one server that are kept. Beyond them only newer versions of what is there already are.
const MAX_KEPT: u64 = if cfg!(test) { 20 } else { 5_000 };
/// The largest content that is kept in bytes; a row has 96 KiB.
const MAX_CONTENT_BYTES: usize = 64 * 1024;
/// The longest message or device ID in bytes: with a user ID and a server name they fit a key.
const MAX_ID_BYTES: usize = 255;
/// Users of this server that one message is for.
const MAX_RECIPIENTS: usize = 100;

/// Type, subject and the subject's owner.
type Key = (String, String, String);

/// What one transaction leaves to be kept.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// Whether a later one replaces what is there already, and the content.
    rows: BTreeMap<Key, (bool, Bytes)>,
}

impl Keeping {
    /// A message, for those of its recipients who are here.
    pub(super) async fn add_to_device(
        &mut self,
        federation: &Federation,
        mut content: DirectDeviceContent,
    ) -> Result<(), DropReason> {
        let recipients = content.messages.keys().take(MAX_RECIPIENTS);
        let here = accounts_among(federation, recipients).await?;
        content.messages.retain(|user_id, devices| here.contains(user_id) && !devices.is_empty());
        if content.messages.is_empty() {
            return Err(DropReason::Bad("it is for nobody here"));
        }
        let (id, sender) = (content.message_id.to_string(), content.sender.to_string());
        self.add(("m.direct_to_device", id, sender), false, &content)
    }

    fn add(
        &mut self,
        (kind, id, owner): (&str, String, String),
        replaces: bool,
        content: &impl Serialize,
    ) -> Result<(), DropReason> {
        if id.len() > MAX_ID_BYTES || id.contains('\0') {
            return Err(DropReason::Bad("its ID is none"));
        }
        let json = serde_json::to_vec(content)?;
        if json.len() > MAX_CONTENT_BYTES {
            return Err(DropReason::Bad("it is too large to be kept"));
        }
        let key = (kind.to_owned(), id, owner);
        if replaces || !self.rows.contains_key(&key) {
            self.rows.insert(key, (replaces, json.into()));
        }
        Ok(())
    }

    /// Writes what was gathered, durably.
    pub(super) async fn commit(
        self,
        federation: &Federation,
        origin: &ServerName,
    ) -> Result<(), CommitError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let unread = |error: StoreError| CommitError::Unavailable(error.to_string());
        let (store, owner) = (federation.store(), origin.to_owned());
        let _turn = federation.kept_locks().lock(origin.as_str()).await;
        let count = store.get(&KEPT_EDU_COUNTS, &owner, &()).await.map_err(unread)?;
        let before = count.as_deref().and_then(|bytes| bytes.try_into().ok());
        let before = before.map_or(0, u64::from_be_bytes);
        let mut count = before;
        let mut commit = Commit::new(&owner);
        for (key, (replaces, record)) in self.rows {
            let known = store.get(&KEPT_EDUS, &owner, &key).await.map_err(unread)?.is_some();
            if known && !replaces {
                continue;
            }
            if !known && count >= MAX_KEPT {
                tracing::warn!(%origin, kind = key.0, "there is no place for another EDU");
                continue;
            }
            count += u64::from(!known);
            let position = commit.next_position();
            commit.put(&KEPT_EDUS, &owner, &key, &Positioned { position, record });
        }
        if count != before {
            let bytes = Bytes::copy_from_slice(&count.to_be_bytes());
            commit.put(&KEPT_EDU_COUNTS, &owner, &(), &bytes);
        }
        if !commit.is_empty() {
            store.commit(commit).await?;
        }
        Ok(())
    }
}
