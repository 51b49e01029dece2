//! What all APIs of the server share.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::extract::ConnectInfo;
use hearth_types::Clock;
use http::request::Parts;

use crate::{HttpConfig, HttpConfigError, Limiter, MatrixError, Shutdown, address::client_address};

/// How long a client is told to wait when the server is full.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Limits, counters and the shutdown signal of the server. Clones share them.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: HttpConfig,
    limiter: Limiter,
    shutdown: Shutdown,
    short: AtomicUsize,
    long_polls: AtomicUsize,
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
#[must_use = "dropping it gives the place back"]
pub struct Admission {
    http: Http,
    lane: Lane,
}

impl Http {
    /// The shared parts, or the name of a field that cannot be used.
    pub fn new(
        config: HttpConfig,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
    ) -> Result<Self, HttpConfigError> {
        config.validate()?;
        let limiter = Limiter::new(config.rate_limits.clone(), clock);
        Ok(Self(Arc::new(Inner {
            config,
            limiter,
            shutdown,
            short: AtomicUsize::new(0),
            long_polls: AtomicUsize::new(0),
        })))
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

    /// Takes a place in a lane; 429 if it is full. Endpoints of ruma's types do this by themselves.
    pub fn admit(&self, lane: Lane) -> Result<Admission, MatrixError> {
        // Made first, so that a refusal gives its place back like everybody else.
        let place = Admission { http: self.clone(), lane };
        let max = match lane {
            Lane::Short => self.0.config.max_in_flight,
            Lane::LongPoll => self.0.config.max_long_polls,
        };
        let before = self.counter(lane).fetch_add(1, Ordering::Relaxed);
        if before < max { Ok(place) } else { Err(MatrixError::limit_exceeded(FULL_RETRY_AFTER)) }
    }

    /// How many requests are being worked on in a lane.
    #[must_use]
    pub fn in_flight(&self, lane: Lane) -> usize {
        self.counter(lane).load(Ordering::Relaxed)
    }

    /// The address of the client, through trusted proxies. `None` unless the listener puts the peer's
    /// address into the request as axum's [`ConnectInfo`].
    #[must_use]
    pub fn client_address(&self, head: &Parts) -> Option<IpAddr> {
        let ConnectInfo(peer) = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(client_address(peer.ip(), &head.headers, &self.0.config.trusted_proxies))
    }

    fn counter(&self, lane: Lane) -> &AtomicUsize {
        match lane {
            Lane::Short => &self.0.short,
            Lane::LongPoll => &self.0.long_polls,
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.http.counter(self.lane).fetch_sub(1, Ordering::Relaxed);
    }
}
