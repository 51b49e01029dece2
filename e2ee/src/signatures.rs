//! Signatures that users upload for devices and master keys (CS "POST /keys/signatures/upload").

use std::collections::BTreeMap;

use ruma::{OwnedUserId, UserId, api::client::keys::upload_signatures::v3::SignedKeys};

use crate::{E2ee, E2eeError};

/// What was not stored, and why: user, device ID or key, code and text.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, (&'static str, String)>>;

impl E2ee {
    /// Stores signatures, each for itself.
    pub async fn upload_signatures(
        &self,
        user_id: &UserId,
        signed_keys: BTreeMap<OwnedUserId, SignedKeys>,
    ) -> Result<SignatureFailures, E2eeError> {
        let _ = (user_id, signed_keys);
        unimplemented!("cross-signing")
    }
}
