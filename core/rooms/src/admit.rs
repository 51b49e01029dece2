//! Memberships that begin on another server: joins of rooms that were not here, invitations from
//! elsewhere, knocks; and history from before all that.

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId};
use serde_json::value::RawValue;

use crate::{CheckedPdu, Rooms, Verdict, error::RoomError};

/// What a resident server answered to a join (SS "Joining Rooms"), each event checked.
#[derive(Clone, Debug)]
pub struct RemoteJoin {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version, as the join's template said; the create event must agree.
    pub room_version: RoomVersionId,
    /// The join event, signed by this server (and by the resident one, if the room is restricted).
    pub event: CheckedPdu,
    /// The state before the join.
    pub state: Vec<CheckedPdu>,
    /// The auth chain of the state and of the join.
    pub auth_chain: Vec<CheckedPdu>,
    /// Members were left out of the state: it must be completed by
    /// [`Rooms::complete_state`].
    pub members_omitted: bool,
    /// Who can be asked for the rest.
    pub servers_in_room: Vec<OwnedServerName>,
}

/// A room whose full state is still to be fetched (faster joins).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The join before which the state is wanted.
    pub join: OwnedEventId,
    /// Who can be asked.
    pub servers: Vec<OwnedServerName>,
}

/// An invitation or a knock in a room that this server may not be in.
#[derive(Clone, Debug)]
pub struct OutOfBand {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// The local user.
    pub user_id: OwnedUserId,
    /// The membership event, signed by all who must.
    pub event: CheckedPdu,
    /// What the user may know of the room, as stripped state events.
    pub stripped_state: Vec<Box<RawValue>>,
}

impl Rooms {
    /// Makes a room of the answer to a join, or, if the room is here already, adds the join to it.
    /// Every event is authorized; a state that does not hold together is refused as a whole.
    pub async fn admit_join(&self, _join: RemoteJoin) -> Result<OwnedEventId, RoomError> {
        unimplemented!("rooms-admit")
    }

    /// Rooms whose state is still partial: to be completed, also after a restart.
    pub async fn partial_rooms(&self) -> Result<Vec<PartialRoom>, RoomError> {
        unimplemented!("rooms-admit")
    }

    /// Completes a partial room with the state before its join.
    pub async fn complete_state(
        &self,
        _room_id: &RoomId,
        _state: Vec<CheckedPdu>,
        _auth_chain: Vec<CheckedPdu>,
    ) -> Result<(), RoomError> {
        unimplemented!("rooms-admit")
    }

    /// Keeps an invitation, a knock, or the end of either, of a local user in a room that this server is
    /// not in; in a room that it is in, receives the event in the ordinary way. The user's syncs show it.
    pub async fn admit_out_of_band(&self, _membership: OutOfBand) -> Result<(), RoomError> {
        unimplemented!("rooms-admit")
    }

    /// The membership event that [`Self::admit_out_of_band`] keeps for a user, with the room's version.
    pub async fn out_of_band(
        &self,
        _room_id: &RoomId,
        _user_id: &ruma::UserId,
    ) -> Result<Option<OutOfBand>, RoomError> {
        unimplemented!("rooms-admit")
    }

    /// Previous events that the room's events name and that are not here, each with the event that
    /// names it, the deepest first: where history can be asked for.
    pub async fn history_gaps(
        &self,
        _room_id: &RoomId,
        _limit: usize,
    ) -> Result<Vec<(OwnedEventId, OwnedEventId)>, RoomError> {
        unimplemented!("rooms-admit")
    }

    /// Receives history: events from before what is held, in any order, with the state before the
    /// earliest of them (`state_before`, whose events must be here). They are placed in the timeline
    /// before the events that follow them, and change neither the extremities nor the current state.
    pub async fn receive_history(
        &self,
        _room_id: &RoomId,
        _events: Vec<CheckedPdu>,
        _state_before: Vec<(OwnedEventId, Vec<OwnedEventId>)>,
    ) -> Result<Vec<Verdict>, RoomError> {
        unimplemented!("rooms-admit")
    }
}
