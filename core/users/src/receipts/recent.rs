//! What changed lately in each room: bounded rings of receipts in memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, RoomId};

use super::{ReceiptEntry, ReceiptKey, ReceiptRow};

/// Changes kept of one room.
const PER_ROOM: usize = 256;
/// Changes kept of all rooms together.
const IN_ALL: usize = 100_000;

/// A room's latest changes, oldest first.
#[derive(Debug)]
struct Ring {
    changes: VecDeque<(StreamPosition, ReceiptKey, ReceiptRow)>,
    /// Everything after this position is in the ring.
    complete_after: StreamPosition,
    /// Keys whose rows are being committed now, at positions that are not known yet.
    unsettled: Vec<ReceiptKey>,
}

/// The rings of the rooms that changed lately.
#[derive(Debug)]
pub(crate) struct RecentReceipts {
    rooms: HashMap<OwnedRoomId, Ring>,
    /// Rooms by the position of their last change: the quietest first.
    by_last: BTreeMap<StreamPosition, OwnedRoomId>,
    /// Rooms without a ring have not changed after this position.
    quiet_after: StreamPosition,
    count: usize,
}

/// An answer from memory.
#[derive(Debug)]
pub(crate) struct Recent {
    /// What changed, the newest state of each receipt, oldest first.
    pub(crate) entries: Vec<ReceiptEntry>,
    /// What is being written at this moment and must be looked up.
    pub(crate) unsettled: Vec<ReceiptKey>,
}

impl RecentReceipts {
    /// Nothing known of what was published before.
    pub(crate) fn new(published: StreamPosition) -> Self {
        Self { rooms: HashMap::new(), by_last: BTreeMap::new(), quiet_after: published, count: 0 }
    }

    /// These rows are about to be committed. Must come before the commit is submitted, so that no
    /// reader whom the commit wakes can miss them.
    pub(crate) fn announce(&mut self, room_id: &RoomId, keys: Vec<ReceiptKey>) {
        let complete_after = self.quiet_after;
        let ring = self.rooms.entry(room_id.to_owned()).or_insert_with(|| Ring {
            changes: VecDeque::new(),
            complete_after,
            unsettled: Vec::new(),
        });
        ring.unsettled = keys;
    }

    /// What was announced is committed, in the order of these positions; nothing, if it failed.
    pub(crate) fn settle(
        &mut self,
        room_id: &RoomId,
        changes: Vec<(StreamPosition, ReceiptKey, ReceiptRow)>,
    ) {
        let Some(ring) = self.rooms.get_mut(room_id) else { return };
        ring.unsettled = Vec::new();
        let before = ring.changes.back().map(|(position, ..)| *position);
        self.count += changes.len();
        ring.changes.extend(changes);
        while ring.changes.len() > PER_ROOM {
            if let Some((position, ..)) = ring.changes.pop_front() {
                ring.complete_after = position;
                self.count -= 1;
            }
        }
        let Some(last) = ring.changes.back().map(|(position, ..)| *position) else {
            self.rooms.remove(room_id);
            return;
        };
        if let Some(before) = before {
            self.by_last.remove(&before);
        }
        self.by_last.insert(last, room_id.to_owned());
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.count > IN_ALL {
            let Some((last, room_id)) = self.by_last.pop_first() else { return };
            let Some(ring) = self.rooms.remove(&room_id) else { continue };
            self.count -= ring.changes.len();
            if ring.unsettled.is_empty() {
                self.quiet_after = self.quiet_after.max(last);
            } else {
                // It is being written right now: keep an empty ring for what is announced.
                let ring = Ring { changes: VecDeque::new(), complete_after: last, ..ring };
                self.quiet_after = self.quiet_after.max(last);
                self.rooms.insert(room_id, ring);
            }
        }
    }

    /// What changed in a room after `since` and up to `until`, of what may be seen; `None` if memory
    /// does not reach back so far.
    pub(crate) fn changes(
        &self,
        room_id: &RoomId,
        since: StreamPosition,
        until: StreamPosition,
        seen: impl Fn(&ReceiptKey) -> bool,
    ) -> Option<Recent> {
        let Some(ring) = self.rooms.get(room_id) else {
            let nothing = Recent { entries: Vec::new(), unsettled: Vec::new() };
            return (since >= self.quiet_after).then_some(nothing);
        };
        if since < ring.complete_after {
            return None;
        }
        let mut known = HashSet::new();
        let newest_first = ring.changes.iter().rev();
        let mut entries: Vec<_> = newest_first
            .take_while(|(position, ..)| *position > since)
            .filter(|(position, key, _)| *position <= until && seen(key) && known.insert(key))
            .map(|(position, key, row)| ReceiptEntry::new(key.clone(), *position, row.clone()))
            .collect();
        entries.reverse();
        let unsettled = ring.unsettled.iter().filter(|key| seen(key)).cloned().collect();
        Some(Recent { entries, unsettled })
    }

    pub(crate) fn changed_since(&self, room_id: &RoomId, since: StreamPosition) -> bool {
        let Some(ring) = self.rooms.get(room_id) else { return since < self.quiet_after };
        since < ring.complete_after
            || !ring.unsettled.is_empty()
            || ring.changes.back().is_some_and(|(position, ..)| *position > since)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id, room_id};

    use super::*;

    fn change(position: u64, user: &str) -> (StreamPosition, ReceiptKey, ReceiptRow) {
        let key = (format!("@{user}:b").try_into().unwrap(), "m.read".to_owned(), String::new());
        let row =
            ReceiptRow { event_id: owned_event_id!("$e"), ts_ms: 0, timeline_position: position };
        (StreamPosition::new(position), key, row)
    }

    fn put(recent: &mut RecentReceipts, room_id: &RoomId, position: u64, user: &str) {
        let change = change(position, user);
        recent.announce(room_id, vec![change.1.clone()]);
        recent.settle(room_id, vec![change]);
    }

    fn positions(recent: &RecentReceipts, room_id: &RoomId, range: (u64, u64)) -> Option<Vec<u64>> {
        let (since, until) = (StreamPosition::new(range.0), StreamPosition::new(range.1));
        let found = recent.changes(room_id, since, until, |_| true)?;
        Some(found.entries.into_iter().map(|entry| entry.position.get()).collect())
    }

    #[test]
    fn answers_what_it_covers_and_nothing_else() {
        let mut recent = RecentReceipts::new(StreamPosition::new(10));
        let (one, two) = (room_id!("!one:b"), room_id!("!two:b"));
        put(&mut recent, one, 11, "a");
        put(&mut recent, one, 12, "b");
        put(&mut recent, one, 13, "a");
        assert_eq!(positions(&recent, one, (9, 20)), None);
        assert_eq!(positions(&recent, one, (10, 20)), Some(vec![12, 13]));
        assert_eq!(positions(&recent, one, (12, 20)), Some(vec![13]));
        assert_eq!(positions(&recent, one, (10, 12)), Some(vec![11, 12]));
        assert_eq!(positions(&recent, two, (10, 20)), Some(vec![]));
        assert_eq!(positions(&recent, two, (9, 20)), None);
        assert!(recent.changed_since(one, StreamPosition::new(12)));
        assert!(!recent.changed_since(one, StreamPosition::new(13)));
        assert!(!recent.changed_since(two, StreamPosition::new(10)));
    }

    #[test]
    fn rings_and_their_number_are_bounded() {
        let mut recent = RecentReceipts::new(StreamPosition::ZERO);
        let mut position = 0;
        for number in 0..500 {
            let room_id = RoomId::parse(format!("!{number}:b")).unwrap();
            for _ in 0..PER_ROOM + 10 {
                position += 1;
                put(&mut recent, &room_id, position, "a");
            }
            assert!(recent.count <= IN_ALL);
        }
        let held: usize = recent.rooms.values().map(|ring| ring.changes.len()).sum();
        assert_eq!(held, recent.count);
        assert_eq!(recent.by_last.len(), recent.rooms.len());
        assert_eq!(positions(&recent, room_id!("!0:b"), (0, position)), None);
        assert!(recent.changed_since(room_id!("!0:b"), StreamPosition::ZERO));
        let since = recent.quiet_after.get();
        assert_eq!(positions(&recent, room_id!("!0:b"), (since, position)), Some(vec![]));
        assert_eq!(
            positions(&recent, room_id!("!499:b"), (position - 1, position)),
            Some(vec![position])
        );
    }

    #[test]
    fn what_is_being_written_is_named() {
        let mut recent = RecentReceipts::new(StreamPosition::ZERO);
        let room_id = room_id!("!one:b");
        let pending = change(1, "a");
        recent.announce(room_id, vec![pending.1.clone()]);
        let all = (StreamPosition::ZERO, StreamPosition::MAX);
        let found = recent.changes(room_id, all.0, all.1, |_| true).unwrap();
        assert_eq!(found.unsettled, std::slice::from_ref(&pending.1));
        assert!(recent.changed_since(room_id, StreamPosition::ZERO));
        recent.settle(room_id, Vec::new());
        let found = recent.changes(room_id, all.0, all.1, |_| true).unwrap();
        assert!(found.unsettled.is_empty() && found.entries.is_empty());
        assert!(recent.rooms.is_empty());
    }
}
