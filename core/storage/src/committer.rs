//! The one task that writes.
//!
//! A thread drains the queue of commits. What it finds becomes one engine batch with one sync, so that
//! many writers share it, and a lone writer never waits for others. In this order: preconditions are
//! checked against the engine and the batch's earlier commits; positions are assigned; the batch is
//! applied; topics' last positions move; the new position is published; listeners are called; tickets
//! are answered.
//!
//! A failure of the engine ends the store: nothing of the batch is acknowledged, nothing more is
//! accepted.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hearth_types::StreamPosition;
use tokio::{
    sync::oneshot,
    time::{Instant as RuntimeInstant, timeout_at},
};

use crate::{
    CommitError, Committed, Durability, Engine, EngineError, Notifier, Topic,
    commit::{Action, Operation, SealedCommit},
    engine::{KeyspaceIndex, Write},
    queue::{Answer, Queue, Submission, Work},
    trim::Trimmer,
};

/// How long a lazy commit may stay unsynced; the promise is 500 ms.
const LAZY_SYNC: Duration = Duration::from_millis(400);

/// Batches that take as long are worth a word in the log: the engine or the disk cannot keep up.
const SLOW_BATCH: Duration = Duration::from_millis(250);

/// The promise of an answer to a submitted commit. Dropping it does not withdraw the commit.
#[derive(Debug)]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Committed, CommitError>>,
}

impl Ticket {
    pub(crate) fn new(answer: oneshot::Receiver<Result<Committed, CommitError>>) -> Self {
        Self { answer }
    }

    /// Waits until the commit is durable (lazy ones: applied) and says where it landed.
    pub async fn done(self) -> Result<Committed, CommitError> {
        let stopped = |_| Err(CommitError::Unavailable("the committer stopped".to_owned()));
        self.answer.await.unwrap_or_else(stopped)
    }
}

/// The committer's thread and what it works on.
pub(crate) struct Committer {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) notifier: Arc<Notifier>,
    /// Where the last assigned position is kept.
    pub(crate) last_position_row: (KeyspaceIndex, Bytes),
    /// The last assigned position.
    pub(crate) last: StreamPosition,
    /// The last position that is on the disk.
    pub(crate) synced: StreamPosition,
    /// Positions that may be shown before they are on the disk.
    pub(crate) max_unsynced: u64,
    pub(crate) trimmer: Trimmer,
    /// Since when something is applied that is not synced, by the runtime's time where there is one.
    pub(crate) unsynced_since: Option<RuntimeInstant>,
}

/// The newest rows of the batch being built: keyspace and key to value.
type Overlay = HashMap<(KeyspaceIndex, Bytes), Option<Bytes>>;

/// Refuses everything when the thread ends, in whatever way.
struct AbortOnExit(Arc<Queue>);

impl Drop for AbortOnExit {
    fn drop(&mut self) {
        self.0.abort("the committer stopped");
    }
}

/// A commit whose writes are in the batch.
struct Applied {
    committed: Committed,
    topics: Vec<Topic>,
    answer: Answer,
}

impl Committer {
    pub(crate) fn spawn(self) -> std::io::Result<thread::JoinHandle<Result<(), EngineError>>> {
        thread::Builder::new().name("committer".to_owned()).spawn(move || self.run())
    }

    /// Runs as a task on the current runtime, where a batch takes `pace` of the runtime's time: for
    /// servers under simulated time, which must not depend on threads.
    pub(crate) fn spawn_task(
        self,
        pace: Duration,
    ) -> tokio::task::JoinHandle<Result<(), EngineError>> {
        tokio::spawn(self.run_in_task(pace))
    }

    async fn run_in_task(mut self, pace: Duration) -> Result<(), EngineError> {
        let _abort = AbortOnExit(self.queue.clone());
        loop {
            match self.unsynced_since {
                // Nothing to take then is the deadline.
                Some(since) => drop(timeout_at(since + LAZY_SYNC, self.queue.arrived()).await),
                None => self.queue.arrived().await,
            }
            tokio::time::sleep(pace).await;
            let step = match self.queue.take_arrived() {
                Work::Commits(submissions) => self.commit(submissions),
                Work::Deadline => self.sync(),
                Work::Closed => {
                    self.sync()?;
                    return self.engine.close();
                }
            };
            if let Err(error) = step.and_then(|()| self.trim()) {
                tracing::debug!(%error, "the storage engine failed: the store is closed");
                self.queue.abort(&error.to_string());
                return Err(error);
            }
        }
    }

    fn run(mut self) -> Result<(), EngineError> {
        let _abort = AbortOnExit(self.queue.clone());
        loop {
            let deadline = self.unsynced_since.map(|since| (since + LAZY_SYNC).into_std());
            let step = match self.queue.take(deadline) {
                Work::Commits(submissions) => self.commit(submissions),
                Work::Deadline => self.sync(),
                Work::Closed => {
                    self.sync()?;
                    return self.engine.close();
                }
            };
            if let Err(error) = step.and_then(|()| self.trim()) {
                tracing::error!(%error, "the storage engine failed: the store is closed");
                self.queue.abort(&error.to_string());
                return Err(error);
            }
        }
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        if self.unsynced_since.take().is_some() {
            self.engine.sync()?;
            self.synced = self.last;
        }
        Ok(())
    }

    fn trim(&mut self) -> Result<(), EngineError> {
        let writes = self.trimmer.run(self.engine.as_ref(), self.last)?;
        if !writes.is_empty() {
            self.engine.apply(writes, false)?;
            self.unsynced_since.get_or_insert_with(RuntimeInstant::now);
        }
        Ok(())
    }

    fn commit(&mut self, submissions: Vec<Submission>) -> Result<(), EngineError> {
        let places = submissions.iter().map(Submission::places).sum();
        let mut overlay = Overlay::with_capacity(submissions.len() * 8);
        let mut applied = Vec::with_capacity(submissions.len());
        let mut durable = self.unsynced_since.is_some_and(|since| since.elapsed() >= LAZY_SYNC);
        for mut submission in submissions {
            match self.holds(&mut submission.commit, &overlay) {
                Ok(true) => {}
                Ok(false) => {
                    submission.refuse(&CommitError::Precondition);
                    continue;
                }
                Err(error) => return fail(error, applied, Some(submission)),
            }
            durable |= submission.commit.durability == Durability::Durable;
            let committed = self.assign(submission.commit.positions);
            add_rows(&mut overlay, submission.commit.operations, committed.first);
            let topics = submission.commit.topics;
            applied.push(Applied { committed, topics, answer: submission.answer });
        }
        if !applied.is_empty() {
            if let Err(error) = self.apply(overlay, durable) {
                return fail(error, applied, None);
            }
            self.announce(applied);
        }
        self.queue.release(places);
        Ok(())
    }

    /// Do the preconditions hold? Takes them off the commit.
    fn holds(&self, commit: &mut SealedCommit, overlay: &Overlay) -> Result<bool, EngineError> {
        let is_condition = |operation: &mut Operation| {
            matches!(operation.action, Action::RequireAbsent | Action::RequireEqual)
        };
        for condition in commit.operations.extract_if(.., is_condition) {
            let row = (condition.index, Bytes::from(condition.key.bytes));
            let found = match overlay.get(&row) {
                Some(value) => value.clone(),
                None => self.engine.get(row.0, &row.1)?,
            };
            let holds = match condition.action {
                Action::RequireEqual => found.is_some_and(|found| *found == *condition.value.bytes),
                _ => found.is_none(),
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn assign(&mut self, positions: u32) -> Committed {
        let first = self.last.next();
        self.last = self.last.plus(u64::from(positions));
        Committed { first, last: self.last }
    }

    fn apply(&mut self, overlay: Overlay, durable: bool) -> Result<(), EngineError> {
        let unsynced = self.last.get() - self.synced.get();
        let durable = durable || unsynced > self.max_unsynced;
        let (keyspace, key) = self.last_position_row.clone();
        let value = Bytes::copy_from_slice(&self.last.get().to_be_bytes());
        let mut writes = Vec::with_capacity(overlay.len() + 1);
        writes.push(Write { keyspace, key, value: Some(value) });
        let rows = overlay.into_iter();
        writes.extend(rows.map(|((keyspace, key), value)| Write { keyspace, key, value }));
        let (rows, start) = (writes.len(), Instant::now());
        self.engine.apply(writes, durable)?;
        let taken = start.elapsed();
        if taken >= SLOW_BATCH {
            tracing::warn!(rows, milliseconds = taken.as_millis(), "a slow batch");
        }
        if durable {
            self.unsynced_since = None;
            self.synced = self.last;
        } else {
            self.unsynced_since.get_or_insert_with(RuntimeInstant::now);
        }
        Ok(())
    }

    /// Publishes, wakes and answers.
    fn announce(&self, applied: Vec<Applied>) {
        let changes = || {
            applied.iter().flat_map(|Applied { committed, topics, .. }| {
                topics.iter().map(|topic| (topic, committed.last))
            })
        };
        self.notifier.touch(changes());
        self.notifier.publish(self.last);
        for (topic, position) in changes() {
            self.notifier.wake(topic, position);
        }
        for Applied { committed, answer, .. } in applied {
            // Whoever no longer waits has dropped the ticket.
            drop(answer.send(Ok(committed)));
        }
    }
}

/// Refuses the whole batch.
fn fail(
    error: EngineError,
    applied: Vec<Applied>,
    current: Option<Submission>,
) -> Result<(), EngineError> {
    let refusal = CommitError::Unavailable(error.to_string());
    for Applied { answer, .. } in applied {
        drop(answer.send(Err(refusal.clone())));
    }
    if let Some(submission) = current {
        submission.refuse(&refusal);
    }
    Err(error)
}

fn add_rows(overlay: &mut Overlay, operations: Vec<Operation>, first: StreamPosition) {
    for Operation { index, action, mut key, mut value, .. } in operations {
        key.fill(first);
        value.fill(first);
        let value = (action == Action::Put).then(|| Bytes::from(value.bytes));
        overlay.insert((index, Bytes::from(key.bytes)), value);
    }
}
