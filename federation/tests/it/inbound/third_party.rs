//! An identity server that is only a key.

use hearth_types::ServerIdentity;
use ruma::{
    CanonicalJsonObject, UserId, owned_server_name,
    serde::{Base64, base64::Standard},
    signatures::sign_json,
};
use serde_json::{Value, json};

/// The key.
pub(crate) struct Identity(ServerIdentity);

impl Identity {
    pub(crate) fn new() -> Self {
        let key = ServerIdentity::generate_key();
        let name = owned_server_name!("id.test");
        Self(ServerIdentity::from_der(name, &key, "0".to_owned()).unwrap())
    }

    /// The public half.
    pub(crate) fn key(&self) -> String {
        Base64::<Standard>::new(self.0.key_pair().public_key().to_vec()).encode()
    }

    /// Its word that the address of an invitation is this user's.
    pub(crate) fn sign(&self, user_id: &UserId, token: &str) -> Value {
        let signed = json!({ "mxid": user_id, "token": token });
        let mut signed: CanonicalJsonObject = serde_json::from_value(signed).unwrap();
        sign_json("id.test", self.0.key_pair(), &mut signed).unwrap();
        serde_json::to_value(signed).unwrap()
    }
}
