//! Writes how far pushers got: the rows of many in one commit, for each commit costs the store's writer as much as a small
//! request of a client does. One task writes all of them, in the order in which they come, so that no row outlives its pusher.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hearth_storage::{Commit, CommitError, Store};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::{
    pushers::{PROGRESS, ProgressRow},
    registry::Entry,
    service::Inner,
};

/// How long the first row waits for others. Its pusher's next notification comes as much later, which nobody sees.
const GATHER: Duration = Duration::from_millis(2);
/// Rows of one commit, and rows that wait for the next one; whoever has more waits with them.
const MAX_ROWS: usize = 256;

/// Where rows wait for the next commit; there is no such place before somebody writes.
#[derive(Debug, Default)]
pub(crate) struct Book(OnceLock<mpsc::Sender<Row>>);

#[derive(Debug)]
struct Row {
    entry: Arc<Entry>,
    /// `None`: the pusher is gone.
    progress: Option<ProgressRow>,
    written: oneshot::Sender<Result<(), CommitError>>,
}

impl Book {
    /// Writes a pusher's progress together with others', unless it is gone: applied when this returns, synced soon after. Refused
    /// when nobody writes any more.
    pub(crate) async fn write(
        &self,
        entry: &Arc<Entry>,
        progress: ProgressRow,
    ) -> Result<(), CommitError> {
        let stopped = || Err(CommitError::Unavailable("push stopped".to_owned()));
        self.add(entry, Some(progress)).await.unwrap_or_else(stopped)
    }

    /// Deletes what was written of a pusher that is gone. Nothing of it is on its way to the store any more when this returns.
    pub(crate) async fn delete(&self, entry: &Arc<Entry>) -> Result<(), CommitError> {
        self.add(entry, None).await.unwrap_or(Ok(()))
    }

    /// `None`: nobody writes.
    async fn add(
        &self,
        entry: &Arc<Entry>,
        progress: Option<ProgressRow>,
    ) -> Option<Result<(), CommitError>> {
        let (written, answer) = oneshot::channel();
        let row = Row { entry: Arc::clone(entry), progress, written };
        self.0.get()?.send(row).await.ok()?;
        answer.await.ok()
    }
}

impl Row {
    fn add_to(&self, commit: &mut Commit) {
        let Entry { user_id, key, .. } = &*self.entry;
        match &self.progress {
            Some(progress) if !self.entry.is_gone() => {
                commit.put(&PROGRESS, user_id, key, progress);
            }
            Some(_) => {}
            None => commit.delete(&PROGRESS, user_id, key),
        }
    }
}

/// Begins to write, on the current runtime, until the server stops.
pub(crate) fn open(inner: &Inner) {
    let (rows, waiting) = mpsc::channel(MAX_ROWS);
    if inner.book.0.set(rows).is_ok() {
        let writes = write_all(inner.parts.store.clone(), waiting);
        inner.tasks.spawn(inner.stop.clone().run_until_cancelled_owned(writes));
    }
}

async fn write_all(store: Store, mut waiting: mpsc::Receiver<Row>) {
    let mut rows = Vec::with_capacity(MAX_ROWS);
    while let Some(first) = waiting.recv().await {
        sleep(GATHER).await;
        rows.push(first);
        while rows.len() < MAX_ROWS
            && let Ok(row) = waiting.try_recv()
        {
            rows.push(row);
        }
        let mut commit = Commit::new(&()).lazy();
        for row in &rows {
            row.add_to(&mut commit);
        }
        let written = store.commit(commit).await.map(|_| ());
        for row in rows.drain(..) {
            // Whoever does not wait any more has dropped the other end.
            drop(row.written.send(written.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Registry, entries};

    #[tokio::test]
    async fn no_row_outlives_its_pusher() {
        let store = Store::memory_for_tests(crate::KEYSPACES);
        let (rows, waiting) = mpsc::channel(MAX_ROWS);
        let book = Book(OnceLock::from(rows));
        tokio::spawn(write_all(store.clone(), waiting));
        let row = async |entry: &Entry| store.get(&PROGRESS, &entry.user_id, &entry.key).await;
        let progress = || ProgressRow { failures: 1, ..ProgressRow::default() };

        let pushers = entries(3, "push.example");
        let [before, meanwhile, after] = &pushers[..] else { unreachable!() };
        for entry in &pushers {
            book.write(entry, progress()).await.unwrap();
            assert_eq!(row(entry).await.unwrap(), Some(progress()));
        }
        let registry = Registry::default();
        registry.remove(before);
        book.delete(before).await.unwrap();
        assert_eq!(row(before).await.unwrap(), None);

        let deleted = async {
            registry.remove(meanwhile);
            book.delete(meanwhile).await
        };
        let (written, deleted) = tokio::join!(book.write(meanwhile, progress()), deleted);
        written.and(deleted).unwrap();
        assert_eq!(row(meanwhile).await.unwrap(), None);

        registry.remove(after);
        book.delete(after).await.unwrap();
        book.write(after, progress()).await.unwrap();
        assert_eq!(row(after).await.unwrap(), None);
    }

    #[tokio::test]
    async fn when_nobody_writes_nothing_is_acknowledged_and_nothing_is_left_to_delete() {
        let book = Book::default();
        let pushers = entries(1, "push.example");
        assert!(book.write(&pushers[0], ProgressRow::default()).await.is_err());
        assert!(book.delete(&pushers[0]).await.is_ok());
    }
}
