//! Signatures on JSON objects, verified with vodozemac (Appendices "Signing JSON").

use ruma::{UserId, canonical_json::try_from_json_map};
use serde_json::{Map, Value};
use vodozemac::{Ed25519PublicKey, Ed25519Signature};

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
    let refused = |why: &str| {
        E2eeError::InvalidSignature(format!("the signature of {user_id} by {key_id} {why}"))
    };
    let signature = object
        .get("signatures")
        .and_then(|signatures| signatures.get(user_id.as_str()))
        .and_then(|of_user| of_user.get(key_id))
        .and_then(Value::as_str)
        .ok_or_else(|| refused("is missing"))?;
    let signature = Ed25519Signature::from_base64(signature)
        .map_err(|_| refused("is not a signature in unpadded base64"))?;
    let public_key = Ed25519PublicKey::from_base64(public_key)
        .map_err(|_| refused("cannot be verified: the key is not one in unpadded base64"))?;
    let message = signed_bytes(object).map_err(|why| refused(&why))?;
    public_key.verify(&message, &signature).map_err(|_| refused("does not verify"))
}

/// What a signature on an object covers: its canonical form without `signatures` and `unsigned`.
fn signed_bytes(object: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let covered = object
        .iter()
        .filter(|(field, _)| !matches!(field.as_str(), "signatures" | "unsigned"))
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    let canonical = try_from_json_map(covered)
        .map_err(|error| format!("is on an object without a canonical form: {error}"))?;
    serde_json::to_vec(&canonical).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;
    use vodozemac::Ed25519SecretKey;

    use super::*;

    /// The appendix's example of a signed object, whose key's seed is published there. (There it ends in
    /// bits that encode nothing, which vodozemac does not take.)
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
    const SIGNATURE: &str =
        "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw";

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    fn signed(signature: &str) -> Map<String, Value> {
        object(json!({
            "one": 1,
            "two": "Two",
            "signatures": { "@domain:hearth.test": { "ed25519:1": signature } },
            "unsigned": { "weight": 1.5 },
        }))
    }

    fn public_key() -> String {
        Ed25519SecretKey::from_base64(SEED).unwrap().public_key().to_base64()
    }

    #[test]
    fn the_example_of_the_specification_verifies() {
        let user_id = user_id!("@domain:hearth.test");
        verify_object(&signed(SIGNATURE), user_id, "ed25519:1", &public_key()).unwrap();
    }

    #[test]
    fn what_does_not_verify_is_refused() {
        let user_id = user_id!("@domain:hearth.test");
        let refused = |object: &Map<String, Value>, user_id: &UserId, key_id, public_key: &str| {
            let result = verify_object(object, user_id, key_id, public_key);
            assert!(matches!(result, Err(E2eeError::InvalidSignature(_))), "{result:?}");
        };
        let good = signed(SIGNATURE);
        let (id, key) = ("ed25519:1", public_key());
        let mut changed = good.clone();
        changed.insert("one".to_owned(), json!(2));
        refused(&changed, user_id, id, &key);
        let mut more = good.clone();
        more.insert("three".to_owned(), json!(3));
        refused(&more, user_id, id, &key);
        let mut fraction = good.clone();
        fraction.insert("one".to_owned(), json!(1.5));
        refused(&fraction, user_id, id, &key);
        refused(&good, user_id!("@other:hearth.test"), id, &key);
        refused(&good, user_id, "ed25519:2", &key);
        let other = Ed25519SecretKey::new();
        refused(&good, user_id, id, &other.public_key().to_base64());
        refused(&good, user_id, id, "no key");
        refused(&signed("no signature"), user_id, id, &key);
        refused(&signed(&other.sign(b"something else").to_base64()), user_id, id, &key);
        refused(&object(json!({ "signatures": [] })), user_id, id, &key);
    }
}
