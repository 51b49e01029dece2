//! Rows that outlive a crash, behind an engine that does not.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use hearth_storage::{
    Direction, Engine, EngineError, View,
    engine::{KeyRange, KeyspaceIndex, Visitor, Write, memory::MemoryEngine},
};
use parking_lot::Mutex;

/// Is this incarnation of a server alive?
#[derive(Clone, Debug)]
pub(crate) struct Life(Arc<AtomicBool>);

impl Life {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn goes_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What one incarnation of a server sees of its rows. A crash is a loss of power: what was applied and
/// not synced is gone, and nothing that the dead server still does is written.
#[derive(Debug)]
pub(crate) struct MortalEngine {
    /// What survives.
    disk: Arc<MemoryEngine>,
    /// What was on the disk when it began, and all that it applied.
    seen: MemoryEngine,
    /// Writes that are not on the disk yet, the oldest first.
    unsynced: Mutex<Vec<Vec<Write>>>,
    life: Life,
}

impl MortalEngine {
    /// An incarnation over a disk with so many keyspaces.
    pub(crate) fn new(disk: Arc<MemoryEngine>, keyspaces: usize, life: Life) -> Self {
        let seen = MemoryEngine::new(keyspaces);
        let mut rows = Vec::new();
        let copied = disk.export(keyspaces, &mut |keyspace, key, value| {
            rows.push(Write { keyspace, key: Bytes::copy_from_slice(key), value: Some(value) });
            ControlFlow::Continue(())
        });
        copied.and_then(|()| seen.apply(rows, true)).expect("memory does not fail");
        Self { disk, seen, unsynced: Mutex::default(), life }
    }

    fn must_live(&self) -> Result<(), EngineError> {
        if self.life.goes_on() { Ok(()) } else { Err(EngineError("crashed".to_owned())) }
    }
}

impl View for MortalEngine {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.must_live()?;
        self.seen.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.must_live()?;
        self.seen.scan(keyspace, range, direction, visit)
    }
}

impl Engine for MortalEngine {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        self.must_live()?;
        self.seen.apply(writes.clone(), durable)?;
        self.unsynced.lock().push(writes);
        if durable { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.must_live()?;
        let batches = std::mem::take(&mut *self.unsynced.lock());
        batches.into_iter().try_for_each(|batch| self.disk.apply(batch, true))
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        self.seen.view()
    }
}
