//! What is asked of other servers in the name of local users: joins, knocks, leaves, invitations,
//! history, aliases, directories, spaces, profiles.

use async_trait::async_trait;
use hearth_rooms::{
    CheckedPdu, DirectoryPage, DirectoryQuery, RemoteAlias, RemoteHierarchy, RemoteInvite,
    RemoteMembership, RemoteRooms, RoomError,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    RoomId, api::Direction,
};

use crate::Federation;

/// [`RemoteRooms`] over the network.
#[derive(Clone, Debug)]
pub struct Remote(Federation);

impl Remote {
    /// The way out for this server.
    #[must_use]
    pub fn new(federation: Federation) -> Self {
        Self(federation)
    }
}

/// Completes rooms that were joined with partial state, those of an earlier run too.
pub(crate) fn resume_partial_joins(_federation: Federation) {
    unimplemented!("fed-remote")
}

#[async_trait]
impl RemoteRooms for Remote {
    async fn join(&self, _wish: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn knock(&self, _wish: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn leave(&self, _wish: RemoteMembership) -> Result<OwnedEventId, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn invite(&self, _invite: RemoteInvite) -> Result<CheckedPdu, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn backfill(&self, _room_id: &RoomId, _limit: usize) -> Result<bool, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn resolve_alias(&self, _alias: OwnedRoomAliasId) -> Result<RemoteAlias, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn public_rooms(
        &self,
        _server: OwnedServerName,
        _query: DirectoryQuery,
    ) -> Result<DirectoryPage, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn hierarchy(
        &self,
        _room_id: OwnedRoomId,
        _suggested_only: bool,
        _via: Vec<OwnedServerName>,
    ) -> Result<RemoteHierarchy, RoomError> {
        unimplemented!("fed-remote")
    }

    async fn timestamp_to_event(
        &self,
        _room_id: &RoomId,
        _at: MilliSecondsSinceUnixEpoch,
        _direction: Direction,
    ) -> Result<Option<(OwnedEventId, MilliSecondsSinceUnixEpoch)>, RoomError> {
        unimplemented!("fed-remote")
    }
}
