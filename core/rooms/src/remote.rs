//! What rooms ask of other servers: declared here, implemented by the federation crate, plugged in by
//! the binary. A server without federation has none.

use async_trait::async_trait;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomId, RoomVersionId, api::Direction, room::RoomSummary,
};
use serde_json::value::RawValue;

use crate::{
    CheckedPdu, DirectoryPage, DirectoryQuery, RoomError, membership::MemberProfile,
    read::HierarchyRoom,
};

/// A local user's wish about a room that this server is not in, or cannot admit them to by itself.
#[derive(Clone, Debug)]
pub struct RemoteMembership {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The local user.
    pub user_id: OwnedUserId,
    /// What the membership event shows of them.
    pub profile: MemberProfile,
    /// Why, in the user's words.
    pub reason: Option<String>,
    /// Servers to ask, the likeliest first.
    pub via: Vec<OwnedServerName>,
}

/// An invitation that the invitee's server shall countersign.
#[derive(Clone, Debug)]
pub struct RemoteInvite {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// The invitee, who has their account elsewhere.
    pub invitee: OwnedUserId,
    /// The event, signed by this server.
    pub event: CheckedPdu,
    /// What the invitee may know of the room: full events, the create event among them (SS
    /// "Inviting to a room").
    pub room_state: Vec<Box<RawValue>>,
}

/// Where an alias leads.
#[derive(Clone, Debug)]
pub struct RemoteAlias {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Servers that are in it.
    pub servers: Vec<OwnedServerName>,
}

/// Rooms of a space as another server sees them (SS "Spaces").
#[derive(Clone, Debug)]
pub struct RemoteHierarchy {
    /// The room that was asked for.
    pub room: HierarchyRoom,
    /// Its children that the server could show, in a few words.
    pub children: Vec<RoomSummary>,
    /// Children that the asking server may not see.
    pub inaccessible_children: Vec<OwnedRoomId>,
}

/// Other servers, as far as rooms need them. Every call is bounded in time and size.
#[async_trait]
pub trait RemoteRooms: Send + Sync + 'static {
    /// Joins a local user by way of another server. When it answers, the room is here and the join is
    /// durable.
    async fn join(&self, wish: RemoteMembership) -> Result<OwnedEventId, RoomError>;

    /// Knocks by way of another server.
    async fn knock(&self, wish: RemoteMembership) -> Result<OwnedEventId, RoomError>;

    /// Rejects an invitation or takes back a knock. If no server answers, the membership still ends
    /// here.
    async fn leave(&self, wish: RemoteMembership) -> Result<OwnedEventId, RoomError>;

    /// Has the invitee's server countersign: the event with both signatures.
    async fn invite(&self, invite: RemoteInvite) -> Result<CheckedPdu, RoomError>;

    /// Asks a room's policy server for its signature on an event (SS "Asking for a Policy Server signature
    /// on an event"): as it comes, to be checked by the caller.
    ///
    /// # Errors
    ///
    /// [`RoomError::Refused`] with what the server says against the event; [`RoomError::Remote`] if it
    /// does not answer as it should.
    async fn policy_signature(
        &self,
        server: OwnedServerName,
        event: CheckedPdu,
    ) -> Result<String, RoomError>;

    /// Fetches history before what is held and hands it to
    /// [`Rooms::receive_history`](crate::Rooms::receive_history). `false` if nothing new came.
    async fn backfill(&self, room_id: &RoomId, limit: usize) -> Result<bool, RoomError>;

    /// Asks the alias's server.
    async fn resolve_alias(&self, alias: OwnedRoomAliasId) -> Result<RemoteAlias, RoomError>;

    /// Asks another server's directory.
    async fn public_rooms(
        &self,
        server: OwnedServerName,
        query: DirectoryQuery,
    ) -> Result<DirectoryPage, RoomError>;

    /// Asks one of `via` for a room of a space that this server is not in.
    async fn hierarchy(
        &self,
        room_id: OwnedRoomId,
        suggested_only: bool,
        via: Vec<OwnedServerName>,
    ) -> Result<RemoteHierarchy, RoomError>;

    /// Asks the room's other servers for the event nearest to a time, and fetches it with what
    /// surrounds it.
    async fn timestamp_to_event(
        &self,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, RoomError>;
}
