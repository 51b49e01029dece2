//! Dehydrated devices (MSC3814): a device without a session, whose keys and queue are there, so that a
//! user without any other device misses nothing.

use bytes::Bytes;
use ruma::{OwnedDeviceId, UserId};
use serde_json::value::RawValue;

use crate::{E2ee, E2eeError, KeyUpload};

/// What a user uploads.
#[derive(Clone, Debug)]
pub struct DehydratedUpload {
    /// The device's ID.
    pub device_id: OwnedDeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// What only the user can read.
    pub device_data: Box<RawValue>,
    /// Its keys, as those of any device.
    pub keys: KeyUpload,
}

/// What is stored of it.
#[derive(Clone, Debug)]
pub struct DehydratedDevice {
    /// The device's ID.
    pub device_id: OwnedDeviceId,
    /// What only the user can read.
    pub device_data: Box<RawValue>,
}

/// Some of the messages that it got.
#[derive(Clone, Debug)]
pub struct DehydratedEvents {
    /// The events, in order.
    pub events: Vec<Bytes>,
    /// What to ask with for the next ones.
    pub next_batch: String,
}

impl E2ee {
    /// Stores a dehydrated device in the place of the one before.
    pub async fn put_dehydrated_device(
        &self,
        user_id: &UserId,
        upload: DehydratedUpload,
    ) -> Result<(), E2eeError> {
        let _ = (user_id, upload);
        unimplemented!("backup")
    }

    /// The user's dehydrated device.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn dehydrated_device(&self, user_id: &UserId) -> Result<DehydratedDevice, E2eeError> {
        let _ = user_id;
        unimplemented!("backup")
    }

    /// Deletes it with its keys and its queue. Returns its ID.
    ///
    /// # Errors
    ///
    /// [`E2eeError::NotFound`]
    pub async fn delete_dehydrated_device(
        &self,
        user_id: &UserId,
    ) -> Result<OwnedDeviceId, E2eeError> {
        let _ = user_id;
        unimplemented!("backup")
    }

    /// The messages that it got, from behind `next_batch`.
    pub async fn dehydrated_events(
        &self,
        user_id: &UserId,
        device_id: &str,
        next_batch: Option<&str>,
    ) -> Result<DehydratedEvents, E2eeError> {
        let _ = (user_id, device_id, next_batch);
        unimplemented!("backup")
    }
}
