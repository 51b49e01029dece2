//! The event nearest to a time, for other servers (SS "Retrieving events").

use std::{cmp::Reverse, sync::Arc};

use hearth_storage::Direction;
use ruma::{MilliSecondsSinceUnixEpoch, RoomId, ServerName};

use crate::{
    Rooms,
    error::RoomError,
    read::{Stretch, TimelineToken},
    schema::{EventOrdinal, StoredEvent},
};

/// Events on either side of the place found that are compared: timestamps are claims, and the timeline
/// is ordered by arrival.
const AROUND: usize = 100;

impl Rooms {
    /// The event nearest to a time that a server may see: the first with this timestamp or a later one,
    /// or the last with this timestamp or an earlier one.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownEvent`] if there is none in that direction; [`RoomError::Forbidden`] if the
    /// server is not in the room.
    pub async fn timestamp_to_event_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Arc<StoredEvent>, RoomError> {
        let mut visibility = self.server_visibility(room_id, server).await?;
        if !visibility.joined_now() {
            return Err(RoomError::Forbidden("your server is not in this room".to_owned()));
        }
        for event in self.events_near(room_id, at, direction).await? {
            if visibility.can_see(&event).await? {
                return Ok(event);
            }
        }
        Err(RoomError::UnknownEvent)
    }

    /// Events around a time on its wanted side, the nearest first.
    async fn events_near(
        &self,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let end = TimelineToken::at_position(self.store().notifier().published());
        let pivot = self.first_at_time(room_id, end, at).await?;
        let around = [
            (Stretch { after: TimelineToken::START, until: pivot }, Direction::Backward),
            (Stretch { after: pivot, until: end }, Direction::Forward),
        ];
        let mut ordinals: Vec<EventOrdinal> = Vec::with_capacity(2 * AROUND);
        for (stretch, reading) in around {
            let rows = self.timeline_page(room_id, stretch, reading, AROUND).await?;
            ordinals.extend(rows.into_iter().map(|(_, row)| row.ordinal));
        }
        let mut events = self.events(room_id, &ordinals).await?;
        let key = |event: &Arc<StoredEvent>| (event.pdu.origin_server_ts(), event.index);
        match direction {
            Direction::Forward => {
                events.retain(|event| event.pdu.origin_server_ts() >= at);
                events.sort_by_key(key);
            }
            Direction::Backward => {
                events.retain(|event| event.pdu.origin_server_ts() <= at);
                events.sort_by_key(|event| Reverse(key(event)));
            }
        }
        Ok(events)
    }
}
