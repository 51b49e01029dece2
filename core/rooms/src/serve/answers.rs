//! Events, state and history for other servers, as history visibility allows each of them.

use std::sync::Arc;

use bytes::Bytes;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, ServerName};

use crate::{Rooms, StoredEvent, error::RoomError};

/// The state before an event, by ID.
#[derive(Clone, Debug, Default)]
pub struct StateIds {
    /// The state's events.
    pub state: Vec<OwnedEventId>,
    /// Their auth chains.
    pub auth_chain: Vec<OwnedEventId>,
}

/// The state before an event, as PDUs.
#[derive(Clone, Debug, Default)]
pub struct StateAnswer {
    /// The state's events.
    pub state: Vec<Bytes>,
    /// Their auth chains.
    pub auth_chain: Vec<Bytes>,
}

impl Rooms {
    /// The version of a room that is here.
    pub async fn version(&self, _room_id: &RoomId) -> Result<RoomVersionId, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// An event of any room that this server shares or shared with the one that asks: whole if that
    /// one may see it, else redacted.
    pub async fn event_for_server(
        &self,
        _server: &ServerName,
        _event_id: &EventId,
    ) -> Result<Option<(OwnedRoomId, Bytes)>, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// The state before an event.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownEvent`] if it is not here or has no state; [`RoomError::Forbidden`] if the
    /// server may not see the room.
    pub async fn state_ids_for_server(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _event_id: &EventId,
    ) -> Result<StateIds, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// The same, as PDUs.
    pub async fn state_for_server(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _event_id: &EventId,
    ) -> Result<StateAnswer, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// An event's auth chain.
    pub async fn auth_chain_for_server(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _event_id: &EventId,
    ) -> Result<Vec<Bytes>, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// Events between `latest` and `earliest`, walked breadth-first from `latest`, oldest first (SS
    /// "Retrieving missing events"); those that the server may not see are redacted.
    pub async fn missing_events_for_server(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _earliest: &[OwnedEventId],
        _latest: &[OwnedEventId],
        _limit: usize,
        _min_depth: u64,
    ) -> Result<Vec<Bytes>, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// The named events and their ancestors, newest first (SS "Backfilling").
    pub async fn backfill_for_server(
        &self,
        _server: &ServerName,
        _room_id: &RoomId,
        _from: &[OwnedEventId],
        _limit: usize,
    ) -> Result<Vec<Bytes>, RoomError> {
        unimplemented!("rooms-serve")
    }

    /// The room's newest events, for a server that was long away: its forward extremities.
    pub async fn newest_events(
        &self,
        _room_id: &RoomId,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        unimplemented!("rooms-serve")
    }
}
