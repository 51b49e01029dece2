//! A change to one owner's rows, as its writer builds it.

use hearth_types::StreamPosition;

use crate::{KeyPart, Keyspace, LogEntry, Record, Topic};

/// When a commit may be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the disk has it.
    #[default]
    Durable,
    /// After it is applied; the disk has it within 500 ms. For receipts, presence and the like.
    Lazy,
}

/// One atomic change: preconditions and operations inside a home partition, idempotent effects on
/// other partitions, log entries and the topics to wake.
///
/// Limits: 1,000 operations or 4 MiB; [`CommitError::TooLarge`] beyond. Building never fails; an
/// encoding error is kept and returned by the submission.
#[derive(Debug)]
pub struct Commit {
    // Filled in by the owner of this file.
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The first of the commit's positions.
    pub first: StreamPosition,
    /// The last of the commit's positions.
    pub last: StreamPosition,
}

impl Committed {
    /// The real position behind [`StreamPosition::pending`]`(index)`.
    #[must_use]
    pub fn position(&self, index: u32) -> StreamPosition {
        self.first.plus(u64::from(index))
    }
}

/// Why a commit did not happen. Nothing of it was applied.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition did not hold.
    #[error("a precondition of the commit does not hold")]
    Precondition,
    /// More than the limits allow.
    #[error("the commit is too large: {0}")]
    TooLarge(String),
    /// A key or value could not be encoded.
    #[error("the commit could not be encoded: {0}")]
    Encoding(String),
    /// The store is shut or its engine failed; after a failure nothing more is accepted.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

impl Commit {
    /// An empty commit whose home is this partition.
    pub fn new<P: KeyPart>(home: &P) -> Self {
        todo!()
    }

    /// Takes one more position; returns it as pending. A commit that takes none gets one.
    pub fn next_position(&mut self) -> StreamPosition {
        todo!()
    }

    /// Writes a row of the home partition.
    pub fn put<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: &V,
    ) {
        todo!()
    }

    /// Deletes a row of the home partition.
    pub fn delete<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) {
        todo!()
    }

    /// The commit happens only if the home partition has no such row when it is applied.
    pub fn require_absent<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) {
        todo!()
    }

    /// The commit happens only if the home partition has exactly this row when it is applied.
    pub fn require<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: &V,
    ) {
        todo!()
    }

    /// Writes a row of another partition: idempotent, the last one wins.
    pub fn effect_put<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: &V,
    ) {
        todo!()
    }

    /// Deletes a row of another partition.
    pub fn effect_delete<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) {
        todo!()
    }

    /// Appends to the log, at a position of this commit ([`StreamPosition::pending`]).
    pub fn log(&mut self, position: StreamPosition, entry: LogEntry) {
        todo!()
    }

    /// Wakes this topic's listeners after the commit, and moves the topic's last position.
    pub fn touch(&mut self, topic: Topic) {
        todo!()
    }

    /// Lets the commit be answered before it is durable.
    #[must_use]
    pub fn lazy(self) -> Self {
        todo!()
    }

    /// Operations so far, preconditions included; for callers that split large work.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Has nothing been added yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
