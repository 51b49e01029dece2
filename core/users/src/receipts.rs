//! Receipts (CS "Receipts"): one row per room, user, type and thread; never moving backwards.
//!
//! One task writes them ([`writer`]): it gathers what arrives while its last commits are under way, so
//! that a storm costs few commits. They are lazily durable. What changed lately in each room is kept in
//! memory ([`recent`]), for syncs.

mod recent;
mod writer;

use std::{collections::BTreeMap, ops::Bound};

use hearth_storage::{Direction, Keyspace, Positioned, postcard_record};
use hearth_types::{StreamPosition, limits::MAX_ID_BYTES};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde::{Deserialize, Serialize};

use self::recent::Recent;
pub(crate) use self::writer::ReceiptLine;
use crate::{Users, UsersError};

/// Clustering: user, receipt type, thread (empty: unthreaded; `main`; or the root's event ID).
pub(crate) const RECEIPTS: Keyspace<OwnedRoomId, ReceiptKey, Positioned<ReceiptRow>> =
    Keyspace::new("receipts");

pub(crate) type ReceiptKey = (OwnedUserId, String, String);

/// The longest receipt type in bytes: room, user, type and thread must fit a key of 1 KiB.
const MAX_TYPE_BYTES: usize = 64;
/// Rows of one user in one room that are read at once.
const OWN_ROWS: usize = 100;
/// Rows of one user in one room that are looked at, at most: as many threads can be told apart.
const MAX_OWN_ROWS: usize = 50_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceiptRow {
    pub(crate) event_id: OwnedEventId,
    pub(crate) ts_ms: u64,
    pub(crate) timeline_position: u64,
}
postcard_record!(ReceiptRow, version = 1);

/// A receipt to be set. The caller has checked membership and that the event is in the room, and in
/// the thread if one is named.
#[derive(Clone, Debug)]
pub struct ReceiptUpdate {
    /// In which room.
    pub room_id: OwnedRoomId,
    /// Whose.
    pub user_id: OwnedUserId,
    /// `m.read`, `m.read.private` (which only its user sees) or a namespaced public one.
    pub receipt_type: ReceiptType,
    /// Which thread it is about.
    pub thread: ReceiptThread,
    /// The event that was read.
    pub event_id: OwnedEventId,
    /// The event's place in the room's timeline: greater is later.
    pub timeline_position: u64,
    /// Shall the room's other members be woken? Not in very large rooms.
    pub fan_out: bool,
    /// When it was read, in milliseconds since the epoch, if somebody else says so.
    pub ts_ms: Option<u64>,
}

/// A receipt as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptEntry {
    /// When it was written.
    pub position: StreamPosition,
    /// Whose.
    pub user_id: OwnedUserId,
    /// Its type.
    pub receipt_type: ReceiptType,
    /// Its thread.
    pub thread: ReceiptThread,
    /// The event that was read.
    pub event_id: OwnedEventId,
    /// When, in milliseconds since the epoch.
    pub ts_ms: u64,
    /// The event's place in the room's timeline.
    pub timeline_position: u64,
}

/// How far a user has read a room, in timeline positions: of public and private receipts the further
/// one. A receipt in a thread's place says nothing about other threads; an unthreaded one counts for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadPositions {
    /// Unthreaded receipts.
    pub unthreaded: Option<u64>,
    /// Receipts of the main timeline.
    pub main: Option<u64>,
    /// Receipts of threads, by root.
    pub threads: BTreeMap<OwnedEventId, u64>,
}

impl ReadPositions {
    /// How far the main timeline is read.
    #[must_use]
    pub fn main_timeline(&self) -> Option<u64> {
        self.unthreaded.max(self.main)
    }

    /// How far a thread is read.
    #[must_use]
    pub fn thread(&self, root: &ruma::EventId) -> Option<u64> {
        self.unthreaded.max(self.threads.get(root).copied())
    }
}

impl ReceiptEntry {
    fn new(
        (user_id, receipt_type, thread): ReceiptKey,
        position: StreamPosition,
        row: ReceiptRow,
    ) -> Self {
        let thread = Some(thread).filter(|thread| !thread.is_empty());
        Self {
            position,
            user_id,
            receipt_type: ReceiptType::from(receipt_type),
            // Checked when it was written.
            thread: ReceiptThread::try_from(thread).unwrap_or_default(),
            event_id: row.event_id,
            ts_ms: row.ts_ms,
            timeline_position: row.timeline_position,
        }
    }
}

fn is_visible(key: &ReceiptKey, viewer: &UserId) -> bool {
    key.1 != ReceiptType::ReadPrivate.as_str() || key.0 == viewer
}

impl Users {
    /// Sets a receipt; `None` if it would move backwards or stand still, and so nothing happened.
    /// Returns after it is applied and visible.
    pub async fn set_receipt(
        &self,
        update: ReceiptUpdate,
    ) -> Result<Option<StreamPosition>, UsersError> {
        let receipt_type = update.receipt_type.as_str();
        if receipt_type.is_empty()
            || receipt_type.len() > MAX_TYPE_BYTES
            || !receipt_type.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(UsersError::InvalidName(
                "receipt types have 1 to 64 visible ASCII characters",
            ));
        }
        if update.thread.as_str().is_some_and(|thread| {
            thread.is_empty() || thread.len() > MAX_ID_BYTES || thread.contains('\0')
        }) {
            return Err(UsersError::InvalidName("thread IDs have 1 to 255 bytes"));
        }
        self.inner.receipts.set(update).await
    }

    /// All receipts of a room that `viewer` may see (others' private ones are not among them), written
    /// up to `until`.
    pub async fn receipts(
        &self,
        room_id: &RoomId,
        viewer: &UserId,
        until: StreamPosition,
    ) -> Result<Vec<ReceiptEntry>, UsersError> {
        self.scan_receipts(room_id, viewer, StreamPosition::ZERO, until).await
    }

    /// A user's own receipts in a room. Costs what they have there, not what the room has.
    pub async fn own_receipts(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Vec<ReceiptEntry>, UsersError> {
        let rows = self.own_rows(room_id, user_id).await?;
        Ok(rows
            .into_iter()
            .map(|(key, row)| ReceiptEntry::new(key, row.position, row.record))
            .collect())
    }

    /// The receipts of a room that `viewer` may see and that were written after `since` and up to
    /// `until`. From memory if `since` is recent.
    pub async fn receipt_changes(
        &self,
        room_id: &RoomId,
        viewer: &UserId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<ReceiptEntry>, UsersError> {
        if since >= until {
            return Ok(Vec::new());
        }
        let seen = |key: &ReceiptKey| is_visible(key, viewer);
        let found = self.inner.receipts.recent().lock().changes(room_id, since, until, seen);
        let Some(Recent { mut entries, unsettled }) = found else {
            return self.scan_receipts(room_id, viewer, since, until).await;
        };
        if unsettled.is_empty() {
            return Ok(entries);
        }
        // Being committed at this moment, perhaps already visible: the store knows.
        let rows = self.store().get_many(&RECEIPTS, &room_id.to_owned(), &unsettled).await?;
        for (key, row) in unsettled.into_iter().zip(rows) {
            let Some(Positioned { position, record }) = row else { continue };
            let thread = Some(&*key.2).filter(|thread| !thread.is_empty());
            entries.retain(|entry| {
                entry.user_id != key.0
                    || entry.receipt_type.as_str() != key.1
                    || entry.thread.as_str() != thread
            });
            if since < position && position <= until {
                entries.push(ReceiptEntry::new(key, position, record));
            }
        }
        Ok(entries)
    }

    /// Has any receipt of the room, private ones of others included, been written after `since`? From
    /// memory; "yes" when memory does not reach back so far.
    #[must_use]
    pub fn receipts_changed_since(&self, room_id: &RoomId, since: StreamPosition) -> bool {
        self.inner.receipts.recent().lock().changed_since(room_id, since)
    }

    async fn scan_receipts(
        &self,
        room_id: &RoomId,
        viewer: &UserId,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Vec<ReceiptEntry>, UsersError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.store().page_all(&RECEIPTS, &room_id.to_owned(), all).await?;
        let seen = rows.into_iter().filter(|(key, row)| {
            since < row.position && row.position <= until && is_visible(key, viewer)
        });
        Ok(seen.map(|(key, row)| ReceiptEntry::new(key, row.position, row.record)).collect())
    }

    /// How far a user has read a room.
    pub async fn read_positions(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<ReadPositions, UsersError> {
        Ok(ReadPositions::of(&self.own_receipts(room_id, user_id).await?))
    }

    async fn own_rows(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Vec<(ReceiptKey, Positioned<ReceiptRow>)>, UsersError> {
        let (user_id, room_id) = (user_id.to_owned(), room_id.to_owned());
        let forward = Direction::Forward;
        let mut rows = self
            .store()
            .page_prefix(&RECEIPTS, &room_id, &(user_id.clone(),), forward, OWN_ROWS)
            .await?;
        if rows.len() >= OWN_ROWS {
            rows = self
                .store()
                .bulk(move |view| {
                    view.page_prefix(&RECEIPTS, &room_id, &(user_id,), forward, MAX_OWN_ROWS)
                })
                .await?;
        }
        Ok(rows)
    }
}

impl ReadPositions {
    /// What these receipts of one user in one room say.
    #[must_use]
    pub fn of<'a>(own: impl IntoIterator<Item = &'a ReceiptEntry>) -> Self {
        let mut read = Self::default();
        let counts = |entry: &&ReceiptEntry| {
            matches!(entry.receipt_type, ReceiptType::Read | ReceiptType::ReadPrivate)
        };
        for entry in own.into_iter().filter(counts) {
            let position = Some(entry.timeline_position);
            match &entry.thread {
                ReceiptThread::Unthreaded => read.unthreaded = read.unthreaded.max(position),
                ReceiptThread::Main => read.main = read.main.max(position),
                ReceiptThread::Thread(root) => {
                    let known = read.threads.get(root).copied();
                    let further = known.max(position).map(|position| (root.clone(), position));
                    read.threads.extend(further);
                }
                _ => {}
            }
        }
        read
    }
}

#[cfg(test)]
mod tests;
