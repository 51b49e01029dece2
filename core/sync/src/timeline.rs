//! The timeline part of a room's section.

use std::{collections::HashSet, sync::Arc};

use hearth_rooms::{
    Rooms,
    read::{Stretch, TimelineToken, Visibility, timeline::is_ignored},
    schema::{EventOrdinal, StoredEvent, TimelineIndex},
    state::StateRoot,
};
use hearth_storage::Direction;
use hearth_types::StreamPosition;
use ruma::{OwnedUserId, RoomId};

use crate::{SyncError, filter::SyncFilter};

/// Timeline rows that one room's section looks at; where nothing fits the filter among so many, the
/// timeline is limited there.
const MAX_SCANNED: usize = 1_000;
const PAGE: usize = 100;

/// The newest events of a stretch, and the states around them.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// Oldest first.
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// More events fit than were taken, or may do so that only other servers have.
    pub(crate) limited: bool,
    /// The place before the first event.
    pub(crate) start: Option<TimelineToken>,
    /// The room's state at the client's token.
    pub(crate) known_state: StateRoot,
    /// The room's state before the first event.
    pub(crate) start_state: StateRoot,
    /// The room's state at the end of the stretch: after its last event, or what the forks there are
    /// resolved to.
    pub(crate) end_state: StateRoot,
    /// The end of the stretch.
    pub(crate) until: StreamPosition,
}

impl Timeline {
    /// The last position before the first event.
    pub(crate) fn start_position(&self) -> StreamPosition {
        match self.start.map(|start| start.0) {
            Some(TimelineIndex::Live(position)) => position,
            Some(TimelineIndex::History { before, .. }) => before.previous(),
            None => self.until,
        }
    }
}

/// What to read.
pub(crate) struct TimelineQuestion<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) room_id: &'a RoomId,
    /// What the client knows; `None`: nothing.
    pub(crate) since: Option<StreamPosition>,
    pub(crate) until: StreamPosition,
    pub(crate) filter: &'a SyncFilter,
    pub(crate) ignored: &'a HashSet<OwnedUserId>,
}

impl TimelineQuestion<'_> {
    /// Reads backwards from `until`, to the limit, to what the client knows or to a gap in the history.
    pub(crate) async fn read(&self, visibility: &mut Visibility) -> Result<Timeline, SyncError> {
        let mut timeline = Timeline { until: self.until, ..Timeline::default() };
        let mut last = None;
        let mut known = None;
        let mut until = TimelineToken::at_position(self.until);
        let limit = self.filter.timeline_limit;
        let mut budget = MAX_SCANNED;
        let mut hidden_state = false;
        'read: loop {
            // One more than needed shows the state that the client knows, or that there is more.
            let size = (limit + 1 - timeline.events.len()).clamp(2, PAGE);
            let stretch = Stretch { after: TimelineToken::START, until };
            let rows =
                self.rooms.timeline_page(self.room_id, stretch, Direction::Backward, size).await?;
            let ordinals: Vec<EventOrdinal> = rows.iter().map(|(_, row)| row.ordinal).collect();
            let events = self.rooms.events(self.room_id, &ordinals).await?;
            for ((index, _), event) in rows.iter().zip(events) {
                last.get_or_insert_with(|| Arc::clone(&event));
                if self.since.is_some_and(|since| *index <= TimelineIndex::Live(since)) {
                    known = Some(event);
                    break 'read;
                }
                if self.wants(&event) {
                    if !visibility.can_see(&event).await? {
                        hidden_state |= event.pdu.state_key().is_some();
                    } else if timeline.events.len() >= limit || hidden_state {
                        // State that the user may not see stands in no timeline: what is older than
                        // that comes by pagination, so that the state before the timeline has it.
                        timeline.limited = true;
                        break 'read;
                    } else {
                        timeline.events.push(Arc::clone(&event));
                    }
                }
                // What lies between comes by pagination, which asks the other servers.
                if self.rooms.follows_gap(self.room_id, &event).await? {
                    timeline.limited = true;
                    break 'read;
                }
            }
            budget = budget.saturating_sub(rows.len());
            match rows.last() {
                Some((index, _)) if rows.len() == size && budget > 0 => {
                    until = TimelineToken::before(*index);
                }
                Some(_) if rows.len() == size => {
                    timeline.limited = true;
                    break;
                }
                _ => break,
            }
        }
        timeline.events.reverse();
        timeline.start = timeline.events.first().and_then(|e| e.index).map(TimelineToken::before);
        let last = last.as_deref();
        timeline.end_state = self.state_at(last, self.until).await?;
        timeline.start_state = match timeline.events.first() {
            Some(first) => self.rooms.current_state_before(self.room_id, first).await?,
            None => timeline.end_state,
        };
        timeline.known_state = match self.since {
            Some(since) => self.state_at(known.as_deref(), since).await?,
            None => StateRoot::default(),
        };
        Ok(timeline)
    }

    /// The room's state at a place, whose last event may have been read.
    async fn state_at(
        &self,
        last: Option<&StoredEvent>,
        at: StreamPosition,
    ) -> Result<StateRoot, SyncError> {
        let at = TimelineToken::at_position(at);
        Ok(match last {
            Some(last) => self.rooms.current_state_after(self.room_id, last, at).await?,
            None => self.rooms.state_at(self.room_id, at).await?,
        })
    }

    fn wants(&self, event: &StoredEvent) -> bool {
        self.filter.wants_in_timeline(event) && !is_ignored(self.ignored, event)
    }
}
