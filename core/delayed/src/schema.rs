//! The rows of delayed events. All are their user's; what is filed elsewhere is an effect.

use bytes::Bytes;
use hearth_storage::{Commit, Keyspace, postcard_record};
use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

/// Delayed events by their ID.
pub(crate) const EVENTS: Keyspace<OwnedUserId, String, DelayedRow> =
    Keyspace::new("delayed_events");
/// Their contents, as JSON: apart, for they never change while the rows do with every restart.
pub(crate) const CONTENTS: Keyspace<OwnedUserId, String, Bytes> = Keyspace::new("delayed_contents");
/// The requests that scheduled them, by hash: repeated, they get the same event.
pub(crate) const REQUESTS: Keyspace<OwnedUserId, [u8; 32], IdRow> =
    Keyspace::new("delayed_requests");
/// Whose an event is.
pub(crate) const OWNERS: Keyspace<String, (), OwnerRow> = Keyspace::new("delayed_owners");
/// Scheduled events by the time at which they are due, in milliseconds: the clock's.
pub(crate) const DUE: Keyspace<(), (u64, String), OwnerRow> = Keyspace::new("delayed_due");

/// The names of this crate's keyspaces, for the store's opening.
pub const KEYSPACES: &[&str] =
    &[EVENTS.name(), CONTENTS.name(), REQUESTS.name(), OWNERS.name(), DUE.name()];

/// The row of [`EVENTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DelayedRow {
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) event_type: String,
    pub(crate) state_key: Option<String>,
    /// What was asked for, in milliseconds.
    pub(crate) delay_ms: u64,
    /// When the delay last began.
    pub(crate) since_ms: u64,
    /// When it is to be sent: after the delay, or later if that failed.
    pub(crate) due_ms: u64,
    /// How often it failed for reasons that may pass.
    pub(crate) attempts: u8,
    /// The hash of the request that scheduled it, if it can be repeated.
    pub(crate) request: Option<[u8; 32]>,
    /// What became of it; `None` while it is scheduled.
    pub(crate) finalised: Option<FinalisedRow>,
}
postcard_record!(DelayedRow, version = 1);

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FinalisedRow {
    /// When, in milliseconds.
    pub(crate) at_ms: u64,
    /// Did somebody ask for it, rather than time?
    pub(crate) by_action: bool,
    pub(crate) ending: Ending,
}

/// How an event ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ending {
    /// It is in its room.
    Sent(OwnedEventId),
    /// Somebody did not want it any more.
    Cancelled,
    /// The room did not take it.
    Refused { errcode: String, message: String },
}

/// The row of [`REQUESTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdRow(pub(crate) String);
postcard_record!(IdRow, version = 1);

/// The row of [`OWNERS`] and [`DUE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerRow(pub(crate) OwnedUserId);
postcard_record!(OwnerRow, version = 1);

/// An event and its row.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) user_id: OwnedUserId,
    pub(crate) delay_id: String,
    pub(crate) row: DelayedRow,
}

impl Found {
    /// The key of its row in [`DUE`].
    pub(crate) fn due_key(&self) -> (u64, String) {
        (self.row.due_ms, self.delay_id.clone())
    }

    /// Removes all its rows.
    pub(crate) fn add_removal(&self, commit: &mut Commit) {
        let Self { user_id, delay_id, row } = self;
        commit.delete(&EVENTS, user_id, delay_id);
        commit.delete(&CONTENTS, user_id, delay_id);
        if let Some(request) = &row.request {
            commit.delete(&REQUESTS, user_id, request);
        }
        commit.effect_delete(&OWNERS, delay_id, &());
        commit.effect_delete(&DUE, &(), &self.due_key());
    }
}
