//! Reads of whole ranges.

use std::ops::Bound;

use hearth_storage::{Direction, KeyPart, Keyspace, Record, StoreError};

use crate::E2ee;

/// Rows that are read inline, on the async threads.
const INLINE_ROWS: usize = 100;
/// Rows of one partition that one question may read.
const MAX_ROWS: usize = 100_000;

impl E2ee {
    /// All rows of a range: the first ones inline, more as one blocking job.
    pub(crate) async fn page_all<P, C, V>(
        &self,
        keyspace: &'static Keyspace<P, C, V>,
        partition: &P,
        range: (Bound<C>, Bound<C>),
    ) -> Result<Vec<(C, V)>, StoreError>
    where
        P: KeyPart + Clone + Send + 'static,
        C: KeyPart + Clone + Send + Sync + 'static,
        V: Record + Send + 'static,
    {
        let store = self.store();
        let first =
            store.page(keyspace, partition, range.clone(), Direction::Forward, INLINE_ROWS).await?;
        if first.len() < INLINE_ROWS {
            return Ok(first);
        }
        let partition = partition.clone();
        let read = move |view: &hearth_storage::Snapshot| {
            view.page(keyspace, &partition, range, Direction::Forward, MAX_ROWS)
        };
        store.bulk(read).await
    }

    /// All rows whose clustering key begins with `prefix`, in the same way.
    pub(crate) async fn page_all_under<P, C, V, X>(
        &self,
        keyspace: &'static Keyspace<P, C, V>,
        partition: &P,
        prefix: &X,
    ) -> Result<Vec<(C, V)>, StoreError>
    where
        P: KeyPart + Clone + Send + 'static,
        C: KeyPart + Send + 'static,
        V: Record + Send + 'static,
        X: KeyPart + Clone + Send + 'static,
    {
        let store = self.store();
        let first =
            store.page_prefix(keyspace, partition, prefix, Direction::Forward, INLINE_ROWS).await?;
        if first.len() < INLINE_ROWS {
            return Ok(first);
        }
        let (partition, prefix) = (partition.clone(), prefix.clone());
        let read = move |view: &hearth_storage::Snapshot| {
            view.page_prefix(keyspace, &partition, &prefix, Direction::Forward, MAX_ROWS)
        };
        store.bulk(read).await
    }
}
