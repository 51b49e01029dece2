//! Events that are known only because others refer to them, and states that other servers tell of.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

use hearth_types::Pdu;
use ruma::{EventId, OwnedEventId};

use super::{Batch, Context, Room, StepError};
use crate::{
    Verdict,
    error::RoomError,
    schema::{EventHeader, EventOrdinal, Standing, StoredEvent},
    state::{StateKeyOrdinal, StateRoot, TreeEditor, walk},
};

/// Events of a told state, with all keys that the room's state ever had, that are compared between other
/// tasks.
const INLINE_STATE: usize = 1_000;

/// A state that was told and built, while the batch had no room for what follows.
pub(super) struct Told {
    event_id: OwnedEventId,
    root: StateRoot,
}

/// A told state as state keys, or why it cannot stand.
type Read = Result<BTreeMap<StateKeyOrdinal, EventOrdinal>, Verdict>;

impl Room {
    /// Stores an event without a place in the room, judged by its auth events alone.
    pub(super) fn store_outlier(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        (pdu, allowed): (&Pdu, Result<(), String>),
        auth_events: &[Arc<StoredEvent>],
    ) -> Result<Verdict, StepError> {
        let standing = if allowed.is_ok() { Standing::Outlier } else { Standing::Rejected };
        let new_key = match pdu.state_key() {
            Some(state_key) if allowed.is_ok() => {
                self.numbered_key(view, &pdu.kind().to_string(), state_key)?.1
            }
            _ => None,
        };
        let header = EventHeader {
            event_id: pdu.id().to_owned(),
            state_before: StateRoot::default(),
            state_after: StateRoot::default(),
            auth_events: auth_events.iter().map(|auth| auth.ordinal).collect(),
            prev_events: Vec::new(),
            replaces_state: None,
            redacted_by: None,
            transaction: None,
            standing,
        };
        let pdu = if allowed.is_ok() { pdu.clone() } else { pdu.clone().into_rejected() };
        let event = StoredEvent { ordinal: self.head.next_event, index: None, header, pdu };
        let event = self.redacted_on_arrival(view, batch, event)?;
        self.store_quietly(view, batch, event, new_key, &[])?;
        Ok(allowed.map_or_else(Verdict::Rejected, |()| Verdict::Accepted))
    }

    /// Builds the state before an event as another server tells it. Shares what it can with the current
    /// state's trees.
    pub(super) fn told_state(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        event_id: &EventId,
        state: &[OwnedEventId],
    ) -> Result<Result<StateRoot, Verdict>, StepError> {
        if let Some(told) = self.told.as_ref().filter(|told| told.event_id == event_id) {
            return Ok(Ok(told.root));
        }
        if !view.may_take_long && self.is_long(state) {
            return Err(StepError::Long);
        }
        let wanted = match self.read_told(view, state)? {
            Ok(wanted) => wanted,
            Err(verdict) => return Ok(Err(verdict)),
        };
        let current = self.head.state;
        let mut changes = self.removals(view, &wanted)?;
        for (key, ordinal) in wanted {
            // Setting what is there already changes nothing.
            match key {
                StateKeyOrdinal::Member(number) => changes.0.push((number, Some(ordinal))),
                StateKeyOrdinal::Rest(number) => changes.1.push((number, Some(ordinal))),
            }
        }
        let nodes = self.nodes(view);
        let mut editor = TreeEditor::new(&nodes, self.head.next_node);
        let root = StateRoot {
            members: editor.apply(current.members, &changes.0)?,
            rest: editor.apply(current.rest, &changes.1)?,
        };
        let (next_node, nodes) = editor.finish(&[root.members, root.rest]);
        self.keep_nodes(batch, next_node, nodes);
        self.told = Some(Told { event_id: event_id.to_owned(), root });
        if self.unwritten.is_empty() && !batch.is_full() {
            Ok(Ok(root))
        } else {
            Err(StepError::Full)
        }
    }

    /// Does it take long to build a told state? It is compared with the current one, key by key.
    fn is_long(&self, state: &[OwnedEventId]) -> bool {
        let keys = self.head.next_member_key.saturating_add(self.head.next_state_key);
        state.len().saturating_add(keys as usize) > INLINE_STATE
    }

    /// The told state by state keys. Rejected events are no part of it.
    fn read_told(&self, view: &Context<'_>, state: &[OwnedEventId]) -> Result<Read, RoomError> {
        let rejected = |reason: &str| Ok(Err(Verdict::Rejected(reason.to_owned())));
        let (mut wanted, mut missing) = (BTreeMap::new(), Vec::new());
        for event_id in state {
            let Some(event) = self.event_by_id(view, event_id)? else {
                missing.push(event_id.clone());
                continue;
            };
            if event.header.standing == Standing::Rejected {
                continue;
            }
            let Some(state_key) = event.pdu.state_key() else {
                return rejected("the state before it holds an event that is no state");
            };
            let key = self.state_key(view, &event.pdu.kind().to_string(), state_key)?;
            let key = key.ok_or_else(|| RoomError::internal("a state key without a number"))?;
            if wanted.insert(key, event.ordinal).is_some_and(|other| other != event.ordinal) {
                return rejected("the state before it holds two events at one state key");
            }
        }
        if !missing.is_empty() {
            return Ok(Err(Verdict::MissingAuth(missing)));
        }
        if !wanted.values().any(|ordinal| *ordinal == 0) {
            return rejected("the state before it lacks the create event");
        }
        Ok(Ok(wanted))
    }

    /// The current state's keys that another state does not have, as changes of the two trees.
    fn removals(
        &self,
        view: &Context<'_>,
        wanted: &BTreeMap<StateKeyOrdinal, EventOrdinal>,
    ) -> Result<(Changes, Changes), RoomError> {
        let nodes = self.nodes(view);
        let (mut members, mut rest) = (Changes::new(), Changes::new());
        walk(&nodes, self.head.state.members, 0, &mut |key, _| {
            if !wanted.contains_key(&StateKeyOrdinal::Member(key)) {
                members.push((key, None));
            }
            ControlFlow::Continue(())
        })?;
        walk(&nodes, self.head.state.rest, 0, &mut |key, _| {
            if !wanted.contains_key(&StateKeyOrdinal::Rest(key)) {
                rest.push((key, None));
            }
            ControlFlow::Continue(())
        })?;
        Ok((members, rest))
    }
}

/// Changes of one tree.
type Changes = Vec<(u32, Option<EventOrdinal>)>;

/// Sorts events so that each comes after those that it names by these edges and that are among them; the
/// second list holds the places of those for which there is no such order. As places in the given list.
pub(crate) fn by_edges(
    events: &[&Pdu],
    edges: fn(&Pdu) -> &[OwnedEventId],
) -> (Vec<usize>, Vec<usize>) {
    let places: HashMap<&EventId, usize> =
        events.iter().enumerate().map(|(place, event)| (event.id(), place)).collect();
    let mut waiting: Vec<usize> = vec![0; events.len()];
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); events.len()];
    for (place, event) in events.iter().enumerate() {
        for named in edges(event) {
            let Some(parent) = places.get(&**named) else { continue };
            if let Some(followers) = followers.get_mut(*parent) {
                followers.push(place);
            }
            if let Some(waiting) = waiting.get_mut(place) {
                *waiting += 1;
            }
        }
    }
    let ready = waiting.iter().enumerate().filter(|(_, waiting)| **waiting == 0);
    let mut sorted: Vec<usize> = ready.map(|(place, _)| place).collect();
    let mut next = 0;
    while let Some(parent) = sorted.get(next).copied() {
        next += 1;
        for follower in followers.get_mut(parent).map(std::mem::take).unwrap_or_default() {
            if let Some(waiting) = waiting.get_mut(follower) {
                *waiting -= 1;
                if *waiting == 0 {
                    sorted.push(follower);
                }
            }
        }
    }
    let cyclic = waiting.iter().enumerate().filter(|(_, waiting)| **waiting > 0);
    (sorted, cyclic.map(|(place, _)| place).collect())
}
