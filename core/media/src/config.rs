//! The `media` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BucketConfig, PreviewConfig};

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
    /// How long a URI that was made for a later upload can be used, in seconds.
    pub unused_uri_lifetime_s: u64,
    /// Greatest size of content that is fetched from another server, in bytes.
    pub max_remote_bytes: u64,
    /// Longest time that fetching content may take, in seconds.
    pub remote_timeout_s: u64,
    /// Greatest number of pixels of a picture of which thumbnails are made.
    pub max_thumbnail_pixels: u64,
    /// Bytes of other servers' content, and of thumbnails, that are kept.
    pub cache_bytes: u64,
    /// Days for which other servers' content, and thumbnails, are kept after they were last asked for.
    pub cache_days: u64,
    /// The bucket that the bytes are in, if they are in one.
    pub bucket: BucketConfig,
    /// Previews of pages.
    pub previews: PreviewConfig,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 << 20,
            upload_timeout_s: 600,
            user_quota_bytes: 20 << 30,
            unused_uri_lifetime_s: 24 * 60 * 60,
            max_remote_bytes: 100 << 20,
            remote_timeout_s: 120,
            max_thumbnail_pixels: 40_000_000,
            cache_bytes: 10 << 30,
            cache_days: 90,
            bucket: BucketConfig::default(),
            previews: PreviewConfig::default(),
        }
    }
}

impl MediaConfig {
    /// Names the first field whose value cannot be used.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("max_upload_bytes", self.max_upload_bytes),
            ("upload_timeout_s", self.upload_timeout_s),
            ("unused_uri_lifetime_s", self.unused_uri_lifetime_s),
            ("max_remote_bytes", self.max_remote_bytes),
            ("remote_timeout_s", self.remote_timeout_s),
            ("cache_days", self.cache_days),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("media.{name}: must be at least 1")),
            None => self.bucket.validate().and_then(|()| self.previews.validate()),
        }
    }

    /// [`Self::upload_timeout_s`] as a duration.
    #[must_use]
    pub fn upload_timeout(&self) -> Duration {
        Duration::from_secs(self.upload_timeout_s)
    }

    /// [`Self::remote_timeout_s`] as a duration.
    #[must_use]
    pub fn remote_timeout(&self) -> Duration {
        Duration::from_secs(self.remote_timeout_s)
    }

    /// May a user who has so many bytes upload so many more?
    pub(crate) fn has_room(&self, used: u64, more: u64) -> bool {
        self.user_quota_bytes == 0 || used.saturating_add(more) <= self.user_quota_bytes
    }
}
