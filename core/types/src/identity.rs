//! Who this server is.

use std::fmt;

use ruma::{OwnedServerName, ServerName, UserId, signatures::Ed25519KeyPair};

/// This server's name and the key that signs its events.
pub struct ServerIdentity {
    server_name: OwnedServerName,
    key_pair: Ed25519KeyPair,
}

/// A signing key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the signing key is not a valid Ed25519 key in PKCS#8 form: {0}")]
pub struct IdentityError(String);

impl ServerIdentity {
    /// An identity from a key in PKCS#8 DER, as [`generate_key`](Self::generate_key) makes them.
    /// `key_version` is the part after `ed25519:` in the key's ID.
    pub fn from_der(
        server_name: OwnedServerName,
        key_der: &[u8],
        key_version: String,
    ) -> Result<Self, IdentityError> {
        let key_pair = Ed25519KeyPair::from_der(key_der, key_version)
            .map_err(|error| IdentityError(error.to_string()))?;
        Ok(Self { server_name, key_pair })
    }

    /// A fresh private key in PKCS#8 DER. The caller must keep it secret.
    #[must_use]
    pub fn generate_key() -> Vec<u8> {
        Ed25519KeyPair::generate().to_vec()
    }

    /// The name that ends this server's user IDs.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key that signs this server's events.
    #[must_use]
    pub fn key_pair(&self) -> &Ed25519KeyPair {
        &self.key_pair
    }

    /// Does this user have their account here?
    #[must_use]
    pub fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.server_name
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("server_name", &self.server_name)
            .field("key_version", &self.key_pair.version())
            .finish_non_exhaustive()
    }
}
