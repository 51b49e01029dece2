//! How many messages wait for whom, so that nobody's queue grows without end.

use std::sync::Arc;

use hearth_storage::{Direction, KeyPart, Keyspace, Record, Store, StoreError};
use hearth_types::StreamPosition;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{
    E2ee,
    schema::{OUTGOING, TO_DEVICE},
};

/// Devices whose queues are remembered; the others' are counted when they are sent something.
const MAX_DEVICES: usize = 50_000;
/// The same of servers.
const MAX_SERVERS: usize = 10_000;
/// Rows that are read at a time to count them.
const COUNTED_AT_ONCE: usize = 100;
/// A queue that seems to be full is counted again after so long, in milliseconds: its device may have
/// gone and come again, and its rows with it.
const RECOUNT_MS: u64 = 60_000;

/// How many messages wait for whom, as far as is remembered.
#[derive(Debug)]
pub(crate) struct QueueLengths {
    devices: Cache<(OwnedUserId, OwnedDeviceId), Arc<Queue>>,
    servers: Cache<OwnedServerName, Arc<Queue>>,
}

impl Default for QueueLengths {
    fn default() -> Self {
        Self { devices: Cache::new(MAX_DEVICES), servers: Cache::new(MAX_SERVERS) }
    }
}

/// What is remembered of a queue.
#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<QueueState>);

#[derive(Debug, Default)]
struct QueueState {
    /// How many messages wait, once it is known, and when they were counted.
    length: Option<(usize, u64)>,
    /// Everything up to here is deleted.
    deleted: StreamPosition,
}

impl Queue {
    pub(crate) fn deleted(&self) -> StreamPosition {
        self.0.lock().deleted
    }

    pub(crate) fn set_deleted(&self, until: StreamPosition) {
        let mut state = self.0.lock();
        state.deleted = state.deleted.max(until);
    }

    /// So many messages are deleted, or did not come after all.
    pub(crate) fn shrink(&self, by: usize) {
        if let Some((length, _)) = &mut self.0.lock().length {
            *length = length.saturating_sub(by);
        }
    }

    /// Takes a place if the length is known and less than this; `None` if it has to be counted.
    fn take_place(&self, max: usize, now_ms: u64) -> Option<bool> {
        let mut state = self.0.lock();
        let (length, counted_ms) = state.length.as_mut()?;
        if *length < max {
            *length += 1;
            return Some(true);
        }
        if now_ms.saturating_sub(*counted_ms) >= RECOUNT_MS {
            return None;
        }
        Some(false)
    }

    fn counted(&self, length: usize, max: usize, now_ms: u64) {
        let mut state = self.0.lock();
        // Whoever was first has taken places since.
        if state.length.is_none_or(|(known, _)| known >= max) {
            state.length = Some((length, now_ms));
        }
    }
}

impl QueueLengths {
    pub(crate) fn of_device(&self, user_id: &UserId, device_id: &DeviceId) -> Arc<Queue> {
        let key = (user_id.to_owned(), device_id.to_owned());
        let found = self.devices.get_or_insert_with(&key, || Ok::<_, ()>(Arc::default()));
        found.unwrap_or_default()
    }

    pub(crate) fn of_server(&self, server: &ServerName) -> Arc<Queue> {
        let found = self.servers.get_or_insert_with(server, || Ok::<_, ()>(Arc::default()));
        found.unwrap_or_default()
    }
}

impl E2ee {
    /// A place in the device's queue, if there is one. A sender who is from `elsewhere` gets none in its
    /// second half, so that no other server can keep out this one's users, nor what they send each other.
    pub(super) async fn place_of_device(
        &self,
        user_id: &OwnedUserId,
        device_id: &OwnedDeviceId,
        elsewhere: bool,
    ) -> Result<Option<Arc<Queue>>, StoreError> {
        let queue = self.inner.queue_lengths.of_device(user_id, device_id);
        let (max, now_ms) = (self.config().max_queued_messages, self.now_ms());
        let share = if elsewhere { max.div_ceil(2) } else { max };
        if let Some(taken) = queue.take_place(share, now_ms) {
            return Ok(taken.then_some(queue));
        }
        let device = device_id.clone();
        let first = (device.clone(), StreamPosition::ZERO);
        let last = (device, StreamPosition::MAX);
        let length = count(self.store(), &TO_DEVICE, user_id, first, last, max).await?;
        queue.counted(length, share, now_ms);
        let taken = queue.take_place(share, now_ms) == Some(true);
        Ok(taken.then_some(queue))
    }

    /// A place in the server's queue, if there is one.
    pub(super) async fn place_of_server(
        &self,
        server: &OwnedServerName,
    ) -> Result<Option<Arc<Queue>>, StoreError> {
        let queue = self.inner.queue_lengths.of_server(server);
        let (max, now_ms) = (self.config().max_queued_messages, self.now_ms());
        if let Some(taken) = queue.take_place(max, now_ms) {
            return Ok(taken.then_some(queue));
        }
        let (first, last) = (StreamPosition::ZERO, StreamPosition::MAX);
        let length = count(self.store(), &OUTGOING, server, first, last, max).await?;
        queue.counted(length, max, now_ms);
        let taken = queue.take_place(max, now_ms) == Some(true);
        Ok(taken.then_some(queue))
    }
}

/// Counts rows between these, and no more than `max`: the first ones at once, many in a job of their own.
async fn count<P, C, V>(
    store: &Store,
    keyspace: &'static Keyspace<P, C, V>,
    partition: &P,
    first: C,
    last: C,
    max: usize,
) -> Result<usize, StoreError>
where
    P: KeyPart + Clone + Send + 'static,
    C: KeyPart + Clone + Send + 'static,
    V: Record + Send + 'static,
{
    use std::ops::Bound::{Excluded, Included};
    let range = (Included(first), Included(last.clone()));
    let rows = store.page(keyspace, partition, range, Direction::Forward, COUNTED_AT_ONCE).await?;
    let mut length = rows.len();
    let Some((mut after, _)) = rows.into_iter().next_back().filter(|_| length == COUNTED_AT_ONCE)
    else {
        return Ok(length);
    };
    let partition = partition.clone();
    let counting = store.bulk(move |view| {
        while length < max {
            let range = (Excluded(after.clone()), Included(last.clone()));
            let rows =
                view.page(keyspace, &partition, range, Direction::Forward, COUNTED_AT_ONCE)?;
            length += rows.len();
            match rows.into_iter().next_back() {
                Some((key, _)) => after = key,
                None => break,
            }
        }
        Ok(length)
    });
    counting.await
}

#[cfg(test)]
mod tests {
    use hearth_storage::Commit;
    use ruma::owned_server_name;

    use super::*;
    use crate::{schema::OutgoingRow, testing::Bench};

    #[test]
    fn a_full_queue_takes_nothing_until_it_is_counted_again() {
        let queue = Queue::default();
        assert_eq!(queue.take_place(3, 0), None, "not counted yet");
        queue.counted(1, 3, 0);
        queue.counted(0, 3, 0);
        assert_eq!(queue.take_place(3, 0), Some(true));
        assert_eq!(queue.take_place(3, 0), Some(true));
        assert_eq!(queue.take_place(3, RECOUNT_MS - 1), Some(false));
        queue.shrink(1);
        assert_eq!(queue.take_place(3, 0), Some(true));
        assert_eq!(queue.take_place(3, RECOUNT_MS), None);
        queue.counted(2, 3, RECOUNT_MS);
        assert_eq!(queue.take_place(3, RECOUNT_MS), Some(true));
        assert_eq!(queue.take_place(3, RECOUNT_MS), Some(false));
    }

    #[tokio::test]
    async fn other_servers_leave_a_half_of_each_queue_to_users_of_this_one() {
        let bench = Bench::new().await;
        let (alice, device) = bench.user_with_device("alice").await;
        let (e2ee, max) = (&bench.e2ee, bench.e2ee.config().max_queued_messages);
        let queue = e2ee.inner.queue_lengths.of_device(&alice, &device);
        queue.counted(max / 2, max, e2ee.now_ms());
        assert!(e2ee.place_of_device(&alice, &device, true).await.unwrap().is_none());
        assert!(e2ee.place_of_device(&alice, &device, false).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn rows_are_counted_up_to_a_bound() {
        let bench = Bench::new().await;
        let server = owned_server_name!("there.test");
        let counted = async |max| {
            let (first, last) = (StreamPosition::ZERO, StreamPosition::MAX);
            count(&bench.store, &OUTGOING, &server, first, last, max).await.unwrap()
        };
        assert_eq!(counted(1_000).await, 0);
        let mut commit = Commit::new(&server);
        for _ in 0..350 {
            let position = commit.next_position();
            let row = OutgoingRow { queued_ms: 0, content: "{}".to_owned() };
            commit.put(&OUTGOING, &server, &position, &row);
        }
        bench.store.commit(commit).await.unwrap();
        assert_eq!(counted(1_000).await, 350);
        assert_eq!(counted(200).await, 200);
    }
}
