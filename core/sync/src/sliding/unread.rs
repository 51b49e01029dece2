//! Unread counts of rooms that are new to a connection. A client begins anew whenever it starts, with all
//! its rooms, most of which are as they were: what was counted then is remembered.

use hearth_rooms::read::ReadMarks;
use hearth_types::StreamPosition;
use hearth_users::{ReadPositions, ReceiptEntry};
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId};

use super::{pass::Look, view::InView};
use crate::{SyncError, judge::marks};

/// Users times rooms whose counts are remembered.
const MAX_COUNTED: usize = 50_000;
/// Threads that somebody has read apart; where there are more, the counts are not remembered.
const MAX_THREADS: usize = 16;

/// What is remembered, by user and room.
pub(crate) struct UnreadCache(Cache<(OwnedUserId, OwnedRoomId), Counted>);

/// Counts that hold while neither the room nor the user's own data change, nor how far they have read.
#[derive(Clone)]
struct Counted {
    until: StreamPosition,
    marks: ReadMarks,
    unread: Unread,
}

/// What is unread in a room, threads included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) notifications: u64,
    pub(crate) highlights: u64,
}

impl UnreadCache {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_COUNTED))
    }
}

impl Look<'_> {
    /// What is unread in a room that the client knows.
    pub(crate) async fn unread(&self, room: &InView<'_>) -> Result<Unread, SyncError> {
        let read = self.inner.users.read_positions(self.user_id, room.room_id).await?;
        self.count(room, &marks(room.row, read)).await
    }

    /// What is unread in a room that is new to the client; `receipts`: those of the room, if they are at hand.
    pub(crate) async fn first_unread(
        &self,
        room: &InView<'_>,
        receipts: Option<&[ReceiptEntry]>,
    ) -> Result<Unread, SyncError> {
        let read = match receipts {
            Some(all) => {
                ReadPositions::of(all.iter().filter(|entry| entry.user_id == self.user_id))
            }
            None => self.inner.users.read_positions(self.user_id, room.room_id).await?,
        };
        let marks = marks(room.row, read);
        let cache = &self.inner.sliding.unread.0;
        let key = (self.user_id.to_owned(), room.room_id.to_owned());
        if let Some(known) = cache.get(&key)
            && known.until <= self.until
            && known.marks == marks
            && !self.inner.notifier().changed_since(&room.topic, known.until)
            && !self.inner.notifier().changed_since(self.session.topic(), known.until)
        {
            return Ok(known.unread);
        }
        let unread = self.count(room, &marks).await?;
        if marks.threads.len() <= MAX_THREADS {
            cache.insert(key, Counted { until: self.until, marks, unread });
        }
        Ok(unread)
    }

    async fn count(&self, room: &InView<'_>, marks: &ReadMarks) -> Result<Unread, SyncError> {
        let (user_id, until) = (self.user_id, self.until);
        let totals = self.inner.unread_after(user_id, room.room_id, room.row, marks, until).await?;
        let sum = totals.sum();
        Ok(Unread { notifications: sum.notifications, highlights: sum.highlights })
    }
}
