//! The configuration section `[sync]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How clients are told what changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncConfig {
    /// The longest that a `/sync` may wait, in milliseconds; longer wishes are cut to it.
    pub max_timeout_ms: u64,
    /// Timeline events per room when the filter names no limit.
    pub default_timeline_limit: usize,
    /// Greatest number of timeline events per room; larger limits are cut to it.
    pub max_timeline_limit: usize,
    /// Rooms with more joined members than this are large: receipts of others and presence are not
    /// passed on there, and clients that do not view the room are woken less often.
    pub large_room_members: u64,
    /// Wake-ups by a large room are gathered only while more users than this are connected here to
    /// that room: a message costs its connected members one wake each, and few are cheap.
    pub quiet_connected_users: usize,
    /// How often a waiting client is woken by such rooms that it does not view, at most, in
    /// milliseconds. 0: by every event.
    pub quiet_interval_ms: u64,
    /// How long a room counts as viewed after the user sent something, a receipt or typing there, in
    /// milliseconds.
    pub viewing_ms: u64,
    /// May senders learn that a message has reached another member's device (`org.hearth.delivered`)?
    pub delivery_receipts: bool,
    /// Delivery is told in rooms of at most so many joined members.
    pub delivery_room_members: u64,
    /// Users whose connections are remembered after the last one ended, so that the next poll costs
    /// nothing; the longest unused are forgotten first.
    pub max_idle_sessions: usize,
    /// How long they are remembered, in milliseconds.
    pub session_idle_ms: u64,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            max_timeout_ms: 120_000,
            default_timeline_limit: 10,
            max_timeline_limit: 500,
            large_room_members: 1_000,
            quiet_connected_users: 100,
            quiet_interval_ms: 1_000,
            viewing_ms: 300_000,
            delivery_receipts: false,
            delivery_room_members: 500,
            max_idle_sessions: 20_000,
            session_idle_ms: 60_000,
        }
    }
}

impl SyncConfig {
    /// Checks what the types cannot: names the key that is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_timeline_limit == 0 || self.max_timeline_limit > 1_000 {
            return Err("max_timeline_limit: must be between 1 and 1000".to_owned());
        }
        if self.default_timeline_limit == 0 || self.default_timeline_limit > self.max_timeline_limit
        {
            return Err(
                "default_timeline_limit: must be between 1 and max_timeline_limit".to_owned()
            );
        }
        if self.max_timeout_ms > 3_600_000 {
            return Err("max_timeout_ms: must be at most an hour".to_owned());
        }
        if self.quiet_interval_ms > 60_000 {
            return Err("quiet_interval_ms: must be at most a minute".to_owned());
        }
        Ok(())
    }

    pub(crate) fn max_timeout(&self) -> Duration {
        Duration::from_millis(self.max_timeout_ms)
    }

    pub(crate) fn quiet_interval(&self) -> Duration {
        Duration::from_millis(self.quiet_interval_ms)
    }

    pub(crate) fn viewing(&self) -> Duration {
        Duration::from_millis(self.viewing_ms)
    }

    pub(crate) fn session_idle(&self) -> Duration {
        Duration::from_millis(self.session_idle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_errors_name_the_key() {
        assert_eq!(SyncConfig::default().validate(), Ok(()));
        let wrong = SyncConfig { max_timeline_limit: 0, ..SyncConfig::default() };
        assert!(wrong.validate().unwrap_err().starts_with("max_timeline_limit:"));
        let wrong = SyncConfig { default_timeline_limit: 501, ..SyncConfig::default() };
        assert!(wrong.validate().unwrap_err().starts_with("default_timeline_limit:"));
    }
}
