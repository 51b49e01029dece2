//! Content URIs (CS "Matrix Content URIs").

use std::fmt;

use rand::{TryRng, rngs::SysRng};
use ruma::{OwnedMxcUri, OwnedServerName, ServerName};

use crate::MediaError;

/// Characters of a media ID made here: 142 random bits, which nobody guesses.
const ID_CHARS: usize = 24;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Stands between an item and which thumbnail of it. Media IDs have no such character.
pub(crate) const THUMBNAIL_MARK: char = '/';
/// The longest media ID of another server that is looked for.
const MAX_ID_BYTES: usize = 255;

/// A content URI whose parts have the form that the specification gives them: no part of it can be a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentUri {
    server_name: OwnedServerName,
    media_id: String,
}

impl ContentUri {
    /// The URI of this server's name and media ID; `None` if the ID has other characters than letters, digits,
    /// `_` and `-`, or too many or none.
    #[must_use]
    pub fn new(server_name: OwnedServerName, media_id: String) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let valid = (1..=MAX_ID_BYTES).contains(&media_id.len()) && media_id.bytes().all(allowed);
        valid.then_some(Self { server_name, media_id })
    }

    /// A URI that nobody has had before, with a random media ID of letters and digits.
    pub(crate) fn random(server_name: &ServerName) -> Result<Self, MediaError> {
        let media_id = random_text(ID_CHARS)?;
        Ok(Self { server_name: server_name.to_owned(), media_id })
    }

    /// What a thumbnail of this is filed under. Nobody can ask for it by that name.
    pub(crate) fn thumbnail(&self, variant: &str) -> Self {
        let media_id = thumbnail_id(&self.media_id, variant);
        Self { server_name: self.server_name.clone(), media_id }
    }

    /// The server that the content is from.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// What the server calls it.
    #[must_use]
    pub fn media_id(&self) -> &str {
        &self.media_id
    }

    /// The URI as it is written.
    #[must_use]
    pub fn to_mxc(&self) -> OwnedMxcUri {
        OwnedMxcUri::from(self.to_string())
    }

    /// The partition of the item's row.
    pub(crate) fn key(&self) -> (OwnedServerName, String) {
        (self.server_name.clone(), self.media_id.clone())
    }
}

impl fmt::Display for ContentUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mxc://{}/{}", self.server_name, self.media_id)
    }
}

impl fmt::Debug for ContentUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name that a thumbnail of an item is filed under.
pub(crate) fn thumbnail_id(media_id: &str, variant: &str) -> String {
    format!("{media_id}{THUMBNAIL_MARK}{variant}")
}

/// Random letters and digits from the operating system, each as likely as any other.
pub(crate) fn random_text(length: usize) -> Result<String, MediaError> {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; ID_CHARS];
        SysRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| MediaError::Internal(format!("no randomness: {error}")))?;
        // Of 64 values two mean nothing, so that no character comes more often.
        let chars = bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 63)));
        text.extend(chars.map(|byte| char::from(*byte)).take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ruma::{owned_server_name, server_name};

    use super::*;

    #[test]
    fn no_part_of_it_can_be_a_path() {
        let uri = |id: &str| ContentUri::new(owned_server_name!("a.example"), id.to_owned());
        assert_eq!(uri("aZ09_-").unwrap().to_string(), "mxc://a.example/aZ09_-");
        let long = "a".repeat(MAX_ID_BYTES + 1);
        for wrong in ["", ".", "..", "a/b", "a\\b", "a%2fb", "é", "a b", "a\0", "a.b", &long] {
            assert_eq!(uri(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn made_ones_are_letters_and_digits_and_all_different() {
        let made: BTreeSet<_> =
            (0..1_000).map(|_| ContentUri::random(server_name!("a.example")).unwrap()).collect();
        assert_eq!(made.len(), 1_000);
        for uri in &made {
            assert_eq!(uri.media_id().len(), ID_CHARS);
            assert!(uri.media_id().bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert!(uri.to_mxc().is_valid());
        }
        let used: BTreeSet<_> = made.iter().flat_map(|uri| uri.media_id().bytes()).collect();
        assert_eq!(used.len(), ALPHABET.len());
    }
}
