//! What a writer holds in memory of its room, and how it reads the rest.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use hearth_storage::{Committed, Direction, Snapshot};
use hearth_types::StreamPosition;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    room_version_rules::RoomVersionRules,
};

use super::{Batch, Power, StepError, forks::Resolved, outliers::Told, receive::Prepared};
use crate::{
    Rooms,
    cache::Caches,
    error::RoomError,
    policy::POLICY,
    rooms::{lookup, parse_row, state_key_ordinal},
    schema::{
        self, EventOrdinal, EventOrdinalRow, GapRow, MemberRow, Membership, RoomHead, ServerRow,
        StoredEvent, ThreadRow, TimelineIndex, TransactionKey, UserRoomRow,
    },
    state::{Node, NodeError, NodeId, NodeSource, StateKeyOrdinal, StateRoot},
};

/// Memberships that a writer remembers between two batches.
const KEPT_MEMBERS: usize = 512;
/// Senders' own totals that a writer remembers between two batches.
const KEPT_TOTALS: usize = 1_024;
/// Events that may be only in a writer's memory before it waits for the disk.
pub(super) const MAX_LOCAL_EVENTS: usize = 4_096;

/// What a batch is built from: the crate, and a view of the store taken when nothing that it misses
/// was outside the writer's memory.
pub(crate) struct Context<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) snapshot: Snapshot,
    /// Steps may take long: this is no thread on which others wait for their turn.
    pub(crate) may_take_long: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn new(rooms: &'a Rooms) -> Self {
        Self { rooms, snapshot: rooms.store().snapshot(), may_take_long: false }
    }

    fn caches(&self) -> &Caches {
        self.rooms.caches()
    }
}

/// A forward extremity.
#[derive(Clone, Debug)]
pub(crate) struct Tip {
    pub(crate) ordinal: EventOrdinal,
    pub(crate) event_id: OwnedEventId,
    pub(crate) depth: u64,
    /// The state after it.
    pub(crate) state: StateRoot,
}

/// A row together with the batch that wrote it; batch 0 means that the store has it.
pub(crate) type InBatch<T> = (u64, T);

/// Everything that is newer than the view's snapshot, and small things worth remembering.
#[derive(Default)]
pub(crate) struct Local {
    pub(crate) events: HashMap<EventOrdinal, Arc<StoredEvent>>,
    pub(crate) places: HashMap<EventOrdinal, InBatch<StreamPosition>>,
    pub(crate) event_ids: HashMap<OwnedEventId, EventOrdinal>,
    pub(crate) nodes: HashMap<NodeId, Arc<Node>>,
    pub(crate) state_keys: HashMap<(String, String), StateKeyOrdinal>,
    pub(crate) members: HashMap<OwnedUserId, MemberRow>,
    pub(crate) user_rooms: HashMap<OwnedUserId, InBatch<UserRoomRow>>,
    pub(crate) threads: HashMap<OwnedEventId, InBatch<ThreadRow>>,
    pub(crate) own_totals: HashMap<(OwnedUserId, u32), u64>,
    pub(crate) annotations: HashMap<(OwnedEventId, OwnedUserId, String), bool>,
    pub(crate) transactions: HashMap<TransactionKey, OwnedEventId>,
    /// Edges of the auth graph, (parent, child).
    pub(crate) auth_children: BTreeSet<(EventOrdinal, EventOrdinal)>,
    /// Joined members of other servers.
    pub(crate) servers: HashMap<OwnedServerName, ServerRow>,
    /// Redactions that wait for their targets; by target.
    pub(crate) pending_redactions: HashMap<OwnedEventId, Vec<EventOrdinal>>,
    /// Previous events that are not here; without a row, those that have just come or were given up.
    pub(crate) history_gaps: HashMap<OwnedEventId, Option<GapRow>>,
    /// Where the batches landed that have become durable.
    pub(crate) settled: HashMap<u64, Committed>,
}

impl Local {
    /// Forgets what the store has by now: called when nothing is in flight.
    fn clear(&mut self) {
        let mut own_totals = std::mem::take(&mut self.own_totals);
        if own_totals.len() > KEPT_TOTALS {
            own_totals.clear();
        }
        *self = Self { own_totals, ..Self::default() };
    }
}

/// A state event that was looked up before, or not.
#[derive(Default)]
enum Remembered {
    #[default]
    Unknown,
    Absent,
    Event(Arc<StoredEvent>),
}

impl Remembered {
    fn new(event: Option<&Arc<StoredEvent>>) -> Self {
        event.cloned().map_or(Self::Absent, Self::Event)
    }

    fn event_mut(&mut self) -> Option<&mut Arc<StoredEvent>> {
        match self {
            Self::Event(event) => Some(event),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// The state events that every event asks for.
#[derive(Default)]
struct AuthState {
    create: Option<Arc<StoredEvent>>,
    power_levels: Remembered,
    join_rules: Remembered,
    policy: Remembered,
    members: HashMap<OwnedUserId, Option<Arc<StoredEvent>>>,
}

/// A room in its writer's memory: ahead of the store by what is in flight.
pub(crate) struct Room {
    pub(crate) id: OwnedRoomId,
    pub(crate) rules: RoomVersionRules,
    pub(crate) head: RoomHead,
    pub(crate) tips: Vec<Tip>,
    pub(crate) local: Local,
    /// States that were resolved lately.
    pub(super) resolved: Resolved,
    /// State nodes that are in no batch yet.
    pub(super) unwritten: VecDeque<(NodeId, Arc<Node>)>,
    /// What is known of an event that waits for the next batch.
    pub(super) prepared: Option<Prepared>,
    pub(super) told: Option<Told>,
    /// While the room's state is partial: how many events have got their states meanwhile.
    partial_events: Option<u32>,
    auth: AuthState,
}

impl Room {
    /// A room that has no event yet.
    pub(crate) fn empty(id: OwnedRoomId, rules: RoomVersionRules, head: RoomHead) -> Self {
        Self {
            id,
            rules,
            head,
            tips: Vec::new(),
            local: Local::default(),
            resolved: Resolved::default(),
            unwritten: VecDeque::new(),
            prepared: None,
            told: None,
            partial_events: None,
            auth: AuthState::default(),
        }
    }

    /// Reads a room's head; `None` if there is no such room.
    pub(crate) fn load(view: &Context<'_>, id: &RoomId) -> Result<Option<Self>, RoomError> {
        let id = id.to_owned();
        let Some(head) = view.snapshot.get(&schema::ROOMS, &id, &())? else {
            return Ok(None);
        };
        let rules = head
            .version
            .rules()
            .ok_or_else(|| RoomError::UnsupportedVersion(head.version.to_string()))?;
        let extremities = head.extremities.clone();
        let mut room = Self::empty(id, rules, head);
        room.partial_events = partial_events(view, &room.id)?;
        for ordinal in extremities {
            let event = room.event(view, ordinal)?;
            room.tips.push(Tip {
                ordinal,
                event_id: event.header.event_id.clone(),
                depth: event.pdu.depth(),
                state: event.header.state_after,
            });
        }
        Ok(Some(room))
    }

    /// Is the room's state still to be completed?
    pub(crate) fn is_partial(&self) -> bool {
        self.partial_events.is_some()
    }

    /// Notes an event that gets its states while the room's own is partial.
    pub(super) fn note_while_partial(&mut self, batch: &mut Batch, ordinal: EventOrdinal) {
        if let Some(number) = &mut self.partial_events {
            let row = EventOrdinalRow(ordinal);
            batch.commit.put(&schema::PARTIAL_EVENTS, &self.id, number, &row);
            *number = number.saturating_add(1);
        }
    }

    /// Keeps an event that is redacted as it was, while it is not known whether the redaction stands.
    pub(crate) fn keep_unredacted(&self, batch: &mut Batch, event_id: &OwnedEventId, json: &Bytes) {
        if self.is_partial() {
            batch.commit.put(&schema::PARTIAL_REDACTED, &self.id, event_id, json);
        }
    }

    /// Forgets what was looked up of the state, where another one takes its place.
    pub(super) fn forget_remembered(&mut self, new: StateRoot) {
        if self.head.state.rest != new.rest {
            self.auth.power_levels = Remembered::Unknown;
            self.auth.join_rules = Remembered::Unknown;
            self.auth.policy = Remembered::Unknown;
        }
        if self.head.state.members != new.members {
            self.auth.members.clear();
        }
    }

    /// Forgets what is in the store; only while nothing is in flight.
    pub(crate) fn forget_settled(&mut self) {
        self.local.clear();
        if self.auth.members.len() > KEPT_MEMBERS {
            self.auth.members.clear();
        }
    }

    /// Where a batch's pending position is known to have landed.
    ///
    /// [`StepError::Settle`] while the batch that it belongs to is in flight.
    pub(crate) fn real_position(
        &self,
        current_batch: u64,
        (batch, position): InBatch<StreamPosition>,
    ) -> Result<StreamPosition, StepError> {
        let Some(index) = position.pending_index() else {
            return Ok(position);
        };
        if batch == current_batch {
            return Ok(position);
        }
        let committed = self.local.settled.get(&batch).ok_or(StepError::Settle)?;
        Ok(committed.first.plus(index))
    }

    /// An event's place in the timeline as it must be written in the current batch.
    pub(crate) fn index_of(
        &self,
        current_batch: u64,
        event: &StoredEvent,
    ) -> Result<Option<TimelineIndex>, StepError> {
        match self.local.places.get(&event.ordinal) {
            Some(place) => {
                self.real_position(current_batch, *place).map(|at| Some(TimelineIndex::Live(at)))
            }
            None => Ok(event.index),
        }
    }

    /// An event that must be there.
    pub(crate) fn event(
        &self,
        view: &Context<'_>,
        ordinal: EventOrdinal,
    ) -> Result<Arc<StoredEvent>, RoomError> {
        if let Some(event) = self.local.events.get(&ordinal) {
            return Ok(Arc::clone(event));
        }
        if let Some(event) = view.caches().event(&self.id, ordinal) {
            return Ok(event);
        }
        // Only this writer replaces events, and what it replaced is in `local`: no mark is needed
        // against itself, but readers share the cache.
        let mark = view.caches().mark();
        let row = view.snapshot.get(&schema::EVENTS, &self.id, &ordinal)?;
        let event = parse_row(ordinal, row)?;
        view.caches().keep_event(&self.id, &event, mark);
        Ok(event)
    }

    /// An event by ID.
    pub(crate) fn event_by_id(
        &self,
        view: &Context<'_>,
        event_id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let known = self.local.event_ids.get(event_id).copied();
        let known = known.or_else(|| view.caches().ordinal(&self.id, event_id));
        if let Some(ordinal) = known {
            return self.event(view, ordinal).map(Some);
        }
        match view.snapshot.get(&schema::EVENT_IDS, &self.id, &event_id.to_owned())? {
            Some(row) => self.event(view, row.0).map(Some),
            None => Ok(None),
        }
    }

    /// The state tree's nodes, those in flight included.
    pub(crate) fn nodes<'a>(&'a self, view: &'a Context<'_>) -> LocalNodes<'a> {
        LocalNodes { room: self, caches: view.caches(), snapshot: &view.snapshot }
    }

    /// The ordinal of a state key, if the room ever had it.
    pub(crate) fn state_key(
        &self,
        view: &Context<'_>,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, RoomError> {
        if let Some(ordinal) = view.caches().state_key(&self.id, event_type, state_key) {
            return Ok(Some(ordinal));
        }
        let key = (event_type.to_owned(), state_key.to_owned());
        if let Some(ordinal) = self.local.state_keys.get(&key) {
            return Ok(Some(*ordinal));
        }
        let row = view.snapshot.get(&schema::STATE_KEYS, &self.id, &key)?;
        Ok(row.map(|row| state_key_ordinal(event_type, row.0)))
    }

    /// The current event at a state key, whatever the key.
    fn read_state(
        &self,
        view: &Context<'_>,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        self.state_event_at(view, self.head.state, event_type, state_key)
    }

    /// The event at a state key in any state of the room.
    pub(crate) fn state_event_at(
        &self,
        view: &Context<'_>,
        root: StateRoot,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        let Some(key) = self.state_key(view, event_type, state_key)? else {
            return Ok(None);
        };
        match lookup(&self.nodes(view), root, key)? {
            Some(ordinal) => self.event(view, ordinal).map(Some),
            None => Ok(None),
        }
    }

    /// The current event at a state key, from memory where every authorization looks.
    pub(crate) fn state_event(
        &mut self,
        view: &Context<'_>,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        if event_type == "m.room.member" {
            return match <&UserId>::try_from(state_key) {
                Ok(user_id) => self.member_event(view, user_id),
                Err(_) => Ok(None),
            };
        }
        let remembered = match (event_type, state_key) {
            ("m.room.create", "") => return self.create_event(view).map(Some),
            ("m.room.power_levels", "") => &self.auth.power_levels,
            ("m.room.join_rules", "") => &self.auth.join_rules,
            (POLICY, "") => &self.auth.policy,
            _ => &Remembered::Unknown,
        };
        match remembered {
            Remembered::Event(event) => return Ok(Some(Arc::clone(event))),
            Remembered::Absent => return Ok(None),
            Remembered::Unknown => {}
        }
        let event = self.read_state(view, event_type, state_key)?;
        self.remember_state(event_type, state_key, event.as_ref());
        Ok(event)
    }

    /// Keeps the events that authorization asks for.
    pub(crate) fn remember_state(
        &mut self,
        event_type: &str,
        state_key: &str,
        event: Option<&Arc<StoredEvent>>,
    ) {
        match (event_type, state_key) {
            ("m.room.create", "") => self.auth.create = event.cloned(),
            ("m.room.power_levels", "") => self.auth.power_levels = Remembered::new(event),
            ("m.room.join_rules", "") => self.auth.join_rules = Remembered::new(event),
            (POLICY, "") => self.auth.policy = Remembered::new(event),
            ("m.room.member", user_id) => {
                if let Ok(user_id) = UserId::parse(user_id) {
                    self.auth.members.insert(user_id, event.cloned());
                }
            }
            _ => {}
        }
    }

    /// Puts the redacted form of a current state event in the place of the original.
    pub(crate) fn replace_remembered(&mut self, event: &Arc<StoredEvent>) {
        let slots = [
            self.auth.create.as_mut(),
            self.auth.power_levels.event_mut(),
            self.auth.join_rules.event_mut(),
            self.auth.policy.event_mut(),
        ];
        let members = self.auth.members.values_mut().filter_map(Option::as_mut);
        for slot in slots.into_iter().flatten().chain(members) {
            if slot.ordinal == event.ordinal {
                *slot = Arc::clone(event);
            }
        }
    }

    /// The create event: every room has one.
    pub(crate) fn create_event(
        &mut self,
        view: &Context<'_>,
    ) -> Result<Arc<StoredEvent>, RoomError> {
        if let Some(create) = &self.auth.create {
            return Ok(Arc::clone(create));
        }
        let create = self
            .read_state(view, "m.room.create", "")?
            .ok_or_else(|| RoomError::internal("a room without a create event"))?;
        self.auth.create = Some(Arc::clone(&create));
        Ok(create)
    }

    /// A user's current membership event.
    pub(crate) fn member_event(
        &mut self,
        view: &Context<'_>,
        user_id: &UserId,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        if let Some(event) = self.auth.members.get(user_id) {
            return Ok(event.clone());
        }
        let event = self.read_state(view, "m.room.member", user_id.as_str())?;
        self.auth.members.insert(user_id.to_owned(), event.clone());
        Ok(event)
    }

    /// A user's current membership.
    pub(crate) fn membership(
        &mut self,
        view: &Context<'_>,
        user_id: &UserId,
    ) -> Result<Option<Membership>, RoomError> {
        Ok(self.member_event(view, user_id)?.and_then(|event| Membership::of(&event.pdu)))
    }

    /// Is a user joined? Looks at the rows, which is cheaper than the state for users that are not
    /// about to be remembered.
    pub(crate) fn is_joined(
        &self,
        view: &Context<'_>,
        user_id: &UserId,
    ) -> Result<bool, RoomError> {
        let row = match self.local.members.get(user_id) {
            Some(row) => Some(row.clone()),
            None => view.snapshot.get(&schema::MEMBERS, &self.id, &user_id.to_owned())?,
        };
        Ok(row.is_some_and(|row| row.membership == Membership::Join))
    }

    /// The power levels as they stand.
    pub(crate) fn with_power<T>(
        &mut self,
        view: &Context<'_>,
        ask: impl FnOnce(&Power<'_>) -> Result<T, RoomError>,
    ) -> Result<T, RoomError> {
        let create = self.create_event(view)?;
        let levels = self.state_event(view, "m.room.power_levels", "")?;
        let levels = levels.as_ref().map(|event| &event.pdu);
        ask(&Power::new(&self.rules.authorization, &create.pdu, levels)?)
    }

    /// A thread's row, and the batch that wrote it.
    pub(crate) fn thread(
        &self,
        view: &Context<'_>,
        root: &OwnedEventId,
    ) -> Result<Option<InBatch<ThreadRow>>, RoomError> {
        if let Some(row) = self.local.threads.get(root) {
            return Ok(Some(row.clone()));
        }
        Ok(view.snapshot.get(&schema::THREADS, &self.id, root)?.map(|row| (0, row)))
    }

    /// A local user's row about this room, and the batch that wrote it.
    pub(crate) fn user_room(
        &self,
        view: &Context<'_>,
        user_id: &OwnedUserId,
    ) -> Result<Option<InBatch<UserRoomRow>>, RoomError> {
        if let Some(row) = self.local.user_rooms.get(user_id) {
            return Ok(Some(row.clone()));
        }
        Ok(view.snapshot.get(&schema::USER_ROOMS, user_id, &self.id)?.map(|row| (0, row)))
    }

    /// How many notifying events a local user has sent to a scope so far.
    pub(crate) fn own_total(
        &mut self,
        view: &Context<'_>,
        user_id: &UserId,
        scope: u32,
    ) -> Result<u64, RoomError> {
        let key = (user_id.to_owned(), scope);
        if let Some(total) = self.local.own_totals.get(&key) {
            return Ok(*total);
        }
        let range = (key.0.clone(), scope, StreamPosition::ZERO)
            ..=(key.0.clone(), scope, StreamPosition::MAX);
        let page =
            view.snapshot.page(&schema::OWN_TOTALS, &self.id, range, Direction::Backward, 1)?;
        let total = page.first().map_or(0, |(_, row)| row.0);
        self.local.own_totals.insert(key, total);
        Ok(total)
    }

    /// Has the sender annotated the event with this key, and not taken it back?
    pub(crate) fn has_annotated(
        &self,
        view: &Context<'_>,
        key: &(OwnedEventId, OwnedUserId, String),
    ) -> Result<bool, RoomError> {
        if let Some(present) = self.local.annotations.get(key) {
            return Ok(*present);
        }
        Ok(view.snapshot.get(&schema::ANNOTATIONS, &self.id, key)?.is_some())
    }

    /// The event that a transaction has already made.
    pub(crate) fn transaction(
        &self,
        view: &Context<'_>,
        key: &TransactionKey,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        if let Some(event_id) = self.local.transactions.get(key) {
            return Ok(Some(event_id.clone()));
        }
        let row = view.snapshot.get(&schema::TRANSACTIONS, &self.id, key)?;
        Ok(row.map(|row| row.event_id))
    }
}

/// How many events have got their states while the room's own is partial; `None` if it is whole.
fn partial_events(view: &Context<'_>, room_id: &OwnedRoomId) -> Result<Option<u32>, RoomError> {
    if view.snapshot.get(&schema::PARTIAL, room_id, &())?.is_none() {
        return Ok(None);
    }
    let last = view.snapshot.page(&schema::PARTIAL_EVENTS, room_id, .., Direction::Backward, 1)?;
    Ok(Some(last.first().map_or(0, |(number, _)| number.saturating_add(1))))
}

/// Nodes in flight, then the cache, then the snapshot.
pub(crate) struct LocalNodes<'a> {
    room: &'a Room,
    caches: &'a Caches,
    snapshot: &'a Snapshot,
}

impl NodeSource for LocalNodes<'_> {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        if let Some(node) = self.room.local.nodes.get(&id) {
            return Ok(Arc::clone(node));
        }
        if let Some(node) = self.caches.node(&self.room.id, id) {
            return Ok(node);
        }
        let bytes = self
            .snapshot
            .get(&schema::STATE_NODES, &self.room.id, &id.0)
            .map_err(|error| NodeError(error.to_string()))?
            .ok_or_else(|| NodeError(format!("node {} is missing", id.0)))?;
        let node = Node::decode(&bytes)?;
        self.caches.keep_node(&self.room.id, id, Arc::clone(&node));
        Ok(node)
    }
}
