//! Handing the conflict to ruma, and reading its answer.

use std::cell::RefCell;

use roaring::RoaringBitmap;
use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::{AuthorizationRules, StateResolutionV2Rules},
    state_res::{self, StateMap, auth_types_for_event, utils::event_id_set::EventIdSet},
};

use super::{
    EventSource, Resolution, ResolveError,
    conflict::Conflict,
    difference::{auth_difference, conflicted_subgraph},
    graph::{Candidate, Graph},
};
use crate::{
    schema::{EventOrdinal, StoredEvent},
    state::{NodeSource, StateKeyOrdinal},
};

/// The room's create event.
const CREATE: EventOrdinal = 0;

pub(super) fn run<E: EventSource, N: NodeSource>(
    rules: &AuthorizationRules,
    rules_v2: StateResolutionV2Rules,
    conflict: &Conflict,
    graph: &Graph<'_, E, N>,
) -> Result<Resolution, ResolveError> {
    // In room version 12 no event names it, but every check wants it.
    graph.event(CREATE)?;
    let difference = auth_difference(conflict, graph)?;
    let subgraph = if rules_v2.consider_conflicted_state_subgraph {
        conflicted_subgraph(conflict, graph)?
    } else {
        RoaringBitmap::new()
    };
    let conflicted: RoaringBitmap = conflict.events().map(|(_, ordinal)| ordinal).collect();
    let full = conflicted | &difference | &subgraph;
    let common = unconflicted_part(rules, rules_v2, &full, graph)?;
    let maps = state_maps(conflict, &common, graph)?;

    // ruma counts in how many chains an event is: what is in one of two makes up the difference.
    let chains = vec![event_ids(&difference, graph)?, EventIdSet::new()];
    let subgraph = event_ids(&subgraph, graph)?;
    let failure = RefCell::new(None);
    let resolved = state_res::resolve(
        rules,
        &rules_v2,
        &maps,
        chains,
        |event_id| match graph.event_by_id(event_id) {
            Ok(event) => event.map(Candidate),
            Err(error) => {
                failure.borrow_mut().get_or_insert(error);
                None
            }
        },
        |_| Some(subgraph.clone()),
    );
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    let resolved = resolved.map_err(|error| ResolveError::Algorithm(error.to_string()))?;
    changes(conflict, &resolved, graph)
}

/// The part of the unconflicted state that matters: the keys that the checks of `full`, the full
/// conflicted set, can ask for, and the keys of its own events, where the unconflicted event wins in
/// the end.
fn unconflicted_part<E: EventSource, N: NodeSource>(
    rules: &AuthorizationRules,
    rules_v2: StateResolutionV2Rules,
    full: &RoaringBitmap,
    graph: &Graph<'_, E, N>,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    let mut part = StateMap::new();
    for ordinal in full {
        let event = graph.event(ordinal)?;
        let mut keys = vec![state_key_of(&event)?];
        if !rules_v2.begin_iterative_auth_checks_with_empty_state_map {
            let pdu = &event.pdu;
            let types = auth_types_for_event(
                pdu.kind(),
                pdu.sender(),
                pdu.state_key(),
                pdu.content(),
                rules,
            );
            // ruma passes over malformed events in the same way.
            keys.extend(types.unwrap_or_default());
        }
        // The mainline begins at the resolved power levels.
        keys.push((StateEventType::RoomPowerLevels, String::new()));
        for key in keys {
            if part.contains_key(&key) {
                continue;
            }
            if let Some(value) = graph.unconflicted_at(&key.0.to_string(), &key.1)? {
                part.insert(key, graph.event(value)?.header.event_id.clone());
            }
        }
    }
    Ok(part)
}

/// Each state, reduced to the conflicted keys and the part of the unconflicted ones that matters.
fn state_maps<E: EventSource, N: NodeSource>(
    conflict: &Conflict,
    common: &StateMap<OwnedEventId>,
    graph: &Graph<'_, E, N>,
) -> Result<Vec<StateMap<OwnedEventId>>, ResolveError> {
    let mut maps = vec![common.clone(); conflict.roots.len()];
    for values in conflict.keys.values() {
        for (map, value) in maps.iter_mut().zip(values) {
            if let Some(value) = value {
                let event = graph.event(*value)?;
                map.insert(state_key_of(&event)?, event.header.event_id.clone());
            }
        }
    }
    Ok(maps)
}

/// What the resolved state has otherwise than the first root.
fn changes<E: EventSource, N: NodeSource>(
    conflict: &Conflict,
    resolved: &StateMap<OwnedEventId>,
    graph: &Graph<'_, E, N>,
) -> Result<Resolution, ResolveError> {
    // Conflicted keys that are not resolved to any event are gone.
    let mut changes: std::collections::BTreeMap<StateKeyOrdinal, Option<EventOrdinal>> =
        conflict.keys.keys().map(|key| (*key, None)).collect();
    for event_id in resolved.values() {
        let event = graph
            .event_by_id(event_id)?
            .ok_or_else(|| ResolveError::Algorithm(format!("resolved to unknown {event_id}")))?;
        let key = graph.key_of(&event)?;
        // Keys of the unconflicted part keep their event. Others may be in no state at all: an event
        // of the auth difference may bring back a key that a former resolution had emptied.
        if !graph.is_unconflicted(event.ordinal)? {
            changes.insert(key, Some(event.ordinal));
        }
    }
    changes.retain(|key, value| {
        let first = conflict.keys.get(key).and_then(|values| values.first().copied().flatten());
        first != *value
    });
    Ok(Resolution { changes: changes.into_iter().collect() })
}

fn state_key_of(event: &StoredEvent) -> Result<(StateEventType, String), ResolveError> {
    let state_key =
        event.pdu.state_key().ok_or(ResolveError::Damaged(event.ordinal, "not a state event"))?;
    Ok((event.pdu.kind().to_string().into(), state_key.to_owned()))
}

fn event_ids<E: EventSource, N: NodeSource>(
    ordinals: &RoaringBitmap,
    graph: &Graph<'_, E, N>,
) -> Result<EventIdSet<OwnedEventId>, ResolveError> {
    ordinals.iter().map(|ordinal| Ok(graph.event(ordinal)?.header.event_id.clone())).collect()
}
