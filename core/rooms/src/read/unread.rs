//! Unread counts from the ledger: differences of running totals.
//!
//! The writer keeps, per scope (the main timeline or one thread), how many events so far notify by the
//! default push rules, how many of them each local sender sent, which were redacted since, and who was
//! mentioned where. A user's count is what came after their read mark; whoever sends a message has read
//! its scope up to there (CS "Marking notifications as read"). It costs a few look-ups, however much is
//! unread.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use hearth_storage::Direction;
use hearth_types::StreamPosition;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    ReadError, Rooms,
    schema::{
        MAIN_TIMELINE, MENTIONS, MentionRow, NOTIFY_TOTALS, OWN_TOTALS, ROOM_MENTIONS,
        THREADS_BY_ACTIVITY, TimelineIndex, UNCOUNTED,
    },
};

/// Threads with news that are told apart; older ones count as read.
const MAX_THREADS: usize = 200;
/// Highlights and uncounted events that are looked at for one user in one room: counts stop growing
/// there.
const MAX_ROWS: usize = 1_000;
const PAGE: usize = 100;
/// Totals that a [`LedgerTail`] holds: who has read all but a few messages is counted from memory.
const KEPT_TOTALS: usize = 4;

/// How far a user has read a room, as stream positions of timeline events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadMarks {
    /// Since when the user has been in the room: nothing before it counts.
    pub joined_at: StreamPosition,
    /// What an unthreaded receipt covers: every thread and the main timeline.
    pub unthreaded: StreamPosition,
    /// What a receipt for the main timeline covers.
    pub main: StreamPosition,
    /// What receipts for threads cover, by root.
    pub threads: BTreeMap<OwnedEventId, StreamPosition>,
}

impl ReadMarks {
    /// Nothing up to here is unread in any scope.
    #[must_use]
    pub fn floor(&self) -> StreamPosition {
        self.joined_at.max(self.unthreaded)
    }

    /// How far the main timeline is read.
    #[must_use]
    pub fn main_timeline(&self) -> StreamPosition {
        self.floor().max(self.main)
    }

    /// How far a thread is read.
    #[must_use]
    pub fn thread(&self, root: &EventId) -> StreamPosition {
        self.floor().max(self.threads.get(root).copied().unwrap_or_default())
    }
}

/// Unread events of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnreadCounts {
    /// Events that notify.
    pub notifications: u64,
    /// Events that notify loudly.
    pub highlights: u64,
}

impl UnreadCounts {
    /// Is there none?
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Both scopes together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            notifications: self.notifications.saturating_add(other.notifications),
            highlights: self.highlights.saturating_add(other.highlights),
        }
    }
}

/// Unread events of one room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnreadTotals {
    /// Outside of threads.
    pub main: UnreadCounts,
    /// Threads with unread events, by root.
    pub threads: BTreeMap<OwnedEventId, UnreadCounts>,
}

impl UnreadTotals {
    /// All scopes together.
    #[must_use]
    pub fn sum(&self) -> UnreadCounts {
        self.threads.values().fold(self.main, |sum, counts| sum.plus(*counts))
    }
}

/// The newest rows of a room's ledger as of a position: the same for all readers, so that whoever
/// serves many of them reads it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerTail {
    /// The main timeline's newest totals, and where they stand, newest first. Where there are fewer than
    /// the places for them, there are no others.
    main: [Option<(StreamPosition, u64)>; KEPT_TOTALS],
    /// The newest event of the main timeline that was counted and then redacted.
    uncounted: StreamPosition,
    /// The newest reply in any thread.
    thread: StreamPosition,
    /// The newest highlight for everybody.
    room_mention: StreamPosition,
}

impl LedgerTail {
    /// The main timeline's total at a position, if that can be told from here.
    fn main_total(&self, at: StreamPosition) -> Option<u64> {
        let mut kept = self.main.iter().map(|kept| kept.unwrap_or_default());
        kept.find(|(position, _)| *position <= at).map(|(_, total)| total)
    }
}

/// One scope while it is counted.
struct Scope {
    number: u32,
    root: Option<OwnedEventId>,
    from: StreamPosition,
    counts: UnreadCounts,
}

impl Rooms {
    /// The tail of a room's ledger for readers who know everything up to `until`.
    pub async fn ledger_tail(
        &self,
        room_id: &RoomId,
        until: StreamPosition,
    ) -> Result<LedgerTail, ReadError> {
        let (store, room_id, back) = (self.store(), room_id.to_owned(), Direction::Backward);
        let main = (MAIN_TIMELINE, StreamPosition::ZERO)..=(MAIN_TIMELINE, until);
        let totals = store.page(&NOTIFY_TOTALS, &room_id, main.clone(), back, KEPT_TOTALS).await?;
        let mut totals = totals.into_iter().map(|((_, position), row)| (position, row.0));
        let uncounted = store.page(&UNCOUNTED, &room_id, main, back, 1).await?;
        // Activity moves on with each reply: what lies after `until` was before it, too.
        let threads = store.page(&THREADS_BY_ACTIVITY, &room_id, .., back, 1).await?;
        let mentions = store.page(&ROOM_MENTIONS, &room_id, ..=until, back, 1).await?;
        Ok(LedgerTail {
            main: std::array::from_fn(|_| totals.next()),
            uncounted: uncounted.first().map_or(StreamPosition::ZERO, |((_, at), _)| *at),
            thread: threads.first().map_or(StreamPosition::ZERO, |(index, _)| index.position()),
            room_mention: mentions.first().map_or(StreamPosition::ZERO, |(at, _)| *at),
        })
    }

    /// What is unread for a local user, judged by the default push rules, with everything up to
    /// `until` known to them. The tail is the room's for this position.
    pub async fn unread(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        marks: &ReadMarks,
        until: StreamPosition,
        tail: &LedgerTail,
    ) -> Result<UnreadTotals, ReadError> {
        let ledger = Ledger {
            rooms: self,
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            until,
            tail,
        };
        let mut main = Scope {
            number: MAIN_TIMELINE,
            root: None,
            from: marks.main_timeline(),
            counts: UnreadCounts::default(),
        };
        ledger.count(&mut main, tail.main.first().copied().flatten()).await?;
        let mut scopes = vec![main];
        if tail.thread > marks.floor() {
            for mut scope in ledger.threads(marks).await? {
                let total = ledger.total(scope.number, until).await?;
                ledger.count(&mut scope, total).await?;
                scopes.push(scope);
            }
        }
        // Only what notifies can highlight.
        if scopes.iter().any(|scope| scope.counts.notifications > 0) {
            ledger.highlights(marks.floor(), &mut scopes).await?;
        }
        let mut totals = UnreadTotals::default();
        for scope in scopes {
            match scope.root {
                None => totals.main = scope.counts,
                Some(root) if !scope.counts.is_zero() => {
                    totals.threads.insert(root, scope.counts);
                }
                Some(_) => {}
            }
        }
        Ok(totals)
    }
}

impl Rooms {
    /// Where a user's newest message in the main timeline or a thread stands, up to a position: they
    /// have read everything before it. Zero if there is none.
    pub async fn last_own(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        thread: Option<&EventId>,
        until: StreamPosition,
    ) -> Result<StreamPosition, ReadError> {
        let scope = match thread {
            None => MAIN_TIMELINE,
            Some(root) => match self.event_by_id(room_id, root).await? {
                Some(root) => root.ordinal,
                None => return Ok(StreamPosition::ZERO),
            },
        };
        let key = |position| (user_id.to_owned(), scope, position);
        let (room_id, range) = (room_id.to_owned(), key(StreamPosition::ZERO)..=key(until));
        let rows = self.store().page(&OWN_TOTALS, &room_id, range, Direction::Backward, 1).await?;
        Ok(rows.first().map_or(StreamPosition::ZERO, |((_, _, position), _)| *position))
    }
}

/// One room's ledger as one user reads it.
struct Ledger<'a> {
    rooms: &'a Rooms,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    until: StreamPosition,
    tail: &'a LedgerTail,
}

impl Ledger<'_> {
    /// The threads with replies that the user has not read, newest activity first.
    async fn threads(&self, marks: &ReadMarks) -> Result<Vec<Scope>, ReadError> {
        let mut scopes = Vec::new();
        let mut range = (
            Bound::Excluded(TimelineIndex::Live(marks.floor())),
            Bound::Included(TimelineIndex::END),
        );
        while scopes.len() < MAX_THREADS {
            let rows = self
                .rooms
                .store()
                .page(&THREADS_BY_ACTIVITY, &self.room_id, range, Direction::Backward, PAGE)
                .await?;
            for (index, row) in &rows {
                let root = self.rooms.event(&self.room_id, row.0).await?;
                let from = marks.thread(root.pdu.id());
                if TimelineIndex::Live(from) < *index {
                    scopes.push(Scope {
                        number: row.0,
                        root: Some(root.pdu.id().to_owned()),
                        from,
                        counts: UnreadCounts::default(),
                    });
                }
            }
            match rows.last() {
                Some((index, _)) if rows.len() == PAGE => range.1 = Bound::Excluded(*index),
                _ => break,
            }
        }
        scopes.truncate(MAX_THREADS);
        Ok(scopes)
    }

    /// Counts what notifies this user in a scope by the default rules, given the scope's newest total.
    async fn count(
        &self,
        scope: &mut Scope,
        newest: Option<(StreamPosition, u64)>,
    ) -> Result<(), ReadError> {
        let Some((last, total)) = newest else { return Ok(()) };
        if last <= scope.from {
            return Ok(());
        }
        scope.from = scope.from.max(self.last_own(scope).await?);
        if last <= scope.from {
            return Ok(());
        }
        let kept = (scope.number == MAIN_TIMELINE).then(|| self.tail.main_total(scope.from));
        let earlier = match kept.flatten() {
            Some(total) => total,
            None => self.total(scope.number, scope.from).await?.map_or(0, |(_, total)| total),
        };
        let others = total.saturating_sub(earlier);
        let uncounted = self.uncounted(scope.number, scope.from).await?;
        scope.counts.notifications = others.saturating_sub(uncounted);
        Ok(())
    }

    /// The newest running total of a scope up to a position, and where it stands.
    async fn total(
        &self,
        scope: u32,
        until: StreamPosition,
    ) -> Result<Option<(StreamPosition, u64)>, ReadError> {
        let range = (scope, StreamPosition::ZERO)..=(scope, until);
        let rows = self
            .rooms
            .store()
            .page(&NOTIFY_TOTALS, &self.room_id, range, Direction::Backward, 1)
            .await?;
        Ok(rows.first().map(|((_, position), row)| (*position, row.0)))
    }

    /// Where the user's newest message of a scope stands.
    async fn last_own(&self, scope: &Scope) -> Result<StreamPosition, ReadError> {
        let thread = scope.root.as_deref();
        self.rooms.last_own(&self.room_id, &self.user_id, thread, self.until).await
    }

    /// Others' events after `from` that were counted and then redacted.
    async fn uncounted(&self, scope: u32, from: StreamPosition) -> Result<u64, ReadError> {
        if scope == MAIN_TIMELINE && self.tail.uncounted <= from {
            return Ok(0);
        }
        let mut uncounted = 0;
        let mut start = Bound::Excluded((scope, from));
        let end = Bound::Included((scope, self.until));
        for _ in 0..MAX_ROWS / PAGE {
            let rows = self
                .rooms
                .store()
                .page(&UNCOUNTED, &self.room_id, (start, end), Direction::Forward, PAGE)
                .await?;
            let others = rows.iter().filter(|(_, row)| row.sender != self.user_id).count();
            uncounted += u64::try_from(others).unwrap_or(u64::MAX);
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => start = Bound::Excluded(*key),
                _ => break,
            }
        }
        Ok(uncounted)
    }

    /// Adds the highlights after each scope's mark.
    async fn highlights(
        &self,
        floor: StreamPosition,
        scopes: &mut [Scope],
    ) -> Result<(), ReadError> {
        let own = self.own_mentions(floor).await?;
        let room = if self.tail.room_mention > floor {
            self.room_mentions(floor).await?
        } else {
            Vec::new()
        };
        let by_number: HashMap<u32, usize> =
            scopes.iter().enumerate().map(|(at, scope)| (scope.number, at)).collect();
        let mut counted = std::collections::HashSet::new();
        for (position, row) in own.into_iter().chain(room) {
            let scope = by_number.get(&row.scope).and_then(|at| scopes.get_mut(*at));
            // Somebody mentioned by name in a message to the whole room is highlighted once.
            if let Some(scope) = scope
                && position > scope.from
                && row.sender != self.user_id
                && counted.insert(position)
            {
                scope.counts.highlights += 1;
            }
        }
        Ok(())
    }

    async fn own_mentions(
        &self,
        floor: StreamPosition,
    ) -> Result<Vec<(StreamPosition, MentionRow)>, ReadError> {
        let mut mentions = Vec::new();
        let mut start = Bound::Excluded((self.room_id.clone(), floor));
        let end = Bound::Included((self.room_id.clone(), self.until));
        while mentions.len() < MAX_ROWS {
            let range = (start, end.clone());
            let rows = self
                .rooms
                .store()
                .page(&MENTIONS, &self.user_id, range, Direction::Forward, PAGE)
                .await?;
            let full = rows.len() == PAGE;
            mentions.extend(rows.into_iter().map(|((_, position), row)| (position, row)));
            match mentions.last() {
                Some((position, _)) if full => {
                    start = Bound::Excluded((self.room_id.clone(), *position));
                }
                _ => break,
            }
        }
        Ok(mentions)
    }

    async fn room_mentions(
        &self,
        floor: StreamPosition,
    ) -> Result<Vec<(StreamPosition, MentionRow)>, ReadError> {
        let mut mentions: Vec<(StreamPosition, MentionRow)> = Vec::new();
        let mut start = Bound::Excluded(floor);
        while mentions.len() < MAX_ROWS {
            let range = (start, Bound::Included(self.until));
            let rows = self
                .rooms
                .store()
                .page(&ROOM_MENTIONS, &self.room_id, range, Direction::Forward, PAGE)
                .await?;
            let full = rows.len() == PAGE;
            mentions.extend(rows);
            match mentions.last() {
                Some((position, _)) if full => start = Bound::Excluded(*position),
                _ => break,
            }
        }
        Ok(mentions)
    }
}
