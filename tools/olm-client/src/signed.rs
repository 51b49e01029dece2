//! Signatures on JSON objects (Appendices "Signing JSON").

use ruma::{
    DeviceId, UserId,
    canonical_json::{CanonicalJsonValue, try_from_json_map},
};
use serde_json::Value;
use vodozemac::{Ed25519PublicKey, Ed25519Signature};

use crate::Error;

/// Verifies the signature of a user's device on an object.
///
/// # Errors
///
/// [`Error::Keys`]
pub(crate) fn verify(
    object: &Value,
    user_id: &UserId,
    device_id: &DeviceId,
    key: &Ed25519PublicKey,
) -> Result<(), Error> {
    let refused = |why: &str| Error::keys(format!("{device_id} of {user_id}"), why);
    let key_id = format!("ed25519:{device_id}");
    let signature = object
        .get("signatures")
        .and_then(|signatures| signatures.get(user_id.as_str()))
        .and_then(|by_user| by_user.get(key_id))
        .and_then(Value::as_str)
        .ok_or_else(|| refused("not signed by the device"))?;
    let signature = Ed25519Signature::from_base64(signature)
        .map_err(|_| refused("the signature is malformed"))?;
    let mut covered = object.as_object().cloned().ok_or_else(|| refused("no object"))?;
    covered.remove("signatures");
    covered.remove("unsigned");
    let covered = try_from_json_map(covered).map_err(|_| refused("no canonical form"))?;
    let covered = CanonicalJsonValue::Object(covered).to_string();
    key.verify(covered.as_bytes(), &signature).map_err(|_| refused("the signature is wrong"))
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use serde_json::json;

    use super::*;
    use crate::{Account, testing::refusal};

    #[test]
    fn a_signature_covers_all_but_what_servers_add() {
        let (alice, phone) = (user_id!("@alice:a.test"), device_id!("PHONE"));
        let account = Account::new(alice, phone);
        let key = Ed25519PublicKey::from_base64(&account.ed25519()).unwrap();
        let signed = account.device_keys();
        let verified = |field: &str, value: Value| {
            let mut object = signed.clone();
            object[field] = value;
            verify(&object, alice, phone, &key)
        };
        verified("unsigned", json!({ "device_display_name": "phone" })).unwrap();
        assert_eq!(refusal(verified("more", json!(1))), "the signature is wrong");
        assert_eq!(refusal(verified("more", json!(1.5))), "no canonical form");
        assert_eq!(refusal(verified("signatures", json!({}))), "not signed by the device");
        let malformed = json!({ alice: { "ed25519:PHONE": "none" } });
        assert_eq!(refusal(verified("signatures", malformed)), "the signature is malformed");
        assert_eq!(refusal(verify(&json!([]), alice, phone, &key)), "not signed by the device");
    }
}
