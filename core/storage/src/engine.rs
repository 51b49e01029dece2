//! What a key-value store must offer to stand below Hearth.
//!
//! Engines are synchronous and know bytes only. Keyspaces are numbers here: the places of their names
//! in the list that the engine was opened with.

use std::{
    fmt,
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;

pub mod fjall;
pub mod memory;
pub mod sled;

/// The engine failed. After a failed write nothing may be assumed about the batch: the store closes.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {0}")]
pub struct EngineError(pub String);

/// Which engine keeps the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The default: an LSM tree in pure Rust.
    #[default]
    Fjall,
    /// The second engine, which keeps the seam honest.
    Sled,
    /// Nothing survives the process; for tests.
    Memory,
}

impl EngineKind {
    /// The engine's name, as in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In which direction a page goes through its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the smallest key up.
    Forward,
    /// From the greatest key down.
    Backward,
}

/// The place of a keyspace's name in the list that the engine was opened with.
pub type KeyspaceIndex = usize;

/// One row to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub keyspace: KeyspaceIndex,
    /// The row's key, not empty.
    pub key: Bytes,
    /// The new value; `None` deletes the row.
    pub value: Option<Bytes>,
}

/// Keys between two bounds.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Called with each row of a scan, until it breaks.
pub type Visitor<'a> = dyn FnMut(&[u8], Bytes) -> ControlFlow<()> + 'a;

/// Called with each row of an export, until it breaks.
pub type ExportVisitor<'a> = dyn FnMut(KeyspaceIndex, &[u8], Bytes) -> ControlFlow<()> + 'a;

/// Ordered keyspaces with atomic batches.
pub trait Engine: View + fmt::Debug + Send + Sync + 'static {
    /// Applies all writes or none, and after all batches before it. No key occurs twice in a batch.
    /// With `durable` the batch, and every batch before it, survives the loss of power when this
    /// returns. Without it, the newest batches may be lost with the process or the power until the next
    /// [`sync`](Self::sync), each as a whole. (`fjall` loses none with the process.)
    ///
    /// Called by one thread at a time.
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError>;

    /// Makes everything durable that was applied.
    fn sync(&self) -> Result<(), EngineError>;

    /// A view of everything applied so far that later batches do not change. (`sled` cannot promise
    /// that: its views are live.)
    fn view(&self) -> Box<dyn View + Send + Sync>;

    /// Prepares for a quick next opening; everything is durable already.
    fn close(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// All rows of a view, keyspace by keyspace in the order of their keys.
    fn export(&self, keyspaces: usize, visit: &mut ExportVisitor<'_>) -> Result<(), EngineError> {
        let view = self.view();
        let mut stopped = false;
        for keyspace in 0..keyspaces {
            let all = (Bound::Unbounded, Bound::Unbounded);
            view.scan(keyspace, all, Direction::Forward, &mut |key, value| {
                let flow = visit(keyspace, key, value);
                stopped = flow.is_break();
                flow
            })?;
            if stopped {
                break;
            }
        }
        Ok(())
    }
}

/// Something to read rows from: an engine (the newest rows) or a view of an earlier moment.
pub trait View {
    /// One row.
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits the rows of a range in order, until the visitor breaks. An empty range has no rows.
    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError>;
}

/// Does the range exclude every key? Some ordered maps refuse such ranges.
fn is_empty((lower, upper): KeyRange<'_>) -> bool {
    match (lower, upper) {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (
            Bound::Included(lower) | Bound::Excluded(lower),
            Bound::Included(upper) | Bound::Excluded(upper),
        ) => lower >= upper,
        _ => false,
    }
}

fn unknown_keyspace(index: KeyspaceIndex) -> EngineError {
    EngineError(format!("there is no keyspace {index}"))
}
