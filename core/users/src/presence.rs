//! Presence (CS "Presence"): in memory, aged by time, the last message and time stored lazily.

use std::sync::Arc;

use hearth_storage::{Keyspace, Topic, postcard_record};
use ruma::{OwnedUserId, UserId, presence::PresenceState};
use serde::{Deserialize, Serialize};

use crate::{Users, UsersError};

pub(crate) const PRESENCE: Keyspace<OwnedUserId, (), PresenceRow> = Keyspace::new("presence");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PresenceRow {
    pub(crate) last_active_ms: Option<u64>,
    pub(crate) status_msg: Option<String>,
}
postcard_record!(PresenceRow, version = 1);

/// What others see of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Online, idle or offline.
    pub state: PresenceState,
    /// What the user says about it.
    pub status_msg: Option<String>,
    /// When the user last did something, in milliseconds since the epoch.
    pub last_active_ms: Option<u64>,
    /// Did they do it within the last minute or so?
    pub currently_active: bool,
    /// When this last changed, in the process's own counting ([`Users::presence_serial`]); 0: not
    /// since the process started.
    pub serial: u64,
}

/// Who is to be woken when a user's presence changes; plugged in by whoever knows the rooms.
#[async_trait::async_trait]
pub trait PresenceAudience: std::fmt::Debug + Send + Sync + 'static {
    /// The topics to poke: rooms of the user that are small enough for presence.
    async fn topics(&self, user_id: &UserId) -> Vec<Topic>;
}

/// Keeps a user from going offline while one of their clients is connected. Held over a long poll or
/// a WebSocket's life.
#[derive(Debug)]
#[must_use]
pub struct PresenceGuard {
    users: Users,
    user_id: OwnedUserId,
}

impl Users {
    /// Plugs in who is woken by presence; once, at start. Without it only the user's own topic is.
    pub fn set_presence_audience(&self, audience: Arc<dyn PresenceAudience>) {
        todo!()
    }

    /// Sets a user's presence for a client (`PUT /presence/{userId}/status`). A missing `status_msg`
    /// clears it.
    pub async fn set_presence(
        &self,
        user_id: &UserId,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// A client of the user starts to sync with this `set_presence`. `Offline` leaves everything as it
    /// is. Drop the guard when the sync ends: half a minute after the last one the user is offline.
    pub fn presence_syncing(&self, user_id: &UserId, state: PresenceState) -> PresenceGuard {
        todo!()
    }

    /// The user did something (sent an event, a receipt, typed): they are active.
    pub fn presence_active(&self, user_id: &UserId) {
        todo!()
    }

    /// A user's presence; offline for users that nothing is known of.
    pub async fn presence(&self, user_id: &UserId) -> Result<Presence, UsersError> {
        todo!()
    }

    /// Those of these users whose presence changed after `since`, from memory. With `since` 0: those
    /// whose presence changed since the process started, and so all who are not offline.
    #[must_use]
    pub fn presence_changes<'a>(
        &self,
        user_ids: impl IntoIterator<Item = &'a UserId>,
        since: u64,
    ) -> Vec<(OwnedUserId, Presence)> {
        todo!()
    }

    /// The number of presence changes so far, within this process (see [`Users::boot_id`]).
    #[must_use]
    pub fn presence_serial(&self) -> u64 {
        todo!()
    }
}
