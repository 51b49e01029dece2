//! How the records that are not plain postcard are written.

use hearth_storage::{KeyEncoder, KeyPart, RecordError};
use hearth_types::StreamPosition;

use super::TimelineIndex;

/// The version byte of the records that are not plain postcard.
pub(super) const ROW_VERSION: u8 = 1;

/// An encoding error as the storage crate wants it.
pub(super) fn damaged(error: impl std::fmt::Display) -> RecordError {
    RecordError(error.to_string())
}

/// A place in the timeline as a field of a record: the committer fills in a pending position.
pub(super) fn encode_index(index: Option<TimelineIndex>, out: &mut KeyEncoder) {
    match index {
        None => 0_u8.encode(out),
        Some(TimelineIndex::Live(position)) => {
            2_u8.encode(out);
            KeyPart::encode(&position, out);
        }
        Some(TimelineIndex::History { before, distance }) => {
            3_u8.encode(out);
            KeyPart::encode(&before, out);
            distance.encode(out);
        }
    }
}

/// Reads fixed-width fields off the front of a record.
pub(super) struct FieldReader<'a> {
    bytes: &'a [u8],
    pub(super) offset: usize,
}

impl<'a> FieldReader<'a> {
    /// Starts behind the version byte.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        match bytes.first() {
            Some(&ROW_VERSION) => Ok(Self { bytes, offset: 1 }),
            Some(other) => Err(RecordError(format!("unknown version {other}"))),
            None => Err(RecordError("empty".to_owned())),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let end = self.offset.saturating_add(length);
        let taken =
            self.bytes.get(self.offset..end).ok_or_else(|| RecordError("too short".to_owned()))?;
        self.offset = end;
        Ok(taken)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    pub(super) fn u32(&mut self) -> Result<u32, RecordError> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(damaged)
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(damaged)
    }

    pub(super) fn position(&mut self) -> Result<StreamPosition, RecordError> {
        self.u64().map(StreamPosition::new)
    }

    pub(super) fn index(&mut self) -> Result<Option<TimelineIndex>, RecordError> {
        match self.take(1)? {
            [0] => Ok(None),
            [2] => Ok(Some(TimelineIndex::Live(self.position()?))),
            [3] => {
                Ok(Some(TimelineIndex::History { before: self.position()?, distance: self.u64()? }))
            }
            _ => Err(RecordError("unknown kind of index".to_owned())),
        }
    }
}
