//! Who is in a room, which rooms a user is in, and which servers.

use bytes::Bytes;
use hearth_storage::{
    KeyEncoder, KeyPart, Record, RecordError, postcard_record, record_decode, record_encode,
};
use hearth_types::StreamPosition;
use ruma::{OwnedEventId, OwnedUserId, RoomVersionId};
use serde::{Deserialize, Serialize};

use super::{
    EventOrdinal,
    fields::{FieldReader, ROW_VERSION, damaged},
};
use crate::state::StateRoot;

/// Stands for the event in the [`UserRoomDetails`] of a membership that is kept in [`OUT_OF_BAND`](super::OUT_OF_BAND).
pub const OUT_OF_BAND_EVENT: EventOrdinal = EventOrdinal::MAX;

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

/// The row of [`MEMBERS`](super::MEMBERS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// The membership.
    pub membership: Membership,
    /// The membership event.
    pub event: EventOrdinal,
}
postcard_record!(MemberRow, version = 1);

/// The row of [`USER_ROOMS`](super::USER_ROOMS), behind the position of its last change
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
    /// Is the membership event kept in [`OUT_OF_BAND`](super::OUT_OF_BAND) instead of the room's events?
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

/// The row of [`ROOM_SERVERS`](super::ROOM_SERVERS) and [`SERVER_ROOMS`](super::SERVER_ROOMS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRow {
    /// Joined members now; zero when the last has left. In [`SERVER_ROOMS`](super::SERVER_ROOMS) it says only whether there
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

/// The row of [`OUT_OF_BAND`](super::OUT_OF_BAND).
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
