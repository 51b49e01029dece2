//! History: events from before what is held, which other servers have sent on request (SS "Backfilling
//! and retrieving missing events"). They get a place before what follows them, and change nothing of
//! what is now: neither extremities nor the current state, members or unread counts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_storage::Direction;
use hearth_types::{Pdu, StreamPosition};
use ruma::{EventId, OwnedEventId};

use super::{
    Batch, Context, Facts, Room, StepError,
    beside::{Beside, Subject},
    effects::StateChange,
    receive::{Arrival, facts_of},
};
use crate::{
    CheckedPdu, Teller, Verdict,
    error::RoomError,
    redaction::received_target,
    schema::{
        self, EventOrdinal, EventOrdinalRow, GapRow, Standing, StoredEvent, ThreadRow,
        TimelineIndex,
    },
};

/// Places that one step of depth takes: so many siblings find room, and what is fetched later finds
/// its place between what is here.
const PLACES_PER_STEP: u64 = 1 << 20;
/// Steps that depths are believed: who claims more stands together with others who do.
const MAX_STEPS: u64 = 1 << 42;
/// Gaps that are looked at for events that nothing here follows.
const MAX_GAPS: usize = 1_000;
/// Of these, how many that stand nowhere are passed over for one event.
const MAX_CHILDREN: usize = 20;
/// Replies that are counted of a thread whose root comes after them.
const MAX_REPLIES: usize = 1_000;
/// The relation of a thread's replies to its root.
const THREAD: &str = "m.thread";

/// Where events of history are to stand.
pub(super) type Places = HashMap<OwnedEventId, TimelineIndex>;

impl Room {
    /// Finds places for events, which are sorted so that each comes after its previous events: before
    /// everything that follows them, and the deeper the later.
    pub(super) fn history_places(
        &self,
        view: &Context<'_>,
        batch: &Batch,
        events: &[CheckedPdu],
    ) -> Result<Places, StepError> {
        let mut places = Places::with_capacity(events.len());
        let mut taken = BTreeSet::new();
        let mut first_child: HashMap<&EventId, TimelineIndex> = HashMap::new();
        let mut gaps: Option<Vec<GapRow>> = None;
        for event in events.iter().rev() {
            let pdu = event.pdu();
            let among = first_child.get(pdu.id()).copied();
            let here = self.child_in_gap(view, batch, pdu.id())?;
            let child = if let Some(child) = among.into_iter().chain(here).min() {
                child
            } else {
                let gaps = match &mut gaps {
                    Some(gaps) => gaps,
                    open => open.insert(self.open_gaps(view)?),
                };
                self.nearest_gap(view, batch, gaps, pdu.depth())?
            };
            let place = self.free_place(view, child, pdu.depth(), &mut taken)?;
            for previous in pdu.prev_events() {
                let first = first_child.entry(previous).or_insert(place);
                *first = place.min(*first);
            }
            places.insert(pdu.id().to_owned(), place);
        }
        Ok(places)
    }

    /// Where the event stands that named this one as missing.
    fn child_in_gap(
        &self,
        view: &Context<'_>,
        batch: &Batch,
        event_id: &EventId,
    ) -> Result<Option<TimelineIndex>, StepError> {
        if self.local.history_gaps.contains_key(event_id) {
            // Which event that was is known when its commit is durable.
            return Err(StepError::Settle);
        }
        let row = view.snapshot.get(&schema::HISTORY_GAPS, &self.id, &event_id.to_owned())?;
        match row {
            Some(row) => self.place_of(view, batch, row.child),
            None => Ok(None),
        }
    }

    /// Where an event stands, if it stands anywhere.
    fn place_of(
        &self,
        view: &Context<'_>,
        batch: &Batch,
        ordinal: EventOrdinal,
    ) -> Result<Option<TimelineIndex>, StepError> {
        let index = self.index_of(batch.number, &*self.event(view, ordinal)?)?;
        if index.is_some_and(|index| index.position().pending_index().is_some()) {
            return Err(StepError::Settle);
        }
        Ok(index)
    }

    /// The gaps that the store has, the lowest first.
    fn open_gaps(&self, view: &Context<'_>) -> Result<Vec<GapRow>, RoomError> {
        let forward = Direction::Forward;
        let rows = view.snapshot.page(&schema::HISTORY_GAPS, &self.id, .., forward, MAX_GAPS)?;
        let mut gaps: Vec<GapRow> = rows.into_iter().map(|(_, gap)| gap).collect();
        gaps.sort_unstable_by_key(|gap| (gap.depth, gap.child));
        Ok(gaps)
    }

    /// The event to stand before for one that nothing here follows: of those behind a gap the one that
    /// is next in depth, or else the first of the room.
    fn nearest_gap(
        &self,
        view: &Context<'_>,
        batch: &Batch,
        gaps: &[GapRow],
        depth: u64,
    ) -> Result<TimelineIndex, StepError> {
        let above = gaps.partition_point(|gap| gap.depth <= depth);
        for gap in gaps.iter().skip(above).take(MAX_CHILDREN) {
            if let Some(index) = self.place_of(view, batch, gap.child)? {
                return Ok(index);
            }
        }
        let forward = Direction::Forward;
        let first = view.snapshot.page(&schema::TIMELINE, &self.id, .., forward, 1)?;
        let first = first.first().map(|(index, _)| *index);
        Ok(first.ok_or_else(|| RoomError::internal("a room without a timeline"))?)
    }

    /// A place before another one where nothing stands yet.
    fn free_place(
        &self,
        view: &Context<'_>,
        child: TimelineIndex,
        depth: u64,
        taken: &mut BTreeSet<TimelineIndex>,
    ) -> Result<TimelineIndex, StepError> {
        let (before, least) = match child {
            TimelineIndex::Live(position) => (position, 1),
            TimelineIndex::History { before, distance } => (before, distance.saturating_add(1)),
        };
        let steps = self.depth_at(view, before)?.map_or(0, |anchor| anchor.saturating_sub(depth));
        let mut distance = least.max(steps.min(MAX_STEPS) * PLACES_PER_STEP);
        let at = |distance| TimelineIndex::History { before, distance };
        // Not even a server that sends nothing but siblings fills all places of a room.
        while distance <= TimelineIndex::MAX_DISTANCE {
            // Of the step that the event belongs to, what comes before everything that is there.
            let end =
                (distance / PLACES_PER_STEP).saturating_add(1).saturating_mul(PLACES_PER_STEP);
            let step = at(end.saturating_sub(1))..=at(distance);
            let stored = view.snapshot.page(
                &schema::TIMELINE,
                &self.id,
                step.clone(),
                Direction::Forward,
                1,
            )?;
            let stored = stored.first().map(|(place, _)| *place);
            let first = stored.into_iter().chain(taken.range(step).next().copied()).min();
            let free = match first {
                Some(TimelineIndex::History { distance, .. }) => distance.saturating_add(1),
                Some(TimelineIndex::Live(_)) | None => distance,
            };
            if free < end {
                taken.insert(at(free));
                return Ok(at(free));
            }
            distance = end;
        }
        Err(RoomError::internal("no place is left for history").into())
    }

    fn depth_at(
        &self,
        view: &Context<'_>,
        position: StreamPosition,
    ) -> Result<Option<u64>, RoomError> {
        let index = TimelineIndex::Live(position);
        match view.snapshot.get(&schema::TIMELINE, &self.id, &index)? {
            Some(row) => Ok(Some(self.event(view, row.ordinal)?.pdu.depth())),
            None => Ok(None),
        }
    }

    /// Judges an event of history and gives it its place. What its own auth events allow is rejected for
    /// good only by a state that its author tells: of the other states of the past nothing is certain but
    /// that somebody told them, or one that they come from.
    pub(super) fn admit_history(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
        teller: Teller,
        place: TimelineIndex,
    ) -> Result<Verdict, StepError> {
        // What the room is now has no say in its past.
        let verdict = self.judge_past(view, arrival)?;
        let is_certain = teller == Teller::Author && !arrival.missing.is_empty();
        if matches!(verdict, Verdict::Rejected(_))
            && !is_certain
            && self.allowed_by_auth_events(view, arrival.pdu, &arrival.auth_events)?.is_ok()
        {
            return Ok(verdict);
        }
        let standing = match &verdict {
            Verdict::Rejected(_) => Standing::Rejected,
            _ => Standing::Accepted,
        };
        let change = self.state_after(view, batch, arrival, standing)?;
        let event = self.stored(view, batch, arrival, standing, &change)?;
        if standing == Standing::Rejected {
            self.store_quietly(view, batch, event, change.new_key, &arrival.missing)?;
        } else {
            self.accept_history(view, batch, arrival, (event, change), place)?;
        }
        Ok(verdict)
    }

    fn accept_history(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
        (event, change): (StoredEvent, StateChange),
        place: TimelineIndex,
    ) -> Result<(), StepError> {
        let is_followed = self.gap(view, arrival.pdu.id())?.is_some();
        let gaps = self.new_gaps(view, &event, &arrival.missing, false)?;
        let redacts = received_target(&self.rules, &event.pdu);
        let beside = self.beside_history(view, batch, arrival, &event, redacts.as_deref())?;
        let waits = match &redacts {
            Some(target) if self.event_by_id(view, target)?.is_none() => redacts,
            _ => None,
        };
        let pending = self.pending_redactions(view, arrival.pdu.id())?;
        let thread = self.thread_begun_by(view, &event)?;

        // Nothing fails from here on.
        let event = StoredEvent { index: Some(place), ..event };
        let event: Arc<StoredEvent> = self.add_stored(batch, event, None, change.new_key);
        beside.apply(self, batch, &event, place);
        if let Some(row) = thread {
            self.keep_thread(batch, event.header.event_id.clone(), row);
        }
        self.close_gap(batch, &event, is_followed, gaps);
        self.settle_redactions(batch, &event, waits, &pending);
        Ok(())
    }

    /// The thread of an event whose replies were here before it. They have been counted as what notifies
    /// in the main timeline.
    fn thread_begun_by(
        &self,
        view: &Context<'_>,
        event: &StoredEvent,
    ) -> Result<Option<ThreadRow>, RoomError> {
        let root = &event.header.event_id;
        if event.pdu.state_key().is_some() || self.thread(view, root)?.is_some() {
            return Ok(None);
        }
        let key = |index| (root.clone(), THREAD.to_owned(), index);
        let all = key(TimelineIndex::START)..=key(TimelineIndex::END);
        let back = Direction::Backward;
        let replies = view.snapshot.page(&schema::RELATIONS, &self.id, all, back, MAX_REPLIES)?;
        let Some(((_, _, latest_index), latest)) = replies.first() else { return Ok(None) };
        Ok(Some(ThreadRow {
            latest_index: *latest_index,
            latest: latest.ordinal,
            root: event.ordinal,
            count: replies.len() as u64,
            notify_total: 0,
        }))
    }

    fn keep_thread(&mut self, batch: &mut Batch, root: OwnedEventId, row: ThreadRow) {
        batch.commit.put(&schema::THREADS, &self.id, &root, &row);
        let by_activity = EventOrdinalRow(row.root);
        let index = row.latest_index;
        batch.commit.put(&schema::THREADS_BY_ACTIVITY, &self.id, &index, &by_activity);
        self.local.threads.insert(root, (batch.number, row));
    }

    /// What the event means to others. It notifies nobody any more.
    fn beside_history(
        &mut self,
        view: &Context<'_>,
        batch: &Batch,
        arrival: &Arrival<'_>,
        event: &StoredEvent,
        redacts: Option<&EventId>,
    ) -> Result<Beside, StepError> {
        let redacted = event.header.redacted_by.is_some();
        let facts = if redacted { Facts::default() } else { facts_of(&event.pdu) };
        let facts = Facts { notifies: false, ..facts };
        let pdu: &Pdu = &event.pdu;
        let subject = Subject {
            sender: pdu.sender(),
            kind: pdu.kind(),
            state_key: pdu.state_key(),
            redacts,
            received_at: Some(arrival.before),
        };
        Beside::plan(self, view, batch, &subject, facts)
    }
}
