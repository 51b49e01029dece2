//! The name of bytes.

use std::fmt;

use hearth_storage::{KeyDecoder, KeyEncoder, KeyError, KeyPart};
use serde::{Deserialize, Serialize};

/// The SHA-256 of bytes; shown as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ContentHash([u8; 32]);

impl ContentHash {
    pub(crate) const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The first two digits, which name the folder that the bytes are in.
    pub(crate) fn shard(&self) -> String {
        let [first, ..] = self.0;
        format!("{first:02x}")
    }

    /// The hash that is written so, in lower-case digits and in no other way.
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        let mut digest = [0; 32];
        let pairs = digits.as_bytes().chunks(2);
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        let hash = Self(digest);
        (hash.to_string() == digits).then_some(hash)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl KeyPart for ContentHash {
    fn encode(&self, out: &mut KeyEncoder) {
        KeyPart::encode(&self.0, out);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        <[u8; 32] as KeyPart>::decode(input).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_in_one_way() {
        let hash = ContentHash::new(std::array::from_fn(|index| u8::try_from(index * 7).unwrap()));
        assert_eq!(hash.shard(), "00");
        assert_eq!(ContentHash::parse(&hash.to_string()), Some(hash));
        let digits = hash.to_string();
        let wrong = [
            String::new(),
            digits.to_uppercase(),
            digits[2..].to_owned(),
            format!("{digits}00"),
            format!("+{}", &digits[1..]),
            format!("é{}", &digits[2..]),
        ];
        for wrong in wrong {
            assert_eq!(ContentHash::parse(&wrong), None, "{wrong}");
        }
    }
}
