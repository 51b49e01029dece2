//! The configuration section `[delayed_events]`.

use serde::{Deserialize, Serialize};

/// How many events users may leave with the server, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DelayedConfig {
    /// Seconds by which an event may be delayed at most. 0: there are no delayed events.
    pub max_delay_s: u64,
    /// Events that a user may have scheduled at a time.
    pub max_scheduled: usize,
}

impl Default for DelayedConfig {
    fn default() -> Self {
        Self { max_delay_s: 24 * 60 * 60, max_scheduled: 100 }
    }
}

/// The most that [`DelayedConfig::max_scheduled`] can be: all of a user's are read to list them.
const MAX_SCHEDULED: usize = 1_000;

impl DelayedConfig {
    /// Names the first field whose value cannot be used.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_scheduled == 0 || self.max_scheduled > MAX_SCHEDULED {
            return Err(format!("delayed_events.max_scheduled: must be 1 to {MAX_SCHEDULED}"));
        }
        Ok(())
    }

    /// [`Self::max_delay_s`] in milliseconds.
    #[must_use]
    pub fn max_delay_ms(&self) -> u64 {
        self.max_delay_s.saturating_mul(1_000)
    }
}
