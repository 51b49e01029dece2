//! Keeps the log short: behind the slowest consumer, a little at a time.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hearth_types::StreamPosition;
use parking_lot::Mutex;

use crate::{
    Direction, Engine, EngineError, KeyPart,
    engine::{KeyspaceIndex, Write},
};

/// The newest positions that stay, whatever the cursors say.
pub(crate) const KEPT_POSITIONS: usize = 100_000;
/// Positions between two runs.
const INTERVAL: u64 = 1_024;
/// Rows that one run deletes; more than are written meanwhile, so that an old log shrinks.
const MAX_ROWS: usize = 4_096;

/// Each consumer's cursor, as persisted, and how far the log was trimmed behind them.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    positions: Mutex<HashMap<String, StreamPosition>>,
    trimmed: AtomicU64,
}

impl Cursors {
    pub(crate) fn set(&self, consumer: &str, position: StreamPosition) {
        self.positions.lock().insert(consumer.to_owned(), position);
    }

    pub(crate) fn remove(&self, consumer: &str) {
        self.positions.lock().remove(consumer);
    }

    pub(crate) fn get(&self, consumer: &str) -> Option<StreamPosition> {
        self.positions.lock().get(consumer).copied()
    }

    /// Rows up to here may be deleted.
    pub(crate) fn trimmed(&self) -> StreamPosition {
        StreamPosition::new(self.trimmed.load(Ordering::Acquire))
    }

    /// Told before the rows go.
    pub(crate) fn set_trimmed(&self, position: StreamPosition) {
        self.trimmed.store(position.get(), Ordering::Release);
    }

    fn slowest(&self) -> Option<StreamPosition> {
        self.positions.lock().values().min().copied()
    }
}

/// Deletes old rows of the log. Works on the committer's thread.
#[derive(Debug)]
pub(crate) struct Trimmer {
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) log: KeyspaceIndex,
    /// Where it is kept up to which position the log is trimmed.
    pub(crate) trimmed_row: (KeyspaceIndex, Bytes),
    /// Everything up to here is deleted.
    pub(crate) trimmed: StreamPosition,
    /// The position from which this opening counts. Positions before it have gaps: until enough came
    /// after it, everything from `kept` on stays.
    pub(crate) opened: StreamPosition,
    /// The oldest of the newest rows at the opening.
    pub(crate) kept: StreamPosition,
    /// The last assigned position at the last run.
    pub(crate) last_run: StreamPosition,
}

impl Trimmer {
    /// The rows to delete now; mostly none.
    pub(crate) fn run(
        &mut self,
        engine: &dyn Engine,
        last: StreamPosition,
    ) -> Result<Vec<Write>, EngineError> {
        if last.get().saturating_sub(self.last_run.get()) < INTERVAL {
            return Ok(Vec::new());
        }
        self.last_run = last;
        let target = self.target(last);
        if target <= self.trimmed {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        let (lower, upper) = (log_key(self.trimmed.next()), log_key(target.next()));
        let range = (Bound::Included(lower.as_slice()), Bound::Excluded(upper.as_slice()));
        engine.scan(self.log, range, Direction::Forward, &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            if keys.len() < MAX_ROWS {
                std::ops::ControlFlow::Continue(())
            } else {
                std::ops::ControlFlow::Break(())
            }
        })?;
        // A full run may have stopped within a position, which the next one begins with.
        self.trimmed = match keys.last() {
            Some(key) if keys.len() == MAX_ROWS => position_of(key).previous(),
            _ => target,
        };
        self.cursors.set_trimmed(target);
        let delete = |key| Write { keyspace: self.log, key, value: None };
        let mut writes: Vec<_> = keys.into_iter().map(delete).collect();
        let (keyspace, key) = self.trimmed_row.clone();
        let value = Bytes::copy_from_slice(&self.trimmed.get().to_be_bytes());
        writes.push(Write { keyspace, key, value: Some(value) });
        Ok(writes)
    }

    /// The last position that nobody needs.
    fn target(&self, last: StreamPosition) -> StreamPosition {
        let since_opening = last.get().saturating_sub(self.opened.get());
        let beyond = since_opening.checked_sub(KEPT_POSITIONS as u64);
        let unkept = match beyond {
            Some(beyond) => self.opened.plus(beyond),
            None => self.kept.previous(),
        };
        self.cursors.slowest().map_or(unkept, |cursor| cursor.min(unkept))
    }
}

fn log_key(position: StreamPosition) -> Vec<u8> {
    let mut key = crate::KeyEncoder::default();
    (position, 0_u16).encode(&mut key);
    key.bytes
}

fn position_of(key: &[u8]) -> StreamPosition {
    StreamPosition::decode(&mut crate::KeyDecoder::new(key)).unwrap_or_default()
}
