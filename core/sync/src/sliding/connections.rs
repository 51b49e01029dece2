//! All connections: who has which, and how many are remembered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{connection::Connection, pos::Pos};
use crate::SyncError;

/// Connections of one device; one more, and the one unused for longest is forgotten.
const MAX_PER_DEVICE: usize = 8;
/// Entries (rooms, members) that all connections remember together, of about 150 bytes each; beyond
/// that those unused for longest are forgotten.
const MAX_ENTRIES: usize = 2_000_000;
/// How long an unused connection is remembered: beyond it, beginning anew costs a client little more.
const MAX_IDLE: Duration = Duration::from_hours(24);

/// Whose connection, on which device, of which name.
type Key = (OwnedUserId, OwnedDeviceId, String);

/// One connection and the requests on it.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u64,
    /// Held while a response is made, not while a request waits.
    connection: tokio::sync::Mutex<Connection>,
    turn: AtomicU64,
    superseded: tokio::sync::Notify,
}

impl Slot {
    /// A request begins: earlier ones that still wait on this connection end.
    pub(crate) fn take_turn(&self) -> u64 {
        let turn = self.turn.fetch_add(1, Ordering::AcqRel) + 1;
        self.superseded.notify_waiters();
        turn
    }

    pub(crate) fn has_turn(&self, turn: u64) -> bool {
        self.turn.load(Ordering::Acquire) == turn
    }

    /// The connection; `None` if another request has taken the turn by then, which may be answered already.
    pub(crate) async fn in_turn(
        &self,
        turn: u64,
    ) -> Option<tokio::sync::MutexGuard<'_, Connection>> {
        let connection = self.connection.lock().await;
        self.has_turn(turn).then_some(connection)
    }

    /// Ends when another request has taken the turn after this was called.
    pub(crate) fn superseded(&self) -> tokio::sync::futures::Notified<'_> {
        self.superseded.notified()
    }
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    used: u64,
    used_ms: u64,
    weight: usize,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Key, Entry>,
    /// Keys by the count of their last use.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    weight: usize,
    numbers: u64,
}

/// The registry of connections.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Table>);

impl Connections {
    /// A connection that begins; it is not among the others before [`Self::keep`].
    pub(crate) fn begin(&self, boot: u32) -> Arc<Slot> {
        let mut table = self.0.lock();
        table.numbers += 1;
        let number = table.numbers;
        Arc::new(Slot {
            number,
            connection: tokio::sync::Mutex::new(Connection::new(boot, number)),
            turn: AtomicU64::new(0),
            superseded: tokio::sync::Notify::new(),
        })
    }

    /// The connection that a `pos` belongs to, if it is this device's and of this name.
    pub(crate) fn find(
        &self,
        (user_id, device_id, conn_id): (&UserId, &DeviceId, &str),
        pos: Pos,
        boot: u32,
        now_ms: u64,
    ) -> Result<Arc<Slot>, SyncError> {
        let key = (user_id.to_owned(), device_id.to_owned(), conn_id.to_owned());
        let mut table = self.0.lock();
        let known = table.entries.get(&key).filter(|entry| {
            let idle = now_ms.saturating_sub(entry.used_ms);
            u128::from(idle) < MAX_IDLE.as_millis()
        });
        let slot = known
            .filter(|entry| pos.boot == boot && pos.connection == entry.slot.number)
            .map(|entry| Arc::clone(&entry.slot))
            .ok_or(SyncError::UnknownPos)?;
        table.note_use(&key, now_ms);
        Ok(slot)
    }

    /// The connection was used, and remembers so much now. What is too much altogether is forgotten.
    pub(crate) fn keep(
        &self,
        (user_id, device_id, conn_id): (&UserId, &DeviceId, &str),
        slot: &Arc<Slot>,
        weight: usize,
        now_ms: u64,
    ) {
        let key = (user_id.to_owned(), device_id.to_owned(), conn_id.to_owned());
        let mut table = self.0.lock();
        let newer = table.entries.get(&key).is_some_and(|entry| entry.slot.number > slot.number);
        if newer {
            return;
        }
        table.remove(&key);
        table.make_room(&key);
        let entry = Entry { slot: Arc::clone(slot), used: 0, used_ms: now_ms, weight };
        table.weight += weight;
        table.entries.insert(key.clone(), entry);
        table.note_use(&key, now_ms);
        table.shrink(&key, now_ms);
    }
}

impl Table {
    fn note_use(&mut self, key: &Key, now_ms: u64) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            self.by_use.remove(&entry.used);
            entry.used = self.uses;
            entry.used_ms = now_ms;
            self.by_use.insert(self.uses, key.clone());
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.weight -= entry.weight;
        }
    }

    /// Makes room among the device's connections for one more.
    fn make_room(&mut self, (user_id, device_id, _): &Key) {
        let first = (user_id.clone(), device_id.clone(), String::new());
        let of_device = self
            .entries
            .range(first..)
            .take_while(|((user, device, _), _)| user == user_id && device == device_id);
        let mut uses: Vec<(u64, Key)> =
            of_device.map(|(key, entry)| (entry.used, key.clone())).collect();
        uses.sort_unstable_by_key(|(used, _)| *used);
        let surplus = (uses.len() + 1).saturating_sub(MAX_PER_DEVICE);
        for (_, key) in uses.into_iter().take(surplus) {
            self.remove(&key);
        }
    }

    /// Forgets what was unused for longest, or for too long; never `kept`.
    fn shrink(&mut self, kept: &Key, now_ms: u64) {
        while let Some((_, key)) = self.by_use.first_key_value() {
            let idle = self.entries.get(key).map_or(0, |e| now_ms.saturating_sub(e.used_ms));
            let too_old = u128::from(idle) >= MAX_IDLE.as_millis();
            if key == kept || !(too_old || self.weight > MAX_ENTRIES) {
                break;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::StreamPosition;
    use ruma::{device_id, user_id};

    use super::{super::pos::ResponseSerial, *};

    fn pos(number: u64) -> Pos {
        let serial = ResponseSerial::BEGINNING;
        Pos { position: StreamPosition::ZERO, boot: 1, connection: number, serial }
    }

    fn key(conn_id: &str) -> (&UserId, &DeviceId, &str) {
        (user_id!("@u:x"), device_id!("D"), conn_id)
    }

    #[test]
    fn a_pos_is_known_to_its_own_device_connection_and_run_alone() {
        let all = Connections::default();
        let slot = all.begin(1);
        all.keep(key("a"), &slot, 1, 0);
        assert!(all.find(key("a"), pos(1), 1, 0).is_ok());
        for (key, number, boot) in [
            (key("b"), 1, 1),
            ((user_id!("@v:x"), device_id!("D"), "a"), 1, 1),
            ((user_id!("@u:x"), device_id!("E"), "a"), 1, 1),
            (key("a"), 2, 1),
            (key("a"), 1, 2),
        ] {
            assert!(matches!(all.find(key, pos(number), boot, 0), Err(SyncError::UnknownPos)));
        }
    }

    #[tokio::test]
    async fn who_comes_too_late_does_not_touch_the_connection() {
        let slot = Connections::default().begin(1);
        let (first, second) = (slot.take_turn(), slot.take_turn());
        assert!(slot.in_turn(first).await.is_none());
        assert!(slot.in_turn(second).await.is_some());
    }

    #[test]
    fn a_connection_that_begins_anew_takes_the_place_of_the_old_one() {
        let all = Connections::default();
        let (old, new) = (all.begin(1), all.begin(1));
        all.keep(key("a"), &new, 1, 0);
        all.keep(key("a"), &old, 1, 0);
        assert!(all.find(key("a"), pos(1), 1, 0).is_err());
        assert!(all.find(key("a"), pos(2), 1, 0).is_ok());
        assert_eq!(all.0.lock().weight, 1);
    }

    #[test]
    fn a_device_has_only_so_many_and_the_least_used_goes() {
        let all = Connections::default();
        for number in 0..MAX_PER_DEVICE {
            all.keep(key(&number.to_string()), &all.begin(1), 1, 0);
        }
        assert!(all.find(key("0"), pos(1), 1, 0).is_ok(), "used again");
        all.keep(key("more"), &all.begin(1), 1, 0);
        assert!(all.find(key("0"), pos(1), 1, 0).is_ok());
        assert!(all.find(key("1"), pos(2), 1, 0).is_err());
        let other = (user_id!("@v:x"), device_id!("D"), "a");
        all.keep(other, &all.begin(1), 1, 0);
        assert_eq!(all.0.lock().entries.len(), MAX_PER_DEVICE + 1);
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let all = Connections::default();
        all.keep(key("a"), &all.begin(1), MAX_ENTRIES / 2, 0);
        all.keep(key("b"), &all.begin(1), MAX_ENTRIES / 2, 0);
        all.keep(key("c"), &all.begin(1), 1, 0);
        assert!(all.find(key("a"), pos(1), 1, 0).is_err());
        assert!(all.find(key("b"), pos(2), 1, 0).is_ok());
        let day = u64::try_from(MAX_IDLE.as_millis()).unwrap();
        assert!(all.find(key("b"), pos(2), 1, day).is_err(), "unused for too long");
        all.keep(key("c"), &all.begin(1), 1, day);
        assert_eq!(all.0.lock().entries.len(), 1);
        assert_eq!(all.0.lock().by_use.len(), 1);
    }
}
