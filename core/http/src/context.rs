//! What all APIs of the server share.

use std::sync::Arc;

use hearth_types::Clock;

use crate::{HttpConfig, HttpConfigError, Limiter, MatrixError, Shutdown};

/// Limits, counters and the shutdown signal of the server. Clones share them.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: HttpConfig,
    limiter: Limiter,
    shutdown: Shutdown,
}

/// Which bound a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Answered at once: `max_in_flight`.
    Short,
    /// Waits for news: `max_long_polls`.
    LongPoll,
}

/// A place among the requests worked on; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Admission {}

impl Http {
    /// The shared parts, or the name of a field that cannot be used.
    pub fn new(
        config: HttpConfig,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> Result<Self, HttpConfigError> {
        config.validate()?;
        _ = clock;
        let limiter = Limiter {};
        Ok(Self(Arc::new(Inner { config, limiter, shutdown })))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &HttpConfig {
        &self.0.config
    }

    /// The rate limits.
    #[must_use]
    pub fn limiter(&self) -> &Limiter {
        &self.0.limiter
    }

    /// The signal on which long-polls answer early.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// Takes a place in a lane; 429 if it is full.
    pub fn admit(&self, lane: Lane) -> Result<Admission, MatrixError> {
        _ = lane;
        todo!()
    }
}
