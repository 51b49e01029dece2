//! Events that other servers sent as a set (a state and its auth chain), put into an order in which
//! every event comes after those that allow it, and authorized by them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use hearth_types::{Pdu, limits::MAX_AUTH_EVENTS};
use ruma::{
    EventId, OwnedEventId, RoomId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::AuthorizationRules,
    state_res::{check_state_dependent_auth_rules, check_state_independent_auth_rules},
};

use crate::{
    error::RoomError,
    schema::{EventHeader, EventOrdinal, Standing, StoredEvent},
    state::StateRoot,
    writer::fits,
};

/// Looks up an event that the room has already.
pub(super) type Known<'a> = dyn Fn(&EventId) -> Result<Option<Arc<StoredEvent>>, RoomError> + 'a;

/// A set of events in auth order.
#[derive(Default)]
pub(super) struct AuthOrder {
    /// The events that were not here, by ordinal from `first` on: outliers, or rejected.
    pub(super) new: Vec<Arc<StoredEvent>>,
    /// These, and those that were here, by ID.
    by_id: HashMap<OwnedEventId, Arc<StoredEvent>>,
    /// Events that were not taken, and why.
    dropped: HashMap<OwnedEventId, String>,
    create: Option<Arc<StoredEvent>>,
}

/// An event that waits for its auth events.
struct Waiting {
    pdu: Pdu,
    open: usize,
    children: Vec<OwnedEventId>,
}

impl AuthOrder {
    /// Orders and authorizes. The new events get ordinals from `first` on; what cannot
    /// be part of a room, and what names auth events that are nowhere is dropped.
    pub(super) fn build(
        rules: &AuthorizationRules,
        room_id: &RoomId,
        first: EventOrdinal,
        given: impl Iterator<Item = Pdu>,
        create: Option<Arc<StoredEvent>>,
        known: &Known<'_>,
    ) -> Result<Self, RoomError> {
        let mut order = Self { create, ..Self::default() };
        let mut waiting: HashMap<OwnedEventId, Waiting> = HashMap::new();
        let mut given_ids = Vec::new();
        for pdu in given {
            if waiting.contains_key(pdu.id()) || order.by_id.contains_key(pdu.id()) {
                continue;
            }
            if let Some(event) = known(pdu.id())? {
                order.by_id.insert(pdu.id().to_owned(), event);
                continue;
            }
            if let Some(reason) = unfit(&pdu, room_id) {
                order.dropped.insert(pdu.id().to_owned(), reason.to_owned());
                continue;
            }
            given_ids.push(pdu.id().to_owned());
            let fresh = Waiting { pdu, open: 0, children: Vec::new() };
            waiting.insert(fresh.pdu.id().to_owned(), fresh);
        }
        let ready = link(&mut waiting, &given_ids);
        order.take_in_order(rules, first, waiting, ready, known)?;
        Ok(order)
    }

    /// Takes events whose auth events have all been taken, until none is left.
    fn take_in_order(
        &mut self,
        rules: &AuthorizationRules,
        first: EventOrdinal,
        mut waiting: HashMap<OwnedEventId, Waiting>,
        mut ready: VecDeque<OwnedEventId>,
        known: &Known<'_>,
    ) -> Result<(), RoomError> {
        while let Some(event_id) = ready.pop_front() {
            let Some(Waiting { pdu, children, .. }) = waiting.remove(&event_id) else { continue };
            for child in children {
                if let Some(child_waiting) = waiting.get_mut(&child) {
                    child_waiting.open -= 1;
                    if child_waiting.open == 0 {
                        ready.push_back(child);
                    }
                }
            }
            self.take(rules, first, pdu, known)?;
        }
        // Whatever still waits is part of a circle, which honest hashes cannot make.
        for event_id in waiting.into_keys() {
            self.dropped.insert(event_id, "its auth events form a circle".to_owned());
        }
        Ok(())
    }

    fn take(
        &mut self,
        rules: &AuthorizationRules,
        first: EventOrdinal,
        pdu: Pdu,
        known: &Known<'_>,
    ) -> Result<(), RoomError> {
        let auth_events = match self.auth_events(&pdu, known)? {
            Ok(auth_events) => auth_events,
            Err(missing) => {
                let reason = format!("its auth event {missing} is missing");
                self.dropped.insert(pdu.id().to_owned(), reason);
                return Ok(());
            }
        };
        let verdict = authorize(rules, &pdu, &auth_events, self.create.as_deref());
        let (pdu, standing) = match verdict {
            Ok(()) => (pdu, Standing::Outlier),
            Err(reason) => {
                tracing::debug!(event_id = %pdu.id(), reason, "an event of a state is rejected");
                (pdu.into_rejected(), Standing::Rejected)
            }
        };
        let count = EventOrdinal::try_from(self.new.len()).unwrap_or(EventOrdinal::MAX);
        let event = Arc::new(StoredEvent {
            ordinal: first.saturating_add(count),
            index: None,
            header: outlier_header(&pdu, &auth_events, standing),
            pdu,
        });
        let is_create = *event.pdu.kind() == TimelineEventType::RoomCreate;
        if is_create && standing == Standing::Outlier && self.create.is_none() {
            self.create = Some(Arc::clone(&event));
        }
        self.by_id.insert(event.header.event_id.clone(), Arc::clone(&event));
        self.new.push(event);
        Ok(())
    }

    /// The auth events of an event, or the first that is nowhere.
    pub(super) fn auth_events(
        &mut self,
        pdu: &Pdu,
        known: &Known<'_>,
    ) -> Result<Result<Vec<Arc<StoredEvent>>, OwnedEventId>, RoomError> {
        let mut found = Vec::with_capacity(pdu.auth_events().len());
        for event_id in pdu.auth_events() {
            let event = match self.by_id.get(event_id) {
                Some(event) => Some(Arc::clone(event)),
                None => known(event_id)?,
            };
            match event {
                Some(event) => {
                    self.by_id.entry(event_id.clone()).or_insert_with(|| Arc::clone(&event));
                    found.push(event);
                }
                None => return Ok(Err(event_id.clone())),
            }
        }
        Ok(Ok(found))
    }

    /// An event that is new or was here.
    pub(super) fn event(&self, event_id: &EventId) -> Option<&Arc<StoredEvent>> {
        self.by_id.get(event_id)
    }

    /// The events that are not rejected, new ones and others, in the order of their ordinals.
    pub(super) fn accepted(&self) -> Vec<Arc<StoredEvent>> {
        let all = self.by_id.values();
        let mut accepted: Vec<_> =
            all.filter(|event| event.header.standing != Standing::Rejected).cloned().collect();
        accepted.sort_unstable_by_key(|event| event.ordinal);
        accepted
    }

    /// Why an event was not taken.
    pub(super) fn why_dropped(&self, event_id: &EventId) -> Option<&str> {
        self.dropped.get(event_id).map(String::as_str)
    }

    /// The room's create event, if it is among the events or was here.
    pub(super) fn create(&self) -> Option<&Arc<StoredEvent>> {
        self.create.as_ref()
    }
}

/// Why an event cannot be part of the room at all.
fn unfit(pdu: &Pdu, room_id: &RoomId) -> Option<&'static str> {
    if *pdu.kind() != TimelineEventType::RoomCreate {
        return fits(pdu, room_id).err();
    }
    // Whether it is the room's own one has been checked.
    (pdu.auth_events().len() > MAX_AUTH_EVENTS).then_some("it names too many auth events")
}

/// Links events with those that wait for them; says which wait for none, the create event first.
fn link(
    waiting: &mut HashMap<OwnedEventId, Waiting>,
    given: &[OwnedEventId],
) -> VecDeque<OwnedEventId> {
    let mut ready = VecDeque::new();
    for event_id in given {
        let Some(event) = waiting.get(event_id) else { continue };
        let mut parents = event.pdu.auth_events().to_vec();
        parents.sort_unstable();
        parents.dedup();
        let mut open = 0;
        for parent in &parents {
            if let Some(parent) = waiting.get_mut(parent) {
                parent.children.push(event_id.clone());
                open += 1;
            }
        }
        let Some(event) = waiting.get_mut(event_id) else { continue };
        event.open = open;
        if open == 0 && *event.pdu.kind() == TimelineEventType::RoomCreate {
            ready.push_front(event_id.clone());
        } else if open == 0 {
            ready.push_back(event_id.clone());
        }
    }
    ready
}

/// The header of an event that has no place in the room's history yet.
pub(super) fn outlier_header(
    pdu: &Pdu,
    auth_events: &[Arc<StoredEvent>],
    standing: Standing,
) -> EventHeader {
    EventHeader {
        event_id: pdu.id().to_owned(),
        state_before: StateRoot::default(),
        state_after: StateRoot::default(),
        auth_events: auth_events.iter().map(|event| event.ordinal).collect(),
        prev_events: Vec::new(),
        replaces_state: None,
        redacted_by: None,
        transaction: None,
        standing,
    }
}

/// Checks an event against its own auth events.
pub(super) fn authorize(
    rules: &AuthorizationRules,
    pdu: &Pdu,
    auth_events: &[Arc<StoredEvent>],
    create: Option<&StoredEvent>,
) -> Result<(), String> {
    let by_id = |event_id: &EventId| {
        let named = auth_events.iter().map(|event| &**event);
        named.chain(create).find(|event| event.header.event_id == event_id).map(|event| &event.pdu)
    };
    check_state_independent_auth_rules(rules, pdu, by_id)?;
    authorize_by(rules, pdu, create, |event_type, state_key| {
        find(auth_events, event_type, state_key).map(|event| &event.pdu)
    })
}

/// Checks an event against a state.
pub(super) fn authorize_by<'a>(
    rules: &AuthorizationRules,
    pdu: &Pdu,
    create: Option<&'a StoredEvent>,
    state: impl Fn(&StateEventType, &str) -> Option<&'a Pdu>,
) -> Result<(), String> {
    check_state_dependent_auth_rules(rules, pdu, |event_type: &StateEventType, state_key: &str| {
        if *event_type == StateEventType::RoomCreate {
            return create.map(|event| &event.pdu);
        }
        state(event_type, state_key)
    })
}

/// The event at a state key among a few.
pub(super) fn find<'a>(
    events: &'a [Arc<StoredEvent>],
    event_type: &StateEventType,
    state_key: &str,
) -> Option<&'a Arc<StoredEvent>> {
    let kind = TimelineEventType::from(event_type.clone());
    events
        .iter()
        .find(|event| event.pdu.state_key() == Some(state_key) && *event.pdu.kind() == kind)
}
