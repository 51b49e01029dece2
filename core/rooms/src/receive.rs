//! Events of other servers on their way into a room (SS "Checks performed on receipt of a PDU",
//! checks 4 to 6; the first three are proven by a [`CheckedPdu`]).

use hearth_types::Pdu;
use ruma::{OwnedEventId, RoomId};

use crate::{Rooms, error::RoomError};

/// An event that passed the first three checks on receipt: its form and size, the signatures of the
/// servers that must have signed it, and its content hash (if that was wrong, this is the redacted
/// form). Its ID is computed from its bytes. Made only by who has checked all that.
#[derive(Clone, Debug)]
pub struct CheckedPdu(Pdu);

impl CheckedPdu {
    /// Vouches for an event.
    #[must_use]
    pub fn new(pdu: Pdu) -> Self {
        Self(pdu)
    }

    /// The event.
    #[must_use]
    pub fn pdu(&self) -> &Pdu {
        &self.0
    }

    /// The event, out of its wrapping.
    #[must_use]
    pub fn into_pdu(self) -> Pdu {
        self.0
    }
}

/// What became of a received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was here already.
    Known,
    /// Part of the room's history now.
    Accepted,
    /// Kept, not shown: the current state does not allow it.
    SoftFailed,
    /// Kept, never used.
    Rejected(String),
    /// Not taken, nothing stored: these of its previous events are not here.
    MissingPrev(Vec<OwnedEventId>),
    /// Not taken, nothing stored: these of its auth events are not here.
    MissingAuth(Vec<OwnedEventId>),
}

impl Rooms {
    /// Receives events of one room, in the order given: each is authorized by its auth events, by the
    /// state before it and by the current state, and gets its verdict. Forks are resolved. The answer
    /// has a verdict for each event, and is given when all of them are durable.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if this server is not in the room.
    pub async fn receive(
        &self,
        _room_id: &RoomId,
        _events: Vec<CheckedPdu>,
    ) -> Result<Vec<Verdict>, RoomError> {
        unimplemented!("rooms-receive")
    }

    /// Receives an event that this server passes on to the others: a membership event that another
    /// server finished from this one's template (SS "Joining Rooms").
    #[allow(dead_code, reason = "called by what serves joins")]
    pub(crate) async fn admit_event(
        &self,
        _room_id: &RoomId,
        _event: CheckedPdu,
    ) -> Result<Verdict, RoomError> {
        unimplemented!("rooms-receive")
    }

    /// Stores events that are known only because others refer to them (state and auth events of a gap):
    /// each is authorized by its auth events alone, and takes no place in the timeline. The events may
    /// come in any order; those whose auth events are neither here nor among them are not taken.
    pub async fn receive_outliers(
        &self,
        _room_id: &RoomId,
        _events: Vec<CheckedPdu>,
    ) -> Result<Vec<Verdict>, RoomError> {
        unimplemented!("rooms-receive")
    }

    /// Receives an event whose previous events are not all here, with the state before it as another
    /// server tells it. The state's events must be here, as outliers or otherwise.
    pub async fn receive_with_state(
        &self,
        _room_id: &RoomId,
        _event: CheckedPdu,
        _state_before: Vec<OwnedEventId>,
    ) -> Result<Verdict, RoomError> {
        unimplemented!("rooms-receive")
    }
}
