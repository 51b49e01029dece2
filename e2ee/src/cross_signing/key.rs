//! One cross-signing key.

use bytes::Bytes;
use ruma::{
    SigningKeyAlgorithm, UserId,
    encryption::{CrossSigningKey, KeyUsage},
    serde::JsonObject,
};
use serde_json::Value;
use vodozemac::Ed25519PublicKey;

use crate::{
    E2ee, E2eeError,
    schema::CROSS_SIGNING_KEYS,
    signed::{parse_key_object, stored_object},
    verify::verify_object,
};

/// A cross-signing key of some user.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SigningKey {
    /// The key as uploaded, without `unsigned`.
    pub(crate) object: JsonObject,
    /// `ed25519:` and the public part.
    pub(crate) key_id: String,
    /// The public part in base64.
    pub(crate) public_key: String,
}

impl SigningKey {
    /// Reads a key as it came from a client or another server: it must be this user's and for this
    /// usage, and name itself by its public part. Signatures are not looked at.
    pub(crate) fn check(user_id: &UserId, usage: &KeyUsage, json: &str) -> Result<Self, E2eeError> {
        let refused = |why: &str| E2eeError::InvalidParam(format!("the {usage} key {why}"));
        let object = parse_key_object(json)?;
        let parsed: CrossSigningKey =
            serde_json::from_str(json).map_err(|error| E2eeError::BadJson(error.to_string()))?;
        if parsed.user_id != user_id {
            return Err(refused("is another user's"));
        }
        if !parsed.usage.contains(usage) {
            return Err(refused("is for another usage"));
        }
        let mut keys = parsed.keys.into_iter();
        let (Some((key_id, public_key)), None) = (keys.next(), keys.next()) else {
            return Err(refused("must have exactly one public key"));
        };
        if key_id.algorithm() != SigningKeyAlgorithm::Ed25519
            || key_id.key_name().as_str() != public_key
            || Ed25519PublicKey::from_base64(&public_key).is_err()
        {
            return Err(refused("must name an ed25519 key by its public part"));
        }
        Ok(Self { object, key_id: key_id.to_string(), public_key })
    }

    /// Reads a stored key.
    pub(crate) fn stored(json: &Bytes) -> Result<Self, E2eeError> {
        let object = stored_object(json)?;
        let mut keys = object.get("keys").and_then(Value::as_object).into_iter().flatten();
        let named = keys.next().and_then(|(id, key)| Some((id.clone(), key.as_str()?.to_owned())));
        let damaged = || E2eeError::Internal("a stored cross-signing key has no key".to_owned());
        let (key_id, public_key) = named.ok_or_else(damaged)?;
        Ok(Self { object, key_id, public_key })
    }

    /// Verifies this key's signature on an object of its user.
    pub(crate) fn verify(&self, user_id: &UserId, object: &JsonObject) -> Result<(), E2eeError> {
        verify_object(object, user_id, &self.key_id, &self.public_key)
    }
}

impl E2ee {
    /// A stored key of any user as JSON.
    pub(crate) async fn signing_key_json(
        &self,
        user_id: &UserId,
        usage: &KeyUsage,
    ) -> Result<Option<Bytes>, E2eeError> {
        let (owner, usage) = (user_id.to_owned(), usage.as_str().to_owned());
        Ok(self.store().get(&CROSS_SIGNING_KEYS, &owner, &usage).await?)
    }

    /// A stored key of any user.
    pub(crate) async fn signing_key(
        &self,
        user_id: &UserId,
        usage: &KeyUsage,
    ) -> Result<Option<SigningKey>, E2eeError> {
        let json = self.signing_key_json(user_id, usage).await?;
        json.as_ref().map(SigningKey::stored).transpose()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::signer::Signer;

    #[test]
    fn a_key_names_itself_and_its_user_and_usage() {
        let alice = user_id!("@alice:hearth.test");
        let signer = Signer::new();
        let good = signer.cross_signing_key(alice, "master");
        let check = |key: &Value| SigningKey::check(alice, &KeyUsage::Master, &key.to_string());
        let key = check(&good).unwrap();
        assert_eq!(key.public_key, signer.public_key());
        assert_eq!(SigningKey::stored(&good.to_string().into()).unwrap(), key);
        let changed = |field: &str, value: Value| {
            let mut key = good.clone();
            key[field] = value;
            key
        };
        let public = signer.public_key();
        let other = Signer::new().public_key();
        for bad in [
            changed("user_id", json!("@bob:hearth.test")),
            changed("usage", json!(["self_signing"])),
            changed("usage", json!([])),
            changed("keys", json!({})),
            changed("keys", json!({ format!("ed25519:{other}"): public })),
            changed("keys", json!({ format!("curve25519:{public}"): public })),
            changed("keys", json!({ "ed25519:AAAA": "AAAA" })),
            changed(
                "keys",
                json!({
                    format!("ed25519:{public}"): public,
                    format!("ed25519:{other}"): other,
                }),
            ),
        ] {
            let refused = check(&bad);
            let expected =
                matches!(refused, Err(E2eeError::InvalidParam(_) | E2eeError::BadJson(_)));
            assert!(expected, "{bad}: {refused:?}");
        }
        let large = changed("padding", json!("x".repeat(40_000)));
        assert!(matches!(check(&large), Err(E2eeError::TooLarge(_))));
    }
}
