//! Receipts (CS "Receipts"): one row per room, user, type and thread; never moving backwards.
//!
//! One task writes them: it gathers what arrives while its last commits are under way, so that a
//! storm costs few commits. They are lazily durable.

use std::collections::BTreeMap;

use hearth_storage::{Keyspace, Positioned, postcard_record};
use hearth_types::StreamPosition;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde::{Deserialize, Serialize};

use crate::{Users, UsersError};

/// Clustering: user, receipt type, thread (empty: unthreaded; `main`; or the root's event ID).
pub(crate) const RECEIPTS: Keyspace<
    OwnedRoomId,
    (OwnedUserId, String, String),
    Positioned<ReceiptRow>,
> = Keyspace::new("receipts");

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

impl Users {
    /// Sets a receipt; `None` if it would move backwards or stand still, and so nothing happened.
    /// Returns after it is applied and visible.
    pub async fn set_receipt(
        &self,
        update: ReceiptUpdate,
    ) -> Result<Option<StreamPosition>, UsersError> {
        todo!()
    }

    /// All receipts of a room that `viewer` may see (others' private ones are not among them), written
    /// up to `until`.
    pub async fn receipts(
        &self,
        room_id: &RoomId,
        viewer: &UserId,
        until: StreamPosition,
    ) -> Result<Vec<ReceiptEntry>, UsersError> {
        todo!()
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
        todo!()
    }

    /// How far a user has read a room.
    pub async fn read_positions(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<ReadPositions, UsersError> {
        todo!()
    }
}
