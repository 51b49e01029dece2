//! Cross-signing keys (CS "Cross-signing").

use ruma::{UserId, encryption::CrossSigningKey, serde::Raw};

use crate::{E2ee, E2eeError};

/// What a user uploads (CS "POST /keys/device_signing/upload").
#[derive(Clone, Debug, Default)]
pub struct CrossSigningUpload {
    /// The key that stands for the user.
    pub master_key: Option<Raw<CrossSigningKey>>,
    /// The key that signs the user's devices.
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
    /// The key that signs other users' master keys.
    pub user_signing_key: Option<Raw<CrossSigningKey>>,
}

impl E2ee {
    /// Must the user prove who they are before this is stored? Not for a first upload, nor for keys that
    /// are there already.
    pub async fn must_confirm_cross_signing(
        &self,
        user_id: &UserId,
        upload: &CrossSigningUpload,
    ) -> Result<bool, E2eeError> {
        let _ = (user_id, upload);
        unimplemented!("cross-signing")
    }

    /// Stores cross-signing keys after verifying them. A new master key takes the place of all others.
    ///
    /// # Errors
    ///
    /// [`E2eeError::InvalidParam`], [`E2eeError::MissingParam`], [`E2eeError::InvalidSignature`].
    pub async fn upload_cross_signing_keys(
        &self,
        user_id: &UserId,
        upload: CrossSigningUpload,
    ) -> Result<(), E2eeError> {
        let _ = (user_id, upload);
        unimplemented!("cross-signing")
    }
}
