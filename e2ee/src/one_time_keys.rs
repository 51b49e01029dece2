//! One-time and fallback keys: upload and counts (CS "One-time and fallback keys").

use std::{collections::BTreeMap, sync::Arc};

use hearth_types::StreamPosition;
use quick_cache::sync::Cache;
use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId,
    encryption::{DeviceKeys, OneTimeKey},
    serde::Raw,
};

use crate::{E2ee, E2eeError};

/// Devices whose counts are remembered.
const CACHED_COUNTS: usize = 50_000;

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
    /// Unclaimed one-time keys by algorithm.
    pub one_time_keys: BTreeMap<OneTimeKeyAlgorithm, u64>,
    /// Algorithms whose fallback key was not handed out yet.
    pub unused_fallback_keys: Vec<OneTimeKeyAlgorithm>,
    /// When these last changed, as far as is remembered; zero after a restart.
    pub changed: StreamPosition,
}

/// Counts of devices that sync.
#[derive(Debug)]
pub(crate) struct CountsCache(pub(crate) Cache<(OwnedUserId, OwnedDeviceId), Arc<KeyCounts>>);

impl Default for CountsCache {
    fn default() -> Self {
        Self(Cache::new(CACHED_COUNTS))
    }
}

impl E2ee {
    /// Stores what a device uploads, all or nothing, after verifying its signatures. Keys that are there
    /// already are passed over; another key under the same ID is refused. Returns what is left then.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], [`E2eeError::InvalidSignature`], [`E2eeError::TooLarge`].
    pub async fn upload_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        upload: KeyUpload,
    ) -> Result<Arc<KeyCounts>, E2eeError> {
        let _ = (user_id, device_id, upload);
        unimplemented!("keys")
    }

    /// What is left of a device's keys: from memory but for the first time.
    pub async fn key_counts(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Arc<KeyCounts>, E2eeError> {
        let _ = (user_id, device_id);
        Ok(Arc::default())
    }
}
