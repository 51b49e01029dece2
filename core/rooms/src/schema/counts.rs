//! Threads, and what is counted as unread.

use bytes::Bytes;
use hearth_storage::{KeyEncoder, KeyPart, Record, RecordError, postcard_record};
use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{
    EventOrdinal, TimelineIndex,
    fields::{FieldReader, ROW_VERSION, encode_index},
};

/// The scope of [`NOTIFY_TOTALS`](super::NOTIFY_TOTALS) that is no thread. Ordinal 0 is the create event, which roots none.
pub const MAIN_TIMELINE: u32 = 0;

/// The row of [`THREADS`](super::THREADS): kept up to date by each reply and redaction. When all replies were redacted
/// the row stays with a count of zero, since `notify_total` must never fall: there is no thread to show
/// then, and no row in [`THREADS_BY_ACTIVITY`](super::THREADS_BY_ACTIVITY).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadRow {
    /// The newest reply's place; possibly pending while it is written.
    pub latest_index: TimelineIndex,
    /// The newest reply.
    pub latest: EventOrdinal,
    /// The root's ordinal: the scope of its unread counts.
    pub root: EventOrdinal,
    /// Replies.
    pub count: u64,
    /// Running total of notifying replies.
    pub notify_total: u64,
}

impl Record for ThreadRow {
    fn encode(&self, out: &mut KeyEncoder) -> Result<(), RecordError> {
        ROW_VERSION.encode(out);
        encode_index(Some(self.latest_index), out);
        self.latest.encode(out);
        self.root.encode(out);
        self.count.encode(out);
        self.notify_total.encode(out);
        Ok(())
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let mut fields = FieldReader::new(bytes)?;
        Ok(Self {
            latest_index: fields.index()?.ok_or_else(|| RecordError("no index".to_owned()))?,
            latest: fields.u32()?,
            root: fields.u32()?,
            count: fields.u64()?,
            notify_total: fields.u64()?,
        })
    }
}

/// The row of [`NOTIFY_TOTALS`](super::NOTIFY_TOTALS) and [`OWN_TOTALS`](super::OWN_TOTALS): the total including this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalRow(pub u64);
postcard_record!(TotalRow, version = 1);

/// The row of [`UNCOUNTED`](super::UNCOUNTED).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncountedRow {
    /// Who had sent the event; it never counted for them.
    pub sender: OwnedUserId,
}
postcard_record!(UncountedRow, version = 1);

/// The row of [`MENTIONS`](super::MENTIONS) and [`ROOM_MENTIONS`](super::ROOM_MENTIONS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MentionRow {
    /// The thread root's ordinal, or [`MAIN_TIMELINE`].
    pub scope: u32,
    /// Who sent it; it never counts for them.
    pub sender: OwnedUserId,
}
postcard_record!(MentionRow, version = 1);
