//! What this crate writes into the store's log, for its consumers.

use hearth_types::StreamPosition;
use ruma::OwnedDeviceId;
use serde::{Deserialize, Serialize};

/// Kinds of log entries that this crate writes: 64 to 95 are its share of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogKind {
    /// A user of this server changed, renamed or lost a device, or changed cross-signing keys. Topic:
    /// the user; payload: [`DeviceListLog`] in JSON. The entry's position is the `stream_id` that other
    /// servers are told of a changed device.
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
    before: Before,
}

/// The change of a device before a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Before {
    /// This is the first one.
    Nothing,
    /// It was at this position.
    At(u64),
    /// It was in the same commit, this many positions before.
    Back(u64),
}

impl DeviceListLog {
    pub(crate) fn new(device_id: Option<OwnedDeviceId>, before: Before) -> Self {
        Self { device_id, before }
    }

    /// The `stream_id` of the change of a device before the one that was logged at `position`, if there
    /// was one: other servers' `prev_id`.
    #[must_use]
    pub fn previous(&self, position: StreamPosition) -> Option<u64> {
        match self.before {
            Before::Nothing => None,
            Before::At(previous) => Some(previous),
            Before::Back(distance) => Some(position.get().saturating_sub(distance)),
        }
    }
}
