//! The events that one resolution reads, each once, and how they stand to the unconflicted state.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId, events::TimelineEventType,
    state_res::Event,
};
use serde_json::value::RawValue;

use super::{Bounds, EventSource, ResolveError, conflict::Conflict};
use crate::{
    schema::{EventOrdinal, Standing, StoredEvent},
    state::{self, NodeSource, StateKeyOrdinal},
};

/// A room's auth graph as one resolution sees it.
#[derive(Debug)]
pub(super) struct Graph<'a, E, N> {
    source: &'a E,
    nodes: &'a N,
    conflict: &'a Conflict,
    bounds: Bounds,
    seen: RefCell<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    events: HashMap<EventOrdinal, Arc<StoredEvent>>,
    /// Their bytes.
    bytes: usize,
    /// IDs of the events that were read, and of their auth events.
    ordinals: HashMap<OwnedEventId, EventOrdinal>,
    /// Is the event part of the unconflicted state?
    unconflicted: HashMap<EventOrdinal, bool>,
    /// Events known to be in no auth chain of the unconflicted state, nor in that state.
    unsupported: HashSet<EventOrdinal>,
}

impl<'a, E: EventSource, N: NodeSource> Graph<'a, E, N> {
    pub(super) fn new(source: &'a E, nodes: &'a N, conflict: &'a Conflict, bounds: Bounds) -> Self {
        Self { source, nodes, conflict, bounds, seen: RefCell::default() }
    }

    /// An event by ordinal.
    pub(super) fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError> {
        if let Some(event) = self.seen.borrow().events.get(&ordinal) {
            return Ok(Arc::clone(event));
        }
        let event = self.source.event(ordinal)?;
        let named = event.pdu.auth_events();
        if event.header.auth_events.len() != named.len() {
            return Err(ResolveError::Damaged(ordinal, "its auth events are not all known"));
        }
        if event.header.auth_events.iter().any(|auth_event| *auth_event >= ordinal) {
            return Err(ResolveError::Damaged(ordinal, "an auth event has a greater ordinal"));
        }
        let mut seen = self.seen.borrow_mut();
        seen.bytes = seen.bytes.saturating_add(event.pdu.json().len());
        if seen.events.len() >= self.bounds.events || seen.bytes > self.bounds.bytes {
            return Err(ResolveError::TooLarge("the events that it may read"));
        }
        seen.ordinals.insert(event.header.event_id.clone(), ordinal);
        for (event_id, auth_event) in named.iter().zip(&event.header.auth_events) {
            if !seen.ordinals.contains_key(event_id) {
                seen.ordinals.insert(event_id.clone(), *auth_event);
            }
        }
        seen.events.insert(ordinal, Arc::clone(&event));
        Ok(event)
    }

    /// An event by ID: one that was read, or an auth event of one that was read.
    pub(super) fn event_by_id(
        &self,
        event_id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, ResolveError> {
        let ordinal = self.seen.borrow().ordinals.get(event_id).copied();
        ordinal.map(|ordinal| self.event(ordinal)).transpose()
    }

    /// The ordinal of a state key, and its event if all states have the same.
    pub(super) fn unconflicted_at(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<EventOrdinal>, ResolveError> {
        let Some(key) = self.source.state_key(event_type, state_key)? else { return Ok(None) };
        let Some(first) = self.conflict.roots.first() else { return Ok(None) };
        if self.conflict.keys.contains_key(&key) {
            return Ok(None);
        }
        Ok(match key {
            StateKeyOrdinal::Member(key) => state::get(self.nodes, first.members, key)?,
            StateKeyOrdinal::Rest(key) => state::get(self.nodes, first.rest, key)?,
        })
    }

    /// The ordinal of an event's state key.
    pub(super) fn key_of(&self, event: &StoredEvent) -> Result<StateKeyOrdinal, ResolveError> {
        let damaged = |reason| ResolveError::Damaged(event.ordinal, reason);
        let state_key = event.pdu.state_key().ok_or_else(|| damaged("not a state event"))?;
        self.source
            .state_key(&event.pdu.kind().to_string(), state_key)?
            .ok_or_else(|| damaged("its state key has no number"))
    }

    /// Is the event part of the unconflicted state?
    pub(super) fn is_unconflicted(&self, ordinal: EventOrdinal) -> Result<bool, ResolveError> {
        if let Some(known) = self.seen.borrow().unconflicted.get(&ordinal) {
            return Ok(*known);
        }
        let event = self.event(ordinal)?;
        let part = match event.pdu.state_key() {
            Some(state_key) => {
                self.unconflicted_at(&event.pdu.kind().to_string(), state_key)? == Some(ordinal)
            }
            None => false,
        };
        self.seen.borrow_mut().unconflicted.insert(ordinal, part);
        Ok(part)
    }

    /// Is the event in the auth chain of some event of the unconflicted state? Looks upwards, for
    /// events of that state are rarely far: what allowed anything mostly allowed something that stands.
    pub(super) fn is_supported(&self, ordinal: EventOrdinal) -> Result<bool, ResolveError> {
        let mut visited = HashSet::from([ordinal]);
        let mut open = vec![ordinal];
        while let Some(parent) = open.pop() {
            let mut before = EventOrdinal::MAX;
            loop {
                let children = self.source.auth_children(parent, before)?;
                let Some(last) = children.last() else { break };
                before = *last;
                for child in children {
                    if self.seen.borrow().unsupported.contains(&child) || !visited.insert(child) {
                        continue;
                    }
                    if self.is_unconflicted(child)? {
                        return Ok(true);
                    }
                    open.push(child);
                }
            }
        }
        // Everything above was looked at: none of it stands.
        visited.remove(&ordinal);
        self.seen.borrow_mut().unsupported.extend(visited);
        Ok(false)
    }
}

/// A stored event as ruma's algorithm reads it.
#[derive(Clone, Debug)]
pub(super) struct Candidate(pub(super) Arc<StoredEvent>);

impl Event for Candidate {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        self.0.pdu.event_id()
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.0.pdu.room_id_field()
    }

    fn sender(&self) -> &UserId {
        self.0.pdu.sender()
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.0.pdu.origin_server_ts()
    }

    fn event_type(&self) -> &TimelineEventType {
        self.0.pdu.kind()
    }

    fn content(&self) -> &RawValue {
        self.0.pdu.content()
    }

    fn state_key(&self) -> Option<&str> {
        self.0.pdu.state_key()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.pdu.prev_events().iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.pdu.auth_events().iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        Event::redacts(&self.0.pdu)
    }

    fn rejected(&self) -> bool {
        self.0.header.standing == Standing::Rejected || self.0.pdu.is_rejected()
    }
}
