//! Forgetting what was sent and received once nobody repeats it any more.

use std::{ops::ControlFlow, sync::Weak, time::Duration};

use hearth_storage::{Commit, KeyPart, Keyspace};
use tokio::time::sleep;

use crate::{
    E2ee, E2eeError,
    e2ee::Inner,
    schema::{SENT_TRANSACTIONS, Timestamp},
};

/// How often is looked for what is old.
const SWEEP_EVERY: Duration = Duration::from_hours(1);
/// A client repeats a request within this time, in milliseconds: a day.
const KEEP_SENT_MS: u64 = 24 * 60 * 60 * 1_000;
/// Rows that are gathered at a time.
const SWEPT_AT_ONCE: usize = 10_000;
/// Rows that one commit deletes.
const ROWS_PER_COMMIT: usize = 500;

/// Sweeps for as long as the server runs.
pub(crate) async fn sweep(inner: Weak<Inner>) {
    loop {
        sleep(SWEEP_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = (E2ee { inner }).forget_repetitions().await {
            tracing::warn!(%error, "what was sent and received long ago stays for now");
        }
    }
}

impl E2ee {
    /// Forgets requests and messages whose repetition need not be known any more.
    pub(super) async fn forget_repetitions(&self) -> Result<(), E2eeError> {
        let now_ms = self.now_ms();
        self.sweep_keyspace(&SENT_TRANSACTIONS, now_ms.saturating_sub(KEEP_SENT_MS)).await?;
        self.forget_old_received(now_ms).await
    }

    /// Deletes the rows that are older than this.
    async fn sweep_keyspace<P, C>(
        &self,
        keyspace: &'static Keyspace<P, C, Timestamp>,
        before_ms: u64,
    ) -> Result<(), E2eeError>
    where
        P: KeyPart + Send + 'static,
        C: KeyPart + Send + 'static,
    {
        loop {
            let read = self.store().bulk(move |view| {
                let mut old = Vec::new();
                view.for_each(keyspace, |partition, clustering, Timestamp(written_ms)| {
                    if written_ms < before_ms {
                        old.push((partition, clustering));
                    }
                    if old.len() < SWEPT_AT_ONCE {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })?;
                Ok(old)
            });
            let old = read.await?;
            for rows in old.chunks(ROWS_PER_COMMIT) {
                let mut commit = Commit::new(&()).lazy();
                for (partition, clustering) in rows {
                    commit.delete(keyspace, partition, clustering);
                }
                self.store().commit(commit).await?;
            }
            if old.len() < SWEPT_AT_ONCE {
                return Ok(());
            }
        }
    }
}
