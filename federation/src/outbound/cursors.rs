//! How far destinations got, over restarts: one cursor for all that keep up, a row for each that does
//! not. The log is kept from the shared cursor on; a destination that was long away does not hold it.

use std::ops::ControlFlow;

use hearth_storage::{Commit, Keyspace, Store};
use hearth_types::StreamPosition;
use ruma::OwnedServerName;

use super::lanes::{Checkpoint, Lanes};
use crate::FederationError;

/// Cursors of destinations that lag: everything up to there was delivered.
pub(crate) const OUTBOUND_CURSORS: Keyspace<OwnedServerName, (), StreamPosition> =
    Keyspace::new("federation_outbound_cursors");

/// The consumer of the log whose cursor is the shared one.
const CONSUMER: &str = "federation";
/// Rows that one commit writes.
const ROWS_PER_COMMIT: usize = 500;

/// Where a former run stopped. The first run of all starts with what happens from now on.
pub(super) async fn load(store: &Store) -> Result<Lanes, FederationError> {
    let shared = if let Some(shared) = store.cursor(CONSUMER).await? {
        shared
    } else {
        let now = store.notifier().published();
        store.set_cursor(CONSUMER, now).await?;
        now
    };
    let read = store.bulk(|view| {
        let mut rows = Vec::new();
        view.for_each(&OUTBOUND_CURSORS, |server, (), cursor| {
            rows.push((server, cursor));
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    });
    Ok(Lanes::new(shared, read.await?))
}

/// Lets go of the log, for a server that does not federate any more. If it does so again, it begins with
/// what happens from then on.
pub(super) async fn forget(store: &Store) -> Result<(), FederationError> {
    if store.cursor(CONSUMER).await?.is_some() {
        store.remove_cursor(CONSUMER).await?;
    }
    Ok(())
}

/// Persists a checkpoint: the rows first, so that whoever the shared cursor passes has one.
pub(super) async fn save(store: &Store, checkpoint: &Checkpoint) -> Result<(), FederationError> {
    for rows in checkpoint.rows.chunks(ROWS_PER_COMMIT) {
        let mut commit = Commit::new(&()).lazy();
        for (server, cursor) in rows {
            match cursor {
                Some(cursor) => commit.put(&OUTBOUND_CURSORS, server, &(), cursor),
                None => commit.delete(&OUTBOUND_CURSORS, server, &()),
            }
        }
        store.commit(commit).await?;
    }
    if store.cursor(CONSUMER).await? != Some(checkpoint.shared) {
        store.set_cursor(CONSUMER, checkpoint.shared).await?;
    }
    Ok(())
}
