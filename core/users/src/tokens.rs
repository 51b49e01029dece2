//! Secrets that this server hands out, and the hashes that it keeps of them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hearth_storage::{KeyDecoder, KeyEncoder, KeyError, KeyPart};
use rand::{TryRng, rngs::SysRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::UsersError;

/// The SHA-256 of a token: all that is stored of it. Tokens hold 256 random bits, so that a plain
/// hash cannot be reversed by guessing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token as a client sends it.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl KeyPart for TokenHash {
    fn encode(&self, out: &mut KeyEncoder) {
        KeyPart::encode(&self.0, out);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        <[u8; 32] as KeyPart>::decode(input).map(Self)
    }
}

/// Random bytes from the operating system.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], UsersError> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| UsersError::Internal(format!("no randomness: {error}")))?;
    Ok(bytes)
}

/// A fresh token of 256 random bits. The prefix tells people what they found in a log or a file.
pub(crate) fn new_token(prefix: &str) -> Result<String, UsersError> {
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()?)))
}

/// A fresh identifier of 10 capital letters, for devices.
pub(crate) fn new_device_id() -> Result<String, UsersError> {
    let letters = random_bytes::<10>()?.map(|byte| char::from(b'A' + byte % 26));
    Ok(letters.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_hash_alike() {
        let (one, other) = (new_token("ha_").unwrap(), new_token("ha_").unwrap());
        assert_ne!(one, other);
        assert!(one.starts_with("ha_") && one.len() == 46);
        assert_eq!(TokenHash::of(&one), TokenHash::of(&one.clone()));
        assert_ne!(TokenHash::of(&one), TokenHash::of(&other));
    }

    #[test]
    fn device_ids_are_capital_letters() {
        let device_id = new_device_id().unwrap();
        assert_eq!(device_id.len(), 10);
        assert!(device_id.bytes().all(|byte| byte.is_ascii_uppercase()));
    }
}
