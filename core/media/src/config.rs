//! The `media` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What users may upload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaConfig {
    /// Greatest size of one upload in bytes.
    pub max_upload_bytes: u64,
    /// Longest time that one upload may take, in seconds.
    pub upload_timeout_s: u64,
    /// Bytes that one user may have uploaded altogether; 0: no limit.
    pub user_quota_bytes: u64,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self { max_upload_bytes: 100 << 20, upload_timeout_s: 600, user_quota_bytes: 20 << 30 }
    }
}

impl MediaConfig {
    /// Names the first field whose value cannot be used.
    pub fn validate(&self) -> Result<(), String> {
        if self.max_upload_bytes == 0 {
            return Err("media.max_upload_bytes: must be at least 1".to_owned());
        }
        if self.upload_timeout_s == 0 {
            return Err("media.upload_timeout_s: must be at least 1".to_owned());
        }
        Ok(())
    }

    /// [`Self::upload_timeout_s`] as a duration.
    #[must_use]
    pub fn upload_timeout(&self) -> Duration {
        Duration::from_secs(self.upload_timeout_s)
    }

    /// May a user who has so many bytes upload so many more?
    pub(crate) fn has_room(&self, used: u64, more: u64) -> bool {
        self.user_quota_bytes == 0 || used.saturating_add(more) <= self.user_quota_bytes
    }
}
