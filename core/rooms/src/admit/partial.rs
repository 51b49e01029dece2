//! Rooms whose state is still to be completed (faster joins).

use hearth_storage::Direction;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};

use super::PartialRoom;
use crate::{Rooms, error::RoomError, schema};

/// Partial rooms that are listed at a time: as they are completed, others take their places.
const MAX_LISTED: usize = 1_000;

impl Rooms {
    /// Rooms whose state is still partial: to be completed, also after a restart.
    pub async fn partial_rooms(&self) -> Result<Vec<PartialRoom>, RoomError> {
        let listed: Vec<(OwnedRoomId, ())> = self
            .store()
            .bulk(|snapshot| {
                snapshot.page(&schema::PARTIAL_ROOMS, &(), .., Direction::Forward, MAX_LISTED)
            })
            .await?;
        let mut partial = Vec::with_capacity(listed.len());
        for (room_id, ()) in listed {
            if let Some(row) = self.store().get(&schema::PARTIAL, &room_id, &()).await? {
                let join = self.event(&room_id, row.join).await?.header.event_id.clone();
                let servers = self.partial_servers(&room_id).await?;
                partial.push(PartialRoom { room_id, join, servers });
            }
        }
        Ok(partial)
    }

    /// Is the room's state still partial?
    pub async fn is_partial(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.store().get(&schema::PARTIAL, &room_id.to_owned(), &()).await?.is_some())
    }

    /// Servers that are in a room although its state, which is still partial, does not name their
    /// members: those that the join's answer named. None if the state is whole.
    pub async fn partial_servers(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        let room_id = room_id.to_owned();
        let rows = self
            .store()
            .bulk(move |snapshot| {
                snapshot.page(
                    &schema::PARTIAL_SERVERS,
                    &room_id,
                    ..,
                    Direction::Forward,
                    usize::MAX,
                )
            })
            .await?;
        Ok(rows.into_iter().map(|(server, ())| server).collect())
    }
}
