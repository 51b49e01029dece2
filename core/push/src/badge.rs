//! How much is unread for a user, over all rooms that they are in (Push Gateway API, `counts`).
//!
//! The counts are those that `/sync` shows. What a user's rooms had is remembered, so that only rooms in which
//! something happened since are counted anew.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_rooms::schema::Membership;
use hearth_storage::Topic;
use hearth_types::StreamPosition;
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedRoomId, OwnedUserId, UserId, push::Ruleset};

use crate::{PushError, service::Inner};

/// Rooms of users whose counts are remembered, some 200 bytes each.
const MAX_REMEMBERED: u64 = 300_000;
/// Users whose rooms they are, about.
const EXPECTED_USERS: usize = 10_000;

/// What was counted lately.
pub(crate) struct BadgeCache(Cache<OwnedUserId, Arc<Counted>, ByRooms>);

#[derive(Clone)]
struct ByRooms;

impl Weighter<OwnedUserId, Arc<Counted>> for ByRooms {
    fn weight(&self, _: &OwnedUserId, counted: &Arc<Counted>) -> u64 {
        u64::try_from(counted.rooms.len()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// The counts of a user's rooms as of a position.
struct Counted {
    as_of: StreamPosition,
    rules: Arc<Ruleset>,
    ignored: Arc<HashSet<OwnedUserId>>,
    rooms: Vec<CountedRoom>,
}

#[derive(Clone)]
struct CountedRoom {
    room_id: OwnedRoomId,
    topic: Topic,
    joined_at: StreamPosition,
    unread: u64,
}

impl BadgeCache {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(EXPECTED_USERS, MAX_REMEMBERED, ByRooms))
    }
}

impl Counted {
    fn sum(&self) -> u64 {
        self.rooms.iter().fold(0, |sum, room| sum.saturating_add(room.unread))
    }
}

impl Inner {
    /// Notifications that a user has not read, as of a position or later. Whatever changes the count from there on
    /// is told by itself: so what waits together is told one count, instead of counting for each of it.
    pub(crate) async fn badge(
        &self,
        user_id: &UserId,
        counted: StreamPosition,
    ) -> Result<u64, PushError> {
        let (users, notifier) = (&self.parts.users, self.parts.store.notifier());
        let as_of = notifier.published();
        let rules = users.push_rules(user_id).await?;
        let ignored = users.ignored_users(user_id).await?;
        let known = self.badges.0.get(user_id).filter(|known| {
            Arc::ptr_eq(&known.rules, &rules) && Arc::ptr_eq(&known.ignored, &ignored)
        });
        let rooms = match known {
            None => self.count_all(user_id, &HashMap::new(), StreamPosition::ZERO).await?,
            Some(known) if known.as_of >= counted => return Ok(known.sum()),
            Some(known) => {
                let own_topic = Topic::new(user_id.as_str());
                if notifier.changed_since(&own_topic, known.as_of) {
                    let counted = |room: &CountedRoom| (room.room_id.clone(), room.clone());
                    let before = known.rooms.iter().map(counted).collect();
                    self.count_all(user_id, &before, known.as_of).await?
                } else {
                    let topics = known.rooms.iter().map(|room| &room.topic);
                    let changed = notifier.changed_among(topics, known.as_of);
                    if changed.is_empty() {
                        return Ok(known.sum());
                    }
                    let mut rooms = known.rooms.clone();
                    for place in changed {
                        if let Some(room) = rooms.get_mut(place) {
                            room.unread = self.unread(user_id, room).await?;
                        }
                    }
                    rooms
                }
            }
        };
        let counted = Arc::new(Counted { as_of, rules, ignored, rooms });
        let sum = counted.sum();
        self.badges.0.insert(user_id.to_owned(), counted);
        Ok(sum)
    }

    /// Counts the rooms that the user is in now, but for those in which nothing happened.
    async fn count_all(
        &self,
        user_id: &UserId,
        before: &HashMap<OwnedRoomId, CountedRoom>,
        since: StreamPosition,
    ) -> Result<Vec<CountedRoom>, PushError> {
        let notifier = self.parts.store.notifier();
        let mut rooms = Vec::new();
        for (room_id, row) in self.parts.rooms.user_rooms(user_id).await? {
            if row.details.membership != Membership::Join {
                continue;
            }
            let same = before.get(&room_id).filter(|room| {
                room.joined_at == row.joined_at
                    && !notifier.changed_since(&room.topic, since)
                    && !self.parts.users.receipts_changed_since(&room_id, since)
            });
            if let Some(same) = same {
                rooms.push(same.clone());
                continue;
            }
            let topic = Topic::new(room_id.as_str());
            let mut room = CountedRoom { room_id, topic, joined_at: row.joined_at, unread: 0 };
            room.unread = self.unread(user_id, &room).await?;
            rooms.push(room);
        }
        Ok(rooms)
    }

    async fn unread(&self, user_id: &UserId, room: &CountedRoom) -> Result<u64, PushError> {
        let totals = self.parts.sync.unread(user_id, &room.room_id).await?;
        Ok(totals.sum().notifications)
    }
}
