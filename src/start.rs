//! From a configuration to a running server, and back.

use std::{net::SocketAddr, sync::Arc};

use hearth_types::{Clock, SystemClock};

use crate::Config;

/// What is not configuration but enters from outside.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock) }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Filled in soon.
    #[error("{0}")]
    Other(String),
}

/// A server that listens. Stop it with [`RunningServer::shutdown`].
#[derive(Debug)]
pub struct RunningServer {
    addresses: Vec<SocketAddr>,
}

/// Opens the store and serves, as configured.
pub async fn start(_config: Config, _options: StartOptions) -> Result<RunningServer, StartError> {
    todo!()
}

impl RunningServer {
    /// The first address that the server listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses.first().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Stops: answers waiting syncs, lets running requests end, flushes and closes the store.
    pub async fn shutdown(self) -> Result<(), StartError> {
        todo!()
    }
}
