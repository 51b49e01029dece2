//! Which servers are in a room, and which may speak to it.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

use crate::{Rooms, error::RoomError};

impl Rooms {
    /// The other servers that have joined members in a room: from memory where it is active.
    pub async fn remote_servers(
        &self,
        _room_id: &RoomId,
    ) -> Result<Arc<BTreeSet<OwnedServerName>>, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Rooms in which another server has joined members, in order of their IDs, from behind `after`.
    pub async fn rooms_shared_with(
        &self,
        _server: &ServerName,
        _after: Option<&RoomId>,
        _limit: usize,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Has this other server a joined member?
    pub async fn has_joined_server(
        &self,
        _room_id: &RoomId,
        _server: &ServerName,
    ) -> Result<bool, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Does the room's `m.room.server_acl` admit this server? (SS "Server Access Control Lists": case
    /// and port are ignored.) Rooms that are not here admit everybody.
    pub async fn acl_admits(
        &self,
        _room_id: &RoomId,
        _server: &ServerName,
    ) -> Result<bool, RoomError> {
        unimplemented!("rooms-serve")
    }
}
