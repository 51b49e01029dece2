//! Writes how far pushers got: the rows of many in one commit, for each commit costs the store's writer as much as a small
//! request of a client does.

use std::{sync::Arc, time::Duration};

use hearth_storage::{Commit, CommitError};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    pushers::{PROGRESS, ProgressRow},
    registry::Entry,
    service::Inner,
};

/// How long the first row waits for others. Its pusher's next notification comes as much later, which nobody sees.
const GATHER: Duration = Duration::from_millis(2);
/// Rows of one commit.
const MAX_ROWS: usize = 256;

/// The rows that wait for the next commit: no more than there are workers, for each waits for its own.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    rows: Vec<Row>,
    /// Somebody writes, and will see what comes.
    is_writing: bool,
}

#[derive(Debug)]
struct Row {
    entry: Arc<Entry>,
    progress: ProgressRow,
    written: oneshot::Sender<Result<(), CommitError>>,
}

impl Book {
    /// Adds a row; whether somebody must begin to write.
    fn add(&self, row: Row) -> bool {
        let mut waiting = self.0.lock();
        waiting.rows.push(row);
        !std::mem::replace(&mut waiting.is_writing, true)
    }

    /// The rows of the next commit; none: nobody writes any more.
    fn take(&self) -> Vec<Row> {
        let mut waiting = self.0.lock();
        let count = waiting.rows.len().min(MAX_ROWS);
        waiting.is_writing = count > 0;
        waiting.rows.drain(..count).collect()
    }
}

impl Inner {
    /// Writes a pusher's progress together with others', in its user's turn: applied when this returns, synced soon after.
    pub(crate) async fn write_progress(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        progress: ProgressRow,
    ) -> Result<(), CommitError> {
        let (written, answer) = oneshot::channel();
        if self.book.add(Row { entry: Arc::clone(entry), progress, written }) {
            self.finish(write(Arc::clone(self)));
        }
        let stopped = |_| Err(CommitError::Unavailable("push stopped".to_owned()));
        answer.await.unwrap_or_else(stopped)
    }
}

/// Writes what waits until nothing does.
async fn write(inner: Arc<Inner>) {
    loop {
        sleep(GATHER).await;
        let rows = inner.book.take();
        if rows.is_empty() {
            return;
        }
        let mut commit = Commit::new(&()).lazy();
        for Row { entry, progress, .. } in &rows {
            commit.put(&PROGRESS, &entry.user_id, &entry.key, progress);
        }
        let written = inner.parts.store.commit(commit).await.map(|_| ());
        for row in rows {
            // Whoever does not wait any more has dropped the other end.
            drop(row.written.send(written.clone()));
        }
    }
}
