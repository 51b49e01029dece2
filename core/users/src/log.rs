//! What this crate writes into the store's log, for its consumers.

use bytes::Bytes;
use hearth_storage::{LogEntry, Topic};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

/// Kinds of log entries that this crate writes: 32 to 63 are its share of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogKind {
    /// A public receipt moved. Topic: the room; payload: [`ReceiptLog`] in JSON.
    Receipt = 32,
    /// A private receipt moved. Topic: the user; payload: [`ReceiptLog`] in JSON.
    PrivateReceipt = 33,
    /// Account data changed, a tag included. Topic: the user; payload: the room's ID or nothing, a
    /// zero byte, the type.
    AccountData = 34,
    /// A device appeared, changed its name or went. Topic: the user; payload: the device's ID.
    Device = 35,
    /// The profile changed. Topic: the user; payload: the field's key.
    Profile = 36,
    /// The account was made, deactivated, locked, suspended or given rights. Topic: the user; no
    /// payload.
    Account = 37,
}

/// What consumers of the log learn about a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLog {
    /// In which room.
    pub room_id: OwnedRoomId,
    /// Whose receipt.
    pub user_id: OwnedUserId,
    /// `m.read` and the like.
    pub receipt_type: String,
    /// Empty (unthreaded), `main` or the thread's root.
    pub thread: String,
    /// The event that was read.
    pub event_id: OwnedEventId,
    /// When, in milliseconds.
    pub ts_ms: u64,
}

pub(crate) fn user_entry(kind: LogKind, user_id: &UserId, payload: &[u8]) -> LogEntry {
    LogEntry {
        kind: kind as u8,
        topic: Topic::new(user_id.as_str()),
        payload: Bytes::copy_from_slice(payload),
    }
}
