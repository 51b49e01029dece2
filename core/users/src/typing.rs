//! Who is typing (CS "Typing Notifications"): in memory only.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::Users;

/// The longest time that one notification lasts.
const MAX_TIMEOUT: Duration = Duration::from_mins(2);
/// Users shown as typing in one room; further ones are passed over.
const MAX_USERS: usize = 100;
/// Rooms whose last change is remembered.
const MAX_ROOMS: usize = 10_000;

/// Who types where, in memory.
#[derive(Debug, Default)]
pub(crate) struct TypingTable {
    rooms: HashMap<OwnedRoomId, RoomTyping>,
    /// The last change of any room.
    serial: TypingSerial,
    /// The last change of any room that is no longer remembered.
    forgotten: TypingSerial,
}

#[derive(Debug, Default)]
struct RoomTyping {
    serial: TypingSerial,
    /// Until when each user types, in milliseconds.
    until: BTreeMap<OwnedUserId, u64>,
}

impl TypingTable {
    /// Whether who is typing is different now.
    fn start(&mut self, room_id: &RoomId, user_id: &UserId, until_ms: u64) -> bool {
        if !self.rooms.contains_key(room_id) {
            self.make_room();
        }
        let room = self.rooms.entry(room_id.to_owned()).or_default();
        if let Some(known) = room.until.get_mut(user_id) {
            *known = until_ms;
            return false;
        }
        if room.until.len() >= MAX_USERS {
            return false;
        }
        room.until.insert(user_id.to_owned(), until_ms);
        self.serial += 1;
        room.serial = self.serial;
        true
    }

    fn stop(&mut self, room_id: &RoomId, user_id: &UserId) -> bool {
        let Some(room) = self.rooms.get_mut(room_id) else { return false };
        if room.until.remove(user_id).is_none() {
            return false;
        }
        self.serial += 1;
        room.serial = self.serial;
        true
    }

    /// The rooms where somebody stopped, and who.
    fn expire(&mut self, now_ms: u64) -> Vec<(OwnedRoomId, Vec<OwnedUserId>)> {
        let mut changed = Vec::new();
        for (room_id, room) in &mut self.rooms {
            let mut stopped = Vec::new();
            room.until.retain(|user_id, until_ms| {
                let stays = *until_ms > now_ms;
                if !stays {
                    stopped.push(user_id.clone());
                }
                stays
            });
            if !stopped.is_empty() {
                self.serial += 1;
                room.serial = self.serial;
                changed.push((room_id.clone(), stopped));
            }
        }
        changed
    }

    /// Forgets a quarter of the rooms when there are too many: the quiet ones, or the longest unchanged.
    fn make_room(&mut self) {
        if self.rooms.len() < MAX_ROOMS {
            return;
        }
        let mut serials: Vec<_> = self.rooms.values().map(|room| room.serial).collect();
        serials.sort_unstable();
        let limit = serials.get(serials.len() / 4).copied().unwrap_or(self.serial);
        self.rooms.retain(|_, room| room.serial > limit);
        self.forgotten = self.forgotten.max(limit);
    }

    fn room_serial(&self, room_id: &RoomId) -> TypingSerial {
        // A forgotten room may have changed as late as any forgotten one.
        self.rooms.get(room_id).map_or(self.forgotten, |room| room.serial)
    }
}

/// The count of typing changes within one run of the process.
pub type TypingSerial = u64;

/// Who is typing in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typing {
    /// The serial of the room's last change; 0: none since the process started.
    pub serial: TypingSerial,
    /// Who is typing now, by ID.
    pub user_ids: Vec<OwnedUserId>,
}

impl Users {
    /// A random number of this run of the process. Typing and presence serials mean something only
    /// together with it: a sync token that carries another one knows of no change.
    #[must_use]
    pub fn boot_id(&self) -> u32 {
        self.inner.boot_id
    }

    /// The user types in a room for so long (at most two minutes), or, with `None`, stops. The caller
    /// has checked that they are joined. Wakes the room's listeners if who is typing changed.
    pub fn set_typing(&self, room_id: &RoomId, user_id: &UserId, timeout: Option<Duration>) {
        let changed = match timeout.filter(|timeout| !timeout.is_zero()) {
            Some(timeout) => {
                let lasts = u64::try_from(timeout.min(MAX_TIMEOUT).as_millis()).unwrap_or(u64::MAX);
                let until_ms = self.now_ms().saturating_add(lasts);
                self.inner.typing.lock().start(room_id, user_id, until_ms)
            }
            None => self.inner.typing.lock().stop(room_id, user_id),
        };
        if changed {
            self.poke(room_id.as_str());
            self.tell_typing(room_id, user_id, timeout.is_some_and(|timeout| !timeout.is_zero()));
        }
    }

    /// Who is typing in a room, and since which serial. Changed since a token's serial, if greater.
    #[must_use]
    pub fn typing(&self, room_id: &RoomId) -> Typing {
        let now_ms = self.now_ms();
        let table = self.inner.typing.lock();
        let typing = table.rooms.get(room_id).into_iter().flat_map(|room| &room.until);
        let user_ids =
            typing.filter(|(_, until)| **until > now_ms).map(|(id, _)| id.clone()).collect();
        Typing { serial: table.room_serial(room_id), user_ids }
    }

    /// The serial of a room's last typing change, without the list.
    #[must_use]
    pub fn room_typing_serial(&self, room_id: &RoomId) -> TypingSerial {
        self.inner.typing.lock().room_serial(room_id)
    }

    /// The serial of the last typing change in any room: what a sync token carries.
    #[must_use]
    pub fn typing_serial(&self) -> TypingSerial {
        self.inner.typing.lock().serial
    }

    pub(crate) fn expire_typing(&self) {
        self.expire_typing_at(self.now_ms());
    }

    /// Nobody types any more: for the end of the process, after which nobody could tell the clients.
    pub fn stop_all_typing(&self) {
        self.expire_typing_at(u64::MAX);
    }

    fn expire_typing_at(&self, now_ms: u64) {
        let changed = self.inner.typing.lock().expire(now_ms);
        for (room_id, stopped) in changed {
            self.poke(room_id.as_str());
            for user_id in stopped {
                self.tell_typing(&room_id, &user_id, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use hearth_storage::{Listener, Topic};
    use hearth_types::StreamPosition;
    use ruma::{owned_user_id, room_id, user_id};

    use super::*;
    use crate::users::testing::Bench;

    const FOR: Option<Duration> = Some(Duration::from_secs(30));

    #[derive(Debug, Default)]
    struct Wakes(AtomicU32);

    impl Listener for Wakes {
        fn changed(&self, _topic: &Topic, _position: StreamPosition) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn typing_starts_stops_and_ages() {
        let bench = Bench::new().await;
        let users = &bench.users;
        let (room_id, alice, bob) = (room_id!("!a:b"), user_id!("@a:b"), user_id!("@b:b"));
        assert_eq!(users.typing(room_id), Typing::default());
        users.set_typing(room_id, bob, FOR);
        users.set_typing(room_id, alice, FOR);
        let typing = users.typing(room_id);
        assert_eq!(typing.user_ids, [alice, bob]);
        assert_eq!(typing.serial, users.typing_serial());
        // Going on is no change.
        users.set_typing(room_id, alice, FOR);
        assert_eq!(users.typing(room_id), typing);
        users.set_typing(room_id, bob, None);
        let stopped = users.typing(room_id);
        assert!(stopped.serial > typing.serial);
        assert_eq!(stopped.user_ids, [alice]);
        bench.advance_s(30);
        users.tick().await;
        let aged = users.typing(room_id);
        assert!(aged.serial > stopped.serial && aged.user_ids.is_empty());
        assert_eq!(users.room_typing_serial(room_id!("!other:b")), 0);
    }

    #[tokio::test]
    async fn at_the_end_everybody_stops() {
        let bench = Bench::new().await;
        let (room_id, alice) = (room_id!("!a:b"), user_id!("@a:b"));
        bench.users.set_typing(room_id, alice, FOR);
        let before = bench.users.typing_serial();
        bench.users.stop_all_typing();
        assert!(bench.users.typing(room_id).user_ids.is_empty());
        assert!(bench.users.room_typing_serial(room_id) > before);
    }

    #[tokio::test]
    async fn listeners_are_woken_by_changes_alone() {
        let bench = Bench::new().await;
        let users = &bench.users;
        let (room_id, alice) = (room_id!("!a:b"), user_id!("@a:b"));
        let wakes = Arc::new(Wakes::default());
        let listener: Arc<dyn Listener> = wakes.clone();
        bench.store.notifier().subscribe(&Topic::new(room_id.as_str()), &listener);
        users.set_typing(room_id, alice, FOR);
        users.set_typing(room_id, alice, FOR);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        users.set_typing(room_id, alice, None);
        users.set_typing(room_id, alice, None);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn forgotten_rooms_count_as_changed_for_old_tokens() {
        let mut table = TypingTable::default();
        let first = RoomId::parse("!0:b").unwrap();
        let alice = owned_user_id!("@a:b");
        for number in 0..=MAX_ROOMS {
            let room_id = RoomId::parse(format!("!{number}:b")).unwrap();
            assert!(table.start(&room_id, &alice, 10));
        }
        assert!(table.rooms.len() <= MAX_ROOMS);
        assert!(!table.rooms.contains_key(&first));
        assert!(table.room_serial(&first) >= 1);
        assert!(table.room_serial(&first) < table.serial);
    }

    #[test]
    fn a_room_shows_a_bounded_crowd() {
        let mut table = TypingTable::default();
        for number in 0..2 * MAX_USERS {
            let user_id = UserId::parse(format!("@u{number}:b")).unwrap();
            assert_eq!(table.start(room_id!("!a:b"), &user_id, 10), number < MAX_USERS);
        }
    }
}
