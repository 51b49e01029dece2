//! The newest rows of a room's timeline. Most reading begins there, and they are the same for all members of
//! the room: they are remembered, and hold while the room does not change.

use std::{ops::Bound, sync::Arc};

use hearth_storage::{Direction, Topic};
use hearth_types::StreamPosition;
use ruma::RoomId;

use super::tokens::TimelineToken;
use crate::{
    ReadError, Rooms,
    schema::{TIMELINE, TimelineIndex, TimelineRow},
};

/// Rows of a room that are remembered: enough for its last event, for the one that moves it up in lists, and
/// for the one that a list shows with the next, which tells that there is more.
pub(super) const KEPT: usize = 4;

/// The newest rows of a room.
#[derive(Clone, Debug)]
pub(crate) struct NewestRows {
    topic: Topic,
    /// The room had not changed since they were read when this was published.
    as_of: StreamPosition,
    /// Newest first, at most [`KEPT`]; fewer are all that the room has.
    rows: Arc<[(TimelineIndex, TimelineRow)]>,
}

impl NewestRows {
    /// The last rows up to a place, newest first; `None` if not all of them are among these.
    fn up_to(
        &self,
        until: TimelineToken,
        limit: usize,
    ) -> Option<Vec<(TimelineIndex, TimelineRow)>> {
        let older = self.rows.iter().filter(|(index, _)| *index <= until.0);
        let rows: Vec<_> = older.take(limit).copied().collect();
        (rows.len() == limit || self.rows.len() < KEPT).then_some(rows)
    }
}

impl Rooms {
    /// The last rows up to a place, newest first, if they are remembered, or are the room's newest and can
    /// be from now on.
    pub(super) async fn newest_rows(
        &self,
        room_id: &RoomId,
        until: TimelineToken,
        limit: usize,
    ) -> Result<Option<Vec<(TimelineIndex, TimelineRow)>>, ReadError> {
        let notifier = self.store().notifier();
        if let Some(known) = self.caches().newest(room_id)
            && !notifier.changed_since(&known.topic, known.as_of)
        {
            return Ok(known.up_to(until, limit));
        }
        let topic = Topic::new(room_id.as_str());
        let is_end = match until.0 {
            TimelineIndex::Live(position) => !notifier.changed_since(&topic, position),
            TimelineIndex::History { .. } => false,
        };
        if !is_end {
            return Ok(None);
        }
        let as_of = notifier.published();
        let all = (Bound::Excluded(TimelineIndex::START), Bound::Included(TimelineIndex::END));
        let (room, back) = (room_id.to_owned(), Direction::Backward);
        let rows = self.store().page(&TIMELINE, &room, all, back, KEPT).await?;
        let newest = NewestRows { topic, as_of, rows: rows.into() };
        let found = newest.up_to(until, limit);
        // What is no room, or not yet, is not worth a place.
        if !newest.rows.is_empty() {
            self.caches().keep_newest(room_id, newest);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> TimelineIndex {
        TimelineIndex::Live(StreamPosition::new(position))
    }

    fn newest(positions: &[u64]) -> NewestRows {
        let row = |position: &u64| (at(*position), TimelineRow { ordinal: 0 });
        let rows = positions.iter().map(row).collect();
        NewestRows { topic: Topic::new("!r:x"), as_of: StreamPosition::new(99), rows }
    }

    fn up_to(newest: &NewestRows, until: u64, limit: usize) -> Option<Vec<TimelineIndex>> {
        let rows = newest.up_to(TimelineToken(at(until)), limit)?;
        Some(rows.into_iter().map(|(index, _)| index).collect())
    }

    #[test]
    fn what_may_lie_behind_the_rows_is_not_known() {
        let some = newest(&[9, 7, 5, 3]);
        assert_eq!(up_to(&some, 9, 2), Some(vec![at(9), at(7)]));
        assert_eq!(up_to(&some, 6, 2), Some(vec![at(5), at(3)]));
        assert_eq!(up_to(&some, 6, 3), None);
        assert_eq!(up_to(&some, 2, 1), None);
        let all = newest(&[9, 7]);
        assert_eq!(up_to(&all, 8, 3), Some(vec![at(7)]), "there are no more");
        assert_eq!(up_to(&all, 1, 1), Some(Vec::new()));
    }
}
