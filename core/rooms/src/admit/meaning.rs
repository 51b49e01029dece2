//! What events mean to rows beside their own (relations, threads, the ledger of what notifies whom):
//! taken back where an event falls with the completion of a partial state, and given back where what a
//! fallen redaction had removed is there again.

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
};

use hearth_storage::{Commit, Direction, Snapshot};
use hearth_types::StreamPosition;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};

use crate::{
    Rooms,
    error::RoomError,
    schema::{
        self, EventOrdinal, EventOrdinalRow, MAIN_TIMELINE, MemberRow, Membership, MentionRow,
        RelationRow, StoredEvent, ThreadRow, TimelineIndex, UncountedRow,
    },
    writer::{Facts, parse_object},
};

/// The rel_type of a thread's replies.
const THREAD: &str = "m.thread";
/// Replies that are read at a time to find the newest that stays.
const PAGE: usize = 100;

/// Rows of one event, as they are from now on.
#[derive(Clone)]
pub(super) enum Meaning {
    /// It is a child of another event, or no more.
    Relation((OwnedEventId, String, TimelineIndex), Option<RelationRow>),
    /// It is the annotation of its kind, or no more.
    Annotation((OwnedEventId, OwnedUserId, String), Option<EventOrdinalRow>),
    /// Its thread, and where that stood in the order of activity.
    Thread(OwnedEventId, TimelineIndex, ThreadRow),
    /// It counts for those whom it notifies, or no more.
    Ledger(Ledger),
}

/// An event in the ledger.
#[derive(Clone)]
pub(super) struct Ledger {
    position: StreamPosition,
    row: MentionRow,
    counts: bool,
    /// Local users whom it mentions.
    mentions: Vec<OwnedUserId>,
    mentions_room: bool,
}

impl Meaning {
    /// Adds the rows to a commit.
    pub(super) fn write(self, commit: &mut Commit, room_id: &OwnedRoomId) {
        match self {
            Self::Relation(key, Some(row)) => commit.put(&schema::RELATIONS, room_id, &key, &row),
            Self::Relation(key, None) => commit.delete(&schema::RELATIONS, room_id, &key),
            Self::Annotation(key, Some(row)) => {
                commit.put(&schema::ANNOTATIONS, room_id, &key, &row);
            }
            Self::Annotation(key, None) => commit.delete(&schema::ANNOTATIONS, room_id, &key),
            Self::Thread(root, stood, row) => {
                commit.delete(&schema::THREADS_BY_ACTIVITY, room_id, &stood);
                if row.count > 0 {
                    let (index, by_activity) = (row.latest_index, EventOrdinalRow(row.root));
                    commit.put(&schema::THREADS_BY_ACTIVITY, room_id, &index, &by_activity);
                }
                commit.put(&schema::THREADS, room_id, &root, &row);
            }
            Self::Ledger(ledger) => ledger.write(commit, room_id),
        }
    }
}

impl Ledger {
    fn write(self, commit: &mut Commit, room_id: &OwnedRoomId) {
        let key = (self.row.scope, self.position);
        if self.counts {
            commit.delete(&schema::UNCOUNTED, room_id, &key);
        } else {
            let row = UncountedRow { sender: self.row.sender.clone() };
            commit.put(&schema::UNCOUNTED, room_id, &key, &row);
        }
        if self.counts && self.mentions_room {
            commit.put(&schema::ROOM_MENTIONS, room_id, &self.position, &self.row);
        } else if !self.counts {
            commit.delete(&schema::ROOM_MENTIONS, room_id, &self.position);
        }
        for user_id in self.mentions {
            let key = (room_id.clone(), self.position);
            if self.counts {
                commit.effect_put(&schema::MENTIONS, &user_id, &key, &self.row);
            } else {
                commit.effect_delete(&schema::MENTIONS, &user_id, &key);
            }
        }
    }
}

/// Works out what events mean, one after the other.
pub(super) struct Meanings<'a> {
    rooms: &'a Rooms,
    room_id: &'a OwnedRoomId,
    snapshot: &'a Snapshot,
    /// Events that are rejected from now on.
    fallen: &'a HashSet<EventOrdinal>,
    /// Threads as they are after what was worked out so far.
    threads: HashMap<OwnedEventId, ThreadRow>,
}

impl<'a> Meanings<'a> {
    pub(super) fn new(
        rooms: &'a Rooms,
        room_id: &'a OwnedRoomId,
        snapshot: &'a Snapshot,
        fallen: &'a HashSet<EventOrdinal>,
    ) -> Self {
        Self { rooms, room_id, snapshot, fallen, threads: HashMap::new() }
    }

    /// The rows of an event that loses this place.
    pub(super) fn taken_back(
        &mut self,
        event: &StoredEvent,
        index: TimelineIndex,
    ) -> Result<Vec<Meaning>, RoomError> {
        let facts = facts_of(event);
        let mut all = Vec::new();
        all.extend(self.ledger(event, index, &facts, None)?.map(Meaning::Ledger));
        let Some(relation) = facts.relation else { return Ok(all) };
        if let Some(key) = relation.annotation(&event.pdu.kind().to_string()) {
            let key = (relation.parent.clone(), event.pdu.sender().to_owned(), key);
            let row = self.snapshot.get(&schema::ANNOTATIONS, self.room_id, &key)?;
            if row.is_some_and(|row| row.0 == event.ordinal) {
                all.push(Meaning::Annotation(key, None));
            }
        }
        if relation.is_thread()
            && let Some(row) = self.thread(&relation.parent)?
        {
            let stood = row.latest_index;
            let mut row = ThreadRow { count: row.count.saturating_sub(1), ..row };
            if row.latest == event.ordinal {
                match self.newest_reply(&relation.parent)? {
                    Some((index, latest)) => {
                        (row.latest_index, row.latest) = (index, latest);
                    }
                    None => row.count = 0,
                }
            }
            self.threads.insert(relation.parent.clone(), row.clone());
            all.push(Meaning::Thread(relation.parent.clone(), stood, row));
        }
        all.push(Meaning::Relation((relation.parent, relation.rel_type, index), None));
        Ok(all)
    }

    /// The rows of an event that is not redacted any more. `may_call_room` says whether its sender may
    /// mention the whole room.
    pub(super) fn given_back(
        &mut self,
        event: &StoredEvent,
        index: TimelineIndex,
        may_call_room: bool,
    ) -> Result<Vec<Meaning>, RoomError> {
        let facts = facts_of(event);
        let mut all = Vec::new();
        all.extend(self.ledger(event, index, &facts, Some(may_call_room))?.map(Meaning::Ledger));
        let Some(relation) = facts.relation else { return Ok(all) };
        let (event_type, sender) = (event.pdu.kind().to_string(), event.pdu.sender().to_owned());
        if let Some(key) = relation.annotation(&event_type) {
            let key = (relation.parent.clone(), sender.clone(), key);
            if self.snapshot.get(&schema::ANNOTATIONS, self.room_id, &key)?.is_none() {
                all.push(Meaning::Annotation(key, Some(EventOrdinalRow(event.ordinal))));
            }
        }
        if relation.is_thread()
            && let Some(row) = self.thread(&relation.parent)?
        {
            let stood = row.latest_index;
            let mut row = ThreadRow { count: row.count + 1, ..row };
            if row.count == 1 || index > stood {
                (row.latest_index, row.latest) = (index, event.ordinal);
            }
            self.threads.insert(relation.parent.clone(), row.clone());
            all.push(Meaning::Thread(relation.parent.clone(), stood, row));
        }
        let row = RelationRow { ordinal: event.ordinal, event_type, sender };
        all.push(Meaning::Relation((relation.parent, relation.rel_type, index), Some(row)));
        Ok(all)
    }

    /// The event in the ledger; with who may mention the whole room if it counts from now on. What it was
    /// counted as was decided when it came: totals never change.
    fn ledger(
        &mut self,
        event: &StoredEvent,
        index: TimelineIndex,
        facts: &Facts,
        counts: Option<bool>,
    ) -> Result<Option<Ledger>, RoomError> {
        let (true, TimelineIndex::Live(position)) = (facts.notifies, index) else {
            return Ok(None);
        };
        let scope = match facts.relation.as_ref().filter(|relation| relation.is_thread()) {
            Some(relation) => self.thread(&relation.parent)?.map_or(MAIN_TIMELINE, |row| row.root),
            None => MAIN_TIMELINE,
        };
        let mut mentions = Vec::new();
        for user_id in &facts.mentions {
            let concerned =
                self.rooms.identity().is_local(user_id) && user_id != event.pdu.sender();
            if concerned && (counts.is_none() || self.is_joined(user_id)?) {
                mentions.push(user_id.clone());
            }
        }
        Ok(Some(Ledger {
            position,
            row: MentionRow { scope, sender: event.pdu.sender().to_owned() },
            counts: counts.is_some(),
            mentions,
            mentions_room: facts.alerts_room || facts.mentions_room && counts == Some(true),
        }))
    }

    fn is_joined(&self, user_id: &OwnedUserId) -> Result<bool, RoomError> {
        let row: Option<MemberRow> = self.snapshot.get(&schema::MEMBERS, self.room_id, user_id)?;
        Ok(row.is_some_and(|row| row.membership == Membership::Join))
    }

    fn thread(&self, root: &OwnedEventId) -> Result<Option<ThreadRow>, RoomError> {
        match self.threads.get(root) {
            Some(row) => Ok(Some(row.clone())),
            None => Ok(self.snapshot.get(&schema::THREADS, self.room_id, root)?),
        }
    }

    /// The newest reply of a thread among those that stay.
    fn newest_reply(
        &self,
        root: &OwnedEventId,
    ) -> Result<Option<(TimelineIndex, EventOrdinal)>, RoomError> {
        let key = |index| (root.clone(), THREAD.to_owned(), index);
        let mut end = Bound::Included(key(TimelineIndex::END));
        loop {
            let range = (Bound::Included(key(TimelineIndex::START)), end);
            let back = Direction::Backward;
            let rows = self.snapshot.page(&schema::RELATIONS, self.room_id, range, back, PAGE)?;
            let mut stay = rows.iter().filter(|(_, reply)| !self.fallen.contains(&reply.ordinal));
            if let Some(((_, _, index), reply)) = stay.next() {
                return Ok(Some((*index, reply.ordinal)));
            }
            match rows.into_iter().next_back() {
                Some((last, _)) => end = Bound::Excluded(last),
                None => return Ok(None),
            }
        }
    }
}

/// What an event's content says; what cannot be read never had an effect.
fn facts_of(event: &StoredEvent) -> Facts {
    let content = parse_object(event.pdu.content()).unwrap_or_default();
    Facts::of(&event.pdu.kind().to_string(), event.pdu.state_key(), &content)
}
