//! Key pairs that sign as clients do (Appendices "Signing JSON").

use ruma::{CanonicalJsonObject, DeviceId, UserId};
use serde_json::{Value, json};
use vodozemac::Ed25519SecretKey;

/// The key of a device, or a cross-signing key.
#[derive(Default)]
pub struct ClientKey(Ed25519SecretKey);

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientKey").field(&self.public_key()).finish()
    }
}

impl ClientKey {
    /// Another key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Its public part in base64.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.0.public_key().to_base64()
    }

    /// Its ID as a cross-signing key.
    #[must_use]
    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.public_key())
    }

    /// Signs an object in a user's name, under this key ID.
    pub fn sign_as(&self, object: &mut Value, user_id: &UserId, key_id: &str) {
        let mut covered = object.clone();
        if let Some(fields) = covered.as_object_mut() {
            fields.remove("signatures");
            fields.remove("unsigned");
        }
        let canonical: CanonicalJsonObject = serde_json::from_value(covered).expect("an object");
        let json = serde_json::to_vec(&canonical).expect("JSON");
        object["signatures"][user_id.as_str()][key_id] = self.0.sign(&json).to_base64().into();
    }

    /// Signs an object as a cross-signing key does.
    pub fn sign(&self, object: &mut Value, user_id: &UserId) {
        self.sign_as(object, user_id, &self.key_id());
    }

    /// This key as a user's cross-signing key of this usage, unsigned.
    #[must_use]
    pub fn cross_signing_key(&self, user_id: &UserId, usage: &str) -> Value {
        json!({
            "user_id": user_id,
            "usage": [usage],
            "keys": { self.key_id(): self.public_key() },
        })
    }

    /// The keys of a device that signs with this one.
    #[must_use]
    pub fn device_keys(&self, user_id: &UserId, device_id: &DeviceId) -> Value {
        let mut keys = json!({
            "user_id": user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("curve25519:{device_id}"): self.public_key(),
                format!("ed25519:{device_id}"): self.public_key(),
            },
        });
        self.sign_as(&mut keys, user_id, &format!("ed25519:{device_id}"));
        keys
    }
}
