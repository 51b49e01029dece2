//! One gap at a time in each room.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// How many may wait for the gaps of one room. Those who wait hold their transaction's events.
const MAX_WAITING: usize = 16;
/// Rooms whose gaps are filled at once: each may hold some megabytes of events.
const ROOMS_AT_ONCE: usize = 32;

/// Who fills the gaps of which room. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rooms: Mutex<HashMap<OwnedRoomId, Arc<AsyncMutex<()>>>>,
    places: Arc<Semaphore>,
}

/// The right to fill a room's gaps; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    room_id: OwnedRoomId,
    lock: Option<Arc<AsyncMutex<()>>>,
    held: Option<(OwnedMutexGuard<()>, OwnedSemaphorePermit)>,
}

impl Default for Turns {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(ROOMS_AT_ONCE));
        Self(Arc::new(Inner { rooms: Mutex::default(), places }))
    }
}

impl Turns {
    /// Waits for the room's turn; `None` if too many wait for it already.
    pub(super) async fn take(&self, room_id: &RoomId) -> Option<Turn> {
        // Made before the wait, so that whoever gives up waiting leaves nothing behind either.
        let mut turn = self.queue(room_id)?;
        let guard = turn.lock.clone()?.lock_owned().await;
        let place = Arc::clone(&self.0.places).acquire_owned().await.ok()?;
        turn.held = Some((guard, place));
        Some(turn)
    }

    fn queue(&self, room_id: &RoomId) -> Option<Turn> {
        let mut rooms = self.0.rooms.lock();
        let lock = rooms.entry(room_id.to_owned()).or_default();
        // Each who waits or works holds the lock once or twice, the map once.
        if Arc::strong_count(lock) > 2 * MAX_WAITING {
            return None;
        }
        let lock = Some(Arc::clone(lock));
        Some(Turn { turns: self.clone(), room_id: room_id.to_owned(), lock, held: None })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        self.lock = None;
        let mut rooms = self.turns.0.rooms.lock();
        if rooms.get(&self.room_id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            rooms.remove(&self.room_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[tokio::test]
    async fn a_room_has_one_turn_and_a_bounded_queue() {
        let turns = Turns::default();
        let room = room_id!("!a:b");
        let first = turns.take(room).await.unwrap();
        let mut waiting: Vec<_> =
            (0..3 * MAX_WAITING).map(|_| Box::pin(turns.take(room))).collect();
        let mut refused = 0;
        for wait in &mut waiting {
            if let std::task::Poll::Ready(turn) = futures_util::poll!(wait) {
                assert!(turn.is_none());
                refused += 1;
            }
        }
        assert!((MAX_WAITING..3 * MAX_WAITING).contains(&refused));
        // Another room does not wait.
        assert!(turns.take(room_id!("!c:d")).await.is_some());
        drop(waiting);
        drop(first);
        assert!(turns.0.rooms.lock().is_empty());
        assert!(turns.take(room).await.is_some());
    }
}
