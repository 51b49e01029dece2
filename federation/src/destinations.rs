//! What is known of other servers' reachability: one row a server that failed, kept over restarts.

use std::{fmt, sync::Arc};

use hearth_storage::Store;
use hearth_types::Clock;
use ruma::{OwnedServerName, ServerName};

use crate::{FederationConfig, FederationError};

/// Which servers answer. Cheap to clone.
#[derive(Clone)]
pub struct Destinations(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    config: FederationConfig,
}

/// A server as the command line lists it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct DestinationReport {
    /// The server.
    pub server: OwnedServerName,
    /// Failures in a row.
    pub failures: u32,
    /// When it is tried again, in milliseconds since 1970.
    pub retry_at_ms: Option<u64>,
    /// The last error, shortened.
    pub last_error: Option<String>,
    /// Log entries that it has not been offered yet, as far as they are counted.
    pub backlog: u64,
}

impl fmt::Debug for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destinations").finish_non_exhaustive()
    }
}

impl Destinations {
    /// Reads the rows.
    pub async fn open(
        store: Store,
        clock: Arc<dyn Clock>,
        config: FederationConfig,
    ) -> Result<Self, FederationError> {
        Ok(Self(Arc::new(Inner { store, clock, config })))
    }

    /// How long a server is to be left alone, in milliseconds; `None` if it may be asked.
    #[must_use]
    pub fn retry_in(&self, _server: &ServerName) -> Option<u64> {
        unimplemented!("fed-outbound")
    }

    /// It answered.
    pub fn succeeded(&self, _server: &ServerName) {
        unimplemented!("fed-outbound")
    }

    /// It did not. One step of the backoff, however many requests failed in it.
    pub fn failed(&self, _server: &ServerName, _error: &str) {
        unimplemented!("fed-outbound")
    }

    /// It spoke to us: worth trying at once.
    pub fn heard_from(&self, _server: &ServerName) {
        unimplemented!("fed-outbound")
    }

    /// All servers that are known, for the command line.
    pub async fn report(&self) -> Result<Vec<DestinationReport>, FederationError> {
        unimplemented!("fed-outbound")
    }
}
