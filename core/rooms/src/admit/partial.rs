//! Rooms whose state is still to be completed (faster joins).

use std::{ops::Bound, time::Duration};

use hearth_storage::{Direction, Topic};
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedServerName, RoomId};

use tokio::time::timeout;

use super::PartialRoom;
use crate::{
    Rooms,
    error::RoomError,
    schema::{self, CompletionRow},
};

/// Partial rooms that are listed at a time: as they are completed, others take their places.
const MAX_LISTED: usize = 1_000;
/// How long a question waits for a room's state to be whole: less than clients wait for an answer.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// How long the question of another server does.
const SERVERS_WAIT: Duration = Duration::from_secs(15);

impl Rooms {
    /// Rooms whose state is still partial and that this server is in: to be completed, also after a
    /// restart.
    pub async fn partial_rooms(&self) -> Result<Vec<PartialRoom>, RoomError> {
        let listed: Vec<(OwnedRoomId, ())> = self
            .store()
            .bulk(|snapshot| {
                snapshot.page(&schema::PARTIAL_ROOMS, &(), .., Direction::Forward, MAX_LISTED)
            })
            .await?;
        let mut partial = Vec::with_capacity(listed.len());
        for (room_id, ()) in listed {
            if !self.is_resident(&room_id).await? {
                continue;
            }
            if let Some(row) = self.store().get(&schema::PARTIAL, &room_id, &()).await? {
                let join = self.event(&room_id, row.join).await?.header.event_id.clone();
                partial.push(PartialRoom { room_id, join });
            }
        }
        Ok(partial)
    }

    /// Is the room's state still partial?
    pub async fn is_partial(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        Ok(self.store().get(&schema::PARTIAL, &room_id.to_owned(), &()).await?.is_some())
    }

    /// Waits until a room's state is whole: for questions that cannot be answered before.
    ///
    /// # Errors
    ///
    /// [`RoomError::Busy`] if it is still partial after a minute.
    pub async fn wait_until_whole(&self, room_id: &RoomId) -> Result<(), RoomError> {
        if !self.is_partial(room_id).await? {
            return Ok(());
        }
        let waiting = timeout(LONGEST_WAIT, self.becomes_whole(room_id));
        waiting.await.unwrap_or(Err(RoomError::Busy))
    }

    async fn becomes_whole(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let (notifier, topic) = (self.store().notifier(), Topic::new(room_id.as_str()));
        let mut publications = notifier.publications();
        loop {
            let asked = notifier.published();
            if !self.is_partial(room_id).await? {
                return Ok(());
            }
            while !notifier.changed_since(&topic, asked) {
                publications.changed().await.map_err(|_| RoomError::Busy)?;
            }
        }
    }

    /// The completion of a partial state behind one position, up to and with another; the last, if there
    /// were several.
    pub async fn completion_between(
        &self,
        room_id: &RoomId,
        after: StreamPosition,
        until: StreamPosition,
    ) -> Result<Option<CompletionRow>, RoomError> {
        if after >= until {
            return Ok(None);
        }
        let range = (Bound::Excluded(after), Bound::Included(until));
        let back = Direction::Backward;
        let rows =
            self.store().page(&schema::COMPLETIONS, &room_id.to_owned(), range, back, 1).await?;
        Ok(rows.first().map(|(_, row)| *row))
    }

    /// Waits for a shorter time: other servers may ask elsewhere.
    pub(crate) async fn wait_for_server(&self, room_id: &RoomId) -> Result<(), RoomError> {
        if !self.is_partial(room_id).await? {
            return Ok(());
        }
        let waiting = timeout(SERVERS_WAIT, self.becomes_whole(room_id));
        waiting.await.unwrap_or(Err(RoomError::Busy))
    }

    /// Servers that are in a room although its state, which is still partial, does not name their
    /// members: those that the join's answer named. None if the state is whole.
    pub async fn partial_servers(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        if !self.is_partial(room_id).await? {
            // Rows may be left over.
            return Ok(Vec::new());
        }
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
