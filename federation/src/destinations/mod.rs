//! What is known of other servers' reachability: one row a server that failed, kept over restarts.
//!
//! A server that failed is left alone for one step of its backoff, whoever wants to speak to it. Then
//! one request goes through; those that come meanwhile wait for its fate, which is theirs too.

mod table;

use std::{
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hearth_storage::{Commit, Keyspace, Store};
use hearth_types::Clock;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::{sync::Notify, time::timeout};

pub(crate) use self::table::DestinationRow;
use self::table::{Steps, Table};
use crate::{FederationConfig, FederationError};

/// Servers that failed.
pub(crate) const DESTINATIONS: Keyspace<OwnedServerName, (), DestinationRow> =
    Keyspace::new("federation_destinations");

/// Rows that one commit writes.
const ROWS_PER_COMMIT: usize = 256;

/// Which servers answer. Cheap to clone.
#[derive(Clone)]
pub struct Destinations(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
    /// There are rows to write; also told at the end.
    dirty: Arc<Notify>,
    /// A request that others wait for is over.
    settled: Notify,
    watcher: OnceLock<Arc<dyn DestinationWatcher>>,
}

/// Ends the task that writes rows.
impl Drop for Inner {
    fn drop(&mut self) {
        self.dirty.notify_one();
    }
}

/// Somebody who has things for servers that could not be reached.
pub trait DestinationWatcher: Send + Sync + 'static {
    /// The server is worth a try: it answered after it had failed, or it spoke to us. Must not block.
    fn worth_trying(&self, server: &ServerName);
}

impl fmt::Debug for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destinations").finish_non_exhaustive()
    }
}

impl Destinations {
    /// Reads the rows, and starts the task that writes them, which ends with the last clone. The steps'
    /// jitter follows from both servers' names, so that a simulation sees the same on each run.
    pub async fn open(
        store: Store,
        own_name: &ServerName,
        clock: Arc<dyn Clock>,
        config: &FederationConfig,
    ) -> Result<Self, FederationError> {
        let rows = store
            .bulk(|view| {
                let mut rows = Vec::new();
                view.for_each(&DESTINATIONS, |server, (), row| {
                    rows.push((server, row));
                    ControlFlow::Continue(())
                })?;
                Ok(rows)
            })
            .await?;
        let min_ms = config.backoff_min_s.max(1).saturating_mul(1_000);
        let max_ms = config.backoff_max_s.saturating_mul(1_000).max(min_ms);
        let inner = Arc::new(Inner {
            clock,
            table: Mutex::new(Table::new(Steps { min_ms, max_ms }, own_name, rows)),
            dirty: Arc::default(),
            settled: Notify::new(),
            watcher: OnceLock::new(),
        });
        tokio::spawn(write_rows(Arc::downgrade(&inner), Arc::clone(&inner.dirty), store));
        Ok(Self(inner))
    }

    /// Plugs in who is told when a server is worth a try; only the first call counts.
    pub fn set_watcher(&self, watcher: Arc<dyn DestinationWatcher>) {
        if self.0.watcher.set(watcher).is_err() {
            tracing::warn!("a second watcher of destinations was not plugged in");
        }
    }

    /// How long a server is to be left alone, in milliseconds; `None` if it may be asked. A server that
    /// is due after a failure may be asked once: who gets `None` then asks, and says how it went by
    /// [`Self::succeeded`] or [`Self::failed`].
    #[must_use]
    pub fn retry_in(&self, server: &ServerName) -> Option<u64> {
        self.0.table.lock().try_now(server, self.0.clock.now_ms())
    }

    /// The same, but waits for the one request that goes through when the server is due: what became
    /// of it holds for all. The turn is over when it is dropped.
    ///
    /// # Errors
    ///
    /// How long the server is to be left alone, in milliseconds.
    pub(crate) async fn turn(&self, server: &ServerName, patience: Duration) -> Result<Turn, u64> {
        let turn = async {
            loop {
                let settled = self.0.settled.notified();
                let (wait, probes) = {
                    let mut table = self.0.table.lock();
                    let wait = table.try_now(server, self.0.clock.now_ms());
                    (wait, table.is_failing(server))
                };
                match wait {
                    None => {
                        let (destinations, server) = (self.clone(), server.to_owned());
                        return Ok(Turn { destinations, server, probes });
                    }
                    Some(wait_ms) if self.due_in(server).is_some() => return Err(wait_ms),
                    Some(_) => settled.await,
                }
            }
        };
        let gave_up = || u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        timeout(patience, turn).await.unwrap_or_else(|_| Err(gave_up()))
    }

    /// The same for somebody who only wants to know.
    #[must_use]
    pub fn due_in(&self, server: &ServerName) -> Option<u64> {
        self.0.table.lock().due_in(server, self.0.clock.now_ms())
    }

    /// It answered.
    pub fn succeeded(&self, server: &ServerName) {
        let recovered = self.0.table.lock().succeeded(server);
        if recovered {
            tracing::info!(%server, "a server can be reached again");
            self.0.dirty.notify_one();
            self.0.settled.notify_waiters();
            self.wake(server);
        }
    }

    /// It did not. One step of the backoff, however many requests failed in it.
    pub fn failed(&self, server: &ServerName, error: &str) {
        let begun = self.0.table.lock().failed(server, error, self.0.clock.now_ms());
        if begun {
            tracing::info!(%server, error, "a server cannot be reached");
            self.0.dirty.notify_one();
            self.0.settled.notify_waiters();
        }
    }

    /// It spoke to us: worth trying at once.
    pub fn heard_from(&self, server: &ServerName) {
        let due = self.0.table.lock().heard_from(server, self.0.clock.now_ms());
        if due {
            self.0.dirty.notify_one();
            self.wake(server);
        }
    }

    /// All servers that failed.
    pub(crate) fn rows(&self) -> BTreeMap<OwnedServerName, DestinationRow> {
        let table = self.0.table.lock();
        table.rows().map(|(server, row)| (server.clone(), row.clone())).collect()
    }

    fn wake(&self, server: &ServerName) {
        if let Some(watcher) = self.0.watcher.get() {
            watcher.worth_trying(server);
        }
    }
}

/// The right to ask a server now.
pub(crate) struct Turn {
    destinations: Destinations,
    server: OwnedServerName,
    /// This is the one request that others wait for.
    probes: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Cut off before anything was heard: the next one may try.
        let Inner { table, settled, .. } = &*self.destinations.0;
        if self.probes && table.lock().end_probe(&self.server) {
            settled.notify_waiters();
        }
    }
}

/// Writes what changed, lazily durable, until the table is gone.
async fn write_rows(table: std::sync::Weak<Inner>, dirty: Arc<Notify>, store: Store) {
    loop {
        dirty.notified().await;
        let Some(inner) = table.upgrade() else { return };
        let rows = inner.table.lock().take_dirty();
        drop(inner);
        for rows in rows.chunks(ROWS_PER_COMMIT) {
            let mut commit = Commit::new(&()).lazy();
            for (server, row) in rows {
                match row {
                    Some(row) => commit.put(&DESTINATIONS, server, &(), row),
                    None => commit.delete(&DESTINATIONS, server, &()),
                }
            }
            if let Err(error) = store.commit(commit).await {
                tracing::warn!(%error, "the backoff of other servers could not be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_types::ManualClock;
    use ruma::server_name;

    use super::*;

    async fn open(store: &Store, clock: &Arc<ManualClock>) -> Destinations {
        let config = FederationConfig::default();
        let own_name = server_name!("here.test");
        Destinations::open(store.clone(), own_name, clock.clone(), &config).await.unwrap()
    }

    /// Waits until the task has written what it was told of.
    async fn written(store: &Store, server: &ServerName, wanted: bool) {
        for _ in 0..1_000 {
            let row = store.get(&DESTINATIONS, &server.to_owned(), &()).await.unwrap();
            if row.is_some() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the row was not written");
    }

    #[tokio::test]
    async fn the_backoff_outlives_the_process() {
        let store = Store::memory_for_tests(crate::KEYSPACES);
        let clock = Arc::new(ManualClock::new(1_000_000));
        let there = server_name!("there.test");
        let destinations = open(&store, &clock).await;
        destinations.failed(there, "it is down");
        let wait = destinations.due_in(there).unwrap();
        written(&store, there, true).await;
        drop(destinations);

        let destinations = open(&store, &clock).await;
        assert_eq!(destinations.retry_in(there), Some(wait));
        assert_eq!(destinations.rows()[there].last_error, "it is down");
        clock.advance(Duration::from_millis(wait));
        assert_eq!(destinations.retry_in(there), None);
        destinations.succeeded(there);
        written(&store, there, false).await;
        assert!(destinations.rows().is_empty());
    }
    #[tokio::test(start_paused = true)]
    async fn who_comes_while_one_asks_waits_for_the_outcome() {
        let store = Store::memory_for_tests(crate::KEYSPACES);
        let clock = Arc::new(ManualClock::new(1_000_000));
        let there = server_name!("there.test");
        let destinations = open(&store, &clock).await;
        let patience = Duration::from_secs(10);
        let from_before = destinations.turn(there, patience).await.ok().unwrap();
        destinations.failed(there, "it is down");
        let wait = destinations.due_in(there).unwrap();
        assert_eq!(destinations.turn(there, patience).await.err(), Some(wait), "it rests");
        clock.advance(Duration::from_millis(wait));

        let first = destinations.turn(there, patience).await.ok().unwrap();
        drop(from_before);
        assert!(destinations.turn(there, patience).await.is_err(), "no patience left");
        let waits = destinations.turn(there, patience);
        let (second, ()) = tokio::join!(waits, async { destinations.succeeded(there) });
        assert!(second.is_ok(), "it is well");

        destinations.failed(there, "down again");
        clock.advance(Duration::from_millis(destinations.due_in(there).unwrap()));
        drop(first);
        let third = destinations.turn(there, patience).await.ok().unwrap();
        let waits = destinations.turn(there, patience);
        let (fourth, ()) = tokio::join!(waits, async { drop(third) });
        assert!(fourth.is_ok(), "the one before was cut off");
    }
}
