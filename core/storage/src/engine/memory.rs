//! Rows in memory, for tests: every row keeps the versions that open views can see.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    Direction, Engine, EngineError, KeyRange, KeyspaceIndex, View, Visitor, Write, is_empty,
    unknown_keyspace,
};

/// Versions of one row, oldest first: (batch, value).
type Versions = Vec<(u64, Option<Bytes>)>;

struct Rows {
    keyspaces: Vec<BTreeMap<Bytes, Versions>>,
    batch: u64,
}

struct Shared {
    rows: RwLock<Rows>,
    /// Open views by the batch they see, with their number.
    views: Mutex<BTreeMap<u64, usize>>,
}

/// The engine that keeps nothing.
pub struct MemoryEngine(Arc<Shared>);

struct MemoryView {
    shared: Arc<Shared>,
    batch: u64,
}

impl MemoryEngine {
    /// An empty engine with this many keyspaces.
    #[must_use]
    pub fn new(keyspaces: usize) -> Self {
        let rows = Rows { keyspaces: vec![BTreeMap::new(); keyspaces], batch: 0 };
        Self(Arc::new(Shared { rows: RwLock::new(rows), views: Mutex::default() }))
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine").finish_non_exhaustive()
    }
}

fn seen_at(versions: &Versions, batch: u64) -> Option<&Bytes> {
    versions.iter().rev().find(|(written, _)| *written <= batch)?.1.as_ref()
}

/// Drops the versions that neither the newest state nor any open view can see.
fn prune(versions: &mut Versions, oldest_view: u64) {
    let last_hidden = versions.iter().rposition(|(written, _)| *written <= oldest_view);
    if let Some(first_needed) = last_hidden {
        versions.drain(..first_needed);
    }
}

impl Engine for MemoryEngine {
    fn apply(&self, writes: Vec<Write>, _durable: bool) -> Result<(), EngineError> {
        let rows = &mut *self.0.rows.write();
        if let Some(write) = writes.iter().find(|write| write.keyspace >= rows.keyspaces.len()) {
            return Err(unknown_keyspace(write.keyspace));
        }
        rows.batch += 1;
        let oldest_view = self.0.views.lock().keys().next().copied().unwrap_or(rows.batch);
        for Write { keyspace, key, value } in writes {
            let Some(map) = rows.keyspaces.get_mut(keyspace) else { continue };
            let versions = map.entry(key.clone()).or_default();
            versions.push((rows.batch, value));
            prune(versions, oldest_view);
            if matches!(versions.as_slice(), [(_, None)]) {
                map.remove(&key);
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        // The view is registered while no batch can be applied, so none prunes what it sees.
        let rows = self.0.rows.read();
        *self.0.views.lock().entry(rows.batch).or_default() += 1;
        Box::new(MemoryView { shared: self.0.clone(), batch: rows.batch })
    }
}

impl Drop for MemoryView {
    fn drop(&mut self) {
        let mut views = self.shared.views.lock();
        if let Some(open) = views.get_mut(&self.batch) {
            *open -= 1;
            if *open == 0 {
                views.remove(&self.batch);
            }
        }
    }
}

impl Shared {
    fn get(
        &self,
        keyspace: KeyspaceIndex,
        key: &[u8],
        batch: u64,
    ) -> Result<Option<Bytes>, EngineError> {
        let rows = self.rows.read();
        let map = rows.keyspaces.get(keyspace).ok_or_else(|| unknown_keyspace(keyspace))?;
        Ok(map.get(key).and_then(|versions| seen_at(versions, batch)).cloned())
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        batch: u64,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        // Rows are collected in pieces, so that the visitor may write and read meanwhile.
        const PIECE: usize = 256;
        if is_empty(range) {
            return Ok(());
        }
        let own = |bound: Bound<&[u8]>| bound.map(Bytes::copy_from_slice);
        let (mut lower, mut upper) = (own(range.0), own(range.1));
        loop {
            let piece: Vec<(Bytes, Option<Bytes>)> = {
                let rows = self.rows.read();
                let map = rows.keyspaces.get(keyspace).ok_or_else(|| unknown_keyspace(keyspace))?;
                let found = map.range((lower.clone(), upper.clone()));
                let row = |(key, versions): (&Bytes, &Versions)| {
                    (key.clone(), seen_at(versions, batch).cloned())
                };
                match direction {
                    Direction::Forward => found.map(row).take(PIECE).collect(),
                    Direction::Backward => found.rev().map(row).take(PIECE).collect(),
                }
            };
            let Some((last, _)) = piece.last() else { return Ok(()) };
            let next = Bound::Excluded(last.clone());
            for (key, value) in piece {
                if let Some(value) = value
                    && visit(&key, value) == ControlFlow::Break(())
                {
                    return Ok(());
                }
            }
            match direction {
                Direction::Forward => lower = next,
                Direction::Backward => upper = next,
            }
            if is_empty((bound_slice(&lower), bound_slice(&upper))) {
                return Ok(());
            }
        }
    }
}

fn bound_slice(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(AsRef::as_ref)
}

impl View for MemoryEngine {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(keyspace, key, u64::MAX)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.view().scan(keyspace, range, direction, visit)
    }
}

impl View for MemoryView {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.shared.get(keyspace, key, self.batch)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.shared.scan(keyspace, range, direction, self.batch, visit)
    }
}
