//! Which state keys conflict.

use std::collections::BTreeMap;

use super::{MAX_STATES, ResolveError};
use crate::{
    schema::EventOrdinal,
    state::{self, NodeSource, StateKeyOrdinal, StateRoot},
};

/// The states to resolve, and where they differ.
#[derive(Debug)]
pub(super) struct Conflict {
    /// The distinct roots; the first is the one that changes are told against.
    pub(super) roots: Vec<StateRoot>,
    /// Every key that does not have the same event in all states: its event in each state.
    pub(super) keys: BTreeMap<StateKeyOrdinal, Vec<Option<EventOrdinal>>>,
}

impl Conflict {
    /// Compares states.
    pub(super) fn between(
        all_roots: &[StateRoot],
        nodes: &impl NodeSource,
    ) -> Result<Self, ResolveError> {
        let mut roots: Vec<StateRoot> = Vec::new();
        for root in all_roots {
            if !roots.contains(root) {
                roots.push(*root);
            }
        }
        if roots.len() > MAX_STATES {
            return Err(ResolveError::TooLarge("64 different states"));
        }
        let mut keys: BTreeMap<StateKeyOrdinal, Vec<Option<EventOrdinal>>> = BTreeMap::new();
        let Some((first, others)) = roots.split_first() else {
            return Ok(Self { roots, keys });
        };
        for (index, other) in (1..).zip(others) {
            let members = state::diff(nodes, first.members, other.members)?;
            let rest = state::diff(nodes, first.rest, other.rest)?;
            let members = members.into_iter().map(|c| (StateKeyOrdinal::Member(c.key), c));
            let rest = rest.into_iter().map(|c| (StateKeyOrdinal::Rest(c.key), c));
            for (key, change) in members.chain(rest) {
                // States that are not told apart from the first have its event.
                let values = keys.entry(key).or_insert_with(|| vec![change.before; roots.len()]);
                if let Some(value) = values.get_mut(index) {
                    *value = change.after;
                }
            }
        }
        Ok(Self { roots, keys })
    }

    /// The conflicting events of each state, as (state, event).
    pub(super) fn events(&self) -> impl Iterator<Item = (usize, EventOrdinal)> {
        self.keys.values().flat_map(|values| {
            values.iter().enumerate().filter_map(|(state, value)| Some((state, (*value)?)))
        })
    }
}
