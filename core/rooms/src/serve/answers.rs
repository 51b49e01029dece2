//! Single events for other servers, and what they must know of a room to ask for more.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use hearth_storage::{Direction, Snapshot};
use ruma::{EventId, OwnedRoomId, RoomId, RoomVersionId, ServerName};

use crate::{
    Rooms, StoredEvent,
    error::RoomError,
    schema::{self, EventOrdinal, Standing},
};

/// Rooms in which one event is looked for: more than two servers share.
const MAX_PROBED_ROOMS: usize = 50_000;
/// Rooms read at a time while an event is looked for.
const PAGE: usize = 1_000;

impl Rooms {
    /// The version of a room that is here.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if it is not.
    pub async fn version(&self, room_id: &RoomId) -> Result<RoomVersionId, RoomError> {
        Ok(self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?.version.clone())
    }

    /// An event of any room that this server shares or shared with the one that asks: whole if that
    /// one may see it, else redacted. Rejected events are shown to nobody.
    pub async fn event_for_server(
        &self,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Option<(OwnedRoomId, Bytes)>, RoomError> {
        let Some((room_id, ordinal)) = self.find_event(server, event_id).await? else {
            return Ok(None);
        };
        let event = self.event(&room_id, ordinal).await?;
        if event.header.standing == Standing::Rejected {
            return Ok(None);
        }
        let mut visibility = match self.server_visibility(&room_id, server).await {
            Ok(visibility) => visibility,
            Err(RoomError::Forbidden(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some((room_id, visibility.show(&event).await?)))
    }

    /// Looks for an event in every room that a server has or had members in. There is no index of
    /// events over all rooms: it would cost a row for each event, and a few look-ups here do as well.
    async fn find_event(
        &self,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Option<(OwnedRoomId, EventOrdinal)>, RoomError> {
        let (server, event_id) = (server.to_owned(), event_id.to_owned());
        let read = move |snapshot: &Snapshot| {
            let mut from = Bound::Unbounded;
            for _ in 0..MAX_PROBED_ROOMS / PAGE {
                let range = (from, Bound::Unbounded);
                let keyspace = &schema::SERVER_ROOMS;
                let rows = snapshot.page(keyspace, &server, range, Direction::Forward, PAGE)?;
                for (room_id, _) in &rows {
                    if let Some(row) = snapshot.get(&schema::EVENT_IDS, room_id, &event_id)? {
                        return Ok(Some((room_id.clone(), row.0)));
                    }
                }
                match rows.into_iter().next_back() {
                    Some((last, _)) => from = Bound::Excluded(last),
                    None => break,
                }
            }
            Ok(None)
        };
        Ok(self.store().bulk(read).await?)
    }

    /// May another server see this event whole? For what it is sent late, when it may have joined since.
    pub async fn visible_to_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: &StoredEvent,
    ) -> Result<bool, RoomError> {
        let mut visibility = match self.server_visibility(room_id, server).await {
            Err(RoomError::Forbidden(_)) => return Ok(false),
            found => found?,
        };
        visibility.can_see(event).await
    }

    /// The room's newest events, for a server that was long away: its forward extremities.
    pub async fn newest_events(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        self.events(room_id, &head.extremities).await
    }
}
