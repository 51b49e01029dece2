//! What the conflict drags in: the auth difference and the conflicted subgraph.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use super::{EventSource, ResolveError, conflict::Conflict, graph::Graph};
use crate::{schema::EventOrdinal, state::NodeSource};

/// Events to look at, the greatest ordinal first, each with the set of states in whose auth chain it is
/// known to be.
struct Frontier {
    open: BTreeMap<EventOrdinal, u64>,
    /// The set of all states.
    all: u64,
    /// How many of the open events are not known to be in every chain.
    partial: usize,
}

impl Frontier {
    fn add(&mut self, ordinal: EventOrdinal, states: u64) {
        let known = self.open.entry(ordinal).or_insert_with(|| {
            self.partial += 1;
            0
        });
        let was_partial = *known != self.all;
        *known |= states;
        if was_partial && *known == self.all {
            self.partial -= 1;
        }
    }

    /// The next event; none once nothing below can be in some chains only.
    fn next(&mut self) -> Option<(EventOrdinal, u64)> {
        if self.partial == 0 {
            return None;
        }
        let (ordinal, states) = self.open.pop_last()?;
        if states != self.all {
            self.partial -= 1;
        }
        Some((ordinal, states))
    }
}

/// The auth difference (rooms/v2 "State resolution"): events in the full auth chain of some states but
/// not of all.
///
/// Auth events have smaller ordinals than the events that they allow: once an event is taken from the
/// frontier, everything that could put it into another chain has been looked at. What the unconflicted
/// state rests on is in every chain.
pub(super) fn auth_difference<E: EventSource, N: NodeSource>(
    conflict: &Conflict,
    graph: &Graph<'_, E, N>,
) -> Result<RoaringBitmap, ResolveError> {
    let all = u64::MAX >> (64 - conflict.roots.len().clamp(1, 64));
    let mut frontier = Frontier { open: BTreeMap::new(), all, partial: 0 };
    for (state, ordinal) in conflict.events() {
        for auth_event in &graph.event(ordinal)?.header.auth_events {
            frontier.add(*auth_event, 1 << state);
        }
    }
    let mut difference = RoaringBitmap::new();
    while let Some((ordinal, mut states)) = frontier.next() {
        if states != all {
            if graph.is_supported(ordinal)? {
                states = all;
            } else {
                difference.insert(ordinal);
                if graph.is_unconflicted(ordinal)? {
                    // Not in every chain itself, but its own chain is.
                    states = all;
                }
            }
        }
        for auth_event in &graph.event(ordinal)?.header.auth_events {
            frontier.add(*auth_event, states);
        }
    }
    Ok(difference)
}

/// The conflicted state subgraph (rooms/v12 "State resolution"): every event on a path along auth edges
/// from one conflicting event to another, both ends included.
pub(super) fn conflicted_subgraph<E: EventSource, N: NodeSource>(
    conflict: &Conflict,
    graph: &Graph<'_, E, N>,
) -> Result<RoaringBitmap, ResolveError> {
    let ends: RoaringBitmap = conflict.events().map(|(_, ordinal)| ordinal).collect();
    let Some(lowest) = ends.min() else { return Ok(ends) };
    // Downwards: whatever the conflicting events rest on, no deeper than the lowest of them.
    let mut below = ends.clone();
    let mut open: Vec<EventOrdinal> = ends.iter().collect();
    while let Some(ordinal) = open.pop() {
        for auth_event in &graph.event(ordinal)?.header.auth_events {
            if *auth_event >= lowest && below.insert(*auth_event) {
                open.push(*auth_event);
            }
        }
    }
    // Upwards: of those, the ones that rest on a conflicting event.
    let mut subgraph = RoaringBitmap::new();
    for ordinal in &below {
        let event = graph.event(ordinal)?;
        let mut auth_events = event.header.auth_events.iter();
        if ends.contains(ordinal) || auth_events.any(|auth_event| subgraph.contains(*auth_event)) {
            subgraph.insert(ordinal);
        }
    }
    Ok(subgraph)
}
