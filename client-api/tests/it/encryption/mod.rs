//! End-to-end encryption: `/keys` and what syncs tell of it.

mod keys;

use hearth_testkit::TestUser;
use ruma::canonical_json::to_canonical_value;
use serde_json::{Value, json};
use vodozemac::olm::Account;

/// The Olm account of a device.
pub(crate) struct Olm<'a> {
    user: &'a TestUser,
    pub(crate) account: Account,
}

impl<'a> Olm<'a> {
    pub(crate) fn new(user: &'a TestUser) -> Self {
        Self { user, account: Account::new() }
    }

    /// The object with the device's signature.
    pub(crate) fn sign(&self, mut object: Value) -> Value {
        let canonical = to_canonical_value(object.clone()).unwrap().to_string();
        let signature = self.account.sign(canonical.as_bytes()).to_base64();
        let key_id = format!("ed25519:{}", self.user.device_id);
        object["signatures"] = json!({ &self.user.user_id: { key_id: signature } });
        object
    }

    pub(crate) fn device_keys(&self) -> Value {
        let keys = self.account.identity_keys();
        let device_id = &self.user.device_id;
        self.sign(json!({
            "user_id": self.user.user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{device_id}"): keys.ed25519.to_base64(),
                format!("curve25519:{device_id}"): keys.curve25519.to_base64(),
            },
        }))
    }

    /// Fresh one-time keys, by ID.
    pub(crate) fn one_time_keys(&mut self, count: usize) -> Value {
        self.account.mark_keys_as_published();
        self.account.generate_one_time_keys(count);
        let keys = self.account.one_time_keys().into_iter().map(|(id, key)| {
            let key = self.sign(json!({ "key": key.to_base64() }));
            (format!("signed_curve25519:{}", id.to_base64()), key)
        });
        Value::Object(keys.collect())
    }

    /// A fresh fallback key, by ID.
    pub(crate) fn fallback_key(&mut self) -> Value {
        self.account.mark_keys_as_published();
        self.account.generate_fallback_key();
        let keys = self.account.fallback_key().into_iter().map(|(id, key)| {
            let key = self.sign(json!({ "key": key.to_base64(), "fallback": true }));
            (format!("signed_curve25519:{}", id.to_base64()), key)
        });
        Value::Object(keys.collect())
    }
}
