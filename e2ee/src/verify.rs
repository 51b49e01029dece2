//! Signatures on JSON objects, verified with vodozemac (Appendices "Signing JSON").

use ruma::UserId;
use serde_json::{Map, Value};

use crate::E2eeError;

/// Verifies the signature of `user_id` by the key `key_id` (`ed25519:…`), whose public part is
/// `public_key` in unpadded base64, on an object as it came.
///
/// # Errors
///
/// [`E2eeError::InvalidSignature`]
pub(crate) fn verify_object(
    object: &Map<String, Value>,
    user_id: &UserId,
    key_id: &str,
    public_key: &str,
) -> Result<(), E2eeError> {
    let _ = (object, user_id, key_id, public_key);
    unimplemented!("keys")
}
