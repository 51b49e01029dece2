//! Values: a version byte, then the record.

use bytes::Bytes;
use hearth_types::StreamPosition;
use postcard::ser_flavors::Flavor;

use crate::{KeyDecoder, KeyError, KeyPart};

/// Bytes that are not a record of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("malformed record: {0}")]
pub struct RecordError(pub String);

impl From<KeyError> for RecordError {
    fn from(error: KeyError) -> Self {
        Self(error.0.to_owned())
    }
}

// A value being built has positions to fill in as a key has.
pub(crate) use crate::codec::KeyEncoder as ValueEncoder;

/// A value of a keyspace. Small records are postcard behind a version byte: see
/// [`postcard_record!`](crate::postcard_record). `()`, `Bytes` and `StreamPosition` are records too.
pub trait Record: Sized {
    /// Appends the record.
    fn encode(&self, out: &mut ValueEncoder) -> Result<(), RecordError>;
    /// Reads a whole value.
    fn decode(bytes: &Bytes) -> Result<Self, RecordError>;
}

impl Record for () {
    fn encode(&self, _: &mut ValueEncoder) -> Result<(), RecordError> {
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        Ok(KeyDecoder::new(bytes).finish()?)
    }
}

impl Record for Bytes {
    fn encode(&self, out: &mut ValueEncoder) -> Result<(), RecordError> {
        out.extend(self);
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        Ok(bytes.clone())
    }
}

impl Record for StreamPosition {
    fn encode(&self, out: &mut ValueEncoder) -> Result<(), RecordError> {
        out.position(*self);
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let mut input = KeyDecoder::new(bytes);
        let position = KeyPart::decode(&mut input)?;
        input.finish()?;
        Ok(position)
    }
}

/// A record with the position of the change that wrote it, possibly
/// [pending](StreamPosition::pending).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positioned<T> {
    /// When the row was last written.
    pub position: StreamPosition,
    /// The row itself.
    pub record: T,
}

impl<T: Record> Record for Positioned<T> {
    fn encode(&self, out: &mut ValueEncoder) -> Result<(), RecordError> {
        out.position(self.position);
        self.record.encode(out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let position = KeyPart::decode(&mut KeyDecoder::new(bytes))?;
        Ok(Self { position, record: T::decode(&bytes.slice(size_of::<u64>()..))? })
    }
}

/// Implements [`Record`] for a serde type: one version byte, then postcard.
#[macro_export]
macro_rules! postcard_record {
    ($type:ty, version = $version:literal) => {
        impl $crate::Record for $type {
            fn encode(&self, out: &mut $crate::KeyEncoder) -> Result<(), $crate::RecordError> {
                $crate::record_encode($version, self, out)
            }
            fn decode(bytes: &$crate::bytes::Bytes) -> Result<Self, $crate::RecordError> {
                $crate::record_decode($version, bytes)
            }
        }
    };
}

/// Postcard's way into a buffer that already holds something.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[doc(hidden)]
pub fn record_encode<T: serde::Serialize>(
    version: u8,
    record: &T,
    out: &mut ValueEncoder,
) -> Result<(), RecordError> {
    out.bytes.push(version);
    postcard::serialize_with_flavor(record, Append(&mut out.bytes))
        .map_err(|error| RecordError(error.to_string()))
}

#[doc(hidden)]
pub fn record_decode<T: serde::de::DeserializeOwned>(
    version: u8,
    bytes: &Bytes,
) -> Result<T, RecordError> {
    let (found, rest) = bytes.split_first().ok_or_else(|| RecordError("empty".to_owned()))?;
    if *found != version {
        return Err(RecordError(format!("version {found} where {version} is known")));
    }
    match postcard::take_from_bytes(rest) {
        Ok((record, [])) => Ok(record),
        Ok(_) => Err(RecordError("trailing bytes".to_owned())),
        Err(error) => Err(RecordError(error.to_string())),
    }
}
