//! Reads of whole ranges.

use std::ops::Bound;

use crate::{Direction, KeyPart, Keyspace, Record, Snapshot, Store, StoreError};

/// Rows that are read inline, on the async threads.
const INLINE_ROWS: usize = 100;
/// Rows of one partition that one question may read.
const MAX_ROWS: usize = 100_000;

impl Store {
    /// All rows of a range, up to a hundred thousand: the first ones inline, more as one blocking job.
    pub async fn page_all<P, C, V>(
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
        let first =
            self.page(keyspace, partition, range.clone(), Direction::Forward, INLINE_ROWS).await?;
        if first.len() < INLINE_ROWS {
            return Ok(first);
        }
        let partition = partition.clone();
        let read = move |view: &Snapshot| {
            view.page(keyspace, &partition, range, Direction::Forward, MAX_ROWS)
        };
        self.bulk(read).await
    }

    /// All rows whose keys begin so, in the same way.
    pub async fn page_all_under<P, C, V, X>(
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
        let first =
            self.page_prefix(keyspace, partition, prefix, Direction::Forward, INLINE_ROWS).await?;
        if first.len() < INLINE_ROWS {
            return Ok(first);
        }
        let (partition, prefix) = (partition.clone(), prefix.clone());
        let read = move |view: &Snapshot| {
            view.page_prefix(keyspace, &partition, &prefix, Direction::Forward, MAX_ROWS)
        };
        self.bulk(read).await
    }
}
