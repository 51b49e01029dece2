//! The typed face of the engines.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    ops::{Bound, ControlFlow, RangeBounds},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use hearth_types::StreamPosition;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::{
    Commit, CommitError, Committed, Direction, Engine, EngineError, EngineKind, KeyPart, Keyspace,
    LogRecord, Notifier, Record, Ticket, View,
    engine::KeyspaceIndex,
    log::{CURSORS, LOG, decode_entry},
    migrate::{MIGRATIONS, Migration},
    open,
    queue::Queue,
    reads, run_blocking,
    trim::Cursors,
};

/// Bulk reads at the same time; more wait.
const MAX_BULK_READS: usize = 16;

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

impl From<EngineError> for StoreError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.0)
    }
}

/// Places of the keyspaces by name.
pub(crate) type Places = HashMap<&'static str, KeyspaceIndex>;

/// The store: cheap to clone. When the last clone is dropped the committer finishes what was submitted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) kind: EngineKind,
    pub(crate) places: Arc<Places>,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) committer: Mutex<Option<RunningCommitter>>,
    pub(crate) bulk_reads: Arc<Semaphore>,
    /// Held while the engine is open; let go after it.
    pub(crate) _lock: Option<File>,
    /// Dropped last: whoever waits for [`Store::released`] goes on.
    pub(crate) released: watch::Sender<()>,
}

/// The committer at work.
pub(crate) enum RunningCommitter {
    Thread(JoinHandle<Result<(), EngineError>>),
    Task(tokio::task::JoinHandle<Result<(), EngineError>>),
}

/// A consistent view for larger reads, inside [`Store::bulk`].
pub struct Snapshot {
    view: Box<dyn View + Send + Sync>,
    places: Arc<Places>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("engine", &self.inner.kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn bulk_reads() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_BULK_READS))
    }

    /// Lets the committer finish, and waits for it.
    fn stop(&self) -> Result<(), EngineError> {
        self.queue.close("the store is closed");
        let Some(committer) = self.committer.lock().take() else { return Ok(()) };
        let committer = match committer {
            RunningCommitter::Thread(thread) => thread,
            // A task finishes what was submitted by itself.
            RunningCommitter::Task(_) => return Ok(()),
        };
        if committer.thread().id() == thread::current().id() {
            return Ok(()); // A listener held the last handle; the thread ends by itself.
        }
        committer.join().unwrap_or_else(|_| Err(EngineError("the committer panicked".to_owned())))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }
}

impl Store {
    /// Opens or makes a store, and runs missing migrations.
    pub async fn open(options: StoreOptions) -> Result<Self, StoreError> {
        tokio::task::spawn_blocking(move || Self::open_with(&options, MIGRATIONS))
            .await
            .unwrap_or_else(|error| Err(StoreError::Engine(error.to_string())))
    }

    /// [`Self::open`] with these migrations, blocking.
    pub fn open_with(options: &StoreOptions, migrations: &[Migration]) -> Result<Self, StoreError> {
        Ok(Self { inner: Arc::new(open::open(options, migrations)?) })
    }

    /// A store over an engine that the caller opened with
    /// [`all_keyspaces`](StoreOptions::all_keyspaces): one with other sizes, or one that fails on purpose.
    /// The caller sees to it that nobody else has it open.
    pub fn open_over(
        engine: Arc<dyn Engine>,
        options: &StoreOptions,
        migrations: &[Migration],
    ) -> Result<Self, StoreError> {
        let inner =
            open::open_over(engine, None, options, migrations, open::CommitterKind::Thread)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same, with the committer as a task of the current runtime that takes `pace` of the runtime's
    /// time for each batch: a store that needs no thread and no wall clock, for simulations.
    pub fn open_in_task(
        engine: Arc<dyn Engine>,
        options: &StoreOptions,
        pace: Duration,
    ) -> Result<Self, StoreError> {
        let kind = open::CommitterKind::Task(pace);
        let inner = open::open_over(engine, None, options, MIGRATIONS, kind)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A store in memory with these keyspaces, for tests. Needs no runtime.
    ///
    /// # Panics
    ///
    /// If a keyspace is named twice.
    #[must_use]
    pub fn memory_for_tests(keyspaces: &[&'static str]) -> Self {
        let options = StoreOptions::for_tests(EngineKind::Memory, Path::new(""), keyspaces);
        #[expect(clippy::expect_used, reason = "for tests")]
        Self::open_with(&options, MIGRATIONS).expect("a store in memory")
    }

    /// One row.
    #[expect(clippy::unused_async, reason = "engines over a network will wait here")]
    pub async fn get<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) -> Result<Option<V>, StoreError> {
        reads::get(self.rows(), &self.inner.places, keyspace, partition, clustering)
    }

    /// Several rows of one partition, in the order asked for. At most about 100.
    #[expect(clippy::unused_async, reason = "engines over a network will wait here")]
    pub async fn get_many<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clusterings: &[C],
    ) -> Result<Vec<Option<V>>, StoreError> {
        reads::get_many(self.rows(), &self.inner.places, keyspace, partition, clusterings)
    }

    /// Up to `limit` rows of one partition, about 100 at most; more belongs into [`Self::bulk`].
    #[expect(clippy::unused_async, reason = "engines over a network will wait here")]
    pub async fn page<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        range: impl RangeBounds<C>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(C, V)>, StoreError> {
        let range = reads::Range::new(partition, &range);
        reads::page(self.rows(), &self.inner.places, keyspace, &range, direction, limit)
    }

    /// Up to `limit` rows of one partition whose clustering key begins with `prefix`: the first parts
    /// of a tuple.
    #[expect(clippy::unused_async, reason = "engines over a network will wait here")]
    pub async fn page_prefix<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        prefix: &impl KeyPart,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(C, V)>, StoreError> {
        let range = reads::Range::prefix(partition, prefix);
        reads::page(self.rows(), &self.inner.places, keyspace, &range, direction, limit)
    }

    /// A larger read as one blocking job over a consistent view.
    pub async fn bulk<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.inner.bulk_reads.clone().acquire_owned().await;
        let snapshot = self.snapshot();
        let job = move || {
            let _permit = permit;
            read(&snapshot)
        };
        run_blocking(job).await.unwrap_or_else(|error| Err(StoreError::Engine(error.to_string())))
    }

    /// The same view for a caller that already runs off the async threads, or reads a few rows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { view: self.inner.engine.view(), places: self.inner.places.clone() }
    }

    /// Hands a commit to the committer; waits only for a place in its bounded queue.
    pub async fn submit(&self, commit: Commit) -> Result<Ticket, CommitError> {
        let mut commit = commit.seal()?;
        for operation in &mut commit.operations {
            let place = self.inner.places.get(operation.keyspace);
            operation.index = *place.ok_or_else(|| {
                CommitError::Encoding(format!("keyspace {} is not open", operation.keyspace))
            })?;
        }
        Ok(Ticket::new(self.inner.queue.submit(commit).await?))
    }

    /// [`Self::submit`], then [`Ticket::done`].
    pub async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.submit(commit).await?.done().await
    }

    /// Which engine keeps the rows.
    #[must_use]
    pub fn engine(&self) -> EngineKind {
        self.inner.kind
    }

    /// Who must look again.
    #[must_use]
    pub fn notifier(&self) -> &Arc<Notifier> {
        &self.inner.notifier
    }

    /// Published log records after a position, oldest first. Records of one position come together:
    /// then there may be more than `limit`.
    #[expect(clippy::unused_async, reason = "engines over a network will wait here")]
    pub async fn log_after(
        &self,
        after: StreamPosition,
        limit: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        let published = self.inner.notifier.published();
        let bounds = (Bound::Excluded((after, u16::MAX)), Bound::Included((published, u16::MAX)));
        let range = reads::Range::new(&(), &bounds);
        let mut records: Vec<LogRecord> = Vec::new();
        reads::visit(
            self.rows(),
            &self.inner.places,
            &LOG,
            &range,
            Direction::Forward,
            |(position, _), row| {
                let full = records.len() >= limit;
                if full && records.last().is_none_or(|last| last.position != position) {
                    return Ok(ControlFlow::Break(()));
                }
                if let Some(entry) = decode_entry(&row)? {
                    records.push(LogRecord { position, entry });
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok(records)
    }

    /// Everything after this position is still in the log, as far as it ever was. Whoever reads from a
    /// place that no cursor holds looks here after the read, to know whether something was missing.
    #[must_use]
    pub fn log_trimmed(&self) -> StreamPosition {
        self.inner.cursors.trimmed()
    }

    /// A consumer's persisted cursor; `None` if it never had one.
    #[expect(clippy::unused_async, reason = "engines over a network will wait here")]
    pub async fn cursor(&self, consumer: &str) -> Result<Option<StreamPosition>, StoreError> {
        Ok(self.inner.cursors.get(consumer))
    }

    /// Moves a consumer's cursor, durably. The log is kept from the slowest cursor on.
    pub async fn set_cursor(
        &self,
        consumer: &str,
        position: StreamPosition,
    ) -> Result<(), CommitError> {
        let mut commit = Commit::new(&());
        commit.put(&CURSORS, &(), &consumer.to_owned(), &position);
        self.commit(commit).await?;
        self.inner.cursors.set(consumer, position);
        Ok(())
    }

    /// Forgets a consumer, so that the log is no longer kept for it.
    pub async fn remove_cursor(&self, consumer: &str) -> Result<(), CommitError> {
        let mut commit = Commit::new(&());
        commit.delete(&CURSORS, &(), &consumer.to_owned());
        self.commit(commit).await?;
        self.inner.cursors.remove(consumer);
        Ok(())
    }

    /// Flushes, stops the committer, and closes. Later commits are refused. The engine itself is let go
    /// with the last clone of the store and the last snapshot.
    pub async fn close(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        let task = match &mut *inner.committer.lock() {
            running @ Some(RunningCommitter::Task(_)) => running.take(),
            _ => None,
        };
        if let Some(RunningCommitter::Task(task)) = task {
            inner.queue.close("the store is closed");
            let stopped = task.await;
            return stopped
                .map_err(|error| StoreError::Engine(error.to_string()))?
                .map_err(Into::into);
        }
        let stopped = tokio::task::spawn_blocking(move || inner.stop()).await;
        stopped.map_err(|error| StoreError::Engine(error.to_string()))?.map_err(Into::into)
    }

    /// Resolves once every clone of this store is dropped, so that its files and its lock are free.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut released = self.inner.released.subscribe();
        async move { while released.changed().await.is_ok() {} }
    }

    fn rows(&self) -> &dyn View {
        self.inner.engine.as_ref()
    }
}

impl StoreOptions {
    /// The names of all keyspaces, the store's own first.
    #[must_use]
    pub fn all_keyspaces(&self) -> Vec<&'static str> {
        open::OWN_KEYSPACES.iter().chain(&self.keyspaces).copied().collect()
    }

    /// Options of a test's store: the server is `hearth.test`.
    #[must_use]
    pub fn for_tests(engine: EngineKind, path: &Path, keyspaces: &[&'static str]) -> Self {
        Self {
            engine,
            path: path.to_owned(),
            keyspaces: keyspaces.to_vec(),
            server_name: "hearth.test".to_owned(),
        }
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
        reads::get(self.view.as_ref(), &self.places, keyspace, partition, clustering)
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
        let range = reads::Range::new(partition, &range);
        reads::page(self.view.as_ref(), &self.places, keyspace, &range, direction, limit)
    }

    /// Up to `limit` rows of one partition whose clustering key begins with `prefix`.
    pub fn page_prefix<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        prefix: &impl KeyPart,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(C, V)>, StoreError> {
        let range = reads::Range::prefix(partition, prefix);
        reads::page(self.view.as_ref(), &self.places, keyspace, &range, direction, limit)
    }

    /// Walks a keyspace over all partitions, for jobs of the server itself (directory, migrations).
    /// Stops when the visitor breaks.
    pub fn for_each<P: KeyPart, C: KeyPart, V: Record>(
        &self,
        keyspace: &Keyspace<P, C, V>,
        mut visit: impl FnMut(P, C, V) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let whole: Keyspace<(), (P, C), V> = Keyspace::new(keyspace.name());
        let range = reads::Range::new::<(), (P, C)>(&(), &..);
        reads::visit(
            self.view.as_ref(),
            &self.places,
            &whole,
            &range,
            Direction::Forward,
            |(partition, clustering), value| Ok(visit(partition, clustering, value)),
        )
    }
}
