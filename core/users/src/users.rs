//! [`Users`]: what all modules of this crate share.

use std::sync::Arc;

use hearth_storage::Store;
use hearth_types::{Clock, ServerIdentity};

use crate::{UsersConfig, UsersError};

/// Everything about this server's users. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Users {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: UsersConfig,
}

impl Users {
    /// Opens the users of a store: builds the user directory and starts the tasks that write receipts
    /// and move timers, which end when the last clone is dropped. Must be called inside a runtime.
    pub async fn open(
        store: Store,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        config: UsersConfig,
    ) -> Result<Self, UsersError> {
        todo!()
    }

    /// The configuration that this was opened with.
    #[must_use]
    pub fn config(&self) -> &UsersConfig {
        &self.inner.config
    }

    /// Moves everything that time moves: typing and presence age, sessions of user-interactive
    /// authentication and nonces expire, the devices' last-seen times are written. A task does this
    /// every second; tests with a clock of their own call it.
    pub async fn tick(&self) {
        todo!()
    }

    /// Writes what is only in memory (last-seen times, presence) for an orderly shutdown.
    pub async fn flush(&self) -> Result<(), UsersError> {
        todo!()
    }
}
