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
    /// State events of the stretch after its first shown event that the filter left out, newest first.
    pub(crate) left_out: Vec<Arc<StoredEvent>>,
    /// More events fit than were taken.
    pub(crate) limited: bool,
    /// The place before the first event.
    pub(crate) start: Option<TimelineToken>,
    /// The state that the client knows: after the last event before the stretch.
    pub(crate) known_state: StateRoot,
    /// The state before the first event.
    pub(crate) start_state: StateRoot,
    /// The state after the last event of the stretch.
    pub(crate) end_state: StateRoot,
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
    /// Reads backwards from `until`, to the limit or to what the client knows.
    pub(crate) async fn read(&self, visibility: &mut Visibility) -> Result<Timeline, SyncError> {
        let mut timeline = Timeline::default();
        let mut end_state = None;
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
                end_state.get_or_insert(event.header.state_after);
                if self.since.is_some_and(|since| *index <= TimelineIndex::Live(since)) {
                    known = Some(event);
                    break 'read;
                }
                if !self.wants(&event) {
                    if event.pdu.state_key().is_some() {
                        timeline.left_out.push(event);
                    }
                } else if visibility.can_see(&event).await? {
                    // State that the user may not see stands in no timeline: what is older than
                    // that comes by pagination, so that the state before the timeline has it.
                    if timeline.events.len() >= limit || hidden_state {
                        timeline.limited = true;
                        break 'read;
                    }
                    timeline.events.push(event);
                } else {
                    hidden_state |= event.pdu.state_key().is_some();
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
        timeline.end_state = end_state.unwrap_or_default();
        let first = timeline.events.first();
        timeline.start_state = first.map_or(timeline.end_state, |event| event.header.state_before);
        timeline.start = first.and_then(|event| event.index).map(TimelineToken::before);
        timeline.known_state = match (known, self.since) {
            (Some(event), _) => event.header.state_after,
            (None, Some(since)) => {
                self.rooms.state_at(self.room_id, TimelineToken::at_position(since)).await?
            }
            (None, None) => StateRoot::default(),
        };
        Ok(timeline)
    }

    fn wants(&self, event: &StoredEvent) -> bool {
        self.filter.wants_in_timeline(event) && !is_ignored(self.ignored, event)
    }
}
