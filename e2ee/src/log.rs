//! What this crate writes into the store's log, for its consumers.

use ruma::OwnedDeviceId;
use serde::{Deserialize, Serialize};

/// Kinds of log entries that this crate writes: 64 to 95 are its share of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogKind {
    /// A user of this server changed, renamed or lost a device, or changed cross-signing keys. Topic:
    /// the user; payload: [`DeviceListLog`] in JSON. The entry's position is the `stream_id` that other
    /// servers are told.
    DeviceList = 64,
    /// A message to devices waits for another server ([`crate::E2ee::outgoing`]). Topic: the server; no
    /// payload.
    Outgoing = 65,
}

/// What consumers of the log learn about a changed device list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceListLog {
    /// Which device; `None` if the user's cross-signing keys changed.
    pub device_id: Option<OwnedDeviceId>,
    /// The `stream_id` of the change before this one, if there was one: other servers' `prev_id`.
    pub previous: Option<u64>,
}
