//! Rooms with more than one forward extremity: their current state is the resolution of the states
//! after the extremities, and the next local event joins them.
//!
//! The head's state is kept resolved by whoever adds an extremity, in the same commit. Extremities are
//! bounded by [`MAX_EXTREMITIES`].

use std::{collections::VecDeque, sync::Arc};

use hearth_types::limits::MAX_PREV_EVENTS;

use super::{Batch, Context, Room, StepError, effects::NewKey, room::Tip};
use crate::{
    error::RoomError,
    resolve::{Bounds, EventSource, MAX_READ, ResolveError, resolve_within},
    schema::{AUTH_CHILDREN, EventOrdinal, Standing, StoredEvent},
    state::{Node, NodeId, StateKeyOrdinal, StateRoot, TreeEditor, diff},
};

/// Forward extremities that a room may have: as many as one event can follow, so that the next local
/// event joins them all.
///
/// One more, and the shallowest one goes whose state is another's too: nothing of the state goes with
/// it, and other servers still know it. If all have states of their own, the newcomer is soft-failed:
/// it is kept, and comes in with whatever is built on it.
pub(super) const MAX_EXTREMITIES: usize = MAX_PREV_EVENTS;
/// Resolutions that a writer remembers: a burst of events on the same fork asks for the same ones.
const KEPT_RESOLUTIONS: usize = 32;
/// Events looked at to find which extremities an event follows by way of events that are none.
const MAX_SKIPPED: usize = 100;
/// What a resolution may read between other tasks, a matter of milliseconds; larger ones have a thread
/// of their own.
const INLINE: Bounds = Bounds { events: 500, bytes: 1024 * 1024 };
/// Children of one event in the auth graph that are read at a time.
const CHILDREN: usize = 16;

/// States that were resolved lately: which, and to what.
#[derive(Default)]
pub(super) struct Resolved(VecDeque<(Vec<StateRoot>, StateRoot)>);

impl Resolved {
    fn find(&self, roots: &[StateRoot]) -> Option<StateRoot> {
        self.0.iter().find(|(known, _)| known == roots).map(|(_, root)| *root)
    }

    fn keep(&mut self, roots: Vec<StateRoot>, root: StateRoot) {
        if self.0.len() >= KEPT_RESOLUTIONS {
            self.0.pop_front();
        }
        self.0.push_back((roots, root));
    }
}

/// An event that is about to enter the room, as resolution must already see it.
pub(super) struct Newcomer<'a> {
    pub(super) event: &'a Arc<StoredEvent>,
    pub(super) new_key: Option<&'a NewKey>,
}

impl Room {
    /// The state in which these states are merged. Its new nodes go into the batch.
    ///
    /// [`StepError::Full`] if the batch cannot take them all, or nothing more after them: the question
    /// is to be asked again with the next one, and costs nothing then. [`StepError::Long`] if there is
    /// much to read.
    pub(super) fn resolved(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        roots: &[StateRoot],
        newcomer: Option<&Newcomer<'_>>,
    ) -> Result<StateRoot, StepError> {
        let mut key = roots.to_vec();
        key.sort_unstable_by_key(|root| (root.members, root.rest));
        key.dedup();
        if let [only] = key.as_slice() {
            return Ok(*only);
        }
        if let Some(known) = self.resolved.find(&key) {
            return Ok(known);
        }
        let root = self.resolve_anew(view, batch, &key, newcomer)?;
        self.resolved.keep(key, root);
        if self.unwritten.is_empty() && !batch.is_full() { Ok(root) } else { Err(StepError::Full) }
    }

    fn resolve_anew(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        roots: &[StateRoot],
        newcomer: Option<&Newcomer<'_>>,
    ) -> Result<StateRoot, StepError> {
        // Changes are told against the first: mostly there are few against the current state.
        let mut ordered = roots.to_vec();
        ordered.sort_by_key(|root| *root != self.head.state);
        let Some(first) = ordered.first().copied() else {
            return Err(RoomError::internal("no states to resolve").into());
        };
        let nodes = self.nodes(view);
        let source = RoomEvents { room: self, view, newcomer };
        let bounds = if view.may_take_long { MAX_READ } else { INLINE };
        let changes = match resolve_within(bounds, &self.rules, &ordered, &source, &nodes) {
            Err(ResolveError::TooLarge(_)) if !view.may_take_long => return Err(StepError::Long),
            resolution => resolution?.changes,
        };
        let (mut members, mut rest) = (Vec::new(), Vec::new());
        for (key, ordinal) in changes {
            match key {
                StateKeyOrdinal::Member(number) => members.push((number, ordinal)),
                StateKeyOrdinal::Rest(number) => rest.push((number, ordinal)),
            }
        }
        let mut editor = TreeEditor::new(&nodes, self.head.next_node);
        let current = self.head.state;
        let members = editor.apply(first.members, &members)?;
        let rest = editor.apply(first.rest, &rest)?;
        // Equal states shall have equal roots: what compares them looks no further.
        let same_as = |root: NodeId, current: NodeId| -> Result<NodeId, RoomError> {
            Ok(if diff(&editor, root, current)?.is_empty() { current } else { root })
        };
        let root = StateRoot {
            members: same_as(members, current.members)?,
            rest: same_as(rest, current.rest)?,
        };
        let (next_node, nodes) = editor.finish(&[root.members, root.rest]);
        self.keep_nodes(batch, next_node, nodes);
        Ok(root)
    }

    /// Takes new nodes into memory and into the batch, or this one and the next ones.
    pub(super) fn keep_nodes(
        &mut self,
        batch: &mut Batch,
        next_node: u32,
        nodes: Vec<(NodeId, Arc<Node>)>,
    ) {
        self.head.next_node = next_node;
        self.local.nodes.extend(nodes.iter().cloned());
        self.unwritten.extend(nodes);
        self.write_nodes(batch);
    }

    /// Puts nodes into the batch that no batch has yet, as many as it takes.
    pub(super) fn write_nodes(&mut self, batch: &mut Batch) {
        let fitting = batch.space().min(self.unwritten.len());
        let nodes: Vec<_> = self.unwritten.drain(..fitting).collect();
        batch.add_nodes(&self.id, &nodes);
    }

    /// The forward extremities with this event among them, unless it is followed already; `None` if they
    /// would be too many.
    pub(super) fn tips_with(
        &self,
        view: &Context<'_>,
        event: &StoredEvent,
        is_followed: bool,
    ) -> Result<Option<Vec<Tip>>, RoomError> {
        let followed = self.followed(view, &event.header.prev_events)?;
        let mut tips = self.tips.clone();
        tips.retain(|tip| !followed.contains(&tip.ordinal));
        // Whatever others name: a room always has an end.
        if is_followed && !tips.is_empty() {
            return Ok(Some(tips));
        }
        if tips.len() >= MAX_EXTREMITIES {
            let of_another = |tip: &Tip| {
                tips.iter().any(|other| other.ordinal != tip.ordinal && other.state == tip.state)
                    || tip.state == event.header.state_after
            };
            let spare = tips.iter().filter(|tip| of_another(tip));
            let Some(spare) = spare.min_by_key(|tip| tip.depth).map(|tip| tip.ordinal) else {
                return Ok(None);
            };
            tips.retain(|tip| tip.ordinal != spare);
        }
        tips.push(Tip {
            ordinal: event.ordinal,
            event_id: event.header.event_id.clone(),
            depth: event.pdu.depth(),
            state: event.header.state_after,
        });
        Ok(Some(tips))
    }

    /// The events that an event follows: its previous events, and beyond those of them that are no part
    /// of the history the ones before.
    fn followed(
        &self,
        view: &Context<'_>,
        prev_events: &[EventOrdinal],
    ) -> Result<Vec<EventOrdinal>, RoomError> {
        let mut followed = prev_events.to_vec();
        let mut next = 0;
        while let Some(ordinal) = followed.get(next).copied()
            && next < MAX_SKIPPED
        {
            next += 1;
            if self.tips.iter().any(|tip| tip.ordinal == ordinal) {
                continue;
            }
            let event = self.event(view, ordinal)?;
            if matches!(event.header.standing, Standing::SoftFailed | Standing::Rejected) {
                followed.extend(&event.header.prev_events);
            }
        }
        Ok(followed)
    }
}

/// The room's events as its writer knows them, those in flight included.
struct RoomEvents<'a> {
    room: &'a Room,
    view: &'a Context<'a>,
    newcomer: Option<&'a Newcomer<'a>>,
}

fn unreadable(error: &RoomError) -> ResolveError {
    ResolveError::Store(format!("{error:?}"))
}

impl EventSource for RoomEvents<'_> {
    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError> {
        match self.newcomer {
            Some(newcomer) if newcomer.event.ordinal == ordinal => Ok(Arc::clone(newcomer.event)),
            _ => self.room.event(self.view, ordinal).map_err(|error| unreadable(&error)),
        }
    }

    fn state_key(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, ResolveError> {
        if let Some((key, ordinal)) = self.newcomer.and_then(|newcomer| newcomer.new_key)
            && (key.0.as_str(), key.1.as_str()) == (event_type, state_key)
        {
            return Ok(Some(*ordinal));
        }
        let found = self.room.state_key(self.view, event_type, state_key);
        found.map_err(|error| unreadable(&error))
    }

    fn auth_children(
        &self,
        parent: EventOrdinal,
        before: EventOrdinal,
    ) -> Result<Vec<EventOrdinal>, ResolveError> {
        // The newcomer's own edges: it is the newest, if it was not known before.
        if let Some(newcomer) = self.newcomer
            && newcomer.event.ordinal < before
            && newcomer.event.ordinal >= self.room.head.next_event
            && newcomer.event.pdu.state_key().is_some()
            && newcomer.event.header.auth_events.contains(&parent)
        {
            return Ok(vec![newcomer.event.ordinal]);
        }
        let in_flight = self.room.local.auth_children.range((parent, 0)..(parent, before));
        let newest: Vec<_> = in_flight.rev().take(CHILDREN).map(|(_, child)| *child).collect();
        if !newest.is_empty() {
            return Ok(newest);
        }
        let range = (parent, 0)..(parent, before);
        let backward = hearth_storage::Direction::Backward;
        let rows =
            self.view.snapshot.page(&AUTH_CHILDREN, &self.room.id, range, backward, CHILDREN);
        let rows = rows.map_err(|error| ResolveError::Store(error.to_string()))?;
        Ok(rows.into_iter().map(|((_, child), ())| child).collect())
    }
}
