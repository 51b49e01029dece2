//! The states of the events that came while a room was partial, worked out again once it is whole.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use hearth_storage::{Direction, Snapshot};
use hearth_types::{Pdu, StreamPosition};
use ruma::{
    OwnedRoomId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::{auth_types_for_event, events::RoomPowerLevelsIntField},
};

use super::{
    complete::Told,
    meaning::{Meaning, Meanings},
    order::authorize_by,
    plan::{replace, stored},
};
use crate::{
    RoomNodes, Rooms,
    create::supported_rules,
    error::RoomError,
    redaction::received_target,
    resolve::{EventSource, ResolveError, RoomEvents, resolve},
    rooms::{lookup, parse_row, state_key_ordinal},
    schema::{self, EventHeader, EventOrdinal, RoomHead, Standing, StoredEvent, TimelineIndex},
    state::{Node, NodeId, StateKeyOrdinal, StateRoot, TreeEditor, walk},
    writer::Power,
};

/// Events that are read at a time.
const PAGE: usize = 500;

/// What came out.
pub(super) struct Recomputed {
    pub(super) nodes: Vec<(NodeId, Arc<Node>)>,
    pub(super) head: RoomHead,
    /// The membership events of the current state.
    pub(super) members: Vec<EventOrdinal>,
    pub(super) rewritten: Vec<Rewritten>,
    pub(super) current_states: Vec<(StreamPosition, StateRoot)>,
}

/// An event as it is from now on.
#[derive(Clone)]
pub(super) struct Rewritten {
    pub(super) event: Arc<StoredEvent>,
    /// The place in the timeline that it loses.
    pub(super) lost: Option<TimelineIndex>,
    /// Rows beside its own.
    pub(super) meaning: Vec<Meaning>,
}

/// Goes through the events in the order in which they got their states.
pub(super) struct Recomputer<'a> {
    rooms: &'a Rooms,
    room_id: &'a OwnedRoomId,
    snapshot: &'a Snapshot,
    rules: RoomVersionRules,
    head: RoomHead,
    editor: TreeEditor<'a, RoomNodes>,
    /// States before and after, where they are others than they were.
    states: HashMap<EventOrdinal, StateRoot>,
    /// Events that are rejected now and were not.
    fallen: HashSet<EventOrdinal>,
    rewritten: Vec<Rewritten>,
    /// Where the events are in that list.
    places: HashMap<EventOrdinal, usize>,
    /// Redactions that came while the room was partial.
    redactions: Vec<EventOrdinal>,
    current_states: Vec<(StreamPosition, StateRoot)>,
    create: Arc<StoredEvent>,
}

/// The room's events as resolution must see them: those that have fallen as rejected.
struct RewrittenEvents<'a> {
    stored: RoomEvents,
    rewritten: &'a [Rewritten],
    places: &'a HashMap<EventOrdinal, usize>,
}

impl EventSource for RewrittenEvents<'_> {
    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError> {
        let rewritten = self.places.get(&ordinal).and_then(|place| self.rewritten.get(*place));
        match rewritten {
            Some(Rewritten { event, .. }) => Ok(Arc::clone(event)),
            None => self.stored.event(ordinal),
        }
    }

    fn state_key(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, ResolveError> {
        self.stored.state_key(event_type, state_key)
    }

    fn auth_children(
        &self,
        parent: EventOrdinal,
        before: EventOrdinal,
    ) -> Result<Vec<EventOrdinal>, ResolveError> {
        self.stored.auth_children(parent, before)
    }
}

impl<'a> Recomputer<'a> {
    pub(super) fn new(
        rooms: &'a Rooms,
        room_id: &'a OwnedRoomId,
        snapshot: &'a Snapshot,
        nodes: &'a RoomNodes,
        head: &RoomHead,
    ) -> Result<Self, RoomError> {
        Ok(Self {
            rooms,
            room_id,
            snapshot,
            rules: supported_rules(&head.version)?,
            head: head.clone(),
            editor: TreeEditor::new(nodes, head.next_node),
            states: HashMap::new(),
            fallen: HashSet::new(),
            rewritten: Vec::new(),
            places: HashMap::new(),
            redactions: Vec::new(),
            current_states: Vec::new(),
            create: parse_row(0, snapshot.get(&schema::EVENTS, room_id, &0)?)?,
        })
    }

    /// Puts the told state before the join. Refuses a state that does not allow the join.
    pub(super) fn begin(&mut self, join: EventOrdinal, told: Vec<Told>) -> Result<(), RoomError> {
        let join = self.event(join)?;
        let (mut members, mut rest) = (BTreeMap::new(), BTreeMap::new());
        for Told { key, ordinal } in told {
            match key {
                StateKeyOrdinal::Member(number) => members.insert(number, ordinal),
                StateKeyOrdinal::Rest(number) => rest.insert(number, ordinal),
            };
        }
        let old = join.header.state_before;
        let before = StateRoot {
            members: replace(&mut self.editor, old.members, &members)?,
            rest: replace(&mut self.editor, old.rest, &rest)?,
        };
        self.allowed(&join, before)?.map_err(|reason| {
            let text = format!("the state before the join does not allow it: {reason}");
            RoomError::InvalidRoomState(text)
        })?;
        self.rewrite(&join, before, Standing::Accepted)
    }

    /// Works out the states of all events that came since.
    pub(super) fn follow(&mut self) -> Result<(), RoomError> {
        let mut from = Bound::Unbounded;
        loop {
            let range = (from, Bound::Unbounded);
            let forward = Direction::Forward;
            let rows =
                self.snapshot.page(&schema::PARTIAL_EVENTS, self.room_id, range, forward, PAGE)?;
            for (_, row) in &rows {
                let event = self.event(row.0)?;
                if *event.pdu.kind() == TimelineEventType::RoomRedaction {
                    self.redactions.push(row.0);
                }
                self.follow_one(&event)?;
            }
            match rows.last() {
                Some((number, _)) if rows.len() == PAGE => from = Bound::Excluded(*number),
                _ => return Ok(()),
            }
        }
    }

    fn follow_one(&mut self, event: &StoredEvent) -> Result<(), RoomError> {
        let header = &event.header;
        if !header.prev_events.iter().any(|previous| self.states.contains_key(previous)) {
            return Ok(());
        }
        let mut roots = Vec::with_capacity(header.prev_events.len() + 1);
        for previous in &header.prev_events {
            roots.push(match self.states.get(previous) {
                Some(after) => *after,
                None => self.event(*previous)?.header.state_after,
            });
        }
        if header.prev_events.len() < event.pdu.prev_events().len() {
            // Of the others another server has told the state.
            roots.push(header.state_before);
        }
        let before = match self.resolved(roots)? {
            Some(before) => before,
            None => header.state_before,
        };
        let allowed = if self.rests_on_fallen(event)? {
            Err("an event that allowed it is rejected".to_owned())
        } else {
            self.allowed(event, before)?
        };
        let standing = match allowed {
            Ok(()) => header.standing,
            Err(reason) => {
                let (room_id, event_id) = (self.room_id, &header.event_id);
                tracing::info!(%room_id, %event_id, reason, "an event is rejected by the whole state");
                Standing::Rejected
            }
        };
        self.rewrite(event, before, standing)
    }

    /// Is an auth event of this one rejected now (SS "Rejection")?
    fn rests_on_fallen(&self, event: &StoredEvent) -> Result<bool, RoomError> {
        for auth_event in &event.header.auth_events {
            if self.has_fallen(&*self.event(*auth_event)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The resolution of these states; `None` if they cannot be resolved.
    fn resolved(&mut self, mut roots: Vec<StateRoot>) -> Result<Option<StateRoot>, RoomError> {
        roots.sort_unstable_by_key(|root| (root.members, root.rest));
        roots.dedup();
        let Some(first) = roots.first().copied() else { return Ok(None) };
        if roots.len() == 1 {
            return Ok(Some(first));
        }
        let source = RewrittenEvents {
            stored: RoomEvents::new(self.rooms, self.room_id),
            rewritten: &self.rewritten,
            places: &self.places,
        };
        let changes = match resolve(&self.rules, &roots, &source, &self.editor) {
            Ok(resolution) => resolution.changes,
            Err(error @ (ResolveError::TooLarge(_) | ResolveError::Algorithm(_))) => {
                tracing::warn!(room_id = %self.room_id, %error, "a state stays partial");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let (mut members, mut rest) = (Vec::new(), Vec::new());
        for (key, ordinal) in changes {
            match key {
                StateKeyOrdinal::Member(number) => members.push((number, ordinal)),
                StateKeyOrdinal::Rest(number) => rest.push((number, ordinal)),
            }
        }
        Ok(Some(StateRoot {
            members: self.editor.apply(first.members, &members)?,
            rest: self.editor.apply(first.rest, &rest)?,
        }))
    }

    /// Notes the event's new states and standing.
    fn rewrite(
        &mut self,
        event: &StoredEvent,
        before: StateRoot,
        standing: Standing,
    ) -> Result<(), RoomError> {
        let mut after = before;
        let mut replaces = event.header.replaces_state;
        if let Some(state_key) = event.pdu.state_key()
            && standing != Standing::Rejected
            && let Some(key) = self.key(&event.pdu.kind().to_string(), state_key)?
        {
            replaces = lookup(&self.editor, before, key)?;
            match key {
                StateKeyOrdinal::Member(number) => {
                    after.members = self.editor.set(before.members, number, event.ordinal)?;
                }
                StateKeyOrdinal::Rest(number) => {
                    after.rest = self.editor.set(before.rest, number, event.ordinal)?;
                }
            }
        }
        let fallen = standing == Standing::Rejected && event.header.standing != standing;
        self.note_current_state(event)?;
        self.states.insert(event.ordinal, after);
        let header = EventHeader {
            state_before: before,
            state_after: after,
            replaces_state: replaces,
            standing,
            ..event.header.clone()
        };
        let mut rewritten = StoredEvent { header, ..event.clone() };
        let mut lost = None;
        if fallen {
            self.fallen.insert(event.ordinal);
            lost = rewritten.index.take();
            rewritten.pdu = rewritten.pdu.into_rejected();
        }
        self.replace(rewritten, lost);
        Ok(())
    }

    /// Notes what an event is from now on, and where that stands in the list.
    fn replace(&mut self, event: StoredEvent, lost: Option<TimelineIndex>) -> usize {
        let place = self.rewritten.len();
        self.places.insert(event.ordinal, place);
        self.rewritten.push(Rewritten { event: Arc::new(event), lost, meaning: Vec::new() });
        place
    }

    /// Clients were told another current state at this event's place than the event says from now on.
    fn note_current_state(&mut self, event: &StoredEvent) -> Result<(), RoomError> {
        if let Some(TimelineIndex::Live(position)) = event.index
            && self.snapshot.get(&schema::CURRENT_STATES, self.room_id, &position)?.is_none()
        {
            self.current_states.push((position, event.header.state_after));
        }
        Ok(())
    }

    /// Does this state allow the event?
    fn allowed(
        &self,
        event: &StoredEvent,
        before: StateRoot,
    ) -> Result<Result<(), String>, RoomError> {
        let (pdu, rules) = (&event.pdu, &self.rules.authorization);
        let types =
            auth_types_for_event(pdu.kind(), pdu.sender(), pdu.state_key(), pdu.content(), rules)
                .unwrap_or_default();
        let mut found: Vec<((StateEventType, String), Arc<StoredEvent>)> = Vec::new();
        for (event_type, state_key) in types {
            let key = self.key(&event_type.to_string(), &state_key)?;
            let ordinal = match key {
                Some(key) => lookup(&self.editor, before, key)?,
                None => None,
            };
            if let Some(ordinal) = ordinal {
                found.push(((event_type, state_key), self.event(ordinal)?));
            }
        }
        let state = |event_type: &StateEventType, state_key: &str| {
            let mut all = found.iter();
            all.find(|((kind, key), _)| kind == event_type && key == state_key)
                .map(|(_, event)| &event.pdu)
        };
        Ok(authorize_by(rules, pdu, Some(&self.create), state))
    }

    fn key(&self, event_type: &str, state_key: &str) -> Result<Option<StateKeyOrdinal>, RoomError> {
        let key = (event_type.to_owned(), state_key.to_owned());
        let row = self.snapshot.get(&schema::STATE_KEYS, self.room_id, &key)?;
        Ok(row.map(|row| state_key_ordinal(event_type, row.0)))
    }

    /// The event as it is from now on.
    fn event_now(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, RoomError> {
        let rewritten = self.places.get(&ordinal).and_then(|place| self.rewritten.get(*place));
        match rewritten {
            Some(Rewritten { event, .. }) => Ok(Arc::clone(event)),
            None => self.event(ordinal),
        }
    }

    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, RoomError> {
        Ok(parse_row(ordinal, self.snapshot.get(&schema::EVENTS, self.room_id, &ordinal)?)?)
    }

    /// The room as it is now.
    pub(super) fn finish(mut self) -> Result<Recomputed, RoomError> {
        self.take_back()?;
        let extremities = self.extremities()?;
        let (mut roots, mut depth) = (Vec::with_capacity(extremities.len()), 0);
        for ordinal in &extremities {
            let event = self.event(*ordinal)?;
            depth = depth.max(event.pdu.depth());
            roots.push(self.states.get(ordinal).copied().unwrap_or(event.header.state_after));
        }
        let state = self.resolved(roots)?.ok_or_else(|| {
            RoomError::InvalidRoomState("the states of the room cannot be resolved".to_owned())
        })?;
        let mut members = Vec::new();
        walk(&self.editor, state.members, 0, &mut |_, ordinal| {
            members.push(ordinal);
            ControlFlow::Continue(())
        })?;
        let mut roots = vec![state.members, state.rest];
        for Rewritten { event, .. } in &self.rewritten {
            let EventHeader { state_before, state_after, .. } = &event.header;
            roots.extend([state_before.members, state_before.rest]);
            roots.extend([state_after.members, state_after.rest]);
        }
        roots.sort_unstable();
        roots.dedup();
        let (next_node, nodes) = self.editor.finish(&roots);
        let mut head = self.head;
        head.extremities = extremities;
        head.depth = depth;
        head.state = state;
        head.next_node = next_node;
        head.forks.lag = None;
        head.forks.has_current_states = true;
        let (rewritten, current_states) = (self.rewritten, self.current_states);
        Ok(Recomputed { nodes, head, members, rewritten, current_states })
    }

    /// What falls takes back what it meant to others; what it had redacted is there again.
    fn take_back(&mut self) -> Result<(), RoomError> {
        let restored = self.restore()?;
        let mut meanings = Meanings::new(self.rooms, self.room_id, self.snapshot, &self.fallen);
        for rewritten in &mut self.rewritten {
            if let Some(index) = rewritten.lost {
                rewritten.meaning = meanings.taken_back(&rewritten.event, index)?;
            }
        }
        for (place, may_call_room) in restored {
            let Some(rewritten) = self.rewritten.get_mut(place) else { continue };
            if let Some(index) = rewritten.event.index {
                rewritten.meaning = meanings.given_back(&rewritten.event, index, may_call_room)?;
            }
        }
        Ok(())
    }

    /// Makes the events again what they were that only fallen redactions had redacted. Where they are in
    /// the list, and whether their senders may mention the whole room.
    fn restore(&mut self) -> Result<Vec<(usize, bool)>, RoomError> {
        let mut restored = Vec::new();
        for ordinal in self.redactions.clone() {
            let redaction = self.event_now(ordinal)?;
            let target_id = received_target(&self.rules, &redaction.pdu);
            let Some(target_id) = target_id.filter(|_| self.has_fallen(&redaction)) else {
                continue;
            };
            let original =
                self.snapshot.get(&schema::PARTIAL_REDACTED, self.room_id, &target_id)?;
            let target = stored(self.snapshot, self.room_id, &target_id)?;
            let (Some(original), Some(target)) = (original, target) else { continue };
            let target = self.event_now(target.ordinal)?;
            if target.header.redacted_by != Some(ordinal) || self.has_fallen(&target) {
                continue;
            }
            let redacted_by = self.other_redaction(&target)?;
            let header = EventHeader { redacted_by, ..target.header.clone() };
            let pdu = match redacted_by {
                Some(_) => target.pdu.clone(),
                None => Pdu::parse(target_id, original)
                    .map_err(|error| RoomError::Internal(error.into()))?,
            };
            let (before, sender) = (header.state_before, pdu.sender().to_owned());
            let place = self.replace(StoredEvent { header, pdu, ..(*target).clone() }, None);
            if redacted_by.is_none() {
                let levels = self.levels_at(before)?;
                restored.push((place, self.power(levels.as_deref())?.can_notify_room(&sender)?));
            }
        }
        Ok(restored)
    }

    /// Another redaction of an event, which stands.
    fn other_redaction(&self, target: &StoredEvent) -> Result<Option<EventOrdinal>, RoomError> {
        let server = target.pdu.sender().server_name();
        for ordinal in &self.redactions {
            let redaction = self.event_now(*ordinal)?;
            let redacts = received_target(&self.rules, &redaction.pdu);
            if redaction.header.standing != Standing::Accepted
                || redacts.as_ref() != Some(&target.header.event_id)
            {
                continue;
            }
            let levels = self.levels_at(redaction.header.state_before)?;
            let (sender, field) = (redaction.pdu.sender(), RoomPowerLevelsIntField::Redact);
            if sender.server_name() == server
                || self.power(levels.as_deref())?.can(sender, field)?
            {
                return Ok(Some(*ordinal));
            }
        }
        Ok(None)
    }

    fn levels_at(&self, root: StateRoot) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let Some(key) = self.key("m.room.power_levels", "")? else { return Ok(None) };
        let ordinal = lookup(&self.editor, root, key)?;
        ordinal.map(|ordinal| self.event(ordinal)).transpose()
    }

    fn power<'b>(&'b self, levels: Option<&'b StoredEvent>) -> Result<Power<'b>, RoomError> {
        let levels = levels.map(|levels| &levels.pdu);
        Power::new(&self.rules.authorization, &self.create.pdu, levels)
    }

    /// The forward extremities; in the place of those that are rejected now, what was before them.
    fn extremities(&self) -> Result<Vec<EventOrdinal>, RoomError> {
        let mut open = self.head.extremities.clone();
        let mut seen: HashSet<EventOrdinal> = HashSet::new();
        let mut extremities = Vec::with_capacity(open.len());
        while let Some(ordinal) = open.pop() {
            if !seen.insert(ordinal) {
                continue;
            }
            let event = self.event(ordinal)?;
            if self.has_fallen(&event) || event.header.standing == Standing::SoftFailed {
                open.extend(&event.header.prev_events);
            } else {
                extremities.push(ordinal);
            }
        }
        Ok(extremities)
    }

    /// Is the event rejected now? It may be so in the store already, by an attempt that was cut off.
    fn has_fallen(&self, event: &StoredEvent) -> bool {
        event.header.standing == Standing::Rejected || self.fallen.contains(&event.ordinal)
    }
}
