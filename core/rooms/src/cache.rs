//! Bounded caches over events, state nodes, state-key ordinals, room heads and the newest rows of timelines.
//! Events and nodes never change once written but by redaction, which the writer announces here.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hearth_types::StreamPosition;
use quick_cache::{Equivalent, Weighter, sync::Cache};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    read::NewestRows,
    schema::{EventOrdinal, RoomHead, StoredEvent},
    state::{Node, NodeId, StateKeyOrdinal},
};

/// What an event takes beside its bytes: header, parsed fields, the cache's own entry.
const EVENT_OVERHEAD: u64 = 900;
/// What a node takes at most: 64 slots and the entry.
const NODE_WEIGHT: u64 = 400;
/// What a state key or an event ID takes: its strings and the entry.
const KEY_WEIGHT: u64 = 250;
/// What a head takes.
const HEAD_WEIGHT: u64 = 500;
/// What the newest rows of a timeline take.
const NEWEST_WEIGHT: u64 = 400;

/// A key within a room, owned by the cache or borrowed for a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InRoom<R, K>(R, K);

impl Equivalent<InRoom<OwnedRoomId, u32>> for InRoom<&RoomId, u32> {
    fn equivalent(&self, key: &InRoom<OwnedRoomId, u32>) -> bool {
        self.1 == key.1 && *self.0 == *key.0
    }
}

impl Equivalent<InRoom<OwnedRoomId, OwnedEventId>> for InRoom<&RoomId, &EventId> {
    fn equivalent(&self, key: &InRoom<OwnedRoomId, OwnedEventId>) -> bool {
        *self.1 == *key.1 && *self.0 == *key.0
    }
}

impl Equivalent<InRoom<OwnedRoomId, (String, String)>> for InRoom<&RoomId, (&str, &str)> {
    fn equivalent(&self, key: &InRoom<OwnedRoomId, (String, String)>) -> bool {
        self.1.0 == key.1.0 && self.1.1 == key.1.1 && *self.0 == *key.0
    }
}

/// Weighs entries in bytes, roughly.
#[derive(Clone, Copy, Debug)]
struct Weights;

impl<K> Weighter<K, Arc<StoredEvent>> for Weights {
    fn weight(&self, _: &K, event: &Arc<StoredEvent>) -> u64 {
        // The content is held twice: in the bytes and parsed off them.
        2 * event.pdu.json().len() as u64 + EVENT_OVERHEAD
    }
}

impl<K> Weighter<K, Arc<Node>> for Weights {
    fn weight(&self, _: &K, _: &Arc<Node>) -> u64 {
        NODE_WEIGHT
    }
}

impl<K> Weighter<K, StateKeyOrdinal> for Weights {
    fn weight(&self, _: &K, _: &StateKeyOrdinal) -> u64 {
        KEY_WEIGHT
    }
}

impl<K> Weighter<K, EventOrdinal> for Weights {
    fn weight(&self, _: &K, _: &EventOrdinal) -> u64 {
        KEY_WEIGHT
    }
}

impl<K> Weighter<K, CachedHead> for Weights {
    fn weight(&self, _: &K, _: &CachedHead) -> u64 {
        HEAD_WEIGHT
    }
}

impl<K> Weighter<K, NewestRows> for Weights {
    fn weight(&self, _: &K, _: &NewestRows) -> u64 {
        NEWEST_WEIGHT
    }
}

/// A room's head and the position up to which it is known to be right.
#[derive(Clone, Debug)]
pub(crate) struct CachedHead {
    /// The room had not changed since its head was read when this was published.
    pub(crate) as_of: StreamPosition,
    /// The head.
    pub(crate) head: Arc<RoomHead>,
}

type EventCache = Cache<InRoom<OwnedRoomId, u32>, Arc<StoredEvent>, Weights>;
type NodeCache = Cache<InRoom<OwnedRoomId, u32>, Arc<Node>, Weights>;
type StateKeyCache = Cache<InRoom<OwnedRoomId, (String, String)>, StateKeyOrdinal, Weights>;
type EventIdCache = Cache<InRoom<OwnedRoomId, OwnedEventId>, EventOrdinal, Weights>;

/// All caches of the crate. They hold only what is durable.
pub(crate) struct Caches {
    events: EventCache,
    nodes: NodeCache,
    state_keys: StateKeyCache,
    event_ids: EventIdCache,
    heads: Cache<OwnedRoomId, CachedHead, Weights>,
    newest: Cache<OwnedRoomId, NewestRows, Weights>,
    /// Moves before each replacement of an event, so that a reader who raced it does not bring the
    /// old one back.
    replacements: AtomicU64,
}

/// A moment before a read whose result goes into the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadMark(u64);

impl Caches {
    /// Caches that take about this much memory together.
    pub(crate) fn new(mib: usize) -> Self {
        let bytes = (mib.max(1) as u64).saturating_mul(1024 * 1024);
        let share = |percent: u64| bytes / 100 * percent;
        let items = |weight: u64, each: u64| usize::try_from(weight / each).unwrap_or(usize::MAX);
        Self {
            events: Cache::with_weighter(items(share(56), 2_000), share(56), Weights),
            nodes: Cache::with_weighter(items(share(20), NODE_WEIGHT), share(20), Weights),
            state_keys: Cache::with_weighter(items(share(8), KEY_WEIGHT), share(8), Weights),
            event_ids: Cache::with_weighter(items(share(8), KEY_WEIGHT), share(8), Weights),
            heads: Cache::with_weighter(items(share(4), HEAD_WEIGHT), share(4), Weights),
            newest: Cache::with_weighter(items(share(4), NEWEST_WEIGHT), share(4), Weights),
            replacements: AtomicU64::new(0),
        }
    }

    /// To be taken before events are read for [`Self::keep_event`].
    pub(crate) fn mark(&self) -> ReadMark {
        ReadMark(self.replacements.load(Ordering::SeqCst))
    }

    pub(crate) fn event(
        &self,
        room_id: &RoomId,
        ordinal: EventOrdinal,
    ) -> Option<Arc<StoredEvent>> {
        self.events.get(&InRoom(room_id, ordinal))
    }

    /// Keeps an event that was read after `mark`, unless an event was replaced meanwhile.
    pub(crate) fn keep_event(&self, room_id: &RoomId, event: &Arc<StoredEvent>, mark: ReadMark) {
        self.events.insert(InRoom(room_id.to_owned(), event.ordinal), Arc::clone(event));
        if self.mark().0 != mark.0 {
            self.events.remove(&InRoom(room_id, event.ordinal));
        }
    }

    /// Puts in a new event that has become durable.
    pub(crate) fn publish_event(&self, room_id: &RoomId, event: Arc<StoredEvent>) {
        self.event_ids
            .insert(InRoom(room_id.to_owned(), event.header.event_id.clone()), event.ordinal);
        self.events.insert(InRoom(room_id.to_owned(), event.ordinal), event);
    }

    /// Puts in the redacted form of an event.
    pub(crate) fn replace_event(&self, room_id: &RoomId, event: Arc<StoredEvent>) {
        self.replacements.fetch_add(1, Ordering::SeqCst);
        self.events.insert(InRoom(room_id.to_owned(), event.ordinal), event);
    }

    pub(crate) fn ordinal(&self, room_id: &RoomId, event_id: &EventId) -> Option<EventOrdinal> {
        self.event_ids.get(&InRoom(room_id, event_id))
    }

    pub(crate) fn keep_ordinal(&self, room_id: &RoomId, event_id: &EventId, ordinal: EventOrdinal) {
        self.event_ids.insert(InRoom(room_id.to_owned(), event_id.to_owned()), ordinal);
    }

    pub(crate) fn node(&self, room_id: &RoomId, id: NodeId) -> Option<Arc<Node>> {
        self.nodes.get(&InRoom(room_id, id.0))
    }

    pub(crate) fn keep_node(&self, room_id: &RoomId, id: NodeId, node: Arc<Node>) {
        self.nodes.insert(InRoom(room_id.to_owned(), id.0), node);
    }

    pub(crate) fn state_key(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Option<StateKeyOrdinal> {
        self.state_keys.get(&InRoom(room_id, (event_type, state_key)))
    }

    pub(crate) fn keep_state_key(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        ordinal: StateKeyOrdinal,
    ) {
        let key = (event_type.to_owned(), state_key.to_owned());
        self.state_keys.insert(InRoom(room_id.to_owned(), key), ordinal);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.replacements.fetch_add(1, Ordering::SeqCst);
        self.events.clear();
        self.nodes.clear();
        self.state_keys.clear();
        self.event_ids.clear();
        self.heads.clear();
        self.newest.clear();
    }

    pub(crate) fn head(&self, room_id: &RoomId) -> Option<CachedHead> {
        self.heads.get(room_id)
    }

    pub(crate) fn keep_head(&self, room_id: &RoomId, head: CachedHead) {
        self.heads.insert(room_id.to_owned(), head);
    }

    pub(crate) fn newest(&self, room_id: &RoomId) -> Option<NewestRows> {
        self.newest.get(room_id)
    }

    pub(crate) fn keep_newest(&self, room_id: &RoomId, rows: NewestRows) {
        self.newest.insert(room_id.to_owned(), rows);
    }
}
