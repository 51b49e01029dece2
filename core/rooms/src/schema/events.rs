//! Events: what is known of each, its place, what relates to it, and the requests that made it.

use bytes::Bytes;
use hearth_storage::{
    KeyDecoder, KeyEncoder, KeyError, KeyPart, Record, RecordError, postcard_record,
};
use hearth_types::{Pdu, PduError};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, OwnedEventId, OwnedTransactionId, OwnedUserId,
};
use serde::{Deserialize, Serialize};

use super::{
    EventOrdinal, TimelineIndex,
    fields::{FieldReader, ROW_VERSION, damaged, encode_index},
};
use crate::state::StateRoot;

/// What is known about an event beside its own bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventHeader {
    /// The event's ID.
    pub event_id: OwnedEventId,
    /// State before the event; empty for outliers.
    pub state_before: StateRoot,
    /// State after the event.
    pub state_after: StateRoot,
    /// Ordinals of its auth events, in the order in which the event names them.
    pub auth_events: Vec<EventOrdinal>,
    /// Ordinals of its previous events that are known here.
    pub prev_events: Vec<EventOrdinal>,
    /// The event it replaced in the state, if it is a state event and there was one.
    pub replaces_state: Option<EventOrdinal>,
    /// The redaction that was applied to it; the bytes are then the redacted form.
    pub redacted_by: Option<EventOrdinal>,
    /// The local device and transaction that sent it.
    pub transaction: Option<(OwnedDeviceId, OwnedTransactionId)>,
    /// How the event stands in the room.
    pub standing: Standing,
}

/// How an event stands in its room (SS "Checks performed on receipt of a PDU").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Part of the room's history.
    Accepted,
    /// Allowed by its own history, not by the current state: kept, not shown.
    SoftFailed,
    /// Not allowed: kept, never used.
    Rejected,
    /// Known only because others refer to it; has no state and no place in the timeline.
    Outlier,
}

/// The row of [`EVENTS`](super::EVENTS): the event's place in the timeline ([`TimelineIndex`] without it for outliers),
/// the header, then the canonical bytes.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// The place in the timeline; possibly pending while it is written. `None` if it has none.
    pub index: Option<TimelineIndex>,
    /// What is known beside the bytes.
    pub header: EventHeader,
    /// The event as signed, or as redacted.
    pub json: Bytes,
}

impl Record for EventRow {
    fn encode(&self, out: &mut KeyEncoder) -> Result<(), RecordError> {
        ROW_VERSION.encode(out);
        encode_index(self.index, out);
        let header = postcard::to_stdvec(&self.header).map_err(damaged)?;
        u32::try_from(header.len()).map_err(damaged)?.encode(out);
        Record::encode(&Bytes::from(header), out)?;
        Record::encode(&self.json, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let mut fields = FieldReader::new(bytes)?;
        let index = fields.index()?;
        let length = usize::try_from(fields.u32()?).map_err(damaged)?;
        let header = postcard::from_bytes(fields.take(length)?).map_err(damaged)?;
        Ok(Self { index, header, json: bytes.slice(fields.offset..) })
    }
}

/// An event read from the store, parsed once and shared.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Its number in the room.
    pub ordinal: EventOrdinal,
    /// Its place in the timeline, if it has one.
    pub index: Option<TimelineIndex>,
    /// What is known beside the bytes.
    pub header: EventHeader,
    /// The event.
    pub pdu: Pdu,
}

impl StoredEvent {
    /// The event of a row.
    pub(crate) fn from_row(ordinal: EventOrdinal, row: EventRow) -> Result<Self, PduError> {
        let pdu = Pdu::parse(row.header.event_id.clone(), row.json)?;
        let pdu = match row.header.standing {
            Standing::Rejected => pdu.into_rejected(),
            Standing::Accepted | Standing::SoftFailed | Standing::Outlier => pdu,
        };
        Ok(Self { ordinal, index: row.index, header: row.header, pdu })
    }
}

/// An ordinal as a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventOrdinalRow(pub EventOrdinal);
postcard_record!(EventOrdinalRow, version = 1);

/// Answers to questions for history that do not have a certain event, after which it is not asked for
/// any more: a room's reader asks four servers, which makes ten times.
pub const MAX_GAP_TRIES: u32 = 40;

/// The row of [`HISTORY_GAPS`](super::HISTORY_GAPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRow {
    /// The event that names the one that is not here.
    pub child: EventOrdinal,
    /// Its depth.
    pub depth: u64,
    /// Answers of other servers that did not have it.
    pub tries: u32,
}
postcard_record!(GapRow, version = 1);

/// The row of [`TIMELINE`](super::TIMELINE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The event.
    pub ordinal: EventOrdinal,
}
postcard_record!(TimelineRow, version = 1);

/// Which request of which device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionKey {
    /// The sender.
    pub user_id: OwnedUserId,
    /// The sending device; transaction IDs are scoped to it.
    pub device_id: OwnedDeviceId,
    /// The rest of the path: `send/m.room.message`, `redact/$event`.
    pub scope: String,
    /// The client's transaction ID.
    pub transaction_id: OwnedTransactionId,
}

impl KeyPart for TransactionKey {
    fn encode(&self, out: &mut KeyEncoder) {
        self.user_id.encode(out);
        self.device_id.encode(out);
        self.scope.encode(out);
        self.transaction_id.encode(out);
    }

    fn decode(input: &mut KeyDecoder<'_>) -> Result<Self, KeyError> {
        Ok(Self {
            user_id: KeyPart::decode(input)?,
            device_id: KeyPart::decode(input)?,
            scope: KeyPart::decode(input)?,
            transaction_id: KeyPart::decode(input)?,
        })
    }
}

/// The row of [`TRANSACTIONS`](super::TRANSACTIONS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRow {
    /// The event that the request made.
    pub event_id: OwnedEventId,
    /// When; rows older than a week are swept.
    pub at: MilliSecondsSinceUnixEpoch,
}
postcard_record!(TransactionRow, version = 1);

/// The row of [`RELATIONS`](super::RELATIONS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationRow {
    /// The child.
    pub ordinal: EventOrdinal,
    /// The child's type.
    pub event_type: String,
    /// The child's sender.
    pub sender: OwnedUserId,
}
postcard_record!(RelationRow, version = 1);
