//! Keys: typed structs, one order-preserving encoding.
//!
//! Integers are big-endian and of fixed width. Strings are their bytes with 0x00 escaped as 0x00 0xFF
//! and end in 0x00 0x01, so that a string sorts before its extensions and composite keys sort by
//! component. The order of encoded keys is the order of the parts.

use hearth_types::StreamPosition;
use ruma::{
    OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedTransactionId, OwnedUserId,
};

/// Ends a string.
const STRING_END: [u8; 2] = [0x00, 0x01];
/// Stands for 0x00 inside a string.
const STRING_NUL: [u8; 2] = [0x00, 0xFF];

/// A key (or a value) being built: bytes, and the places where the committer writes positions.
#[derive(Clone, Debug, Default)]
pub struct KeyEncoder {
    pub(crate) bytes: Vec<u8>,
    /// (offset in `bytes`, index of the position within the commit)
    pub(crate) slots: Vec<(u32, u32)>,
}

impl KeyEncoder {
    /// Appends raw bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a position: 8 bytes, big-endian. A pending one is filled in by the committer.
    pub fn position(&mut self, position: StreamPosition) {
        if let Some(index) = position.pending_index() {
            // A pending index comes from a `u32`; an offset beyond `u32` fails the size limits first.
            let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
            self.slots.push((offset, u32::try_from(index).unwrap_or(u32::MAX)));
        }
        self.extend(&position.get().to_be_bytes());
    }

    /// What is written so far, with pending positions as they are.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes are written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Is nothing written yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A key (or the front of a value) being read.
#[derive(Debug)]
pub struct KeyDecoder<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> KeyDecoder<'a> {
    /// A decoder of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads this many bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], KeyError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(KeyError("too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(KeyError("too short"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Fails if something is left.
    pub fn finish(&self) -> Result<(), KeyError> {
        if self.rest.is_empty() { Ok(()) } else { Err(KeyError("trailing bytes")) }
    }
}

/// Bytes that are not a key of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("malformed key: {0}")]
pub struct KeyError(pub &'static str);

/// A component of a key. Tuples of parts are parts; `()` is the empty part.
///
/// Implemented for unsigned integers, `bool`, `String`, byte arrays, [`StreamPosition`], `Option`,
/// ruma's owned identifiers (room, user, event, device, alias, server name, transaction) and tuples of
/// up to five parts. No encoded part may be the beginning of another value's encoding.
pub trait KeyPart: Sized {
    /// Appends this part.
    fn encode(&self, out: &mut KeyEncoder);
    /// Reads this part off the front.
    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError>;
}

macro_rules! integer_parts {
    ($($integer:ty),*) => {$(
        impl KeyPart for $integer {
            fn encode(&self, out: &mut KeyEncoder) {
                out.extend(&self.to_be_bytes());
            }
            fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
                Ok(Self::from_be_bytes(input.array()?))
            }
        }
    )*};
}
integer_parts!(u8, u16, u32, u64);

impl KeyPart for bool {
    fn encode(&self, out: &mut KeyEncoder) {
        u8::from(*self).encode(out);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(KeyError("neither false nor true")),
        }
    }
}

impl<const N: usize> KeyPart for [u8; N] {
    fn encode(&self, out: &mut KeyEncoder) {
        out.extend(self);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        input.array()
    }
}

impl KeyPart for StreamPosition {
    fn encode(&self, out: &mut KeyEncoder) {
        out.position(*self);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        Ok(Self::new(u64::decode(input)?))
    }
}

fn encode_text(text: &str, out: &mut KeyEncoder) {
    if text.as_bytes().contains(&0) {
        for byte in text.bytes() {
            if byte == 0 { out.extend(&STRING_NUL) } else { out.bytes.push(byte) }
        }
    } else {
        out.extend(text.as_bytes());
    }
    out.extend(&STRING_END);
}

fn decode_text(input: &mut KeyDecoder<'_>) -> Result<String, KeyError> {
    let mut text = Vec::new();
    loop {
        let plain = input.rest.iter().position(|byte| *byte == 0);
        text.extend_from_slice(input.take(plain.ok_or(KeyError("unterminated string"))?)?);
        match input.array::<2>()? {
            STRING_END => break,
            STRING_NUL => text.push(0),
            _ => return Err(KeyError("unknown escape in a string")),
        }
    }
    String::from_utf8(text).map_err(|_| KeyError("a string that is not UTF-8"))
}

impl KeyPart for String {
    fn encode(&self, out: &mut KeyEncoder) {
        encode_text(self, out);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        decode_text(input)
    }
}

macro_rules! identifier_parts {
    ($($identifier:ty),*) => {$(
        impl KeyPart for $identifier {
            fn encode(&self, out: &mut KeyEncoder) {
                encode_text(self.as_str(), out);
            }
            fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
                Self::try_from(decode_text(input)?)
                    .map_err(|_| KeyError(concat!("not a valid ", stringify!($identifier))))
            }
        }
    )*};
}
identifier_parts!(OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId);

macro_rules! opaque_identifier_parts {
    ($($identifier:ty),*) => {$(
        impl KeyPart for $identifier {
            fn encode(&self, out: &mut KeyEncoder) {
                encode_text(self.as_str(), out);
            }
            fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
                Ok(Self::from(decode_text(input)?))
            }
        }
    )*};
}
opaque_identifier_parts!(OwnedDeviceId, OwnedTransactionId);

impl<T: KeyPart> KeyPart for Option<T> {
    fn encode(&self, out: &mut KeyEncoder) {
        match self {
            None => out.bytes.push(0),
            Some(part) => {
                out.bytes.push(1);
                part.encode(out);
            }
        }
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        if bool::decode(input)? { T::decode(input).map(Some) } else { Ok(None) }
    }
}

impl KeyPart for () {
    fn encode(&self, _: &mut KeyEncoder) {}

    fn decode(_: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        Ok(())
    }
}

macro_rules! tuple_parts {
    ($($part:ident $index:tt),*) => {
        impl<$($part: KeyPart),*> KeyPart for ($($part,)*) {
            fn encode(&self, out: &mut KeyEncoder) {
                $(self.$index.encode(out);)*
            }
            fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
                Ok(($($part::decode(input)?,)*))
            }
        }
    };
}
tuple_parts!(A 0);
tuple_parts!(A 0, B 1);
tuple_parts!(A 0, B 1, C 2);
tuple_parts!(A 0, B 1, C 2, D 3);
tuple_parts!(A 0, B 1, C 2, D 3, E 4);
