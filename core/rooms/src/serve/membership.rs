//! Joining, leaving and knocking by way of this server (SS "Joining Rooms", "Leaving Rooms",
//! "Knocking upon a room").

use bytes::Bytes;
use ruma::{CanonicalJsonObject, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId};
use serde_json::value::RawValue;

use crate::{CheckedPdu, Rooms, error::RoomError};

/// Which membership a template is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKind {
    /// `make_join`.
    Join,
    /// `make_leave`.
    Leave,
    /// `make_knock`.
    Knock,
}

/// A membership event without hashes and signatures, for another server to finish.
#[derive(Clone, Debug)]
pub struct MembershipTemplate {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The event.
    pub event: CanonicalJsonObject,
}

/// The answer to `send_join`.
#[derive(Clone, Debug)]
pub struct JoinAnswer {
    /// The join event, countersigned if the room is restricted.
    pub event: Bytes,
    /// The state before the join; without members if they were to be omitted.
    pub state: Vec<Bytes>,
    /// The auth chain of the state and the join, without what is in `state` if members were omitted.
    pub auth_chain: Vec<Bytes>,
    /// Were members left out?
    pub members_omitted: bool,
    /// All servers in the room, if members were left out.
    pub servers_in_room: Vec<OwnedServerName>,
}

impl Rooms {
    /// A membership event for a user of the asking server, as the room's state stands.
    ///
    /// # Errors
    ///
    /// [`RoomError::IncompatibleVersion`] if the asking server does not serve the room's version;
    /// [`RoomError::UnableToAuthoriseJoin`] and [`RoomError::UnableToGrantJoin`] for restricted rooms.
    pub async fn membership_template(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _user_id: &UserId,
        _kind: TemplateKind,
        _supported: &[RoomVersionId],
    ) -> Result<MembershipTemplate, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Receives a join that was made from a template, countersigned where that is due, and answers with
    /// the room's state.
    pub async fn accept_join(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _event: CheckedPdu,
        _omit_members: bool,
    ) -> Result<JoinAnswer, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Receives a leave that was made from a template.
    pub async fn accept_leave(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _event: CheckedPdu,
    ) -> Result<(), RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Receives a knock that was made from a template; answers with the room's stripped state.
    pub async fn accept_knock(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _event: CheckedPdu,
    ) -> Result<Vec<Box<RawValue>>, RoomError> {
        unimplemented!("rooms-serve")
    }
}
