//! The receipts extension: of a room that is new to the client the receipts of what it is shown, and its
//! own user's (MSC3960); then what moves.
//!
//! An answer has one `m.receipt` event for each room, and such an event one receipt for each event, type and
//! user. Where a user has several at one event, unthreaded and in threads, those that find no place come
//! with the next answers: clients keep receipts of different threads apart (CS "Receipts").

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use hearth_rooms::schema::StoredEvent;
use hearth_types::StreamPosition;
use hearth_users::ReceiptEntry;
use ruma::{EventId, OwnedRoomId, RoomId, events::receipt::ReceiptThread};

use super::{
    connection::{Draft, Stage},
    extensions::event,
    pass::Look,
    request::Scope,
    view::{InView, View},
};
use crate::{
    SyncError,
    ephemeral::{contents, shown_receipts},
};

/// Receipts that one connection remembers for the next answers; what is beyond is not told, and is less
/// than what was told for the same event.
const MAX_LEFT: usize = 1_000;

/// Receipts that found no place in an answer, by room.
pub(crate) type ReceiptsLeft = HashMap<OwnedRoomId, Vec<ReceiptEntry>>;

impl Look<'_> {
    pub(crate) async fn receipts(
        &self,
        scope: &Scope,
        view: &View<'_>,
        draft: &mut Draft,
    ) -> Result<Vec<(OwnedRoomId, Vec<u8>)>, SyncError> {
        let mut told = Vec::new();
        for room in self.covered(scope, view).filter(|room| room.stage == Stage::Joined) {
            let Some(known) = draft.known(self.base, &room.topic).map(|sent| sent.receipts) else {
                continue;
            };
            let left = draft.receipts_left.remove(room.room_id).unwrap_or_default();
            let unchanged = |since| !self.changed_since(room.room_id, &room.topic, since);
            let entries = match known {
                Some(since) if unchanged(since) && left.is_empty() => continue,
                Some(since) => {
                    let (users, until) = (&self.inner.users, self.until);
                    let changes = users.receipt_changes(room.room_id, self.user_id, since, until);
                    changes.await?
                }
                None => match draft.receipts.remove(&room.topic) {
                    Some(entries) => entries,
                    None => self.first_receipts(room, draft).await?,
                },
            };
            if let Some(sent) = draft.room(self.base, &room.topic) {
                sent.receipts = Some(self.until);
            }
            if entries.is_empty() && left.is_empty() {
                continue;
            }
            let large = self.is_large(room.room_id).await?;
            let mut entries = shown_receipts(self.user_id, self.ignored, entries, large);
            self.inner.keep_own_deliveries(self.user_id, room.room_id, &mut entries).await?;
            let entries = draft.fit_receipts(room.room_id, with_left(entries, left));
            if let Some(content) = contents(entries).first() {
                told.push((room.room_id.to_owned(), event("m.receipt", content)));
            }
        }
        Ok(told)
    }

    /// All receipts of a room, if the client wants to be told of them: for a room that is new to it, and
    /// not large.
    pub(crate) async fn all_receipts(
        &self,
        room: &InView<'_>,
    ) -> Result<Option<Vec<ReceiptEntry>>, SyncError> {
        let scope = self.rules.extensions.receipts.as_ref();
        if !scope.is_some_and(|scope| self.covers(scope, room)) {
            return Ok(None);
        }
        let all = self.inner.users.receipts(room.room_id, self.user_id, StreamPosition::MAX);
        Ok(Some(all.await?))
    }

    /// Those of a room's receipts that go with these events, and the user's own.
    pub(crate) fn receipts_of(
        &self,
        events: &[Arc<StoredEvent>],
        mut entries: Vec<ReceiptEntry>,
    ) -> Vec<ReceiptEntry> {
        let shown: HashSet<&EventId> = events.iter().map(|event| event.pdu.id()).collect();
        entries.retain(|entry| {
            entry.position <= self.until
                && (entry.user_id == self.user_id || shown.contains(&*entry.event_id))
        });
        entries
    }

    /// The receipts to be told of a room of which none were so far.
    async fn first_receipts(
        &self,
        room: &InView<'_>,
        draft: &Draft,
    ) -> Result<Vec<ReceiptEntry>, SyncError> {
        let users = &self.inner.users;
        if self.is_large(room.room_id).await? {
            let mut own = users.own_receipts(room.room_id, self.user_id).await?;
            own.retain(|entry| entry.position <= self.until);
            return Ok(own);
        }
        // A room that was sent before, without receipts: what it showed then is not known any more. With
        // them: what is lacking are those of older events that are shown now, and what has moved.
        let sent = self.base.rooms.get(&room.topic).filter(|sent| sent.stage == Stage::Joined);
        let since = sent.and_then(|sent| sent.receipts);
        let shown = draft.shown.get(&room.topic).filter(|_| sent.is_none() || since.is_some());
        let shown: Option<HashSet<&EventId>> =
            shown.map(|events| events.iter().map(|id| &**id).collect());
        let mut entries = users.receipts(room.room_id, self.user_id, self.until).await?;
        entries.retain(|entry| {
            entry.user_id == self.user_id
                || since.is_some_and(|since| entry.position > since)
                || shown.as_ref().is_none_or(|shown| shown.contains(&*entry.event_id))
        });
        Ok(entries)
    }
}

/// What moved, and what was left over of before and has not moved again.
fn with_left(mut entries: Vec<ReceiptEntry>, left: Vec<ReceiptEntry>) -> Vec<ReceiptEntry> {
    let moved = entries.len();
    for old in left {
        let is_old = |new: &ReceiptEntry| {
            (&new.user_id, &new.receipt_type, &new.thread)
                == (&old.user_id, &old.receipt_type, &old.thread)
        };
        if !entries.iter().take(moved).any(is_old) {
            entries.push(old);
        }
    }
    entries
}

impl Draft {
    /// Those of a room's receipts that one event can hold; the others are left for later. What says most
    /// comes first: an unthreaded receipt counts for all threads, and roots of threads are in the main
    /// timeline.
    fn fit_receipts(
        &mut self,
        room_id: &RoomId,
        mut entries: Vec<ReceiptEntry>,
    ) -> Vec<ReceiptEntry> {
        entries.sort_by_key(|entry| match entry.thread {
            ReceiptThread::Unthreaded => 0,
            ReceiptThread::Main => 1,
            _ => 2,
        });
        let mut places = HashSet::new();
        let (told, mut left): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| {
            places.insert((
                entry.event_id.clone(),
                entry.receipt_type.clone(),
                entry.user_id.clone(),
            ))
        });
        left.truncate(MAX_LEFT.saturating_sub(self.receipts_left.values().map(Vec::len).sum()));
        if !left.is_empty() {
            self.receipts_left.insert(room_id.to_owned(), left);
        }
        told
    }
}
