//! The timeline: pages of it, the surroundings of one event, the event nearest to a time.

use std::{
    collections::{BTreeSet, HashSet},
    ops::Bound,
    sync::Arc,
};

use hearth_storage::Direction;
use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedUserId, RoomId, UserId};

use super::{
    filter::{TimelineFilter, wants_event, wants_room},
    newest,
    tokens::TimelineToken,
    visibility::Visibility,
};
use crate::{
    ReadError, RoomError, Rooms,
    schema::{EventOrdinal, RELATIONS, StoredEvent, TIMELINE, TimelineIndex, TimelineRow},
    state::StateRoot,
};

/// Greatest page of events. Larger limits are cut to it.
pub const MAX_LIMIT: usize = 1_000;
/// Rows that one request looks at for each event it may return, and never fewer than
/// [`MIN_SCANNED`]: a filter that matches nothing ends with a token to go on from.
const SCANNED_PER_EVENT: usize = 10;
const MIN_SCANNED: usize = 1_000;
/// Children of one event that a filter by relations looks at.
const MAX_CHILDREN: usize = 1_000;
/// Times that one request fetches history from other servers: what they send may be nothing that the
/// reader may see.
const MAX_FETCHES: usize = 3;
/// Rows in one read from the store.
const PAGE: usize = 100;

/// Whose messages a reader does not want to see. State events are shown all the same.
pub type Ignored = HashSet<OwnedUserId>;

/// One page of the timeline (`GET /messages`).
#[derive(Clone, Debug)]
pub struct MessagesRequest {
    /// Where to begin; the near end of the room if absent.
    pub from: Option<TimelineToken>,
    /// Where to stop, even before the limit.
    pub to: Option<TimelineToken>,
    /// In which direction.
    pub direction: Direction,
    /// How many events at most; cut to [`MAX_LIMIT`].
    pub limit: usize,
    /// Which events.
    pub filter: TimelineFilter,
}

/// What [`Rooms::messages`] found.
#[derive(Clone, Debug)]
pub struct MessagesPage {
    /// The events, in the direction of reading.
    pub events: Vec<Arc<StoredEvent>>,
    /// With lazy-loaded members: the memberships of the events' senders.
    pub state: Vec<Arc<StoredEvent>>,
    /// Where the page begins.
    pub start: TimelineToken,
    /// Where to go on; `None` when nothing is left.
    pub end: Option<TimelineToken>,
}

/// The surroundings of an event (`GET /context`).
#[derive(Clone, Debug)]
pub struct EventContext {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Before it, newest first.
    pub before: Vec<Arc<StoredEvent>>,
    /// After it, oldest first.
    pub after: Vec<Arc<StoredEvent>>,
    /// The room's state at the last of these events.
    pub state: Vec<Arc<StoredEvent>>,
    /// Where reading backwards goes on.
    pub start: TimelineToken,
    /// Where reading forwards goes on.
    pub end: TimelineToken,
}

/// A stretch of the timeline to read: after `after`, up to and with `until`.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The place where it begins.
    pub after: TimelineToken,
    /// The place where it ends.
    pub until: TimelineToken,
}

/// What [`Rooms::scan`] found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The events, in the direction of reading.
    pub events: Vec<Arc<StoredEvent>>,
    /// The last index that was looked at, if the stretch holds more than what was read.
    pub rest: Option<TimelineIndex>,
}

impl Rooms {
    /// A page of the timeline, judged event by event for this reader.
    pub async fn messages(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        ignored: &Ignored,
        request: &MessagesRequest,
    ) -> Result<MessagesPage, ReadError> {
        let access = self.access(room_id, user_id).await?;
        let mut visibility = self.visibility_with(room_id, user_id, access.row().cloned()).await?;
        let end = TimelineToken(access.end());
        let backward = request.direction == Direction::Backward;
        let start = match request.from {
            Some(from) => from.min(end),
            None if backward => {
                end.min(TimelineToken::at_position(self.store().notifier().published()))
            }
            None => TimelineToken::START,
        };
        let filter = &request.filter.event;
        if !wants_room(filter.rooms.as_deref(), &filter.not_rooms, room_id) {
            return Ok(MessagesPage { events: Vec::new(), state: Vec::new(), start, end: None });
        }
        let stretch = if backward {
            Stretch { after: request.to.unwrap_or(TimelineToken::START), until: start }
        } else {
            Stretch { after: start, until: request.to.map_or(end, |to| to.min(end)) }
        };
        let limit = request.limit.min(MAX_LIMIT);
        let wanted =
            |event: &StoredEvent| wants_event(filter, event) && !is_ignored(ignored, event);
        let mut scan =
            self.scan(room_id, stretch, request.direction, limit, &mut visibility, wanted).await?;
        let mut fetches = 0;
        while backward
            && fetches < MAX_FETCHES
            && self.crosses_gap(room_id, start, last_read(&scan, limit)).await?
            && self.fetch_history(room_id, limit).await?
        {
            scan = self
                .scan(room_id, stretch, request.direction, limit, &mut visibility, wanted)
                .await?;
            fetches += 1;
        }
        // Whoever reads on asks the other servers again, unless neither they nor this one had anything.
        if backward
            && scan.rest.is_none()
            && (fetches > 0 || !scan.events.is_empty())
            && self.crosses_gap(room_id, start, None).await?
        {
            let first = self.timeline_page(room_id, stretch, Direction::Forward, 1).await?;
            scan.rest = first.first().map(|(index, _)| *index);
        }
        let mut events = scan.events;
        if request.filter.asks_relations() {
            events = self.related_only(room_id, events, &request.filter).await?;
        }
        let state = match events.first() {
            Some(first) if request.filter.lazy_load_members() => {
                self.senders(room_id, first.header.state_after, &events).await?
            }
            _ => Vec::new(),
        };
        let end = scan.rest.map(|index| {
            if backward { TimelineToken::before(index) } else { TimelineToken::after(index) }
        });
        Ok(MessagesPage { events, state, start, end })
    }

    /// One event that the user may see; [`RoomError::UnknownEvent`] otherwise.
    pub async fn readable_event(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event_id: &EventId,
    ) -> Result<Arc<StoredEvent>, ReadError> {
        let event = self.event_by_id(room_id, event_id).await?.ok_or(RoomError::UnknownEvent)?;
        let mut visibility = self.visibility(room_id, user_id).await?;
        if visibility.can_see(&event).await? { Ok(event) } else { Err(RoomError::UnknownEvent) }
    }

    /// An event with up to `limit` events around it.
    pub async fn context(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        ignored: &Ignored,
        event_id: &EventId,
        limit: usize,
        filter: &TimelineFilter,
    ) -> Result<EventContext, ReadError> {
        let access = self.access(room_id, user_id).await?;
        let mut visibility = self.visibility_with(room_id, user_id, access.row().cloned()).await?;
        let event = self.event_by_id(room_id, event_id).await?.ok_or(RoomError::UnknownEvent)?;
        if !visibility.can_see(&event).await? {
            return Err(RoomError::UnknownEvent);
        }
        let index = event.index.ok_or(RoomError::UnknownEvent)?;
        let limit = limit.min(MAX_LIMIT);
        let wanted =
            |event: &StoredEvent| wants_event(&filter.event, event) && !is_ignored(ignored, event);
        let before = Stretch { after: TimelineToken::START, until: TimelineToken::before(index) };
        let before = self
            .scan(room_id, before, Direction::Backward, limit / 2, &mut visibility, wanted)
            .await?;
        let after =
            Stretch { after: TimelineToken::after(index), until: TimelineToken(access.end()) };
        let after = self
            .scan(room_id, after, Direction::Forward, limit - limit / 2, &mut visibility, wanted)
            .await?;
        let first = before.events.last().unwrap_or(&event);
        let last = after.events.last().unwrap_or(&event);
        let all: Vec<_> =
            before.events.iter().chain([&event]).chain(&after.events).cloned().collect();
        let state = self.context_state(room_id, last.header.state_after, &all, filter).await?;
        let start = TimelineToken::before(before.rest.or(first.index).unwrap_or(index));
        let end = TimelineToken::after(after.rest.or(last.index).unwrap_or(index));
        Ok(EventContext { before: before.events, after: after.events, event, state, start, end })
    }

    async fn context_state(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        events: &[Arc<StoredEvent>],
        filter: &TimelineFilter,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        use super::state::StatePart;
        if !filter.lazy_load_members() {
            return self.state_events(room_id, root, StatePart::All).await;
        }
        let mut state = self.state_events(room_id, root, StatePart::Rest).await?;
        state.extend(self.senders(room_id, root, events).await?);
        Ok(state)
    }

    /// Reads a stretch: up to `limit` events that are wanted and that the reader may see. Looks at a
    /// bounded number of rows; [`Scan::rest`] tells whether more is there.
    pub async fn scan(
        &self,
        room_id: &RoomId,
        stretch: Stretch,
        direction: Direction,
        limit: usize,
        visibility: &mut Visibility,
        wanted: impl Fn(&StoredEvent) -> bool,
    ) -> Result<Scan, ReadError> {
        let mut scan = Scan::default();
        let mut stretch = stretch;
        let mut budget = (limit.saturating_mul(SCANNED_PER_EVENT)).max(MIN_SCANNED);
        while budget > 0 {
            // One more than needed tells whether anything is left.
            let size = (limit - scan.events.len()).saturating_add(1).clamp(2, PAGE);
            let rows = self.timeline_page(room_id, stretch, direction, size).await?;
            let exhausted = rows.len() < size;
            let ordinals: Vec<EventOrdinal> = rows.iter().map(|(_, row)| row.ordinal).collect();
            let events = self.events(room_id, &ordinals).await?;
            for ((index, _), event) in rows.iter().zip(events) {
                if scan.events.len() >= limit {
                    // What was looked at last is the row before this one.
                    return Ok(scan);
                }
                scan.rest = Some(*index);
                if wanted(&event) && visibility.can_see(&event).await? {
                    scan.events.push(event);
                }
            }
            if exhausted {
                scan.rest = None;
                return Ok(scan);
            }
            if let Some(index) = scan.rest {
                match direction {
                    Direction::Forward => stretch.after = TimelineToken::after(index),
                    Direction::Backward => stretch.until = TimelineToken::before(index),
                }
            }
            budget = budget.saturating_sub(rows.len());
        }
        Ok(scan)
    }

    /// Rows of the timeline.
    pub async fn timeline_page(
        &self,
        room_id: &RoomId,
        stretch: Stretch,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(TimelineIndex, TimelineRow)>, ReadError> {
        if stretch.after >= stretch.until {
            return Ok(Vec::new());
        }
        let from_end = direction == Direction::Backward && stretch.after == TimelineToken::START;
        if from_end
            && limit <= newest::KEPT
            && let Some(rows) = self.newest_rows(room_id, stretch.until, limit).await?
        {
            return Ok(rows);
        }
        let range = (Bound::Excluded(stretch.after.0), Bound::Included(stretch.until.0));
        Ok(self.store().page(&TIMELINE, &room_id.to_owned(), range, direction, limit).await?)
    }

    /// The last event before a place in the timeline.
    pub async fn last_event_at(
        &self,
        room_id: &RoomId,
        at: TimelineToken,
    ) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        let stretch = Stretch { after: TimelineToken::START, until: at };
        let rows = self.timeline_page(room_id, stretch, Direction::Backward, 1).await?;
        match rows.first() {
            Some((_, row)) => Ok(Some(self.event(room_id, row.ordinal).await?)),
            None => Ok(None),
        }
    }

    /// The memberships of these events' senders in this state, each once.
    pub async fn senders(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        events: &[Arc<StoredEvent>],
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let senders: BTreeSet<&UserId> = events.iter().map(|event| event.pdu.sender()).collect();
        let mut members = Vec::with_capacity(senders.len());
        for sender in senders {
            let member = self.state_event(room_id, root, "m.room.member", sender.as_str()).await?;
            members.extend(member);
        }
        Ok(members)
    }

    async fn related_only(
        &self,
        room_id: &RoomId,
        events: Vec<Arc<StoredEvent>>,
        filter: &TimelineFilter,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let mut related = Vec::new();
        for event in events {
            if self.has_child_like(room_id, event.pdu.id(), filter).await? {
                related.push(event);
            }
        }
        Ok(related)
    }

    /// Is one of the event's first 1,000 children of such a type and sender?
    async fn has_child_like(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        filter: &TimelineFilter,
    ) -> Result<bool, ReadError> {
        let key = |rel_type: &str, index| (event_id.to_owned(), rel_type.to_owned(), index);
        let mut start = Bound::Included(key("", TimelineIndex::START));
        let end = Bound::Included(key("\u{10ffff}", TimelineIndex::END));
        for _ in 0..MAX_CHILDREN / PAGE {
            let range = (start, end.clone());
            let rows = self
                .store()
                .page(&RELATIONS, &room_id.to_owned(), range, Direction::Forward, PAGE)
                .await?;
            let fits = rows.iter().any(|((_, rel_type, _), row)| {
                (filter.related_by_senders.is_empty()
                    || filter.related_by_senders.contains(&row.sender))
                    && (filter.related_by_rel_types.is_empty()
                        || filter.related_by_rel_types.contains(rel_type))
            });
            match rows.into_iter().last() {
                _ if fits => return Ok(true),
                Some((last, _)) => start = Bound::Excluded(last),
                None => break,
            }
        }
        Ok(false)
    }

    /// The visible event nearest to a time, looking in one direction: the first with this timestamp or
    /// a later one, or the last with this timestamp or an earlier one (`GET /timestamp_to_event`).
    ///
    /// Timestamps are the senders' claims and the timeline is ordered by arrival; the search halves the
    /// stretch of positions as if both agreed (at most 128 probes of one row each), then looks through
    /// the 100 events on either side for a nearer one. There is no index by time: it would cost a row
    /// for every message.
    ///
    /// Where it may lie in history that is not here, other servers are asked.
    pub async fn timestamp_to_event(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Arc<StoredEvent>, ReadError> {
        let here = self.nearest_here(room_id, user_id, at, direction).await;
        let Some(remote) = self.remote() else { return here };
        let open = match (&here, direction) {
            (Err(RoomError::UnknownEvent), Direction::Backward) => true,
            (Ok(event), Direction::Forward) => self.is_first(room_id, event).await?,
            _ => false,
        };
        if !open || !self.has_more_elsewhere(room_id).await? {
            return here;
        }
        let asked = match direction {
            Direction::Forward => ruma::api::Direction::Forward,
            Direction::Backward => ruma::api::Direction::Backward,
        };
        let found = match remote.timestamp_to_event(room_id, at, asked).await {
            Ok(Some((event_id, _))) => self.readable_event(room_id, user_id, &event_id).await,
            Err(error @ RoomError::Internal(_)) => return Err(error),
            Ok(None) | Err(_) => return here,
        };
        let fits = |event: &StoredEvent| match direction {
            Direction::Forward => event.pdu.origin_server_ts() >= at,
            Direction::Backward => event.pdu.origin_server_ts() <= at,
        };
        match found {
            Ok(event) if fits(&event) => Ok(event),
            _ => here,
        }
    }

    /// Is this the first event of the timeline?
    async fn is_first(&self, room_id: &RoomId, event: &StoredEvent) -> Result<bool, ReadError> {
        let whole =
            Stretch { after: TimelineToken::START, until: TimelineToken(TimelineIndex::END) };
        let rows = self.timeline_page(room_id, whole, Direction::Forward, 1).await?;
        Ok(rows.first().is_some_and(|(index, _)| Some(*index) == event.index))
    }

    /// [`Self::timestamp_to_event`] among what is here.
    async fn nearest_here(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<Arc<StoredEvent>, ReadError> {
        let access = self.access(room_id, user_id).await?;
        let end = TimelineToken(access.end())
            .min(TimelineToken::at_position(self.store().notifier().published()));
        let pivot = self.first_at_time(room_id, end, at).await?;
        let mut visibility = self.visibility_with(room_id, user_id, access.row().cloned()).await?;
        let around = [
            (Stretch { after: TimelineToken::START, until: pivot }, Direction::Backward),
            (Stretch { after: pivot, until: end }, Direction::Forward),
        ];
        let mut best: Option<Arc<StoredEvent>> = None;
        for (stretch, reading) in around {
            let scan =
                self.scan(room_id, stretch, reading, PAGE, &mut visibility, |_| true).await?;
            for event in scan.events {
                let time = event.pdu.origin_server_ts();
                let fits = match direction {
                    Direction::Forward => time >= at,
                    Direction::Backward => time <= at,
                };
                let nearer = best.as_ref().is_none_or(|best| {
                    let key = |e: &StoredEvent| (e.pdu.origin_server_ts(), e.index);
                    match direction {
                        Direction::Forward => key(&event) < key(best),
                        Direction::Backward => key(&event) > key(best),
                    }
                });
                if fits && nearer {
                    best = Some(event);
                }
            }
        }
        best.ok_or(RoomError::UnknownEvent)
    }

    /// The place before the first event of this time or later, as if time grew along the timeline.
    pub(crate) async fn first_at_time(
        &self,
        room_id: &RoomId,
        end: TimelineToken,
        at: MilliSecondsSinceUnixEpoch,
    ) -> Result<TimelineToken, ReadError> {
        // Everything up to `low` is earlier, everything after `high` is not.
        let (mut low, mut high) = (0, end.0.line());
        if let Some((first, _)) = self
            .timeline_page(
                room_id,
                Stretch { after: TimelineToken::START, until: end },
                Direction::Forward,
                1,
            )
            .await?
            .first()
        {
            low = first.line().saturating_sub(1);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            let stretch =
                Stretch { after: TimelineToken(TimelineIndex::at_line(middle)), until: end };
            let rows = self.timeline_page(room_id, stretch, Direction::Forward, 1).await?;
            match rows.first() {
                Some((index, row)) => {
                    let event = self.event(room_id, row.ordinal).await?;
                    if event.pdu.origin_server_ts() < at {
                        low = index.line();
                    } else {
                        high = middle;
                    }
                }
                None => high = middle,
            }
        }
        Ok(TimelineToken(TimelineIndex::at_line(low)))
    }
}

/// The last place that a reader backwards has read; `None` if they came to the beginning and could do
/// with more.
fn last_read(scan: &Scan, limit: usize) -> Option<TimelineIndex> {
    match scan.rest {
        None if scan.events.len() >= limit => scan.events.last().and_then(|event| event.index),
        rest => rest,
    }
}

/// Is this a message of somebody whom the reader ignores?
#[must_use]
pub fn is_ignored(ignored: &Ignored, event: &StoredEvent) -> bool {
    event.pdu.state_key().is_none() && ignored.contains(event.pdu.sender())
}
