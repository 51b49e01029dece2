//! The `e2ee` section of the configuration.

use serde::{Deserialize, Serialize};

/// Keys and messages to devices.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct E2eeConfig {
    /// Messages that wait for one device, or for one server that cannot be reached. Further ones are
    /// not kept.
    pub max_queued_messages: usize,
}

impl Default for E2eeConfig {
    fn default() -> Self {
        Self { max_queued_messages: 100_000 }
    }
}

impl E2eeConfig {
    /// Checks what the types cannot.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_queued_messages < 1_000 {
            return Err("e2ee.max_queued_messages: must be at least 1000".to_owned());
        }
        Ok(())
    }
}
