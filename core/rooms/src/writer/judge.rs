//! The authorization checks on receipt (SS "Checks performed on receipt of a PDU", checks 4 to 6).

use std::sync::Arc;

use hearth_types::{
    Pdu,
    limits::{MAX_AUTH_EVENTS, MAX_PREV_EVENTS},
};
use ruma::{
    EventId, RoomId,
    events::{StateEventType, TimelineEventType},
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
    },
};

use super::{
    Batch, Context, Room, StepError,
    receive::{Arrival, unresolvable},
};
use crate::{
    Verdict,
    error::RoomError,
    schema::{Standing, StoredEvent},
    state::StateRoot,
};

/// Bytes of a type and a state key together, zero bytes counted twice as the store's keys have them:
/// with the room's ID they fit into a key.
const MAX_STATE_KEY_BYTES: usize = 740;

/// Events that allow another one, with the keys that they stand at.
type Allowing = Vec<((StateEventType, String), Arc<StoredEvent>)>;

impl Room {
    /// Can the event be part of this room at all? What cannot is not stored.
    pub(super) fn fits(&self, pdu: &Pdu) -> Result<(), String> {
        if *pdu.kind() == TimelineEventType::RoomCreate {
            // The room's own one is here, and was found by its ID.
            return Err("a room has one create event".to_owned());
        }
        fits(pdu, &self.id).map_err(ToOwned::to_owned)
    }

    /// Checks an event against its auth events, the state before it and the current state. The verdict
    /// is one of accepted, soft-failed and rejected.
    pub(super) fn judge(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
    ) -> Result<Verdict, StepError> {
        let current = self.state_with(view, batch, arrival)?;
        let states = [(arrival.before, false), (current, true)];
        Ok(self.judge_by(view, arrival, &states, self.is_partial())?)
    }

    /// The current state, for an event that may know more than what is here: behind a gap the current
    /// state lacks what happened in it. It is resolved with the state before the event then, against which
    /// bans and the like that only this server knows of still stand.
    fn state_with(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
    ) -> Result<StateRoot, StepError> {
        if arrival.missing.is_empty() {
            return Ok(self.head.state);
        }
        let mut roots: Vec<_> = self.tips.iter().map(|tip| tip.state).collect();
        roots.push(arrival.before);
        match self.resolved(view, batch, &roots, None) {
            Err(error) => unresolvable(error).map(|_| self.head.state),
            resolved => resolved,
        }
    }

    /// Checks an event of the room's past, to which the current state does not matter, nor whether that
    /// is whole.
    pub(super) fn judge_past(
        &mut self,
        view: &Context<'_>,
        arrival: &Arrival<'_>,
    ) -> Result<Verdict, RoomError> {
        self.judge_by(view, arrival, &[(arrival.before, false)], false)
    }

    /// Checks an event against its auth events and some states; whom the last ones do not allow is
    /// soft-failed if these are marked so, rejected otherwise. If the states are partial, members that
    /// they omit are taken from the event's auth events; once they are whole, it is judged again.
    fn judge_by(
        &mut self,
        view: &Context<'_>,
        arrival: &Arrival<'_>,
        states: &[(StateRoot, bool)],
        are_partial: bool,
    ) -> Result<Verdict, RoomError> {
        let pdu = arrival.pdu;
        if let Err(reason) = self.allowed_by_auth_events(view, pdu, &arrival.auth_events)? {
            return Ok(Verdict::Rejected(reason));
        }
        let mut last = ordinals(&arrival.auth_events);
        for (root, fallen) in states.iter().copied() {
            if fallen && root == arrival.before {
                break;
            }
            let mut allowing = self.allowing(view, pdu, root)?;
            if are_partial {
                add_omitted_members(arrival, &mut allowing);
            }
            // The same events allow the same.
            let events: Vec<_> = allowing.iter().map(|(_, event)| Arc::clone(event)).collect();
            let next = ordinals(&events);
            if next == last {
                continue;
            }
            if let Err(reason) = self.allowed(view, pdu, &allowing)? {
                return Ok(if fallen { Verdict::SoftFailed } else { Verdict::Rejected(reason) });
            }
            last = next;
        }
        Ok(Verdict::Accepted)
    }

    /// Check 4: do the event's own auth events allow it?
    pub(super) fn allowed_by_auth_events(
        &mut self,
        view: &Context<'_>,
        pdu: &Pdu,
        auth_events: &[Arc<StoredEvent>],
    ) -> Result<Result<(), String>, RoomError> {
        let create = self.create_event(view)?;
        let by_id = |event_id: &EventId| {
            let mut known = auth_events.iter().chain([&create]);
            known.find(|event| event.header.event_id == event_id).map(|event| &event.pdu)
        };
        let rules = &self.rules.authorization;
        if let Err(reason) = check_state_independent_auth_rules(rules, pdu, by_id) {
            return Ok(Err(reason));
        }
        let keyed = |event: &Arc<StoredEvent>| {
            let state_key = event.pdu.state_key().unwrap_or_default().to_owned();
            ((event.pdu.kind().to_string().into(), state_key), Arc::clone(event))
        };
        self.allowed(view, pdu, &auth_events.iter().map(keyed).collect())
    }

    /// Do these events, and the create event, allow it?
    fn allowed(
        &mut self,
        view: &Context<'_>,
        pdu: &Pdu,
        allowing: &Allowing,
    ) -> Result<Result<(), String>, RoomError> {
        let create = self.create_event(view)?;
        let by_key = |event_type: &StateEventType, state_key: &str| {
            if *event_type == StateEventType::RoomCreate {
                return Some(&create.pdu);
            }
            allowing
                .iter()
                .find(|((kind, key), _)| kind == event_type && key == state_key)
                .map(|(_, event)| &event.pdu)
        };
        Ok(check_state_dependent_auth_rules(&self.rules.authorization, pdu, by_key))
    }

    /// The events of a state that an event's authorization asks for.
    fn allowing(
        &mut self,
        view: &Context<'_>,
        pdu: &Pdu,
        root: StateRoot,
    ) -> Result<Allowing, RoomError> {
        let (kind, state_key) = (pdu.kind(), pdu.state_key());
        let rules = &self.rules.authorization;
        // Malformed contents did not come this far.
        let types = auth_types_for_event(kind, pdu.sender(), state_key, pdu.content(), rules)
            .unwrap_or_default();
        let mut found = Allowing::with_capacity(types.len());
        for (event_type, state_key) in types {
            let kind = event_type.to_string();
            let event = if root == self.head.state {
                self.state_event(view, &kind, &state_key)?
            } else {
                self.state_event_at(view, root, &kind, &state_key)?
            };
            if let Some(event) = event {
                found.push(((event_type, state_key), event));
            }
        }
        Ok(found)
    }
}

/// Can an event that is no create event be part of a room? However it comes here.
pub(crate) fn fits(pdu: &Pdu, room_id: &RoomId) -> Result<(), &'static str> {
    if pdu.room_id_field() != Some(room_id) {
        return Err("an event of another room");
    }
    if pdu.auth_events().len() > MAX_AUTH_EVENTS || pdu.prev_events().len() > MAX_PREV_EVENTS {
        return Err("too many auth events or previous events");
    }
    if pdu.prev_events().is_empty() {
        return Err("only a create event follows nothing");
    }
    let kind = pdu.kind().to_string();
    let stored = |text: &str| text.len() + text.bytes().filter(|byte| *byte == 0).count();
    let bytes = stored(&kind) + stored(pdu.state_key().unwrap_or_default());
    if bytes > MAX_STATE_KEY_BYTES || pdu.sender().as_str().contains('\0') {
        return Err("identifiers with zero bytes");
    }
    Ok(())
}

/// The events' ordinals, in order.
fn ordinals(events: &[Arc<StoredEvent>]) -> Vec<u32> {
    let mut ordinals: Vec<_> = events.iter().map(|event| event.ordinal).collect();
    ordinals.sort_unstable();
    ordinals
}

/// Adds the members that an event's authorization asks for and a partial state omits.
fn add_omitted_members(arrival: &Arrival<'_>, allowing: &mut Allowing) {
    let is_found = |state_key: &str| {
        let member = StateEventType::RoomMember;
        allowing.iter().any(|((kind, key), _)| *kind == member && key == state_key)
    };
    let omitted: Vec<_> = arrival
        .auth_events
        .iter()
        .filter(|event| *event.pdu.kind() == TimelineEventType::RoomMember)
        .filter(|event| event.header.standing != Standing::Rejected)
        .filter_map(|event| Some((event.pdu.state_key()?.to_owned(), event)))
        .filter(|(state_key, _)| !is_found(state_key))
        .map(|(state_key, event)| ((StateEventType::RoomMember, state_key), Arc::clone(event)))
        .collect();
    allowing.extend(omitted);
}
