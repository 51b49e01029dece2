//! Rooms that this server is about to be in.
//!
//! Others count it in from the moment in which one of them accepts its join, and push what happens in
//! the room from then on; but it can take nothing before it has the room's state. What comes in between
//! waits here for the join's end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::{sync::watch, time::timeout};

/// How long what is pushed waits for a join: senders give a transaction a minute, and most joins take
/// seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The joins under way, by room. Bounded by how many joins there may be at a time.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Arc<Mutex<HashMap<OwnedRoomId, Joining>>>);

#[derive(Debug)]
struct Joining {
    users: usize,
    /// Closed when the last user's join has ended.
    ended: watch::Sender<()>,
}

/// A join under way; dropped at its end.
#[derive(Debug)]
pub(crate) struct Arrival {
    arrivals: Arc<Mutex<HashMap<OwnedRoomId, Joining>>>,
    room_id: OwnedRoomId,
}

impl Arrivals {
    /// A join of this room begins.
    pub(crate) fn begin(&self, room_id: &RoomId) -> Arrival {
        let mut rooms = self.0.lock();
        let joining = rooms
            .entry(room_id.to_owned())
            .or_insert_with(|| Joining { users: 0, ended: watch::Sender::new(()) });
        joining.users += 1;
        Arrival { arrivals: Arc::clone(&self.0), room_id: room_id.to_owned() }
    }

    /// Waits until no join of this room is under way, for a while. Was there one?
    pub(crate) async fn awaited(&self, room_id: &RoomId) -> bool {
        let ended = self.0.lock().get(room_id).map(|joining| joining.ended.subscribe());
        let Some(mut ended) = ended else { return false };
        // An error says that the sender is gone: the join has ended.
        let end = async { while ended.changed().await.is_ok() {} };
        if timeout(PATIENCE, end).await.is_err() {
            tracing::info!(%room_id, "what is pushed does not wait for a join any longer");
        }
        true
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut rooms = self.arrivals.lock();
        if let Some(joining) = rooms.get_mut(&self.room_id) {
            joining.users = joining.users.saturating_sub(1);
            if joining.users == 0 {
                rooms.remove(&self.room_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ruma::room_id;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_join_of_the_room_and_not_for_ever() {
        let arrivals = Arrivals::default();
        let (one, two) = (room_id!("!one:x"), room_id!("!two:x"));
        assert!(!arrivals.awaited(one).await);
        let (first, second) = (arrivals.begin(one), arrivals.begin(one));
        assert!(!arrivals.awaited(two).await, "another room");
        let mut waiting = Box::pin(arrivals.awaited(one));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(second);
        assert!(waiting.await);
        assert!(!arrivals.awaited(one).await);
        let _endless = arrivals.begin(two);
        assert!(arrivals.awaited(two).await);
    }
}
