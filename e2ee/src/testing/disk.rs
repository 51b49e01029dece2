//! Rows in memory, of which some are on a disk.

use std::ops::ControlFlow;

use bytes::Bytes;
use hearth_storage::{
    Direction, Engine, EngineError, View,
    engine::{KeyRange, KeyspaceIndex, Visitor, Write, memory::MemoryEngine},
};
use parking_lot::Mutex;

/// An engine that knows what is left when the power is lost.
#[derive(Debug)]
pub(crate) struct Disk {
    keyspaces: usize,
    rows: MemoryEngine,
    synced: MemoryEngine,
    /// What is not on the disk yet, the oldest first.
    unsynced: Mutex<Vec<Vec<Write>>>,
}

impl Disk {
    pub(crate) fn new(keyspaces: usize) -> Self {
        let (rows, synced) = (MemoryEngine::new(keyspaces), MemoryEngine::new(keyspaces));
        Self { keyspaces, rows, synced, unsynced: Mutex::default() }
    }

    /// A disk with what is left if the power is lost now.
    pub(crate) fn after_power_loss(&self) -> Self {
        let left = Self::new(self.keyspaces);
        let mut rows = Vec::new();
        let copied = self.synced.export(self.keyspaces, &mut |keyspace, key, value| {
            rows.push(Write { keyspace, key: Bytes::copy_from_slice(key), value: Some(value) });
            ControlFlow::Continue(())
        });
        copied.and_then(|()| left.apply(rows, true)).expect("memory does not fail");
        left
    }
}

impl View for Disk {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.rows.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.rows.scan(keyspace, range, direction, visit)
    }
}

impl Engine for Disk {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        self.rows.apply(writes.clone(), durable)?;
        self.unsynced.lock().push(writes);
        if durable { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<(), EngineError> {
        let batches = std::mem::take(&mut *self.unsynced.lock());
        batches.into_iter().try_for_each(|batch| self.synced.apply(batch, true))
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        self.rows.view()
    }
}
