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

    fn words(self) -> [u64; 4] {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(self.0.as_chunks::<8>().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        words
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl KeyPart for TokenHash {
    fn encode(&self, out: &mut KeyEncoder) {
        todo!()
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        todo!()
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
