//! Unread counts of one user in one room.
//!
//! Users with the server's default push rules are counted from the room's ledger, at a cost that does
//! not grow with what is unread. For the others the events themselves are judged, lazily and once each:
//! the newest 1,000 unread ones, remembered per user and room while the rules stay the same.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use hearth_rooms::{
    read::{LedgerTail, ReadMarks, Stretch, TimelineToken, UnreadCounts, UnreadTotals},
    schema::{EventOrdinal, StoredEvent, TimelineIndex, UserRoomRow},
};
use hearth_storage::{Direction, Topic};
use hearth_types::StreamPosition;
use quick_cache::sync::Cache;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    push::{Action, Ruleset},
};

use crate::{
    SyncError,
    judge::{Judge, thread_of},
    service::Inner,
};

/// Unread events of one user in one room that are judged by rules of their own; older ones are not
/// counted.
const MAX_JUDGED: usize = 1_000;
/// Users times rooms whose judgements are remembered.
const MAX_REMEMBERED: usize = 10_000;
const PAGE: usize = 100;

/// Rooms whose ledger's tail is remembered.
const MAX_TAILS: usize = 10_000;

/// What counting remembers: tails of ledgers, which all members of a room share, and judgements by
/// users with push rules of their own.
pub(crate) struct CountCache {
    tails: Cache<OwnedRoomId, (StreamPosition, LedgerTail)>,
    judged: Cache<(OwnedUserId, OwnedRoomId), Arc<Judged>>,
}

/// Events of one room that notify one user, judged up to a position.
#[derive(Clone)]
struct Judged {
    rules: Arc<Ruleset>,
    ignored: Arc<HashSet<OwnedUserId>>,
    from: StreamPosition,
    until: StreamPosition,
    notifying: VecDeque<Notifying>,
}

#[derive(Clone)]
struct Notifying {
    position: StreamPosition,
    ordinal: EventOrdinal,
    thread: Option<OwnedEventId>,
    highlights: bool,
}

impl CountCache {
    pub(crate) fn new() -> Self {
        Self { tails: Cache::new(MAX_TAILS), judged: Cache::new(MAX_REMEMBERED) }
    }
}

impl Inner {
    /// What is unread for a user who knows everything up to `until`.
    pub(crate) async fn unread(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
        until: StreamPosition,
    ) -> Result<UnreadTotals, SyncError> {
        let marks = self.read_marks(user_id, room_id, row).await?;
        self.unread_after(user_id, room_id, row, &marks, until).await
    }

    /// The same for a caller who knows how far the user has read.
    pub(crate) async fn unread_after(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
        marks: &ReadMarks,
        until: StreamPosition,
    ) -> Result<UnreadTotals, SyncError> {
        let ignored = self.users.ignored_users(user_id).await?;
        // The ledger knows nothing of whom somebody ignores.
        if ignored.is_empty() && !self.users.has_own_push_rules(user_id).await? {
            let tail = self.ledger_tail(room_id, until).await?;
            return Ok(self.rooms.unread(room_id, user_id, marks, until, &tail).await?);
        }
        let judged = self.judge(user_id, room_id, row, marks, &ignored, until).await?;
        self.count(user_id, room_id, &judged, marks, until).await
    }

    /// The tail of a room's ledger. One that was read for an earlier position holds while the room
    /// has not changed since.
    async fn ledger_tail(
        &self,
        room_id: &RoomId,
        until: StreamPosition,
    ) -> Result<LedgerTail, SyncError> {
        if let Some((as_of, tail)) = self.counts.tails.get(room_id) {
            let topic = Topic::new(room_id.as_str());
            let holds = as_of <= until && !self.notifier().changed_since(&topic, as_of);
            if as_of == until || holds {
                return Ok(tail);
            }
        }
        let tail = self.rooms.ledger_tail(room_id, until).await?;
        self.counts.tails.insert(room_id.to_owned(), (until, tail));
        Ok(tail)
    }

    /// Judges what was not judged before by these rules.
    async fn judge(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
        marks: &ReadMarks,
        ignored: &Arc<HashSet<OwnedUserId>>,
        until: StreamPosition,
    ) -> Result<Arc<Judged>, SyncError> {
        let rules = self.users.push_rules(user_id).await?;
        let key = (user_id.to_owned(), room_id.to_owned());
        let floor = marks.floor();
        let known = self
            .counts
            .judged
            .get(&key)
            .filter(|known| Arc::ptr_eq(&known.rules, &rules) && known.from <= floor)
            .filter(|known| Arc::ptr_eq(&known.ignored, ignored));
        if let Some(known) = &known
            && known.until >= until
        {
            return Ok(Arc::clone(known));
        }
        let mut judged = known.map_or_else(
            || Judged {
                rules: Arc::clone(&rules),
                ignored: Arc::clone(ignored),
                from: floor,
                until: floor,
                notifying: VecDeque::new(),
            },
            |known| Judged::clone(&known),
        );
        let events = self.newest(room_id, judged.until, until).await?;
        if !events.is_empty() {
            let judge = self.judge_of(user_id, room_id, row, ignored).await?;
            for event in events.iter().rev() {
                if let Some(notifying) = judge_event(&judge, event).await {
                    judged.notifying.push_back(notifying);
                }
            }
        }
        judged.until = until;
        judged.from = floor;
        while judged.notifying.len() > MAX_JUDGED
            || judged.notifying.front().is_some_and(|first| first.position <= floor)
        {
            judged.notifying.pop_front();
        }
        let judged = Arc::new(judged);
        self.counts.judged.insert(key, Arc::clone(&judged));
        Ok(judged)
    }

    /// The newest events of a stretch, newest first.
    async fn newest(
        &self,
        room_id: &RoomId,
        after: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let mut stretch = Stretch {
            after: TimelineToken::at_position(after),
            until: TimelineToken::at_position(until),
        };
        let mut events = Vec::new();
        while events.len() < MAX_JUDGED {
            let rows =
                self.rooms.timeline_page(room_id, stretch, Direction::Backward, PAGE).await?;
            let ordinals: Vec<EventOrdinal> = rows.iter().map(|(_, row)| row.ordinal).collect();
            events.extend(self.rooms.events(room_id, &ordinals).await?);
            match rows.last() {
                Some((index, _)) if rows.len() == PAGE => {
                    stretch.until = TimelineToken::before(*index);
                }
                _ => break,
            }
        }
        Ok(events)
    }

    /// Adds up what lies after the marks. Events that were redacted since do not count.
    async fn count(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        judged: &Judged,
        marks: &ReadMarks,
        until: StreamPosition,
    ) -> Result<UnreadTotals, SyncError> {
        let mut totals = UnreadTotals::default();
        let mut own = HashMap::new();
        for event in judged.notifying.iter().filter(|event| event.position <= until) {
            let mark = match &event.thread {
                None => marks.main_timeline(),
                Some(root) => marks.thread(root),
            };
            if event.position <= mark {
                continue;
            }
            // Whoever sends has read what came before (CS "Marking notifications as read").
            let last_own = if let Some(position) = own.get(&event.thread) {
                *position
            } else {
                let thread = event.thread.as_deref();
                let position = self.rooms.last_own(room_id, user_id, thread, until).await?;
                own.insert(&event.thread, position);
                position
            };
            if event.position <= last_own {
                continue;
            }
            if self.rooms.event(room_id, event.ordinal).await?.header.redacted_by.is_some() {
                continue;
            }
            let one = UnreadCounts { notifications: 1, highlights: u64::from(event.highlights) };
            let counts = match &event.thread {
                None => &mut totals.main,
                Some(root) => totals.threads.entry(root.clone()).or_default(),
            };
            *counts = counts.plus(one);
        }
        Ok(totals)
    }
}

/// Judges one event.
async fn judge_event(judge: &Judge, event: &StoredEvent) -> Option<Notifying> {
    let Some(TimelineIndex::Live(position)) = event.index else { return None };
    if event.header.redacted_by.is_some() {
        return None;
    }
    let actions = judge.actions(&event.pdu).await?;
    Some(Notifying {
        position,
        ordinal: event.ordinal,
        thread: thread_of(event),
        highlights: actions.iter().any(Action::is_highlight),
    })
}
