//! Key backup: what a user's clients store of their room keys, encrypted (CS "Server-side key backups").

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{E2ee, E2eeError};

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

/// Backed-up keys by room and session.
pub type BackupKeys = BTreeMap<OwnedRoomId, BTreeMap<String, BackedUpKey>>;

impl E2ee {
    /// Makes a version, which becomes the current one. Returns its number.
    pub async fn create_backup(
        &self,
        user_id: &UserId,
        algorithm: String,
        auth_data: Box<RawValue>,
    ) -> Result<String, E2eeError> {
        let _ = (user_id, algorithm, auth_data);
        unimplemented!("backup")
    }

    /// One version, or the current one.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn backup(
        &self,
        user_id: &UserId,
        version: Option<&str>,
    ) -> Result<BackupVersion, E2eeError> {
        let _ = (user_id, version);
        unimplemented!("backup")
    }

    /// Replaces a version's data; its algorithm stays.
    pub async fn update_backup(
        &self,
        user_id: &UserId,
        version: &str,
        algorithm: &str,
        auth_data: Box<RawValue>,
    ) -> Result<(), E2eeError> {
        let _ = (user_id, version, algorithm, auth_data);
        unimplemented!("backup")
    }

    /// Deletes a version with its keys.
    pub async fn delete_backup(&self, user_id: &UserId, version: &str) -> Result<(), E2eeError> {
        let _ = (user_id, version);
        unimplemented!("backup")
    }

    /// Adds keys to the current version; of two for a session the better one stays.
    pub async fn add_backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        keys: BackupKeys,
    ) -> Result<BackupState, E2eeError> {
        let _ = (user_id, version, keys);
        unimplemented!("backup")
    }

    /// Keys of a version: all, of a room, or of a session.
    pub async fn backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: Option<&RoomId>,
        session_id: Option<&str>,
    ) -> Result<BackupKeys, E2eeError> {
        let _ = (user_id, version, room_id, session_id);
        unimplemented!("backup")
    }

    /// Deletes keys of a version: all, of a room, or of a session.
    pub async fn delete_backup_keys(
        &self,
        user_id: &UserId,
        version: &str,
        room_id: Option<&RoomId>,
        session_id: Option<&str>,
    ) -> Result<BackupState, E2eeError> {
        let _ = (user_id, version, room_id, session_id);
        unimplemented!("backup")
    }
}
