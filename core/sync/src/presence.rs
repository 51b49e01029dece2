//! Presence of the people that a user shares rooms with, and who is woken by it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use hearth_rooms::{Rooms, read::StatePart, schema::Membership};
use hearth_storage::Topic;
use hearth_users::{Presence, PresenceAudience};
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    SyncError,
    body::{EventList, Object},
    device_lists::{RoomChange, joined_among},
    hub::RoomList,
    pass::Pass,
};

/// Members of all rooms together whose presence an initial sync looks up; those of further rooms are told
/// when they change.
const MAX_INITIAL_MEMBERS: u64 = 2_000;
/// Rooms of one user that are woken by their presence, at most.
const MAX_AUDIENCE_ROOMS: usize = 200;
/// Entries of the log; beyond that it starts anew, and clients hear of older changes no more.
const MAX_LOGGED: usize = 500_000;

/// Whose presence changed in which topic (a room, or the user's own), in memory, counted by a serial.
/// Thus a sync looks at people it shows and never at strangers.
#[derive(Debug, Default)]
pub(crate) struct PresenceLog {
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    serial: u64,
    entries: usize,
    topics: HashMap<Topic, TopicLog>,
}

#[derive(Debug, Default)]
struct TopicLog {
    last: u64,
    users: HashMap<OwnedUserId, u64>,
}

impl PresenceLog {
    /// The number of changes so far: what a sync token carries.
    pub(crate) fn serial(&self) -> u64 {
        self.state.lock().serial
    }

    fn add(&self, user_id: &UserId, topics: &[Topic]) {
        let mut state = self.state.lock();
        if state.entries > MAX_LOGGED {
            state.topics.clear();
            state.entries = 0;
        }
        state.serial += 1;
        let LogState { serial, entries, topics: known } = &mut *state;
        for topic in topics {
            let log = known.entry(topic.clone()).or_default();
            log.last = *serial;
            if log.users.insert(user_id.to_owned(), *serial).is_none() {
                *entries += 1;
            }
        }
    }

    /// The users whose presence changed in any of these topics after this serial.
    pub(crate) fn changed<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a Topic>,
        since: u64,
    ) -> BTreeSet<OwnedUserId> {
        let state = self.state.lock();
        let mut changed = BTreeSet::new();
        for topic in topics {
            if let Some(log) = state.topics.get(topic).filter(|log| log.last > since) {
                let users = log.users.iter().filter(|(_, serial)| **serial > since);
                changed.extend(users.map(|(user_id, _)| user_id.clone()));
            }
        }
        changed
    }
}

/// Routes presence to the user's own clients and to the rooms of the user that are not large.
#[derive(Debug)]
pub(crate) struct RoomAudience {
    rooms: Rooms,
    log: Arc<PresenceLog>,
    large_room_members: u64,
}

impl RoomAudience {
    pub(crate) fn new(rooms: Rooms, log: Arc<PresenceLog>, large_room_members: u64) -> Self {
        Self { rooms, log, large_room_members }
    }

    /// The rooms of a user in which presence is passed on.
    async fn small_rooms(&self, user_id: &UserId) -> Result<Vec<Topic>, SyncError> {
        let mut small = Vec::new();
        for room_id in self.joined_rooms(user_id).await? {
            let head = self.rooms.head(&room_id).await?;
            if head.is_some_and(|head| head.joined_members <= self.large_room_members) {
                small.push(Topic::new(room_id.as_str()));
            }
            if small.len() >= MAX_AUDIENCE_ROOMS {
                break;
            }
        }
        Ok(small)
    }

    /// The rooms that this server knows the user to be in.
    async fn joined_rooms(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, SyncError> {
        if !self.rooms.identity().is_local(user_id) {
            return Ok(self.rooms.rooms_of_remote_user(user_id, MAX_AUDIENCE_ROOMS).await?);
        }
        let rows = self.rooms.user_rooms(user_id).await?.into_iter();
        let joined = rows.filter(|(_, row)| row.details.membership == Membership::Join);
        Ok(joined.map(|(room_id, _)| room_id).collect())
    }
}

#[async_trait::async_trait]
impl PresenceAudience for RoomAudience {
    async fn topics(&self, user_id: &UserId) -> Vec<Topic> {
        let mut topics = self.small_rooms(user_id).await.unwrap_or_else(|error| {
            tracing::error!(%error, %user_id, "presence is not passed on to rooms");
            Vec::new()
        });
        topics.push(Topic::new(user_id.as_str()));
        // Before the wake: whoever is woken by it finds it here.
        self.log.add(user_id, &topics);
        topics
    }

    async fn is_large(&self, room_id: &RoomId) -> bool {
        let head = self.rooms.head(room_id).await.ok().flatten();
        head.is_some_and(|head| head.joined_members > self.large_room_members)
    }
}

impl Pass<'_> {
    /// Presence that changed, of users who share a room with this one, and the user's own; and that of
    /// those whom the user has `met`.
    pub(crate) async fn presence(
        &self,
        rooms: &RoomList,
        met: BTreeSet<OwnedUserId>,
    ) -> Result<EventList, SyncError> {
        let mut list = EventList::default();
        let known = self.question.since.map_or(0, |since| since.presence);
        let mut told = met;
        if self.until.presence > known {
            let topics = rooms.topics.iter().chain([self.session.topic()]);
            told.extend(self.inner.presence.changed(topics, known));
        }
        let wanted = told.into_iter().filter(|user_id| {
            self.question.filter.wants_presence(user_id) && !self.ignored.contains(user_id)
        });
        for user_id in wanted.take(self.question.filter.presence_limit()) {
            let presence = self.inner.users.presence(&user_id).await?;
            self.write_presence(list.next(), &user_id, &presence);
        }
        Ok(list)
    }

    /// Those with whom the user shares a room that they did not share at the client's token: their
    /// presence is news, though it did not change. Of those whom the user finds in a new room, those who
    /// have been seen online; of this server's who come into the user's, all. Nobody in large rooms.
    pub(crate) async fn newly_met(
        &self,
        changes: &[RoomChange],
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let (rooms, users) = (&self.inner.rooms, &self.inner.users);
        let mut met = BTreeSet::new();
        for RoomChange { room_id, known, end } in changes {
            let head = rooms.head(room_id).await?;
            if *known == Some(*end)
                || head
                    .is_none_or(|head| head.joined_members > self.inner.config.large_room_members)
            {
                continue;
            }
            let was_here = known.is_some();
            let known = known.unwrap_or_default();
            let differ = rooms.state_changes(room_id, known, *end, StatePart::Members)?;
            let before: Vec<_> = differ.iter().filter_map(|change| change.before).collect();
            let after: Vec<_> = differ.iter().filter_map(|change| change.after).collect();
            let before = joined_among(&rooms.events(room_id, &before).await?);
            let after = joined_among(&rooms.events(room_id, &after).await?);
            for user_id in after.difference(&before) {
                let comes_here = was_here && rooms.identity().is_local(user_id);
                if comes_here || users.presence(user_id).await?.last_active_ms.is_some() {
                    met.insert(user_id.clone());
                }
            }
        }
        Ok(met)
    }

    /// Those whom the user finds in their rooms on an initial sync, and who have been seen online. The log
    /// alone would leave out who was online before they came into the room.
    pub(crate) async fn present(
        &self,
        list: &RoomList,
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let (rooms, users) = (&self.inner.rooms, &self.inner.users);
        let (mut present, mut budget) = (BTreeSet::new(), MAX_INITIAL_MEMBERS);
        for room in &list.joined {
            let Some(head) = rooms.head(&room.room_id).await? else { continue };
            if head.joined_members > self.inner.config.large_room_members.min(budget) {
                continue;
            }
            budget -= head.joined_members;
            for (user_id, _) in rooms.members_with(&room.room_id, Membership::Join).await? {
                if users.presence(&user_id).await?.last_active_ms.is_some() {
                    present.insert(user_id);
                }
            }
        }
        Ok(present)
    }

    fn write_presence(&self, out: &mut Vec<u8>, user_id: &OwnedUserId, presence: &Presence) {
        let mut event = Object::begin(out);
        let mut content = Object::begin(event.key("content"));
        content.member("presence", presence.state.as_str());
        if let Some(at) = presence.last_active_ms {
            let ago = self.inner.clock.now_ms().saturating_sub(at);
            content.member("last_active_ago", &ago);
        }
        if let Some(status) = &presence.status_msg {
            content.member("status_msg", status);
        }
        content.member("currently_active", &presence.currently_active);
        content.end();
        event.member("sender", user_id.as_str());
        event.member("type", "m.presence");
        event.end();
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn the_log_tells_who_changed_where_and_since_when() {
        let log = PresenceLog::default();
        let (one, two) = (Topic::new("!one:x"), Topic::new("!two:x"));
        let (a, b) = (user_id!("@a:x"), user_id!("@b:x"));
        log.add(a, std::slice::from_ref(&one));
        let middle = log.serial();
        log.add(b, &[one.clone(), two.clone()]);
        let changed = |topics: &[&Topic], since| {
            log.changed(topics.iter().copied(), since).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(changed(&[&one], 0), [a, b]);
        assert_eq!(changed(&[&one], middle), [b]);
        assert_eq!(changed(&[&two], 0), [b]);
        assert!(changed(&[&one, &two], log.serial()).is_empty());
    }
}
