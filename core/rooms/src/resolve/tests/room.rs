//! A room in memory whose events obey the real authorization rules.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::{
        self, StateMap, auth_types_for_event, check_state_dependent_auth_rules,
        check_state_independent_auth_rules, utils::event_id_set::EventIdSet,
    },
};
use serde_json::{Value, json};

use crate::{
    resolve::{EventSource, Resolution, ResolveError, graph::Candidate, resolve},
    schema::{EventHeader, EventOrdinal, Standing, StoredEvent},
    state::{self, Node, NodeError, NodeId, NodeSource, StateKeyOrdinal, StateRoot, TreeEditor},
};

pub(super) struct TestRoom {
    pub(super) rules: RoomVersionRules,
    room_id: OwnedRoomId,
    events: Vec<Arc<StoredEvent>>,
    ids: HashMap<OwnedEventId, EventOrdinal>,
    children: HashMap<EventOrdinal, Vec<EventOrdinal>>,
    keys: HashMap<(String, String), StateKeyOrdinal>,
    names: HashMap<StateKeyOrdinal, (String, String)>,
    /// Of members, of others.
    next_keys: (u32, u32),
    nodes: HashMap<NodeId, Arc<Node>>,
    next_node: u32,
    touched_events: RefCell<HashSet<EventOrdinal>>,
    touched_nodes: RefCell<HashSet<NodeId>>,
    children_read: RefCell<usize>,
}

impl NodeSource for TestRoom {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        self.touched_nodes.borrow_mut().insert(id);
        self.nodes.get(&id).cloned().ok_or_else(|| NodeError(format!("no node {}", id.0)))
    }
}

impl EventSource for TestRoom {
    fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ResolveError> {
        self.touched_events.borrow_mut().insert(ordinal);
        self.events.get(ordinal as usize).cloned().ok_or(ResolveError::MissingEvent(ordinal))
    }

    fn state_key(
        &self,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, ResolveError> {
        Ok(self.keys.get(&(event_type.to_owned(), state_key.to_owned())).copied())
    }

    fn auth_children(
        &self,
        parent: EventOrdinal,
        before: EventOrdinal,
    ) -> Result<Vec<EventOrdinal>, ResolveError> {
        let all = self.children.get(&parent).map_or(&[][..], Vec::as_slice);
        let end = all.partition_point(|child| *child < before);
        let page: Vec<_> = all[..end].iter().rev().take(16).copied().collect();
        *self.children_read.borrow_mut() += page.len();
        Ok(page)
    }
}

pub(super) fn user(index: usize) -> String {
    format!("@user{index}:example.org")
}

impl TestRoom {
    /// A public room that user 0 made, with user 1 as a moderator; nobody else has joined.
    pub(super) fn new(version: &RoomVersionId) -> Self {
        let mut room = Self {
            rules: version.rules().unwrap(),
            room_id: "!room:example.org".try_into().unwrap(),
            events: Vec::new(),
            ids: HashMap::new(),
            children: HashMap::new(),
            keys: HashMap::new(),
            names: HashMap::new(),
            next_keys: (0, 0),
            nodes: HashMap::new(),
            next_node: 1,
            touched_events: RefCell::default(),
            touched_nodes: RefCell::default(),
            children_read: RefCell::default(),
        };
        let version_12 = room.rules.authorization.room_create_event_id_as_room_id;
        if version_12 {
            room.room_id =
                format!("!{}", room.next_id().as_str().trim_start_matches('$')).try_into().unwrap();
        }
        let content = json!({ "creator": user(0), "room_version": version });
        room.send(&[], 0, "m.room.create", Some(""), content, 0).unwrap();
        let member = |membership: &str| json!({ "membership": membership });
        room.send(&[0], 0, "m.room.member", Some(&user(0)), member("join"), 0).unwrap();
        let mut users = BTreeMap::from([(user(1), 50)]);
        if !version_12 {
            users.insert(user(0), 100);
        }
        let levels = json!({ "users": users });
        room.send(&[1], 0, "m.room.power_levels", Some(""), levels, 0).unwrap();
        let rule = json!({ "join_rule": "public" });
        room.send(&[2], 0, "m.room.join_rules", Some(""), rule, 0).unwrap();
        room.send(&[3], 1, "m.room.member", Some(&user(1)), member("join"), 0).unwrap();
        room
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn last(&self) -> EventOrdinal {
        u32::try_from(self.events.len()).unwrap() - 1
    }

    pub(super) fn state_after(&self, ordinal: EventOrdinal) -> StateRoot {
        self.events[ordinal as usize].header.state_after
    }

    /// IDs that do not sort like ordinals, so that ties are broken either way.
    fn next_id(&self) -> OwnedEventId {
        let mixed = (self.events.len() as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        EventId::parse(format!("${mixed:016x}")).unwrap()
    }

    pub(super) fn value(&self, root: StateRoot, key: &(String, String)) -> Option<EventOrdinal> {
        match self.keys.get(key)? {
            StateKeyOrdinal::Member(key) => state::get(self, root.members, *key).unwrap(),
            StateKeyOrdinal::Rest(key) => state::get(self, root.rest, *key).unwrap(),
        }
    }

    fn edit(
        &mut self,
        root: StateRoot,
        changes: &[(StateKeyOrdinal, Option<EventOrdinal>)],
    ) -> StateRoot {
        let (mut members, mut rest) = (Vec::new(), Vec::new());
        for (key, value) in changes {
            match key {
                StateKeyOrdinal::Member(key) => members.push((*key, *value)),
                StateKeyOrdinal::Rest(key) => rest.push((*key, *value)),
            }
        }
        let mut editor = TreeEditor::new(&*self, self.next_node);
        let root = StateRoot {
            members: editor.apply(root.members, &members).unwrap(),
            rest: editor.apply(root.rest, &rest).unwrap(),
        };
        let (next, new) = editor.finish(&[root.members, root.rest]);
        self.next_node = next;
        self.nodes.extend(new);
        root
    }

    fn key(&mut self, event_type: &str, state_key: &str) -> StateKeyOrdinal {
        let name = (event_type.to_owned(), state_key.to_owned());
        if let Some(key) = self.keys.get(&name) {
            return *key;
        }
        let key = if event_type == "m.room.member" {
            self.next_keys.0 += 1;
            StateKeyOrdinal::Member(self.next_keys.0 - 1)
        } else {
            self.next_keys.1 += 1;
            StateKeyOrdinal::Rest(self.next_keys.1 - 1)
        };
        self.keys.insert(name.clone(), key);
        self.names.insert(key, name);
        key
    }

    /// Adds an event after others if the rules allow it there. Several previous events are resolved,
    /// in both ways.
    #[expect(clippy::needless_pass_by_value, reason = "callers make the content for this")]
    pub(super) fn send(
        &mut self,
        prev: &[EventOrdinal],
        sender: usize,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
        timestamp: u64,
    ) -> Option<EventOrdinal> {
        let roots: Vec<StateRoot> = prev.iter().map(|event| self.state_after(*event)).collect();
        let state_before = self.merge(&roots);
        let sender = UserId::parse(user(sender)).unwrap();
        let raw = serde_json::value::to_raw_value(&content).unwrap();
        let auth_types = auth_types_for_event(
            &TimelineEventType::from(event_type),
            &sender,
            state_key,
            &raw,
            &self.rules.authorization,
        )
        .unwrap();
        let auth_events: Vec<EventOrdinal> = auth_types
            .into_iter()
            .filter_map(|(kind, key)| self.value(state_before, &(kind.to_string(), key)))
            .collect();

        let event_id = self.next_id();
        let id_of = |event: &EventOrdinal| &self.events[*event as usize].header.event_id;
        let mut fields = json!({
            "type": event_type, "sender": sender, "content": content,
            "origin_server_ts": timestamp, "depth": 1,
            "prev_events": prev.iter().map(id_of).collect::<Vec<_>>(),
            "auth_events": auth_events.iter().map(id_of).collect::<Vec<_>>(),
        });
        if let Some(state_key) = state_key {
            fields["state_key"] = state_key.into();
        }
        if event_type != "m.room.create"
            || !self.rules.authorization.room_create_event_id_as_room_id
        {
            fields["room_id"] = self.room_id.as_str().into();
        }
        let bytes = serde_json::to_vec(&fields).unwrap();
        let pdu = hearth_types::Pdu::parse(event_id.clone(), bytes.into()).unwrap();
        self.check(&pdu, state_before).ok()?;

        let ordinal = u32::try_from(self.events.len()).unwrap();
        let mut state_after = state_before;
        if let Some(state_key) = state_key {
            let key = self.key(event_type, state_key);
            state_after = self.edit(state_before, &[(key, Some(ordinal))]);
            for parent in &auth_events {
                self.children.entry(*parent).or_default().push(ordinal);
            }
        }
        let header = EventHeader {
            event_id: event_id.clone(),
            state_before,
            state_after,
            auth_events,
            prev_events: prev.to_vec(),
            replaces_state: None,
            redacted_by: None,
            transaction: None,
            standing: Standing::Accepted,
        };
        self.ids.insert(event_id, ordinal);
        self.events.push(Arc::new(StoredEvent { ordinal, index: None, header, pdu }));
        Some(ordinal)
    }

    fn check(&self, pdu: &hearth_types::Pdu, state_before: StateRoot) -> Result<(), String> {
        let rules = &self.rules.authorization;
        check_state_independent_auth_rules(rules, pdu, |event_id| self.by_id(event_id))?;
        check_state_dependent_auth_rules(rules, pdu, |kind, key| {
            let value = self.value(state_before, &(kind.to_string(), key.to_owned()))?;
            Some(Candidate(Arc::clone(&self.events[value as usize])))
        })
    }

    fn by_id(&self, event_id: &EventId) -> Option<Candidate> {
        let ordinal = self.ids.get(event_id)?;
        Some(Candidate(Arc::clone(&self.events[*ordinal as usize])))
    }

    /// The resolved state of some states, after checking the short way against the long one.
    pub(super) fn merge(&mut self, roots: &[StateRoot]) -> StateRoot {
        let Some(first) = roots.first() else { return StateRoot::default() };
        if roots.iter().all(|root| root == first) {
            return *first;
        }
        let Resolution { changes } = resolve(&self.rules, roots, self, self).unwrap();
        for (key, value) in &changes {
            let before = match key {
                StateKeyOrdinal::Member(key) => state::get(self, first.members, *key).unwrap(),
                StateKeyOrdinal::Rest(key) => state::get(self, first.rest, *key).unwrap(),
            };
            assert_ne!(before, *value, "{key:?} is no change");
        }
        let merged = self.edit(*first, &changes);
        assert_eq!(self.map(merged), self.resolve_plainly(roots));
        merged
    }

    /// A whole state as ruma wants it.
    fn map(&self, root: StateRoot) -> StateMap<OwnedEventId> {
        let mut map = StateMap::new();
        let mut add = |key: StateKeyOrdinal, event: EventOrdinal| {
            let (kind, state_key) = self.names[&key].clone();
            let event_id = self.events[event as usize].header.event_id.clone();
            map.insert((StateEventType::from(kind), state_key), event_id);
            std::ops::ControlFlow::Continue(())
        };
        state::walk(self, root.members, 0, &mut |k, v| add(StateKeyOrdinal::Member(k), v)).unwrap();
        state::walk(self, root.rest, 0, &mut |k, v| add(StateKeyOrdinal::Rest(k), v)).unwrap();
        map
    }

    fn auth_chain(&self, starts: impl IntoIterator<Item = OwnedEventId>) -> BTreeSet<OwnedEventId> {
        let mut chain = BTreeSet::new();
        let mut open: Vec<OwnedEventId> = starts.into_iter().collect();
        while let Some(event_id) = open.pop() {
            for parent in self.by_id(&event_id).unwrap().0.pdu.auth_events() {
                if chain.insert(parent.clone()) {
                    open.push(parent.clone());
                }
            }
        }
        chain
    }

    fn resolve_plainly(&self, roots: &[StateRoot]) -> StateMap<OwnedEventId> {
        let maps: Vec<_> = roots.iter().map(|root| self.map(*root)).collect();
        let chains: Vec<EventIdSet<OwnedEventId>> = maps
            .iter()
            .map(|map| self.auth_chain(map.values().cloned()).into_iter().collect())
            .collect();
        state_res::resolve(
            &self.rules.authorization,
            self.rules.state_res.v2_rules().unwrap(),
            &maps,
            chains,
            |event_id| self.by_id(event_id),
            |conflicted| Some(self.paths_between(conflicted.values().flatten())),
        )
        .unwrap()
    }

    /// Every event that some end reaches and that reaches some end.
    fn paths_between<'a>(
        &self,
        ends: impl Iterator<Item = &'a OwnedEventId>,
    ) -> EventIdSet<OwnedEventId> {
        let ends: BTreeSet<OwnedEventId> = ends.cloned().collect();
        let mut below = self.auth_chain(ends.iter().cloned());
        below.extend(ends.iter().cloned());
        below
            .into_iter()
            .filter(|event| {
                ends.contains(event) || !self.auth_chain([event.clone()]).is_disjoint(&ends)
            })
            .collect()
    }

    /// How many distinct events, distinct nodes and child rows a resolution reads.
    pub(super) fn cost(&self, roots: &[StateRoot]) -> (usize, usize, usize) {
        self.touched_events.borrow_mut().clear();
        self.touched_nodes.borrow_mut().clear();
        *self.children_read.borrow_mut() = 0;
        assert!(!resolve(&self.rules, roots, self, self).unwrap().changes.is_empty());
        (
            self.touched_events.borrow().len(),
            self.touched_nodes.borrow().len(),
            *self.children_read.borrow(),
        )
    }
}
