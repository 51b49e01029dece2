//! The keys that a device has of its own.

use std::{collections::HashMap, fmt};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
};
use serde_json::{Map, Value, json};
use vodozemac::{Curve25519PublicKey, KeyId, olm};

use crate::{MEGOLM, OLM, SIGNED_CURVE25519};

/// A device's Olm account: what it is known by, what it signs with, and the keys that it offers to those
/// who want to start a session. Makes the objects that `/keys/upload` takes.
pub struct Account {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    pub(crate) olm: olm::Account,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("user_id", &self.user_id)
            .field("device_id", &self.device_id)
            .finish_non_exhaustive()
    }
}

impl Account {
    /// New keys for this device of this user.
    #[must_use]
    pub fn new(user_id: &UserId, device_id: &DeviceId) -> Self {
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        Self { user_id, device_id, olm: olm::Account::new() }
    }

    /// Whose device it is.
    #[must_use]
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The device's ID.
    #[must_use]
    pub fn device_id(&self) -> &DeviceId {
        &self.device_id
    }

    /// The key that others encrypt to, in base64.
    #[must_use]
    pub fn curve25519(&self) -> String {
        self.olm.curve25519_key().to_base64()
    }

    /// The key that it signs with, in base64.
    #[must_use]
    pub fn ed25519(&self) -> String {
        self.olm.ed25519_key().to_base64()
    }

    /// Its device keys, signed.
    #[must_use]
    pub fn device_keys(&self) -> Value {
        let algorithms = [OLM, MEGOLM].map(CanonicalJsonValue::from).to_vec();
        let keys = object([
            (&format!("ed25519:{}", self.device_id), self.ed25519().into()),
            (&format!("curve25519:{}", self.device_id), self.curve25519().into()),
        ]);
        self.signed(object([
            ("user_id", self.user_id.as_str().into()),
            ("device_id", self.device_id.as_str().into()),
            ("algorithms", algorithms.into()),
            ("keys", keys.into()),
        ]))
    }

    /// So many one-time keys that nobody has seen yet, signed, by ID.
    pub fn one_time_keys(&mut self, count: usize) -> Value {
        self.olm.mark_keys_as_published();
        self.olm.generate_one_time_keys(count);
        self.offered(self.olm.one_time_keys(), false)
    }

    /// A new fallback key, signed, by ID. The one before stays usable, for messages on their way.
    pub fn fallback_key(&mut self) -> Value {
        self.olm.mark_keys_as_published();
        self.olm.generate_fallback_key();
        self.offered(self.olm.fallback_key(), true)
    }

    fn offered(&self, keys: HashMap<KeyId, Curve25519PublicKey>, fallback: bool) -> Value {
        let signed = |key: Curve25519PublicKey| {
            let mut key = object([("key", key.to_base64().into())]);
            if fallback {
                key.insert("fallback".to_owned(), true.into());
            }
            self.signed(key)
        };
        let named = |id: KeyId| format!("{SIGNED_CURVE25519}:{}", id.to_base64());
        keys.into_iter().map(|(id, key)| (named(id), signed(key))).collect::<Map<_, _>>().into()
    }

    /// The object with this device's signature.
    fn signed(&self, object: CanonicalJsonObject) -> Value {
        let object = CanonicalJsonValue::Object(object);
        let signature = self.olm.sign(object.to_string()).to_base64();
        let mut object = Value::from(object);
        if let Value::Object(fields) = &mut object {
            let by_device = json!({ format!("ed25519:{}", self.device_id): signature });
            fields.insert("signatures".to_owned(), json!({ &self.user_id: by_device }));
        }
        object
    }
}

fn object<const N: usize>(fields: [(&str, CanonicalJsonValue); N]) -> CanonicalJsonObject {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use vodozemac::Ed25519PublicKey;

    use super::*;
    use crate::signed::verify;

    #[test]
    fn keys_are_offered_once_and_signed() {
        let (alice, phone) = (user_id!("@alice:a.test"), device_id!("PHONE"));
        let mut account = Account::new(alice, phone);
        let signs = Ed25519PublicKey::from_base64(&account.ed25519()).unwrap();
        let offered = [account.one_time_keys(3), account.one_time_keys(2), account.fallback_key()];
        let mut seen = Map::new();
        for (keys, (count, fallback)) in offered.iter().zip([(3, false), (2, false), (1, true)]) {
            let keys = keys.as_object().unwrap();
            assert_eq!(keys.len(), count);
            for (id, key) in keys {
                assert!(id.starts_with("signed_curve25519:"));
                assert_eq!(key.get("fallback").is_some(), fallback);
                verify(key, alice, phone, &signs).unwrap();
                // Fallback keys are counted apart.
                assert_eq!(seen.insert(format!("{id} {fallback}"), key.clone()), None);
            }
        }
        assert_eq!(account.one_time_keys(0), json!({}));
    }
}
