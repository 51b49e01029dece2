//! Rows that outlive a crash, behind an engine that does not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use hearth_storage::{
    Direction, Engine, EngineError, View,
    engine::{KeyRange, KeyspaceIndex, Visitor, Write, memory::MemoryEngine},
};

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

/// What one incarnation of a server sees of its rows: after the crash nothing that it still does is
/// written.
#[derive(Debug)]
pub(crate) struct MortalEngine {
    pub(crate) rows: Arc<MemoryEngine>,
    pub(crate) life: Life,
}

impl MortalEngine {
    fn must_live(&self) -> Result<(), EngineError> {
        if self.life.goes_on() { Ok(()) } else { Err(EngineError("crashed".to_owned())) }
    }
}

impl View for MortalEngine {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.must_live()?;
        self.rows.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.must_live()?;
        self.rows.scan(keyspace, range, direction, visit)
    }
}

impl Engine for MortalEngine {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        self.must_live()?;
        self.rows.apply(writes, durable)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.must_live()?;
        self.rows.sync()
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        self.rows.view()
    }
}
