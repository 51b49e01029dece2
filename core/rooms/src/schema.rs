//! Every row that rooms own: keyspaces, keys and records.
//!
//! Inside a room everything is a dense `u32` counted by the room's writer: events ([`EventOrdinal`],
//! outliers too) and state keys. An event's auth events always have smaller ordinals. Unless it says
//! otherwise a keyspace's partition is the room.

use bytes::Bytes;
use hearth_storage::{
    KeyDecoder, KeyEncoder, KeyError, KeyPart, Keyspace, Record, RecordError, postcard_record,
    record_decode, record_encode,
};
use hearth_types::{Pdu, PduError, StreamPosition};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, OwnedEventId, OwnedRoomAliasId, OwnedRoomId,
    OwnedServerName, OwnedTransactionId, OwnedUserId, RoomVersionId,
};
use serde::{Deserialize, Serialize};

use crate::state::{NodeId, StateRoot};
pub use crate::{
    head::{Forks, MemberLag, RoomHead},
    place::TimelineIndex,
};

/// The number of an event within its room.
pub type EventOrdinal = u32;

/// The room itself: one small row, rewritten by each commit. What the writer keeps in memory.
pub const ROOMS: Keyspace<OwnedRoomId, (), RoomHead> = Keyspace::new("rooms");
/// Events by ordinal: header and canonical bytes.
pub const EVENTS: Keyspace<OwnedRoomId, EventOrdinal, EventRow> = Keyspace::new("events");
/// Ordinals by event ID.
pub const EVENT_IDS: Keyspace<OwnedRoomId, OwnedEventId, EventOrdinalRow> =
    Keyspace::new("event_ids");
/// State events by the events that they name as auth events, (parent, child): the auth graph upwards,
/// for state resolution ([`crate::resolve::EventSource::auth_children`]). Written for every state event.
pub const AUTH_CHILDREN: Keyspace<OwnedRoomId, (EventOrdinal, EventOrdinal), ()> =
    Keyspace::new("auth_children");
/// The timeline: what clients may see, in order.
pub const TIMELINE: Keyspace<OwnedRoomId, TimelineIndex, TimelineRow> = Keyspace::new("timeline");
/// The room's current state from a position on, where it is not the state after the last event in the
/// timeline: a fork was resolved otherwise than its newest event says. Read by
/// [`crate::Rooms::state_at`].
pub const CURRENT_STATES: Keyspace<OwnedRoomId, StreamPosition, CurrentStateRow> =
    Keyspace::new("current_states");
/// State-key ordinals by (type, state key). Members are counted apart from the rest.
pub const STATE_KEYS: Keyspace<OwnedRoomId, (String, String), StateKeyRow> =
    Keyspace::new("state_keys");
/// Nodes of the state trees by number.
pub const STATE_NODES: Keyspace<OwnedRoomId, u32, Bytes> = Keyspace::new("state_nodes");
/// Current membership by user.
pub const MEMBERS: Keyspace<OwnedRoomId, OwnedUserId, MemberRow> = Keyspace::new("room_members");
/// The same by user, local users only: the room's rows under the user's prefix (an effect).
pub const USER_ROOMS: Keyspace<OwnedUserId, OwnedRoomId, UserRoomRow> = Keyspace::new("user_rooms");
/// Idempotency: what a device's transaction made, written in the same commit as the event.
pub const TRANSACTIONS: Keyspace<OwnedRoomId, TransactionKey, TransactionRow> =
    Keyspace::new("room_transactions");
/// Children by (parent event ID, rel_type, timeline position of the child).
pub const RELATIONS: Keyspace<OwnedRoomId, (OwnedEventId, String, TimelineIndex), RelationRow> =
    Keyspace::new("relations");
/// Thread summaries by root.
pub const THREADS: Keyspace<OwnedRoomId, OwnedEventId, ThreadRow> = Keyspace::new("threads");
/// Roots by the position of their newest reply; one row for each thread.
pub const THREADS_BY_ACTIVITY: Keyspace<OwnedRoomId, TimelineIndex, EventOrdinalRow> =
    Keyspace::new("threads_by_activity");
/// Running totals of notifying events: (scope, position) where scope is the thread root's ordinal, or
/// [`MAIN_TIMELINE`]. A row stands only at positions of notifying events.
pub const NOTIFY_TOTALS: Keyspace<OwnedRoomId, (u32, StreamPosition), TotalRow> =
    Keyspace::new("notify_totals");
/// The same, counting only one local sender's own: (sender, scope, position).
pub const OWN_TOTALS: Keyspace<OwnedRoomId, (OwnedUserId, u32, StreamPosition), TotalRow> =
    Keyspace::new("own_totals");
/// Notifying events that were redacted after they were counted: (scope, position).
pub const UNCOUNTED: Keyspace<OwnedRoomId, (u32, StreamPosition), UncountedRow> =
    Keyspace::new("uncounted");
/// Highlights of one local user, (room, position): the room's rows under the user's prefix.
pub const MENTIONS: Keyspace<OwnedUserId, (OwnedRoomId, StreamPosition), MentionRow> =
    Keyspace::new("mentions");
/// Highlights of everybody in the room (`@room`, tombstones), by position.
pub const ROOM_MENTIONS: Keyspace<OwnedRoomId, StreamPosition, MentionRow> =
    Keyspace::new("room_mentions");
/// Annotations by (target, sender, "type key"), so that a second one alike is found by one look
/// (CS "Avoiding duplicate annotations").
pub const ANNOTATIONS: Keyspace<OwnedRoomId, (OwnedEventId, OwnedUserId, String), EventOrdinalRow> =
    Keyspace::new("annotations");
/// Aliases of this server. Partition: the alias.
pub const ALIASES: Keyspace<OwnedRoomAliasId, (), AliasRow> = Keyspace::new("aliases");
/// The same by room (an effect).
pub const ROOM_ALIASES: Keyspace<OwnedRoomId, OwnedRoomAliasId, ()> = Keyspace::new("room_aliases");
/// Rooms published in this server's directory. Partition: the server.
pub const PUBLIC_ROOMS: Keyspace<(), OwnedRoomId, ()> = Keyspace::new("public_rooms");

/// Servers other than this one that have or had joined members.
pub const ROOM_SERVERS: Keyspace<OwnedRoomId, OwnedServerName, ServerRow> =
    Keyspace::new("room_servers");
/// The same by server (an effect): written when the first member joins, kept when the last leaves.
pub const SERVER_ROOMS: Keyspace<OwnedServerName, OwnedRoomId, ServerRow> =
    Keyspace::new("server_rooms");
/// Previous events that are named by events here and are not here themselves, each with the event
/// that names it: where history can be asked for. Who invents previous events fills this list; a row goes
/// when the event comes, or when [`MAX_GAP_TRIES`] answers did not have it.
pub const HISTORY_GAPS: Keyspace<OwnedRoomId, OwnedEventId, GapRow> = Keyspace::new("history_gaps");

/// Redactions whose targets are not here yet, (target, redaction).
pub const PENDING_REDACTIONS: Keyspace<OwnedRoomId, (OwnedEventId, EventOrdinal), ()> =
    Keyspace::new("pending_redactions");
/// Invitations and knocks of local users in rooms that this server is not in, and how they ended. A
/// user's row in [`USER_ROOMS`] says whether it still counts ([`UserRoomDetails::is_out_of_band`]).
pub const OUT_OF_BAND: Keyspace<OwnedRoomId, OwnedUserId, OutOfBandRow> =
    Keyspace::new("out_of_band");
/// The join before which the room's state is still to be completed; no row if the state is whole.
pub const PARTIAL: Keyspace<OwnedRoomId, (), PartialRow> = Keyspace::new("partial_state");
/// Servers in a room whose state is partial, as the join's answer named them. Rows may be left over where
/// it is whole.
pub const PARTIAL_SERVERS: Keyspace<OwnedRoomId, OwnedServerName, ()> =
    Keyspace::new("partial_servers");
/// Events that got their states while the room's own was partial, in that order: once it is whole, they
/// get others. Rows may be left over from a partial state that was given up.
pub const PARTIAL_EVENTS: Keyspace<OwnedRoomId, u32, EventOrdinalRow> =
    Keyspace::new("partial_events");
/// Events that were redacted while the room's state was partial, as they were before: whether the
/// redactions stand is known when it is whole. Rows may be left over where it is.
pub const PARTIAL_REDACTED: Keyspace<OwnedRoomId, OwnedEventId, Bytes> =
    Keyspace::new("partial_redacted");
/// When a partial state was completed.
pub const COMPLETIONS: Keyspace<OwnedRoomId, StreamPosition, CompletionRow> =
    Keyspace::new("completions");
/// Rooms with a row in [`PARTIAL`] (an effect). Partition: the server.
pub const PARTIAL_ROOMS: Keyspace<(), OwnedRoomId, ()> = Keyspace::new("partial_rooms");

/// All of them, for the store's opening.
pub const KEYSPACES: &[&str] = &[
    ROOMS.name(),
    EVENTS.name(),
    EVENT_IDS.name(),
    AUTH_CHILDREN.name(),
    TIMELINE.name(),
    STATE_KEYS.name(),
    STATE_NODES.name(),
    MEMBERS.name(),
    USER_ROOMS.name(),
    TRANSACTIONS.name(),
    RELATIONS.name(),
    THREADS.name(),
    THREADS_BY_ACTIVITY.name(),
    NOTIFY_TOTALS.name(),
    OWN_TOTALS.name(),
    UNCOUNTED.name(),
    MENTIONS.name(),
    ROOM_MENTIONS.name(),
    ANNOTATIONS.name(),
    ALIASES.name(),
    ROOM_ALIASES.name(),
    PUBLIC_ROOMS.name(),
    ROOM_SERVERS.name(),
    SERVER_ROOMS.name(),
    HISTORY_GAPS.name(),
    CURRENT_STATES.name(),
    PENDING_REDACTIONS.name(),
    OUT_OF_BAND.name(),
    PARTIAL.name(),
    PARTIAL_SERVERS.name(),
    PARTIAL_ROOMS.name(),
    PARTIAL_EVENTS.name(),
    PARTIAL_REDACTED.name(),
    COMPLETIONS.name(),
];

/// Stands for the event in the [`UserRoomDetails`] of a membership that is kept in [`OUT_OF_BAND`].
pub const OUT_OF_BAND_EVENT: EventOrdinal = EventOrdinal::MAX;

/// The scope of [`NOTIFY_TOTALS`] that is no thread. Ordinal 0 is the create event, which roots none.
pub const MAIN_TIMELINE: u32 = 0;

/// The kind of the log entries that announce a room's event: the topic is the room, the payload
/// [`log_payload`].
pub const LOG_ROOM_EVENT: u8 = 1;

/// The kind of the log entries that announce an invitation, a knock or its end in a room that this server is not
/// in ([`OUT_OF_BAND`]): the topic is the user, the payload the room's ID.
pub const LOG_OUT_OF_BAND: u8 = 2;

/// Who passes an event of the log on to other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// This server: it made the event, or admitted it into the room (SS "Joining Rooms").
    Here,
    /// The server that it came from.
    Elsewhere,
    /// The same; a user of this server comes to the room by it, of whose devices this server tells the
    /// others (SS "Device Management").
    Arrival,
}

/// The payload of a [`LOG_ROOM_EVENT`] entry: the event's ordinal, then a byte if the event came from
/// another server, which passes it on itself.
#[must_use]
pub fn log_payload(ordinal: EventOrdinal, forwarding: Forwarding) -> Bytes {
    let mut payload = ordinal.to_be_bytes().to_vec();
    match forwarding {
        Forwarding::Here => {}
        Forwarding::Elsewhere => payload.push(1),
        Forwarding::Arrival => payload.push(2),
    }
    payload.into()
}

/// The ordinal in a [`log_payload`].
#[must_use]
pub fn log_ordinal(payload: &[u8]) -> Option<EventOrdinal> {
    payload.first_chunk().copied().map(EventOrdinal::from_be_bytes)
}

/// Who passes the event of a [`log_payload`] on.
#[must_use]
pub fn log_forwarding(payload: &[u8]) -> Forwarding {
    match payload.get(4) {
        None => Forwarding::Here,
        Some(2) => Forwarding::Arrival,
        Some(_) => Forwarding::Elsewhere,
    }
}

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

/// The version byte of the records in this file that are not plain postcard.
const ROW_VERSION: u8 = 1;

/// An encoding error as the storage crate wants it.
fn damaged(error: impl std::fmt::Display) -> RecordError {
    RecordError(error.to_string())
}

/// A place in the timeline as a field of a record: the committer fills in a pending position.
fn encode_index(index: Option<TimelineIndex>, out: &mut KeyEncoder) {
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
struct FieldReader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> FieldReader<'a> {
    /// Starts behind the version byte.
    fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        match bytes.first() {
            Some(&ROW_VERSION) => Ok(Self { bytes, offset: 1 }),
            Some(other) => Err(RecordError(format!("unknown version {other}"))),
            None => Err(RecordError("empty".to_owned())),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let end = self.offset.saturating_add(length);
        let taken =
            self.bytes.get(self.offset..end).ok_or_else(|| RecordError("too short".to_owned()))?;
        self.offset = end;
        Ok(taken)
    }

    fn rest(self) -> &'a [u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(damaged)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(damaged)
    }

    fn position(&mut self) -> Result<StreamPosition, RecordError> {
        self.u64().map(StreamPosition::new)
    }

    fn index(&mut self) -> Result<Option<TimelineIndex>, RecordError> {
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

/// The row of [`EVENTS`]: the event's place in the timeline ([`TimelineIndex`] without it for outliers),
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

/// The row of [`HISTORY_GAPS`].
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

/// The row of [`TIMELINE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The event.
    pub ordinal: EventOrdinal,
}
postcard_record!(TimelineRow, version = 1);

/// The row of [`CURRENT_STATES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentStateRow(pub StateRoot);
postcard_record!(CurrentStateRow, version = 1);

/// The row of [`STATE_KEYS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateKeyRow(pub u32);
postcard_record!(StateKeyRow, version = 1);

/// Membership as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Membership {
    /// Asked to come.
    Invite,
    /// In the room.
    Join,
    /// Asked to be let in.
    Knock,
    /// Left, or kicked.
    Leave,
    /// Kept out.
    Ban,
}

/// The row of [`MEMBERS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// The membership.
    pub membership: Membership,
    /// The membership event.
    pub event: EventOrdinal,
}
postcard_record!(MemberRow, version = 1);

/// The row of [`USER_ROOMS`], behind the position of its last change
/// ([`Positioned`](hearth_storage::Positioned) is part of the record's own encoding).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRoomRow {
    /// Position of the membership event that wrote this row; possibly pending while it is written.
    pub position: StreamPosition,
    /// Since when the user has been joined without a break; meaningful while joined, and kept for the
    /// leave that ended it. Only events after it count as unread.
    pub joined_at: StreamPosition,
    /// Everything else.
    pub details: UserRoomDetails,
}

/// The part of [`UserRoomRow`] that is known before the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRoomDetails {
    /// The user's membership.
    pub membership: Membership,
    /// The membership event; [`OUT_OF_BAND_EVENT`] if it is not among the room's events.
    pub event: EventOrdinal,
    /// Who sent the membership event (for invites: the inviter).
    pub sender: OwnedUserId,
    /// State after the membership event: what a user who left may still read.
    pub state: StateRoot,
    /// Was the membership before this one `join`?
    pub was_joined: bool,
    /// Has the user ever been in the room, as far as this server has seen?
    pub has_joined: bool,
    /// The user has forgotten the room.
    pub forgotten: bool,
}

impl UserRoomDetails {
    /// Is the membership event kept in [`OUT_OF_BAND`] instead of the room's events?
    #[must_use]
    pub fn is_out_of_band(&self) -> bool {
        self.event == OUT_OF_BAND_EVENT
    }
}

impl Record for UserRoomRow {
    fn encode(&self, out: &mut KeyEncoder) -> Result<(), RecordError> {
        ROW_VERSION.encode(out);
        KeyPart::encode(&self.position, out);
        KeyPart::encode(&self.joined_at, out);
        let details = postcard::to_stdvec(&self.details).map_err(damaged)?;
        Record::encode(&Bytes::from(details), out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let mut fields = FieldReader::new(bytes)?;
        let position = fields.position()?;
        let joined_at = fields.position()?;
        let details = postcard::from_bytes(fields.rest()).map_err(damaged)?;
        Ok(Self { position, joined_at, details })
    }
}

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

/// The row of [`TRANSACTIONS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRow {
    /// The event that the request made.
    pub event_id: OwnedEventId,
    /// When; rows older than a week are swept.
    pub at: MilliSecondsSinceUnixEpoch,
}
postcard_record!(TransactionRow, version = 1);

/// The row of [`RELATIONS`].
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

/// The row of [`THREADS`]: kept up to date by each reply and redaction. When all replies were redacted
/// the row stays with a count of zero, since `notify_total` must never fall: there is no thread to show
/// then, and no row in [`THREADS_BY_ACTIVITY`].
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

/// The row of [`NOTIFY_TOTALS`] and [`OWN_TOTALS`]: the total including this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalRow(pub u64);
postcard_record!(TotalRow, version = 1);

/// The row of [`UNCOUNTED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncountedRow {
    /// Who had sent the event; it never counted for them.
    pub sender: OwnedUserId,
}
postcard_record!(UncountedRow, version = 1);

/// The row of [`MENTIONS`] and [`ROOM_MENTIONS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MentionRow {
    /// The thread root's ordinal, or [`MAIN_TIMELINE`].
    pub scope: u32,
    /// Who sent it; it never counts for them.
    pub sender: OwnedUserId,
}
postcard_record!(MentionRow, version = 1);

/// The row of [`ROOM_SERVERS`] and [`SERVER_ROOMS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRow {
    /// Joined members now; zero when the last has left. In [`SERVER_ROOMS`] it says only whether there
    /// are any: the row is not written again for each of them.
    pub joined: u64,
    /// The event that brought the first of them; events of lower numbers are none of the server's. Zero
    /// if it was in the room when this server came to it.
    pub since: EventOrdinal,
}

impl Record for ServerRow {
    fn encode(&self, out: &mut KeyEncoder) -> Result<(), RecordError> {
        record_encode(SERVER_ROW_VERSION, self, out)
    }

    /// Rows of the first version do not know since when.
    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        if bytes.first() == Some(&1) {
            return Ok(Self { joined: record_decode(1, bytes)?, since: 0 });
        }
        record_decode(SERVER_ROW_VERSION, bytes)
    }
}

const SERVER_ROW_VERSION: u8 = 2;

/// The row of [`ALIASES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// Where the alias leads.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}
postcard_record!(AliasRow, version = 1);

/// The row of [`OUT_OF_BAND`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfBandRow {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The membership event's ID.
    pub event_id: OwnedEventId,
    /// The membership event's canonical JSON.
    pub json: String,
    /// What the user was told about the room: a JSON list of stripped state events.
    pub stripped_state: String,
}
postcard_record!(OutOfBandRow, version = 1);

/// The row of [`PARTIAL`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRow {
    /// The join.
    pub join: EventOrdinal,
}
postcard_record!(PartialRow, version = 1);

/// The row of [`COMPLETIONS`]: the trees of members of the current state before and after. Nobody
/// became a member by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionRow {
    /// Those that were known.
    pub before: NodeId,
    /// All.
    pub after: NodeId,
}
postcard_record!(CompletionRow, version = 1);
