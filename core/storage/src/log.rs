//! What changed, in order: the outbox of the whole server.
//!
//! A keyspace from position to what happened there. Consumers (federation, push, search, application
//! services) each keep a persisted cursor and read on from it, so that nothing is stranded by a crash.
//! The log is trimmed behind the slowest cursor; at least the newest 100,000 positions are kept,
//! because the notifier learns each topic's last position from them when the store opens.

use bytes::Bytes;
use hearth_types::StreamPosition;

use crate::Topic;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// What kind of change: a constant of the crate that wrote it.
    pub kind: u8,
    /// Whose rows changed.
    pub topic: Topic,
    /// What consumers of this kind need; small, without message bodies.
    pub payload: Bytes,
}

/// A log entry read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// When it happened.
    pub position: StreamPosition,
    /// What happened.
    pub entry: LogEntry,
}
