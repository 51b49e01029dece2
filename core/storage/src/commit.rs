//! A change to one owner's rows, as its writer builds it.

use hearth_types::StreamPosition;

use crate::{
    KeyEncoder, KeyPart, Keyspace, LogEntry, Record, Topic,
    engine::KeyspaceIndex,
    log::{LOG, encode_row},
};

/// Operations in one commit, preconditions included.
pub const MAX_COMMIT_OPERATIONS: usize = 1_000;
/// Keys and values of one commit, in bytes.
pub const MAX_COMMIT_BYTES: usize = 4 << 20;
/// One key, in bytes.
pub const MAX_KEY_BYTES: usize = 1 << 10;
/// One value, in bytes.
pub const MAX_VALUE_BYTES: usize = 96 << 10;

/// Touched topics in the row of a log entry; more get rows of their own.
const MAX_TOPICS_BESIDE_ENTRY: usize = 16;
/// Touched topics in a row of the log without an entry: even the longest fit into a value.
const MAX_TOPICS_IN_ROW: usize = 256;

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
/// encoding error is kept and returned by the submission. So is a row outside of the home partition:
/// a row's encoded partition must begin with the encoded home, so that (user, device) is at home in
/// the user, and everything is at home in `()`.
#[derive(Debug)]
pub struct Commit {
    home: Box<[u8]>,
    operations: Vec<Operation>,
    entries: Vec<(StreamPosition, LogEntry)>,
    topics: Vec<Topic>,
    positions: u32,
    bytes: usize,
    durability: Durability,
    error: Option<CommitError>,
    scratch: KeyEncoder,
}

/// What to do with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Put,
    Delete,
    RequireAbsent,
    RequireEqual,
}

/// Bytes in which the committer fills in positions.
#[derive(Debug, Default)]
pub(crate) struct Template {
    pub(crate) bytes: Box<[u8]>,
    slots: Vec<(u32, u32)>,
}

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) keyspace: &'static str,
    /// The keyspace's place in the store; filled in by the submission.
    pub(crate) index: KeyspaceIndex,
    pub(crate) action: Action,
    pub(crate) key: Template,
    pub(crate) value: Template,
}

/// A commit that is encoded to its end and within the limits.
#[derive(Debug)]
pub(crate) struct SealedCommit {
    pub(crate) operations: Vec<Operation>,
    pub(crate) topics: Vec<Topic>,
    /// How many positions it takes; at least one.
    pub(crate) positions: u32,
    pub(crate) bytes: usize,
    pub(crate) durability: Durability,
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
    /// The store is shut or its engine failed; after a failure nothing more is accepted. Whether the
    /// commit that met the failure is on the disk is then not known.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

impl Template {
    fn take(scratch: &mut KeyEncoder) -> Self {
        let template = Self {
            bytes: scratch.bytes.as_slice().into(),
            slots: std::mem::take(&mut scratch.slots),
        };
        scratch.bytes.clear();
        template
    }

    /// Writes real positions over the pending ones.
    pub(crate) fn fill(&mut self, first: StreamPosition) {
        for (offset, index) in self.slots.drain(..) {
            let position = first.plus(u64::from(index)).get().to_be_bytes();
            let target = self.bytes.get_mut(offset as usize..);
            if let Some(target) = target.and_then(|rest| rest.first_chunk_mut()) {
                *target = position;
            }
        }
    }

    fn takes_more_than(&self, positions: u32) -> bool {
        self.slots.iter().any(|(_, index)| *index >= positions)
    }
}

impl Commit {
    /// An empty commit whose home is this partition.
    pub fn new<P: KeyPart>(home: &P) -> Self {
        let mut scratch = KeyEncoder::default();
        home.encode(&mut scratch);
        Self {
            home: Template::take(&mut scratch).bytes,
            operations: Vec::new(),
            entries: Vec::new(),
            topics: Vec::new(),
            positions: 0,
            bytes: 0,
            durability: Durability::Durable,
            error: None,
            scratch,
        }
    }

    /// Takes one more position; returns it as pending. A commit that takes none gets one.
    pub fn next_position(&mut self) -> StreamPosition {
        let position = StreamPosition::pending(self.positions);
        self.positions = self.positions.saturating_add(1);
        position
    }

    /// Writes a row of the home partition.
    pub fn put<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: &V,
    ) {
        self.add(Action::Put, true, keyspace, partition, clustering, Some(value));
    }

    /// Deletes a row of the home partition.
    pub fn delete<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) {
        self.add(Action::Delete, true, keyspace, partition, clustering, None);
    }

    /// The commit happens only if the home partition has no such row when it is applied.
    pub fn require_absent<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) {
        self.add(Action::RequireAbsent, true, keyspace, partition, clustering, None);
    }

    /// The commit happens only if the home partition has exactly this row when it is applied.
    pub fn require<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: &V,
    ) {
        self.add(Action::RequireEqual, true, keyspace, partition, clustering, Some(value));
    }

    /// Writes a row of another partition: idempotent, the last one wins.
    pub fn effect_put<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: &V,
    ) {
        self.add(Action::Put, false, keyspace, partition, clustering, Some(value));
    }

    /// Deletes a row of another partition.
    pub fn effect_delete<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
    ) {
        self.add(Action::Delete, false, keyspace, partition, clustering, None);
    }

    /// Appends to the log, at a position of this commit ([`StreamPosition::pending`]). This alone wakes
    /// nobody: see [`Self::touch`].
    pub fn log(&mut self, position: StreamPosition, entry: LogEntry) {
        if position.pending_index().is_none() {
            self.fail("a log entry at a position that is not the commit's own");
        }
        self.entries.push((position, entry));
    }

    /// Wakes this topic's listeners after the commit, and moves the topic's last position.
    pub fn touch(&mut self, topic: Topic) {
        self.topics.push(topic);
    }

    /// Lets the commit be answered before it is durable.
    #[must_use]
    pub fn lazy(mut self) -> Self {
        self.durability = Durability::Lazy;
        self
    }

    /// Operations so far, preconditions included; for callers that split large work.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len() + self.entries.len()
    }

    /// Has nothing been added yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of keys and values so far; for callers that split large work.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn fail(&mut self, reason: impl Into<String>) {
        self.error.get_or_insert(CommitError::Encoding(reason.into()));
    }

    fn add<P: KeyPart, C: KeyPart, V: Record>(
        &mut self,
        action: Action,
        at_home: bool,
        keyspace: &Keyspace<P, C, V>,
        partition: &P,
        clustering: &C,
        value: Option<&V>,
    ) {
        let keyspace = keyspace.name();
        partition.encode(&mut self.scratch);
        if at_home && !self.scratch.bytes.starts_with(&self.home) {
            self.fail(format!("a row of {keyspace} is not in the home partition"));
        }
        clustering.encode(&mut self.scratch);
        let key = Template::take(&mut self.scratch);
        if let Some(Err(error)) = value.map(|value| value.encode(&mut self.scratch)) {
            self.fail(format!("{keyspace}: {error}"));
        }
        let value = Template::take(&mut self.scratch);
        self.push(keyspace, action, key, value);
    }

    fn push(&mut self, keyspace: &'static str, action: Action, key: Template, value: Template) {
        let (key_bytes, value_bytes) = (key.bytes.len(), value.bytes.len());
        if key_bytes == 0 {
            self.fail(format!("an empty key in {keyspace}"));
        }
        if key_bytes > MAX_KEY_BYTES || value_bytes > MAX_VALUE_BYTES {
            self.error.get_or_insert(CommitError::TooLarge(format!(
                "a row of {keyspace} with a key of {key_bytes} and a value of {value_bytes} bytes"
            )));
        }
        self.bytes = self.bytes.saturating_add(key_bytes).saturating_add(value_bytes);
        self.operations.push(Operation { keyspace, index: 0, action, key, value });
    }

    /// Adds the rows of the log, and checks everything that can be checked without the store.
    ///
    /// Touched topics are persisted with the last log entry, or in a row of their own, because the
    /// notifier learns them from there when the store opens.
    pub(crate) fn seal(mut self) -> Result<SealedCommit, CommitError> {
        let positions = self.positions.max(1);
        let mut entries = std::mem::take(&mut self.entries);
        let last = entries.pop();
        for (number, (position, entry)) in entries.iter().enumerate() {
            self.push_log(*position, number, Some(entry), &[]);
        }
        let mut topics = std::mem::take(&mut self.topics);
        topics.sort_unstable();
        topics.dedup();
        let mut rest = topics.as_slice();
        if let Some((position, entry)) = &last {
            let beside = if rest.len() <= MAX_TOPICS_BESIDE_ENTRY { rest } else { &[] };
            self.push_log(*position, entries.len(), Some(entry), beside);
            rest = rest.get(beside.len()..).unwrap_or_default();
        }
        for (number, some) in rest.chunks(MAX_TOPICS_IN_ROW).enumerate() {
            let number = entries.len() + 1 + number;
            self.push_log(StreamPosition::pending(positions - 1), number, None, some);
        }
        let operations = self.operations.len();
        let stray = |operation: &Operation| {
            operation.key.takes_more_than(positions) || operation.value.takes_more_than(positions)
        };
        if self.operations.iter().any(stray) {
            self.fail("a pending position that the commit never took");
        }
        if operations > MAX_COMMIT_OPERATIONS || self.bytes > MAX_COMMIT_BYTES {
            self.error.get_or_insert(CommitError::TooLarge(format!(
                "{operations} operations, {} bytes",
                self.bytes
            )));
        }
        match self.error {
            Some(error) => Err(error),
            None => Ok(SealedCommit {
                operations: self.operations,
                topics,
                positions,
                bytes: self.bytes,
                durability: self.durability,
            }),
        }
    }

    fn push_log(
        &mut self,
        position: StreamPosition,
        number: usize,
        entry: Option<&LogEntry>,
        touched: &[Topic],
    ) {
        // The operation limit keeps the number small.
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        (position, number).encode(&mut self.scratch);
        let key = Template::take(&mut self.scratch);
        if let Err(error) = encode_row(entry, touched, &mut self.scratch) {
            self.fail(error.0);
        }
        let value = Template::take(&mut self.scratch);
        self.push(LOG.name(), Action::Put, key, value);
    }
}
