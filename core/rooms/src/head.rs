//! The row that a room's writer goes on from.

use bytes::Bytes;
use hearth_storage::{KeyEncoder, KeyPart, Record, RecordError};
use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};

use crate::{
    schema::EventOrdinal,
    state::{NodeId, StateRoot},
};

/// Rows of this version have nothing behind the first part.
const WITHOUT_FORKS: u8 = 1;
/// Rows of this version have a [`Forks`] behind it.
const WITH_FORKS: u8 = 2;

/// What the writer must know to go on: the row of [`ROOMS`](crate::schema::ROOMS).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoomHead {
    /// The room's version.
    pub version: RoomVersionId,
    /// Forward extremities.
    pub extremities: Vec<EventOrdinal>,
    /// The current state: with several extremities, the resolution of the states after them.
    pub state: StateRoot,
    /// Greatest depth among the extremities.
    pub depth: u64,
    /// The next event's ordinal.
    pub next_event: EventOrdinal,
    /// The next ordinal of a membership state key.
    pub next_member_key: u32,
    /// The next ordinal of any other state key.
    pub next_state_key: u32,
    /// The next state node's number.
    pub next_node: u32,
    /// Joined members now.
    pub joined_members: u64,
    /// Invited members now.
    pub invited_members: u64,
    /// Joined members of this server now.
    pub joined_local_members: u64,
    /// Notifying events in the main timeline so far.
    pub notify_total: u64,
    /// What only rooms shared with other servers have. Stored behind the rest.
    #[serde(skip)]
    pub forks: Forks,
}

/// The part of a [`RoomHead`] that speaks of forks, and of what other servers did before this one came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forks {
    /// Has the room rows in [`CURRENT_STATES`](crate::schema::CURRENT_STATES)? Where it has none, the
    /// state after the last event is the current one, and nobody need look.
    pub has_current_states: bool,
    /// The rows of the members are still being brought up to the current state.
    pub lag: Option<MemberLag>,
    /// The depth at which this server came into the room for its present stay; 0 if the room began
    /// here. What is less deep is history, to be backfilled and never to be taken for news.
    pub from_depth: u64,
}

/// Rows of members that do not show the current state yet: more of them changed at once than one
/// commit takes. The writer goes on with them before it does anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLag {
    /// The members' tree that the rows still show, from `next_key` on.
    pub shown: NodeId,
    /// State keys below this one are done.
    pub next_key: u32,
}

impl RoomHead {
    /// The head of a room that has no event yet.
    pub(crate) fn new(version: RoomVersionId) -> Self {
        Self {
            version,
            extremities: Vec::new(),
            state: StateRoot::default(),
            depth: 0,
            next_event: 0,
            next_member_key: 0,
            next_state_key: 0,
            // Node 0 is the empty tree.
            next_node: 1,
            joined_members: 0,
            invited_members: 0,
            joined_local_members: 0,
            notify_total: 0,
            forks: Forks::default(),
        }
    }
}

fn damaged(error: impl std::fmt::Display) -> RecordError {
    RecordError(error.to_string())
}

impl Record for RoomHead {
    fn encode(&self, out: &mut KeyEncoder) -> Result<(), RecordError> {
        KeyPart::encode(&WITH_FORKS, out);
        let row = postcard::to_stdvec(self).map_err(damaged)?;
        let row = postcard::to_extend(&self.forks, row).map_err(damaged)?;
        Record::encode(&Bytes::from(row), out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let (version, rest) = bytes.split_first().ok_or_else(|| damaged("empty"))?;
        let (mut head, rest): (Self, _) = postcard::take_from_bytes(rest).map_err(damaged)?;
        match *version {
            WITHOUT_FORKS if rest.is_empty() => {}
            WITH_FORKS => head.forks = postcard::from_bytes(rest).map_err(damaged)?,
            other => return Err(damaged(format_args!("unknown version {other}"))),
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(head: &RoomHead) -> Vec<u8> {
        let mut out = KeyEncoder::default();
        head.encode(&mut out).unwrap();
        out.as_bytes().to_vec()
    }

    #[test]
    fn reads_rows_from_before_there_were_forks() {
        let mut head = RoomHead { notify_total: 300, ..RoomHead::new(RoomVersionId::V11) };
        head.extremities = vec![7, 9];
        let mut old = vec![WITHOUT_FORKS];
        old.extend(postcard::to_stdvec(&head).unwrap());
        let read = RoomHead::decode(&Bytes::from(old)).unwrap();
        assert_eq!((read.extremities, read.notify_total), (vec![7, 9], 300));
        assert_eq!(read.forks, Forks::default());
    }

    #[test]
    fn keeps_what_it_says_of_forks() {
        let lag = Some(MemberLag { shown: NodeId(5), next_key: 70 });
        let forks = Forks { has_current_states: true, lag, from_depth: 12 };
        let head = RoomHead { forks, ..RoomHead::new(RoomVersionId::V12) };
        let read = RoomHead::decode(&Bytes::from(encoded(&head))).unwrap();
        assert_eq!(read.forks, forks);
        assert!(RoomHead::decode(&Bytes::from_static(&[3])).is_err());
    }
}
