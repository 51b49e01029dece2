//! Who fills which room's gaps: one server at a time in each room, and none for long at others' cost.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use hearth_rooms::RoomError;
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::{
    sync::{
        Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit,
    },
    time::timeout,
};

use crate::Federation;

/// How many may wait for the gaps of one room. Those who wait hold their transaction's events.
const MAX_WAITING: usize = 16;
/// How many must wait for a room's gaps until servers that are not known to be in it have to come back.
const MAX_BEFORE_STRANGERS: usize = 4;
/// How long a room's gaps are one server's alone. Then others go on beside it: one that lets us wait
/// must not keep their events out.
const PATIENCE: Duration = Duration::from_secs(20);
/// Gaps that are filled at once: each may hold some megabytes of events.
const GAPS_AT_ONCE: usize = 64;
/// Gaps of one server's events that are filled at once: it leaves places for others'.
const GAPS_OF_ONE_SERVER: usize = 8;
/// Gaps that are filled at once with all servers that are not known to be in the room. They may be: the
/// event that says so may be on its way. But they may also be anybody, under many names.
const GAPS_OF_STRANGERS: usize = 8;
/// Long lists (the IDs of a state, an auth chain) that are fetched at once: each may have 32 MiB.
const LISTS_AT_ONCE: usize = 16;
/// Those that one server gives.
const LISTS_OF_ONE_SERVER: usize = 2;
/// Whole states that are fetched at once, of which one server gives one: each may have hundreds of
/// megabytes.
const STATES_AT_ONCE: usize = 4;

/// Who fills the gaps of which room. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rooms: Mutex<HashMap<OwnedRoomId, Arc<AsyncMutex<()>>>>,
    servers: Mutex<HashMap<OwnedServerName, Arc<Places>>>,
    places: Arc<Semaphore>,
    of_strangers: Arc<Semaphore>,
    lists: Semaphore,
    states: Semaphore,
}

/// What one server's events may take.
#[derive(Debug)]
struct Places {
    gaps: Arc<Semaphore>,
    lists: Semaphore,
    states: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            gaps: Arc::new(Semaphore::new(GAPS_OF_ONE_SERVER)),
            lists: Semaphore::new(LISTS_OF_ONE_SERVER),
            states: Semaphore::new(1),
        }
    }
}

/// Who pushed an event, or is asked for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pusher {
    pub(super) server: OwnedServerName,
    /// Is it known to be in the room?
    pub(super) is_member: bool,
}

impl Pusher {
    /// What a server is to a room.
    pub(crate) async fn of(
        federation: &Federation,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Self, RoomError> {
        let is_member = federation.rooms().has_joined_server(room_id, server).await?;
        Ok(Self { server: server.to_owned(), is_member })
    }
}

/// The right to fill a room's gaps; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    room_id: OwnedRoomId,
    pusher: Pusher,
    lock: Option<Arc<AsyncMutex<()>>>,
    of_server: Option<Arc<Places>>,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    /// None for who goes on beside another server.
    _room: Option<OwnedMutexGuard<()>>,
    _of_server: OwnedSemaphorePermit,
    _of_strangers: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

/// The right to hold a large answer.
#[derive(Debug)]
pub(super) struct AnswerPlace<'a> {
    _of_server: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Inner {
            rooms: Mutex::default(),
            servers: Mutex::default(),
            places: Arc::new(Semaphore::new(GAPS_AT_ONCE)),
            of_strangers: Arc::new(Semaphore::new(GAPS_OF_STRANGERS)),
            lists: Semaphore::new(LISTS_AT_ONCE),
            states: Semaphore::new(STATES_AT_ONCE),
        }))
    }
}

impl Turns {
    /// Waits for a server's turn in a room; `None` if too many wait for the room already.
    pub(super) async fn take(&self, pusher: &Pusher, room_id: &RoomId) -> Option<Turn> {
        // Made before the wait, so that whoever gives up waiting leaves nothing behind either.
        let mut turn = self.queue(pusher, room_id)?;
        let of_server = Arc::clone(&turn.of_server.as_ref()?.gaps).acquire_owned().await.ok()?;
        let of_strangers = if pusher.is_member {
            None
        } else {
            Some(Arc::clone(&self.0.of_strangers).acquire_owned().await.ok()?)
        };
        let room = timeout(PATIENCE, turn.lock.clone()?.lock_owned()).await.ok();
        let of_all = Arc::clone(&self.0.places).acquire_owned().await.ok()?;
        turn.held = Some(Held {
            _room: room,
            _of_server: of_server,
            _of_strangers: of_strangers,
            _of_all: of_all,
        });
        Some(turn)
    }

    fn queue(&self, pusher: &Pusher, room_id: &RoomId) -> Option<Turn> {
        let mut rooms = self.0.rooms.lock();
        let lock = rooms.entry(room_id.to_owned()).or_default();
        let max_waiting = if pusher.is_member { MAX_WAITING } else { MAX_BEFORE_STRANGERS };
        // Each who waits or works holds the lock once or twice, the map once.
        if Arc::strong_count(lock) > 2 * max_waiting {
            return None;
        }
        let lock = Arc::clone(lock);
        drop(rooms);
        let mut servers = self.0.servers.lock();
        let of_server = Arc::clone(servers.entry(pusher.server.clone()).or_default());
        drop(servers);
        Some(Turn {
            turns: self.clone(),
            room_id: room_id.to_owned(),
            pusher: pusher.clone(),
            lock: Some(lock),
            of_server: Some(of_server),
            held: None,
        })
    }
}

impl Turn {
    /// Whose events' gaps are filled.
    pub(super) fn pusher(&self) -> &Pusher {
        &self.pusher
    }

    /// Which room's.
    pub(super) fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Waits until one more whole state may be held.
    pub(super) async fn state_place(&self) -> Option<AnswerPlace<'_>> {
        let of_server = self.of_server.as_ref()?.states.acquire().await.ok()?;
        let of_all = self.turns.0.states.acquire().await.ok()?;
        Some(AnswerPlace { _of_server: of_server, _of_all: of_all })
    }

    /// Waits until one more long list may be held.
    pub(super) async fn list_place(&self) -> Option<AnswerPlace<'_>> {
        let of_server = self.of_server.as_ref()?.lists.acquire().await.ok()?;
        let of_all = self.turns.0.lists.acquire().await.ok()?;
        Some(AnswerPlace { _of_server: of_server, _of_all: of_all })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        self.lock = None;
        self.of_server = None;
        forget_unused(&self.turns.0.rooms, &self.room_id);
        forget_unused(&self.turns.0.servers, &self.pusher.server);
    }
}

/// Removes an entry that only the map still holds.
fn forget_unused<K: Eq + Hash, V>(map: &Mutex<HashMap<K, Arc<V>>>, key: &K) {
    let mut map = map.lock();
    if map.get(key).is_some_and(|value| Arc::strong_count(value) == 1) {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use tokio::time::Instant;

    use super::*;

    fn member(name: &str) -> Pusher {
        Pusher { server: name.try_into().unwrap(), is_member: true }
    }

    fn stranger(name: &str) -> Pusher {
        Pusher { is_member: false, ..member(name) }
    }

    #[tokio::test]
    async fn a_room_has_one_turn_and_a_bounded_queue() {
        let turns = Turns::default();
        let room = room_id!("!a:b");
        let names: Vec<_> =
            (0..3 * MAX_WAITING).map(|number| member(&format!("s{number}.test"))).collect();
        let first = turns.take(&member("first.test"), room).await.unwrap();
        let mut waiting: Vec<_> =
            names.iter().map(|name| Box::pin(turns.take(name, room))).collect();
        let mut refused = 0;
        for wait in &mut waiting {
            if let std::task::Poll::Ready(turn) = futures_util::poll!(wait) {
                assert!(turn.is_none());
                refused += 1;
            }
        }
        assert!((MAX_WAITING..3 * MAX_WAITING).contains(&refused));
        // Another room does not wait.
        assert!(turns.take(&names[0], room_id!("!c:d")).await.is_some());
        drop(waiting);
        drop(first);
        assert!(turns.0.rooms.lock().is_empty() && turns.0.servers.lock().is_empty());
        assert!(turns.take(&names[0], room).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_silent_server_forever() {
        let turns = Turns::default();
        let room = room_id!("!a:b");
        let _silent = turns.take(&member("silent.test"), room).await.unwrap();
        let started = Instant::now();
        let beside = turns.take(&member("other.test"), room).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
        drop(beside);
    }

    #[tokio::test(start_paused = true)]
    async fn one_server_leaves_places_for_others() {
        let turns = Turns::default();
        let rooms: Vec<_> = (0..=GAPS_OF_ONE_SERVER)
            .map(|number| OwnedRoomId::try_from(format!("!{number}:b")).unwrap())
            .collect();
        let greedy = &member("greedy.test");
        let mut held = Vec::new();
        for room in &rooms[..GAPS_OF_ONE_SERVER] {
            held.push(turns.take(greedy, room).await.unwrap());
        }
        let mut one_more = Box::pin(turns.take(greedy, &rooms[GAPS_OF_ONE_SERVER]));
        assert!(futures_util::poll!(&mut one_more).is_pending());
        assert!(turns.take(&member("other.test"), &rooms[GAPS_OF_ONE_SERVER]).await.is_some());
        let state = held[0].state_place().await;
        let mut another = Box::pin(held[1].state_place());
        assert!(futures_util::poll!(&mut another).is_pending());
        drop(state);
        assert!(another.await.is_some());
        held.pop();
        assert!(one_more.await.is_some());
    }
    #[tokio::test(start_paused = true)]
    async fn strangers_under_many_names_leave_places_for_members() {
        let turns = Turns::default();
        let room = |number: usize| OwnedRoomId::try_from(format!("!{number}:b")).unwrap();
        let rooms: Vec<_> = (0..2 * GAPS_AT_ONCE).map(room).collect();
        let names: Vec<_> =
            (0..2 * GAPS_AT_ONCE).map(|number| stranger(&format!("s{number}.test"))).collect();
        let takes = names.iter().zip(&rooms).map(|(name, room)| turns.take(name, room));
        let mut taking: Vec<_> = takes.map(Box::pin).collect();
        let mut held = Vec::new();
        for take in &mut taking {
            if let std::task::Poll::Ready(turn) = futures_util::poll!(take) {
                held.push(turn.unwrap());
            }
        }
        assert_eq!(held.len(), GAPS_OF_STRANGERS);
        let free = room(9_999);
        let mut take = Box::pin(turns.take(&names[0], &free));
        assert!(futures_util::poll!(&mut take).is_pending());
        assert!(turns.take(&member("member.test"), &free).await.is_some());
    }

    #[tokio::test]
    async fn strangers_do_not_fill_a_rooms_queue() {
        let turns = Turns::default();
        let room = room_id!("!a:b");
        let _first = turns.take(&stranger("s.test"), room).await.unwrap();
        let names: Vec<_> =
            (0..3 * MAX_WAITING).map(|number| stranger(&format!("s{number}.test"))).collect();
        let mut waiting: Vec<_> =
            names.iter().map(|name| Box::pin(turns.take(name, room))).collect();
        for wait in &mut waiting {
            let _waits = futures_util::poll!(wait).is_pending();
        }
        let member = member("member.test");
        let mut of_member = Box::pin(turns.take(&member, room));
        assert!(futures_util::poll!(&mut of_member).is_pending(), "it may wait");
    }
}
