//! Keys: typed structs, one order-preserving encoding.
//!
//! Integers are big-endian and of fixed width. Strings are their bytes with 0x00 escaped as 0x00 0xFF
//! and end in 0x00 0x01, so that a string sorts before its extensions and composite keys sort by
//! component. The order of encoded keys is the order of the parts.

use hearth_types::StreamPosition;

/// A key being built: bytes, and the places where the committer writes positions.
#[derive(Clone, Debug, Default)]
pub struct KeyEncoder {
    pub(crate) bytes: Vec<u8>,
    /// (offset in `bytes`, index of the position within the commit)
    pub(crate) slots: Vec<(u32, u32)>,
}

/// A key being read.
#[derive(Debug)]
pub struct KeyDecoder<'a> {
    pub(crate) rest: &'a [u8],
}

/// Bytes that are not a key of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("malformed key: {0}")]
pub struct KeyError(pub &'static str);

/// A component of a key. Tuples of parts are parts; `()` is the empty part.
///
/// Implemented for `u8`, `u32`, `u64`, `bool`, `String`, [`StreamPosition`], ruma's owned identifiers
/// (room, user, event, device, alias, server name, transaction) and tuples of up to five parts.
pub trait KeyPart: Sized {
    /// Appends this part.
    fn encode(&self, out: &mut KeyEncoder);
    /// Reads this part off the front.
    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError>;
}
