//! A room's stored events, as resolution asks for them.

use std::{fmt, ops::Bound, sync::Arc};

use hearth_storage::{Direction, Snapshot, StoreError};
use ruma::{OwnedRoomId, RoomId};

use super::{EventSource, ResolveError};
use crate::{
    Rooms,
    rooms::{parse_row, state_key_ordinal},
    schema::{AUTH_CHILDREN, EVENTS, EventOrdinal, STATE_KEYS, StoredEvent},
    state::StateKeyOrdinal,
};

/// Children read at a time: mostly one of the newest answers the question.
const CHILDREN: usize = 16;

/// One room's events at one moment: cached, read from the store when they are not. Reads block; a
/// resolution that may be large belongs on a blocking thread.
pub struct RoomEvents {
    rooms: Rooms,
    room_id: OwnedRoomId,
    snapshot: Snapshot,
}

impl RoomEvents {
    /// The events of this room that are stored now.
    #[must_use]
    pub fn new(rooms: &Rooms, room_id: &RoomId) -> Self {
        Self {
            rooms: rooms.clone(),
            room_id: room_id.to_owned(),
            snapshot: rooms.store().snapshot(),
        }
    }
}

impl fmt::Debug for RoomEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomEvents").field("room_id", &self.room_id).finish_non_exhaustive()
    }
}

impl EventSource for RoomEvents {
    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError> {
        let caches = self.rooms.caches();
        if let Some(event) = caches.event(&self.room_id, ordinal) {
            return Ok(event);
        }
        // Not put into the cache: what a snapshot holds may have been redacted since.
        let row = self.snapshot.get(&EVENTS, &self.room_id, &ordinal).map_err(store)?;
        if row.is_none() {
            return Err(ResolveError::MissingEvent(ordinal));
        }
        parse_row(ordinal, row).map_err(|error| ResolveError::Store(error.to_string()))
    }

    fn state_key(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, ResolveError> {
        let caches = self.rooms.caches();
        if let Some(ordinal) = caches.state_key(&self.room_id, event_type, state_key) {
            return Ok(Some(ordinal));
        }
        let key = (event_type.to_owned(), state_key.to_owned());
        let row = self.snapshot.get(&STATE_KEYS, &self.room_id, &key).map_err(store)?;
        Ok(row.map(|row| {
            let ordinal = state_key_ordinal(event_type, row.0);
            caches.keep_state_key(&self.room_id, event_type, state_key, ordinal);
            ordinal
        }))
    }

    fn auth_children(
        &self,
        parent: EventOrdinal,
        before: EventOrdinal,
    ) -> Result<Vec<EventOrdinal>, ResolveError> {
        let range = (Bound::Included((parent, 0)), Bound::Excluded((parent, before)));
        let rows = self
            .snapshot
            .page(&AUTH_CHILDREN, &self.room_id, range, Direction::Backward, CHILDREN)
            .map_err(store)?;
        Ok(rows.into_iter().map(|((_, child), ())| child).collect())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn store(error: StoreError) -> ResolveError {
    ResolveError::Store(error.to_string())
}
