//! The face of the crate: what it stands on, and the reads that everything else is made of.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use hearth_storage::{Direction, Snapshot, Store, Topic};
use hearth_types::{Clock, ServerIdentity};
use parking_lot::RwLock;
use ruma::{EventId, MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedUserId, RoomId, UInt, UserId};

use crate::{
    RemoteRooms, RoomsConfig,
    cache::{CachedHead, Caches},
    directory::Directory,
    error::{DamagedRoom, RoomError},
    schema::{self, EventOrdinal, EventRow, MemberRow, RoomHead, StoredEvent, UserRoomRow},
    serve::Served,
    state::{self, Node, NodeError, NodeId, NodeSource, StateKeyOrdinal, StateRoot},
    transactions::sweep_regularly,
    writer::WriterTable,
};

/// Rows that a page of [`Rooms::user_rooms`] reads inline; a user with more rooms is read in one job.
const INLINE_ROWS: usize = 100;
/// Rooms of one user that are read at all: more than anybody can be in.
const MAX_USER_ROOMS: usize = 100_000;

/// All rooms of this server: cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    inner: Arc<Inner>,
}

/// A handle to [`Rooms`] that does not keep them, nor the store, alive.
pub(crate) struct WeakRooms(Weak<Inner>);

impl WeakRooms {
    /// The rooms, unless they are gone.
    pub(crate) fn upgrade(&self) -> Option<Rooms> {
        self.0.upgrade().map(|inner| Rooms { inner })
    }
}

struct Inner {
    store: Store,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    config: RoomsConfig,
    caches: Arc<Caches>,
    writers: WriterTable,
    directory: Directory,
    served: Served,
    /// When the last room was made, in milliseconds.
    last_creation_ms: AtomicU64,
    /// How other servers are reached, if they are.
    remote: RwLock<Option<Arc<dyn RemoteRooms>>>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms")
            .field("server_name", &self.inner.identity.server_name())
            .finish_non_exhaustive()
    }
}

impl Rooms {
    /// Rooms over this store. Nothing is loaded: writers start when they are first needed.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidParam`] if the configuration is not valid.
    #[expect(clippy::unused_async, reason = "part of the crate's face; migrations will wait here")]
    pub async fn open(
        store: Store,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        config: RoomsConfig,
    ) -> Result<Self, RoomError> {
        config.validate().map_err(RoomError::InvalidParam)?;
        let inner = Inner {
            caches: Arc::new(Caches::new(config.cache_mib)),
            writers: WriterTable::new(config.max_active_rooms),
            directory: Directory::default(),
            served: Served::default(),
            last_creation_ms: AtomicU64::new(0),
            remote: RwLock::new(None),
            store,
            identity,
            clock,
            config,
        };
        let rooms = Self { inner: Arc::new(inner) };
        tokio::spawn(sweep_regularly(rooms.downgrade()));
        Ok(rooms)
    }

    /// A handle that keeps nothing alive, for tasks that run beside.
    pub(crate) fn downgrade(&self) -> WeakRooms {
        WeakRooms(Arc::downgrade(&self.inner))
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The server's clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The server's name and signing key.
    #[must_use]
    pub fn identity(&self) -> &Arc<ServerIdentity> {
        &self.inner.identity
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RoomsConfig {
        &self.inner.config
    }

    /// Plugs in the way to other servers.
    pub fn set_remote(&self, remote: Arc<dyn RemoteRooms>) {
        *self.inner.remote.write() = Some(remote);
    }

    /// Takes it out again when the server stops: what is plugged in holds the rooms in its turn, and
    /// neither would ever be dropped.
    pub fn unset_remote(&self) {
        let taken = self.inner.remote.write().take();
        drop(taken);
    }

    /// The way to other servers; `None` if this server does not federate.
    #[must_use]
    pub fn remote(&self) -> Option<Arc<dyn RemoteRooms>> {
        self.inner.remote.read().clone()
    }

    pub(crate) fn caches(&self) -> &Arc<Caches> {
        &self.inner.caches
    }

    pub(crate) fn writers(&self) -> &WriterTable {
        &self.inner.writers
    }

    pub(crate) fn served(&self) -> &Served {
        &self.inner.served
    }

    pub(crate) fn directory_cache(&self) -> &Directory {
        &self.inner.directory
    }

    /// The time for a create event. No two are alike: from room version 12 on the create event
    /// decides the room's ID, and two users' or one user's rooms may be asked for in one millisecond.
    pub(crate) fn creation_time(&self) -> MilliSecondsSinceUnixEpoch {
        let now = self.clock().now_ms();
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last =
            self.inner.last_creation_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        let at = last.map_or(now, |last| now.max(last.saturating_add(1)));
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(at))
    }

    /// The room's head as last made durable; `None` if this server has no such room. Never older
    /// than what the notifier has published before the call.
    pub async fn head(&self, room_id: &RoomId) -> Result<Option<Arc<RoomHead>>, RoomError> {
        let notifier = self.store().notifier();
        let topic = Topic::new(room_id.as_str());
        if let Some(cached) = self.caches().head(room_id)
            && !notifier.changed_since(&topic, cached.as_of)
        {
            return Ok(Some(cached.head));
        }
        let as_of = notifier.published();
        let Some(head) = self.store().get(&schema::ROOMS, &room_id.to_owned(), &()).await? else {
            return Ok(None);
        };
        let head = Arc::new(head);
        self.caches().keep_head(room_id, CachedHead { as_of, head: Arc::clone(&head) });
        Ok(Some(head))
    }

    /// One event that must be there, since another row names it.
    pub async fn event(
        &self,
        room_id: &RoomId,
        ordinal: EventOrdinal,
    ) -> Result<Arc<StoredEvent>, RoomError> {
        if let Some(event) = self.caches().event(room_id, ordinal) {
            return Ok(event);
        }
        let mark = self.caches().mark();
        let row = self.store().get(&schema::EVENTS, &room_id.to_owned(), &ordinal).await?;
        let event = parse_row(ordinal, row)?;
        self.caches().keep_event(room_id, &event, mark);
        Ok(event)
    }

    /// Several events that must be there, in the order asked for. More than a hundred that are not
    /// in memory are read as one blocking job.
    pub async fn events(
        &self,
        room_id: &RoomId,
        ordinals: &[EventOrdinal],
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut found: Vec<_> =
            ordinals.iter().map(|ordinal| self.caches().event(room_id, *ordinal)).collect();
        let missing: Vec<EventOrdinal> = ordinals
            .iter()
            .zip(&found)
            .filter_map(|(ordinal, event)| event.is_none().then_some(*ordinal))
            .collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        let mark = self.caches().mark();
        let owned_id = room_id.to_owned();
        let rows = if missing.len() <= INLINE_ROWS {
            self.store().get_many(&schema::EVENTS, &owned_id, &missing).await?
        } else {
            let wanted = missing.clone();
            let read = move |snapshot: &Snapshot| {
                wanted
                    .iter()
                    .map(|ordinal| snapshot.get(&schema::EVENTS, &owned_id, ordinal))
                    .collect()
            };
            self.store().bulk(read).await?
        };
        let mut read = missing.into_iter().zip(rows);
        for slot in found.iter_mut().filter(|slot| slot.is_none()) {
            let (ordinal, row) =
                read.next().ok_or_else(|| RoomError::internal("a row is missing"))?;
            let event = parse_row(ordinal, row)?;
            self.caches().keep_event(room_id, &event, mark);
            *slot = Some(event);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The ordinal of an event, if the room has it.
    pub async fn ordinal_of(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<EventOrdinal>, RoomError> {
        if let Some(ordinal) = self.caches().ordinal(room_id, event_id) {
            return Ok(Some(ordinal));
        }
        let row =
            self.store().get(&schema::EVENT_IDS, &room_id.to_owned(), &event_id.to_owned()).await?;
        Ok(row.map(|row| {
            self.caches().keep_ordinal(room_id, event_id, row.0);
            row.0
        }))
    }

    /// An event by its ID, if the room has it.
    pub async fn event_by_id(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        match self.ordinal_of(room_id, event_id).await? {
            Some(ordinal) => self.event(room_id, ordinal).await.map(Some),
            None => Ok(None),
        }
    }

    /// The nodes of a room's state trees, through the cache.
    #[must_use]
    pub fn nodes(&self, room_id: &RoomId) -> RoomNodes {
        RoomNodes {
            store: self.store().clone(),
            caches: Arc::clone(self.caches()),
            room_id: room_id.to_owned(),
        }
    }

    /// The ordinal of a state key, if the room ever had an event there.
    pub async fn state_key(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyOrdinal>, RoomError> {
        if let Some(ordinal) = self.caches().state_key(room_id, event_type, state_key) {
            return Ok(Some(ordinal));
        }
        let key = (event_type.to_owned(), state_key.to_owned());
        let row = self.store().get(&schema::STATE_KEYS, &room_id.to_owned(), &key).await?;
        Ok(row.map(|row| {
            let ordinal = state_key_ordinal(event_type, row.0);
            self.caches().keep_state_key(room_id, event_type, state_key, ordinal);
            ordinal
        }))
    }

    /// The ordinal of the event at a state key in a snapshot of the room's state.
    pub async fn state_ordinal(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<EventOrdinal>, RoomError> {
        let Some(key) = self.state_key(room_id, event_type, state_key).await? else {
            return Ok(None);
        };
        Ok(lookup(&self.nodes(room_id), root, key)?)
    }

    /// The event at a state key in a snapshot of the room's state.
    pub async fn state_event(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, RoomError> {
        match self.state_ordinal(room_id, root, event_type, state_key).await? {
            Some(ordinal) => self.event(room_id, ordinal).await.map(Some),
            None => Ok(None),
        }
    }

    /// A user's current membership; `None` if they never had any.
    pub async fn member_row(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<MemberRow>, RoomError> {
        Ok(self.store().get(&schema::MEMBERS, &room_id.to_owned(), &user_id.to_owned()).await?)
    }

    /// All rooms that a local user has or had a membership in.
    pub async fn user_rooms(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<(OwnedRoomId, UserRoomRow)>, RoomError> {
        let user_id: OwnedUserId = user_id.to_owned();
        let rows = self
            .store()
            .page(&schema::USER_ROOMS, &user_id, .., Direction::Forward, INLINE_ROWS)
            .await?;
        if rows.len() < INLINE_ROWS {
            return Ok(rows);
        }
        let read = move |snapshot: &Snapshot| {
            snapshot.page(&schema::USER_ROOMS, &user_id, .., Direction::Forward, MAX_USER_ROOMS)
        };
        Ok(self.store().bulk(read).await?)
    }

    /// A local user's row about one room.
    pub async fn user_room(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Option<UserRoomRow>, RoomError> {
        Ok(self.store().get(&schema::USER_ROOMS, &user_id.to_owned(), &room_id.to_owned()).await?)
    }
}

/// Which tree a state key's number belongs to.
pub(crate) fn state_key_ordinal(event_type: &str, number: u32) -> StateKeyOrdinal {
    if event_type == "m.room.member" {
        StateKeyOrdinal::Member(number)
    } else {
        StateKeyOrdinal::Rest(number)
    }
}

/// The event at a state key's ordinal.
pub(crate) fn lookup(
    nodes: &impl NodeSource,
    root: StateRoot,
    key: StateKeyOrdinal,
) -> Result<Option<EventOrdinal>, NodeError> {
    match key {
        StateKeyOrdinal::Member(number) => state::get(nodes, root.members, number),
        StateKeyOrdinal::Rest(number) => state::get(nodes, root.rest, number),
    }
}

/// Parses the row of an event that must be there.
pub(crate) fn parse_row(
    ordinal: EventOrdinal,
    row: Option<EventRow>,
) -> Result<Arc<StoredEvent>, DamagedRoom> {
    let row = row.ok_or(DamagedRoom::MissingEvent(ordinal))?;
    StoredEvent::from_row(ordinal, row)
        .map(Arc::new)
        .map_err(|error| DamagedRoom::UnreadableEvent(ordinal, error.to_string()))
}

/// The nodes of one room's state trees: cached, read from the store when they are not.
#[derive(Clone)]
pub struct RoomNodes {
    store: Store,
    caches: Arc<Caches>,
    room_id: OwnedRoomId,
}

impl fmt::Debug for RoomNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomNodes").field("room_id", &self.room_id).finish_non_exhaustive()
    }
}

impl NodeSource for RoomNodes {
    fn node(&self, id: NodeId) -> Result<Arc<Node>, NodeError> {
        if let Some(node) = self.caches.node(&self.room_id, id) {
            return Ok(node);
        }
        let bytes = self
            .store
            .snapshot()
            .get(&schema::STATE_NODES, &self.room_id, &id.0)
            .map_err(|error| NodeError(error.to_string()))?
            .ok_or_else(|| NodeError(format!("node {} is missing", id.0)))?;
        let node = Node::decode(&bytes)?;
        self.caches.keep_node(&self.room_id, id, Arc::clone(&node));
        Ok(node)
    }
}
