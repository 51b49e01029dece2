//! Who fills which room's gaps: one server at a time in each room, and none for long at others' cost.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::{
    sync::{
        Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, SemaphorePermit,
    },
    time::timeout,
};

/// How many may wait for the gaps of one room. Those who wait hold their transaction's events.
const MAX_WAITING: usize = 16;
/// How long a room's gaps are one server's alone. Then others go on beside it: one that lets us wait
/// must not keep their events out.
const PATIENCE: Duration = Duration::from_secs(20);
/// Gaps that are filled at once: each may hold some megabytes of events.
const GAPS_AT_ONCE: usize = 64;
/// Gaps of one server's events that are filled at once: it leaves places for others'.
const GAPS_OF_ONE_SERVER: usize = 8;
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
    states: Semaphore,
}

/// What one server's events may take.
#[derive(Debug)]
struct Places {
    gaps: Arc<Semaphore>,
    states: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self { gaps: Arc::new(Semaphore::new(GAPS_OF_ONE_SERVER)), states: Semaphore::new(1) }
    }
}

/// The right to fill a room's gaps; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    room_id: OwnedRoomId,
    server: OwnedServerName,
    lock: Option<Arc<AsyncMutex<()>>>,
    of_server: Option<Arc<Places>>,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    /// None for who goes on beside another server.
    _room: Option<OwnedMutexGuard<()>>,
    _of_server: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The right to hold a whole state.
#[derive(Debug)]
pub(super) struct StatePlace<'a> {
    _of_server: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Inner {
            rooms: Mutex::default(),
            servers: Mutex::default(),
            places: Arc::new(Semaphore::new(GAPS_AT_ONCE)),
            states: Semaphore::new(STATES_AT_ONCE),
        }))
    }
}

impl Turns {
    /// Waits for a server's turn in a room; `None` if too many wait for the room already.
    pub(super) async fn take(&self, server: &ServerName, room_id: &RoomId) -> Option<Turn> {
        // Made before the wait, so that whoever gives up waiting leaves nothing behind either.
        let mut turn = self.queue(server, room_id)?;
        let of_server = Arc::clone(&turn.of_server.as_ref()?.gaps).acquire_owned().await.ok()?;
        let room = timeout(PATIENCE, turn.lock.clone()?.lock_owned()).await.ok();
        let of_all = Arc::clone(&self.0.places).acquire_owned().await.ok()?;
        turn.held = Some(Held { _room: room, _of_server: of_server, _of_all: of_all });
        Some(turn)
    }

    fn queue(&self, server: &ServerName, room_id: &RoomId) -> Option<Turn> {
        let mut rooms = self.0.rooms.lock();
        let lock = rooms.entry(room_id.to_owned()).or_default();
        // Each who waits or works holds the lock once or twice, the map once.
        if Arc::strong_count(lock) > 2 * MAX_WAITING {
            return None;
        }
        let lock = Arc::clone(lock);
        drop(rooms);
        let of_server = Arc::clone(self.0.servers.lock().entry(server.to_owned()).or_default());
        Some(Turn {
            turns: self.clone(),
            room_id: room_id.to_owned(),
            server: server.to_owned(),
            lock: Some(lock),
            of_server: Some(of_server),
            held: None,
        })
    }
}

impl Turn {
    /// Whose events' gaps are filled.
    pub(super) fn server(&self) -> &ServerName {
        &self.server
    }

    /// Which room's.
    pub(super) fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Waits until one more whole state may be held.
    pub(super) async fn state_place(&self) -> Option<StatePlace<'_>> {
        let of_server = self.of_server.as_ref()?.states.acquire().await.ok()?;
        let of_all = self.turns.0.states.acquire().await.ok()?;
        Some(StatePlace { _of_server: of_server, _of_all: of_all })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        self.lock = None;
        self.of_server = None;
        forget_unused(&self.turns.0.rooms, &self.room_id);
        forget_unused(&self.turns.0.servers, &self.server);
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
    use ruma::{room_id, server_name};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_room_has_one_turn_and_a_bounded_queue() {
        let turns = Turns::default();
        let room = room_id!("!a:b");
        let names: Vec<_> = (0..3 * MAX_WAITING)
            .map(|number| OwnedServerName::try_from(format!("s{number}.test")).unwrap())
            .collect();
        let first = turns.take(server_name!("first.test"), room).await.unwrap();
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
        let _silent = turns.take(server_name!("silent.test"), room).await.unwrap();
        let started = Instant::now();
        let beside = turns.take(server_name!("other.test"), room).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), PATIENCE.as_secs());
        drop(beside);
    }

    #[tokio::test(start_paused = true)]
    async fn one_server_leaves_places_for_others() {
        let turns = Turns::default();
        let rooms: Vec<_> = (0..=GAPS_OF_ONE_SERVER)
            .map(|number| OwnedRoomId::try_from(format!("!{number}:b")).unwrap())
            .collect();
        let greedy = server_name!("greedy.test");
        let mut held = Vec::new();
        for room in &rooms[..GAPS_OF_ONE_SERVER] {
            held.push(turns.take(greedy, room).await.unwrap());
        }
        let mut one_more = Box::pin(turns.take(greedy, &rooms[GAPS_OF_ONE_SERVER]));
        assert!(futures_util::poll!(&mut one_more).is_pending());
        assert!(turns.take(server_name!("other.test"), &rooms[GAPS_OF_ONE_SERVER]).await.is_some());
        let state = held[0].state_place().await;
        let mut another = Box::pin(held[1].state_place());
        assert!(futures_util::poll!(&mut another).is_pending());
        drop(state);
        assert!(another.await.is_some());
        held.pop();
        assert!(one_more.await.is_some());
    }
}
