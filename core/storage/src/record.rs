//! Values: a version byte, then the record.

use bytes::Bytes;
use hearth_types::StreamPosition;

/// Bytes that are not a record of the expected type.
#[derive(Debug, thiserror::Error)]
#[error("malformed record: {0}")]
pub struct RecordError(pub String);

/// A value being built: bytes, and the places where the committer writes positions.
pub use crate::codec::KeyEncoder as ValueEncoder;

/// A value of a keyspace. Small records are postcard behind a version byte: see
/// [`postcard_record!`](crate::postcard_record). `()`, `Bytes` and `StreamPosition` are records too.
pub trait Record: Sized {
    /// Appends the record.
    fn encode(&self, out: &mut ValueEncoder) -> Result<(), RecordError>;
    /// Reads a whole value.
    fn decode(bytes: &Bytes) -> Result<Self, RecordError>;
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

/// Implements [`Record`] for a serde type: one version byte, then postcard.
#[macro_export]
macro_rules! postcard_record {
    ($type:ty, version = $version:literal) => {
        impl $crate::Record for $type {
            fn encode(&self, out: &mut $crate::KeyEncoder) -> Result<(), $crate::RecordError> {
                $crate::record_encode($version, self, out)
            }
            fn decode(bytes: &::bytes::Bytes) -> Result<Self, $crate::RecordError> {
                $crate::record_decode($version, bytes)
            }
        }
    };
}

#[doc(hidden)]
pub fn record_encode<T: serde::Serialize>(
    version: u8,
    record: &T,
    out: &mut ValueEncoder,
) -> Result<(), RecordError> {
    todo!()
}

#[doc(hidden)]
pub fn record_decode<T: serde::de::DeserializeOwned>(
    version: u8,
    bytes: &Bytes,
) -> Result<T, RecordError> {
    todo!()
}
