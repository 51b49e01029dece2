//! Every row that rooms own: keyspaces here, keys and records below.
//!
//! Inside a room everything is a dense `u32` counted by the room's writer: events ([`EventOrdinal`],
//! outliers too) and state keys. An event's auth events always have smaller ordinals. Unless it says
//! otherwise a keyspace's partition is the room.

mod counts;
mod directory;
mod events;
mod fields;
mod log;
mod members;
mod state;

use bytes::Bytes;
use hearth_storage::Keyspace;
use hearth_types::StreamPosition;
use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};

pub use self::{
    counts::{MAIN_TIMELINE, MentionRow, ThreadRow, TotalRow, UncountedRow},
    directory::AliasRow,
    events::{
        EventHeader, EventOrdinalRow, EventRow, GapRow, MAX_GAP_TRIES, RelationRow, Standing,
        StoredEvent, TimelineRow, TransactionKey, TransactionRow,
    },
    log::{Forwarding, LOG_OUT_OF_BAND, LOG_ROOM_EVENT, log_forwarding, log_ordinal, log_payload},
    members::{
        MemberRow, Membership, OUT_OF_BAND_EVENT, OutOfBandRow, ServerRow, UserRoomDetails,
        UserRoomRow,
    },
    state::{CompletionRow, CurrentStateRow, PartialRow, StateKeyRow},
};
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
