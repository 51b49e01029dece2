//! Who is joining what: a wish that is uttered twice is granted once, and rooms are joined by one user
//! after the other.

use std::{collections::HashMap, fmt, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hearth_rooms::{RemoteMembership, RoomError};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};

use super::{Remote, asking::again};

/// Remote joins that may be under way at a time.
const MAX_JOINS: usize = 64;
/// Answers to joins that are read at a time: each may hold the state of a large room.
pub(super) const MAX_ANSWERS: usize = 16;
/// Other memberships that other servers take part in at a time.
pub(super) const MAX_WISHES: usize = 256;

type Joined = Result<OwnedEventId, Arc<RoomError>>;
type Running = Shared<BoxFuture<'static, Joined>>;

/// The joins that are under way.
#[derive(Default)]
pub(super) struct Joins {
    running: Mutex<HashMap<(OwnedRoomId, OwnedUserId), Running>>,
}

impl fmt::Debug for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joins").field("running", &self.running.lock().len()).finish()
    }
}

impl Remote {
    /// Joins, in a task of its own: a client that goes away does not stop what other servers may have
    /// accepted already.
    pub(super) async fn join_once(
        &self,
        wish: RemoteMembership,
    ) -> Result<OwnedEventId, RoomError> {
        let running = self.running_join(wish)?;
        running.await.map_err(|error| again(&error))
    }

    /// Does something that other servers take part in, to its end, even if the client that wants it goes
    /// away: what they have accepted must be known here, too.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RoomError>> + Send + 'static,
    ) -> Result<T, RoomError> {
        let place = Arc::clone(self.wishes()).try_acquire_owned().map_err(|_| RoomError::Busy)?;
        let (done, answer) = oneshot::channel();
        self.federation().spawn(async move {
            let _place = place;
            // Nobody may be waiting any more.
            drop(done.send(work.await));
        });
        // Dropping the sender, when the server stops, is an answer too.
        answer.await.unwrap_or(Err(RoomError::Busy))
    }

    fn running_join(&self, wish: RemoteMembership) -> Result<Running, RoomError> {
        let key = (wish.room_id.clone(), wish.user_id.clone());
        let mut running = self.joins().running.lock();
        if let Some(same) = running.get(&key) {
            return Ok(same.clone());
        }
        if running.len() >= MAX_JOINS {
            return Err(RoomError::Busy);
        }
        let (done, answer) = oneshot::channel();
        // Dropping the sender, when the server stops, is an answer too.
        let answer = answer.map(|joined| joined.unwrap_or_else(|_| Err(Arc::new(RoomError::Busy))));
        let shared = answer.boxed().shared();
        running.insert(key.clone(), shared.clone());
        let remote = self.clone();
        self.federation().spawn(async move {
            let _guard = Entry { remote: remote.clone(), key };
            let joined = remote.join_in_turn(wish).await;
            // Nobody may be waiting any more.
            drop(done.send(joined.map_err(Arc::new)));
        });
        Ok(shared)
    }
}

/// Takes a join off the list, however it ends.
struct Entry {
    remote: Remote,
    key: (OwnedRoomId, OwnedUserId),
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.remote.joins().running.lock().remove(&self.key);
    }
}

/// Locks by room; one that nobody holds or waits for is forgotten.
#[derive(Debug, Default)]
pub(super) struct RoomLocks(Mutex<HashMap<OwnedRoomId, Arc<AsyncMutex<()>>>>);

impl RoomLocks {
    /// Waits for its turn in a room.
    pub(super) async fn lock(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(room_id.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}
