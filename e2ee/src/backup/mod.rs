//! Key backup: what a user's clients store of their room keys, encrypted (CS "Server-side key backups").
//!
//! `versions` makes, reads and deletes backups · `keys` adds, reads and deletes what is in them. Each
//! commit that changes keys writes the version's count, bytes and etag too, so that a backup is never half
//! counted, whatever happens in between. A backup may be large: it is read a page at a time, and deleted
//! a part at a time, between which others get their turn.

mod keys;
mod versions;

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use serde_json::value::RawValue;

use crate::{E2eeError, schema::BackupVersionRow};

/// A version of a backup.
#[derive(Clone, Debug)]
pub struct BackupVersion {
    /// Its number, as text.
    pub version: String,
    /// The algorithm's name.
    pub algorithm: String,
    /// Its data.
    pub auth_data: Box<RawValue>,
    /// What it holds.
    pub state: BackupState,
}

/// What a version of a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupState {
    /// How many keys.
    pub count: u64,
    /// Changes with them.
    pub etag: String,
}

impl BackupState {
    fn of(row: &BackupVersionRow) -> Self {
        Self { count: row.count, etag: row.etag.to_string() }
    }
}

/// A backed-up key.
#[derive(Clone, Debug)]
pub struct BackedUpKey {
    /// The first message that it decrypts.
    pub first_message_index: u64,
    /// How often it was forwarded.
    pub forwarded_count: u64,
    /// Did the device that backs it up verify where it has it from?
    pub is_verified: bool,
    /// The algorithm's data.
    pub session_data: Box<RawValue>,
}

/// Some keys of a backup, in order of rooms and sessions.
#[derive(Clone, Debug)]
pub struct BackupPage {
    /// Room, session and key.
    pub keys: Vec<(OwnedRoomId, String, BackedUpKey)>,
    /// Are there no more behind these?
    pub is_last: bool,
}

/// Backed-up keys by room and session.
pub type BackupKeys = BTreeMap<OwnedRoomId, BTreeMap<String, BackedUpKey>>;

/// The number of a version. What is none is a version that does not exist.
fn number_of(version: &str) -> Result<u64, E2eeError> {
    let is_number = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0');
    let number = is_number.then(|| version.parse().ok()).flatten();
    number.ok_or_else(no_such_backup)
}

fn no_such_backup() -> E2eeError {
    E2eeError::NotFound("There is no such backup".to_owned())
}

fn stored_json(json: String) -> Result<Box<RawValue>, E2eeError> {
    RawValue::from_string(json)
        .map_err(|error| E2eeError::Internal(format!("a stored key backup: {error}")))
}

#[cfg(test)]
mod tests;
