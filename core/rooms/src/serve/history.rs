//! History for other servers: walks over previous events, backwards.

use std::{
    collections::{BinaryHeap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use crate::{
    Rooms,
    error::RoomError,
    schema::{EventOrdinal, Standing, StoredEvent},
};

/// Events in one answer to `backfill` at most.
pub const MAX_BACKFILL: usize = 100;
/// Events in one answer to `get_missing_events` at most.
pub const MAX_MISSING: usize = 50;
/// Events that one request may name; further ones are passed over.
const MAX_NAMED: usize = 100;
/// Events that one walk looks at: those that are not shown cost too.
const MAX_WALKED: usize = 2_000;

impl Rooms {
    /// The named events and their ancestors, newest first (SS "Backfilling"), at most
    /// [`MAX_BACKFILL`]; those that the server may not see are redacted.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`]; [`RoomError::Forbidden`] if the server was never in the room.
    pub async fn backfill_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Bytes>, RoomError> {
        let mut visibility = self.server_visibility(room_id, server).await?;
        let limit = limit.min(MAX_BACKFILL);
        let mut seen = HashSet::new();
        // The deepest first; among equals the newest here.
        let mut open: BinaryHeap<(u64, EventOrdinal)> = BinaryHeap::new();
        for event_id in from.iter().take(MAX_NAMED) {
            if let Some(event) = self.walkable(room_id, event_id).await?
                && seen.insert(event.ordinal)
            {
                open.push((event.pdu.depth(), event.ordinal));
            }
        }
        let mut shown = Vec::with_capacity(limit);
        for _ in 0..MAX_WALKED {
            if shown.len() >= limit {
                break;
            }
            let Some((_, ordinal)) = open.pop() else { break };
            let event = self.event(room_id, ordinal).await?;
            for previous in self.events(room_id, &event.header.prev_events).await? {
                if previous.header.standing != Standing::Outlier && seen.insert(previous.ordinal) {
                    open.push((previous.pdu.depth(), previous.ordinal));
                }
            }
            if event.header.standing != Standing::Rejected {
                shown.push(visibility.show(&event).await?);
            }
        }
        Ok(shown)
    }

    /// Events between `latest` and `earliest`, walked breadth-first from `latest`, oldest first, at
    /// most [`MAX_MISSING`] (SS "Retrieving missing events"); those that the server may not see are
    /// redacted.
    ///
    /// # Errors
    ///
    /// As [`Self::backfill_for_server`].
    pub async fn missing_events_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
        min_depth: u64,
    ) -> Result<Vec<Bytes>, RoomError> {
        let mut visibility = self.server_visibility(room_id, server).await?;
        let limit = limit.min(MAX_MISSING);
        let mut seen = HashSet::new();
        for event_id in earliest.iter().take(MAX_NAMED) {
            seen.extend(self.ordinal_of(room_id, event_id).await?);
        }
        let mut open = VecDeque::new();
        for event_id in latest.iter().take(MAX_NAMED) {
            if let Some(event) = self.walkable(room_id, event_id).await?
                && seen.insert(event.ordinal)
            {
                open.push_back(event);
            }
        }
        let mut found: Vec<Arc<StoredEvent>> = Vec::with_capacity(limit);
        'walk: for _ in 0..MAX_WALKED {
            let Some(event) = open.pop_front() else { break };
            for previous in self.events(room_id, &event.header.prev_events).await? {
                let wanted = previous.header.standing != Standing::Outlier
                    && previous.pdu.depth() >= min_depth;
                if !wanted || !seen.insert(previous.ordinal) {
                    continue;
                }
                if previous.header.standing != Standing::Rejected {
                    if found.len() >= limit {
                        break 'walk;
                    }
                    found.push(Arc::clone(&previous));
                }
                open.push_back(previous);
            }
        }
        found.sort_by_key(|event| (event.pdu.depth(), event.ordinal));
        let mut shown = Vec::with_capacity(found.len());
        for event in found {
            shown.push(visibility.show(&event).await?);
        }
        Ok(shown)
    }

    /// An event that is here with its previous events.
    async fn walkable(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let event = self.event_by_id(room_id, event_id).await?;
        Ok(event.filter(|event| event.header.standing != Standing::Outlier))
    }
}
