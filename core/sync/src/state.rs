//! The state part of a room's section: what the client cannot know from the timeline.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use hearth_rooms::{
    Rooms,
    read::StatePart,
    schema::{CompletionRow, EventOrdinal, StoredEvent},
    state::{Change, StateRoot},
};
use hearth_types::StreamPosition;
use parking_lot::Mutex;
use ruma::{RoomId, UserId, events::TimelineEventType};

use crate::{SyncError, filter::SyncFilter, hub::DeviceMemory, timeline::Timeline};

/// What to compute.
pub(crate) struct StateQuestion<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) room_id: &'a RoomId,
    pub(crate) user_id: &'a UserId,
    pub(crate) filter: &'a SyncFilter,
    /// The whole state, not what differs from what the client knows.
    pub(crate) full: bool,
    /// The state after the timeline, not before it.
    pub(crate) after: bool,
    /// Members that the summary names.
    pub(crate) heroes: &'a [Arc<StoredEvent>],
    /// What the client knows.
    pub(crate) since: Option<StreamPosition>,
    /// The token of this response.
    pub(crate) until: StreamPosition,
    pub(crate) device: &'a Mutex<DeviceMemory>,
}

impl StateQuestion<'_> {
    pub(crate) async fn read(
        &self,
        timeline: &Timeline,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let (root, at) = if self.after {
            (timeline.end_state, timeline.until)
        } else {
            (timeline.start_state, timeline.start_position())
        };
        let known = (timeline.known_state, self.since.unwrap_or(StreamPosition::ZERO));
        let mut events = if self.full {
            let part = if self.filter.lazy_load() { StatePart::Rest } else { StatePart::All };
            let mut events = self.rooms.state_events(self.room_id, root, part).await?;
            if self.filter.lazy_load() && self.since.is_some() {
                // The client keeps the members that it was told of, and must hear who changed.
                let changes = self.changes(known, (root, at)).await?;
                let is_member =
                    |event: &Arc<StoredEvent>| *event.pdu.kind() == TimelineEventType::RoomMember;
                events.extend(changes.into_iter().filter(is_member));
            }
            events
        } else {
            self.changes(known, (root, at)).await?
        };
        if !self.after {
            self.follow_to_end(&mut events, timeline).await?;
        }
        if self.filter.lazy_load() {
            self.add_members(&mut events, root, timeline).await?;
        }
        events.retain(|event| self.filter.wants_in_state(event));
        if self.filter.lazy_load() {
            self.remember(&events, timeline);
        }
        Ok(events)
    }

    /// What differs between the states at two positions. Of the gap of a limited timeline all changed
    /// memberships are among it, lazily loaded or not, as the specification asks; but not those that
    /// only became known in between, when a partial state was completed: they are loaded lazily.
    async fn changes(
        &self,
        (known, from): (StateRoot, StreamPosition),
        (root, until): (StateRoot, StreamPosition),
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let range = ((known, from), (root, until));
        let lazy = self.filter.lazy_load();
        let changes = changes_between(self.rooms, self.room_id, lazy, range).await?;
        let ordinals: Vec<EventOrdinal> =
            changes.iter().filter_map(|change| change.after).collect();
        Ok(self.rooms.events(self.room_id, &ordinals).await?)
    }

    /// State that changed after the timeline's start, but not by an event that it shows, is known by no
    /// other part: the filter left its event out, or a fork was resolved in its favor.
    async fn follow_to_end(
        &self,
        events: &mut Vec<Arc<StoredEvent>>,
        timeline: &Timeline,
    ) -> Result<(), SyncError> {
        let start = (timeline.start_state, timeline.start_position());
        let mut changed = self.changes(start, (timeline.end_state, timeline.until)).await?;
        let shown: HashSet<_> = timeline
            .events
            .iter()
            .filter(|event| event.pdu.state_key().is_some())
            .map(|event| state_key_of(event))
            .collect();
        changed.retain(|event| !shown.contains(&state_key_of(event)));
        let replaced: HashSet<_> = changed.iter().map(|event| state_key_of(event)).collect();
        events.retain(|known| !replaced.contains(&state_key_of(known)));
        events.extend(changed);
        Ok(())
    }

    /// The memberships that a client needs to show what it gets: of senders, heroes, and on a whole
    /// state its own user's.
    async fn add_members(
        &self,
        events: &mut Vec<Arc<StoredEvent>>,
        root: StateRoot,
        timeline: &Timeline,
    ) -> Result<(), SyncError> {
        let mut wanted: BTreeSet<&UserId> =
            timeline.events.iter().map(|event| event.pdu.sender()).collect();
        wanted.extend(
            self.heroes
                .iter()
                .filter_map(|event| event.pdu.state_key())
                .filter_map(|key| <&UserId>::try_from(key).ok()),
        );
        if self.full {
            wanted.insert(self.user_id);
        }
        let present: HashSet<EventOrdinal> = events.iter().map(|event| event.ordinal).collect();
        let mut missing = Vec::new();
        for user_id in wanted {
            let member = self
                .rooms
                .state_ordinal(self.room_id, root, "m.room.member", user_id.as_str())
                .await?;
            if let Some(ordinal) = member
                && !present.contains(&ordinal)
                && !self.knows(user_id, ordinal)
            {
                missing.push(ordinal);
            }
        }
        events.extend(self.rooms.events(self.room_id, &missing).await?);
        Ok(())
    }

    fn knows(&self, user_id: &UserId, ordinal: EventOrdinal) -> bool {
        match self.since {
            Some(since) if !self.full && !self.filter.redundant_members() => {
                self.device.lock().members.knows(self.room_id, user_id, ordinal, since)
            }
            _ => false,
        }
    }

    /// Notes which memberships go out with this response.
    fn remember(&self, state: &[Arc<StoredEvent>], timeline: &Timeline) {
        let mut device = self.device.lock();
        for event in state.iter().chain(&timeline.events) {
            if *event.pdu.kind() == TimelineEventType::RoomMember
                && let Some(key) = event.pdu.state_key()
                && let Ok(user_id) = <&UserId>::try_from(key)
            {
                device.members.sent(self.room_id, user_id, event.ordinal, self.until);
            }
        }
    }
}

/// A state and the position where it is that.
type Place = (StateRoot, StreamPosition);

/// What differs between the states at two positions. A client that loads members lazily does not hear of
/// those that only became known in between, when a partial state was completed.
pub(crate) async fn changes_between(
    rooms: &Rooms,
    room_id: &RoomId,
    lazy: bool,
    ((known, from), (root, until)): (Place, Place),
) -> Result<Vec<Change>, SyncError> {
    if known == root {
        return Ok(Vec::new());
    }
    let differ = |known, root, part| rooms.state_changes(room_id, known, root, part);
    let completion = if lazy && known.members != root.members {
        rooms.completion_between(room_id, from, until).await?
    } else {
        None
    };
    Ok(match completion {
        None => differ(known, root, StatePart::All)?,
        Some(CompletionRow { before, after }) => {
            let before = StateRoot { members: before, ..known };
            let after = StateRoot { members: after, ..root };
            let mut changes = differ(known, root, StatePart::Rest)?;
            changes.extend(differ(known, before, StatePart::Members)?);
            changes.extend(differ(after, root, StatePart::Members)?);
            changes
        }
    })
}

/// The state key that an event sets.
fn state_key_of(event: &StoredEvent) -> (String, String) {
    (event.pdu.kind().to_string(), event.pdu.state_key().unwrap_or_default().to_owned())
}
