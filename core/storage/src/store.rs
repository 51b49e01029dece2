//! The typed face of the engines.

use std::{ops::RangeBounds, path::PathBuf, sync::Arc};

use crate::{
    Commit, CommitError, Committed, EngineKind, KeyPart, Keyspace, LogRecord, Notifier, Record,
    Ticket,
};
use hearth_types::StreamPosition;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Which engine.
    pub engine: EngineKind,
    /// The folder; made when absent. Unused by the memory engine.
    pub path: PathBuf,
    /// Names of all keyspaces, from every crate's `KEYSPACES`.
    pub keyspaces: Vec<&'static str>,
    /// The server's name: a store of another server refuses to open.
    pub server_name: String,
}

/// Why a store could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Written by a newer Hearth.
    #[error("the store has schema {found}, this program knows up to {known}: use a newer Hearth")]
    NewerSchema {
        /// The schema found.
        found: u32,
        /// The newest schema this program knows.
        known: u32,
    },
    /// Made for something else.
    #[error("the store belongs to {found}, not to {expected}")]
    Foreign {
        /// Server name or engine found.
        found: String,
        /// Server name or engine asked for.
        expected: String,
    },
    /// Another process has it open.
    #[error("another process has the store open: {0}")]
    Locked(String),
    /// A row that cannot be read.
    #[error("a damaged row in {keyspace}: {reason}")]
    Damaged {
        /// Where.
        keyspace: &'static str,
        /// Why.
        reason: String,
    },
    /// The engine failed.
    #[error("storage engine: {0}")]
    Engine(String),
}

/// In which direction a page goes through its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the greatest key down.
    Backward,
}

/// The store: cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    // Filled in by the owner of this file.
}

/// A consistent view for larger reads, inside [`Store::bulk`].
#[derive(Debug)]
pub struct Snapshot {
    // Filled in by the owner of this file.
}

impl Store {
    /// Opens or makes a store, and runs missing migrations.
    pub async fn open(options: StoreOptions) -> Result<Self, StoreError> {
        todo!()
    }

    /// One row.
    pub async fn get<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) -> Result<Option<V>, StoreError> {
        todo!()
    }

    /// Several rows of one partition, in the order asked for. At most about 100.
    pub async fn get_many<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clusterings: &[C],
    ) -> Result<Vec<Option<V>>, StoreError> {
        todo!()
    }

    /// Up to `limit` rows of one partition, about 100 at most; more belongs into [`Self::bulk`].
    pub async fn page<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        range: impl RangeBounds<C>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(C, V)>, StoreError> {
        todo!()
    }

    /// A larger read as one blocking job over a consistent view.
    pub async fn bulk<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        todo!()
    }

    /// The same view for a caller that already runs off the async threads, or reads a few rows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// Hands a commit to the committer; waits only for a place in its bounded queue.
    pub async fn submit(&self, commit: Commit) -> Result<Ticket, CommitError> {
        todo!()
    }

    /// [`Self::submit`], then [`Ticket::done`].
    pub async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.submit(commit).await?.done().await
    }

    /// Who must look again.
    #[must_use]
    pub fn notifier(&self) -> &Arc<Notifier> {
        todo!()
    }

    /// Log records after a position, oldest first.
    pub async fn log_after(
        &self,
        after: StreamPosition,
        limit: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        todo!()
    }

    /// A consumer's persisted cursor; `None` if it never had one.
    pub async fn cursor(&self, consumer: &str) -> Result<Option<StreamPosition>, StoreError> {
        todo!()
    }

    /// Moves a consumer's cursor, durably.
    pub async fn set_cursor(
        &self,
        consumer: &str,
        position: StreamPosition,
    ) -> Result<(), CommitError> {
        todo!()
    }

    /// Flushes, stops the committer, and closes. Later commits are refused.
    pub async fn close(&self) -> Result<(), StoreError> {
        todo!()
    }
}

impl Snapshot {
    /// One row.
    pub fn get<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) -> Result<Option<V>, StoreError> {
        todo!()
    }

    /// Up to `limit` rows of one partition.
    pub fn page<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        range: impl RangeBounds<C>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(C, V)>, StoreError> {
        todo!()
    }

    /// Walks a keyspace over all partitions, for jobs of the server itself (directory, migrations).
    /// Stops when the visitor breaks.
    pub fn for_each<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        visit: impl FnMut(P, C, V) -> std::ops::ControlFlow<()>,
    ) -> Result<(), StoreError> {
        todo!()
    }
}
