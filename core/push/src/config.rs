//! The section `[push]`.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How push gateways are spoken to. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushConfig {
    /// Networks that gateways may be in although they are private or loopback.
    pub allow_networks: Vec<IpNet>,
    /// Whether gateways may be spoken to without TLS.
    pub allow_http: bool,
    /// How long a gateway may take to answer, in seconds.
    pub request_timeout_s: u64,
    /// First step of the backoff, in seconds.
    pub backoff_min_s: u64,
    /// Longest step of the backoff, in seconds.
    pub backoff_max_s: u64,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            allow_networks: Vec::new(),
            allow_http: false,
            request_timeout_s: 30,
            backoff_min_s: 10,
            backoff_max_s: 3_600,
        }
    }
}

impl PushConfig {
    /// The time that one request may take.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }

    /// Checks what the types leave open; the error begins with the field's name and says what to change.
    pub fn validate(&self) -> Result<(), String> {
        if self.request_timeout_s == 0 {
            return Err("push.request_timeout_s: must be at least 1".to_owned());
        }
        if self.backoff_min_s == 0 {
            return Err("push.backoff_min_s: must be at least 1".to_owned());
        }
        if self.backoff_max_s < self.backoff_min_s {
            return Err("push.backoff_max_s: must not be less than push.backoff_min_s".to_owned());
        }
        Ok(())
    }

    /// How long a pusher is left alone that failed so many times in a row, in milliseconds: doubled each time.
    pub(crate) fn backoff_ms(&self, failures: u32) -> u64 {
        let doubled = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
        let seconds = self.backoff_min_s.saturating_mul(doubled).min(self.backoff_max_s);
        seconds.saturating_mul(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_bound() {
        let config = PushConfig::default();
        let steps = [1, 2, 3, 9, 10, 64, 65, u32::MAX].map(|failures| config.backoff_ms(failures));
        let max = 3_600_000;
        assert_eq!(steps, [10_000, 20_000, 40_000, 2_560_000, max, max, max, max]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        PushConfig::default().validate().unwrap();
        let config = PushConfig { request_timeout_s: 0, ..PushConfig::default() };
        assert!(config.validate().unwrap_err().starts_with("push.request_timeout_s:"));
        let config = PushConfig { backoff_min_s: 0, ..PushConfig::default() };
        assert!(config.validate().unwrap_err().starts_with("push.backoff_min_s:"));
        let config = PushConfig { backoff_max_s: 1, ..PushConfig::default() };
        assert!(config.validate().unwrap_err().starts_with("push.backoff_max_s:"));
    }
}
