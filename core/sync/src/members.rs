//! What a device has been told about lazily loaded members, so that it is not told again.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use hearth_rooms::schema::EventOrdinal;
use hearth_types::StreamPosition;
use ruma::{RoomId, UserId};

/// Memberships remembered for one device; one more and all are forgotten, which costs some sent twice.
const MAX_KNOWN: usize = 10_000;

/// Memberships that were sent to one device. A membership counts as known only to a client whose
/// token is at least that of the response that carried it: a response that never arrived, and is asked
/// for again with the old token, is made again in full.
///
/// `R` tells responses apart, later ones being greater: by the position in a sync token, or by the serial
/// of a response of sliding sync.
#[derive(Debug)]
pub(crate) struct KnownMembers<R = StreamPosition> {
    hasher: RandomState,
    sent: HashMap<u64, Sent<R>>,
}

#[derive(Clone, Copy, Debug)]
struct Sent<R> {
    event: EventOrdinal,
    in_response: R,
}

impl<R> Default for KnownMembers<R> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), sent: HashMap::new() }
    }
}

impl<R: Copy + Ord> KnownMembers<R> {
    /// Does a client that stands at `since` know this membership event?
    pub(crate) fn knows(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event: EventOrdinal,
        since: R,
    ) -> bool {
        self.sent
            .get(&self.key(room_id, user_id))
            .is_some_and(|sent| sent.event == event && sent.in_response <= since)
    }

    /// The membership event goes out in the response with this token.
    pub(crate) fn sent(
        &mut self,
        room_id: &RoomId,
        user_id: &UserId,
        event: EventOrdinal,
        in_response: R,
    ) {
        if self.sent.len() >= MAX_KNOWN {
            self.sent.clear();
        }
        let key = self.key(room_id, user_id);
        match self.sent.get_mut(&key) {
            // Sent before and sent again: the earlier response is as good, if it arrived.
            Some(sent) if sent.event == event => sent.in_response = in_response,
            _ => {
                self.sent.insert(key, Sent { event, in_response });
            }
        }
    }

    /// The response with this token did not arrive.
    pub(crate) fn lost(&mut self, response: R) {
        self.sent.retain(|_, sent| sent.in_response != response);
    }

    /// How many memberships are remembered.
    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    /// Forgets everything: the client starts anew.
    pub(crate) fn clear(&mut self) {
        self.sent.clear();
    }

    fn key(&self, room_id: &RoomId, user_id: &UserId) -> u64 {
        self.hasher.hash_one((room_id, user_id))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    #[test]
    fn a_response_that_did_not_arrive_taught_nothing() {
        let mut known = KnownMembers::default();
        let (room, user) = (room_id!("!r:x"), user_id!("@u:x"));
        let at = StreamPosition::new;
        known.sent(room, user, 7, at(10));
        assert!(known.knows(room, user, 7, at(10)));
        assert!(!known.knows(room, user, 7, at(9)), "asked again with the old token");
        assert!(!known.knows(room, user, 8, at(10)), "another event");
        assert!(!known.knows(room_id!("!s:x"), user, 7, at(10)));
        known.lost(at(11));
        assert!(known.knows(room, user, 7, at(12)));
        known.lost(at(10));
        assert!(!known.knows(room, user, 7, at(12)));
        known.sent(room, user, 7, at(13));
        known.clear();
        assert!(!known.knows(room, user, 7, at(13)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut known = KnownMembers::default();
        for number in 0..=MAX_KNOWN {
            let user = UserId::parse(format!("@u{number}:x")).unwrap();
            known.sent(room_id!("!r:x"), &user, 1, StreamPosition::new(1));
        }
        assert!(known.sent.len() <= MAX_KNOWN);
    }
}
