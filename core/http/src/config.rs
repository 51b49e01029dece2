//! The `[http]` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Network;

/// How requests are bounded. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Greatest size of a JSON request body in bytes. Larger ones get 413 `M_TOO_LARGE`.
    pub max_json_bytes: usize,
    /// Longest time that a request body may take to arrive, in seconds.
    pub body_timeout_s: u64,
    /// Greatest number of requests worked on at once, long-polls not counted. Further ones get 429.
    pub max_in_flight: usize,
    /// Greatest number of long-polls waiting at once. Further ones get 429.
    pub max_long_polls: usize,
    /// Networks of reverse proxies whose `X-Forwarded-For` header is believed, as `10.0.0.0/8` or
    /// `::1`. Empty: the header is ignored and the peer's own address counts.
    pub trusted_proxies: Vec<Network>,
    /// Limits on how often users and addresses may ask.
    pub rate_limits: RateLimits,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_json_bytes: 1024 * 1024,
            body_timeout_s: 30,
            max_in_flight: 4_096,
            max_long_polls: 100_000,
            trusted_proxies: Vec::new(),
            rate_limits: RateLimits::default(),
        }
    }
}

/// Rate limits for each class of endpoints.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Whether requests are limited at all.
    pub enabled: bool,
    /// Greatest number of users and addresses remembered at once; those idle longest are forgotten
    /// first. Each takes about 32 bytes.
    pub max_tracked: usize,
    /// Login, registration and what else guesses at secrets.
    pub login: ClassLimits,
    /// Events sent into rooms.
    pub message: ClassLimits,
    /// Rooms created, joined and invited to.
    pub membership: ClassLimits,
    /// Content uploaded.
    pub upload: ClassLimits,
    /// Previews of pages.
    pub preview: ClassLimits,
    /// Everything else that the specification marks as rate-limited.
    pub general: ClassLimits,
}

impl Default for RateLimits {
    fn default() -> Self {
        let class = |user, address| ClassLimits { user, address };
        Self {
            enabled: true,
            max_tracked: 100_000,
            login: class(Rate::new(0.5, 10), Rate::new(1.0, 30)),
            message: class(Rate::new(10.0, 100), Rate::new(200.0, 1_000)),
            membership: class(Rate::new(2.0, 50), Rate::new(20.0, 200)),
            upload: class(Rate::new(2.0, 100), Rate::new(20.0, 500)),
            preview: class(Rate::new(2.0, 60), Rate::new(10.0, 200)),
            general: class(Rate::new(50.0, 200), Rate::new(500.0, 2_000)),
        }
    }
}

/// The limits of one class of endpoints.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClassLimits {
    /// For each user.
    pub user: Rate,
    /// For each client address (IPv6: each /64 network).
    pub address: Rate,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests per second in the long run.
    pub per_second: f64,
    /// Requests that may come at once after a pause.
    pub burst: u32,
}

impl Rate {
    /// A bucket of `burst` requests that fills at `per_second`.
    #[must_use]
    pub const fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

/// A value of the `[http]` section that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("http.{field}: {problem}")]
pub struct HttpConfigError {
    field: &'static str,
    problem: &'static str,
}

impl HttpConfig {
    /// Names the first field whose value cannot be used.
    pub fn validate(&self) -> Result<(), HttpConfigError> {
        let error = |field, problem| Err(HttpConfigError { field, problem });
        if self.max_json_bytes < 65_536 {
            return error("max_json_bytes", "an event may take 65536 bytes; set at least that");
        }
        if self.body_timeout_s == 0 {
            return error("body_timeout_s", "must be at least 1");
        }
        if self.max_in_flight == 0 {
            return error("max_in_flight", "must be at least 1");
        }
        if self.max_long_polls == 0 {
            return error("max_long_polls", "must be at least 1");
        }
        self.rate_limits.validate()
    }

    /// [`Self::body_timeout_s`] as a duration.
    #[must_use]
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s)
    }
}

impl RateLimits {
    fn validate(&self) -> Result<(), HttpConfigError> {
        if self.max_tracked < 1_024 {
            return Err(HttpConfigError {
                field: "rate_limits.max_tracked",
                problem: "must be at least 1024",
            });
        }
        let classes = [
            ("rate_limits.login", self.login),
            ("rate_limits.message", self.message),
            ("rate_limits.membership", self.membership),
            ("rate_limits.upload", self.upload),
            ("rate_limits.preview", self.preview),
            ("rate_limits.general", self.general),
        ];
        for (field, class) in classes {
            for rate in [class.user, class.address] {
                // Slower than one in a day or faster than the limiter's microseconds means nothing.
                if !(1e-5..=1e6).contains(&rate.per_second) {
                    let problem = "`per_second` must be between 0.00001 and 1000000";
                    return Err(HttpConfigError { field, problem });
                }
                if rate.burst == 0 {
                    return Err(HttpConfigError { field, problem: "`burst` must be at least 1" });
                }
            }
        }
        Ok(())
    }
}
