//! The default engine: fjall, an LSM tree with a write-ahead journal.
//!
//! A durable batch is synced in the journal before its rows become visible. The journal is preallocated
//! and `fdatasync` covers the metadata that its reading needs, so that `fsync` buys nothing more.

use std::{
    fmt,
    ops::Bound,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::{
    Direction, Engine, EngineError, KeyRange, KeyspaceIndex, View, Visitor, Write, is_empty,
    unknown_keyspace,
};

/// Threads that write tables and merge them.
const WORKERS: usize = 2;
/// Closing writes tables once the rows in memory exceed this many bytes: the next opening would read
/// them back into memory from the journal.
const CLOSE_WITH_BYTES: u64 = 4 << 20;
/// How long closing waits for these tables; without them the next opening is slower, nothing else.
const CLOSE_WITHIN: Duration = Duration::from_secs(20);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// How much fjall holds where.
#[derive(Clone, Copy, Debug)]
pub struct FjallOptions {
    /// Blocks of tables in memory, in bytes.
    pub cache_bytes: u64,
    /// Journals on disk, in bytes, at least 64 MiB; bounds the rows in memory that are not in tables
    /// yet, and the time of an opening after a crash.
    pub max_journals_bytes: u64,
    /// Rows of one keyspace in memory before they become a table, in bytes. Holds for keyspaces that
    /// are made with this opening.
    pub max_memtable_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, max_journals_bytes: 128 << 20, max_memtable_bytes: 16 << 20 }
    }
}

/// fjall behind the engine's seam.
pub struct FjallEngine {
    database: Database,
    keyspaces: Arc<[Keyspace]>,
}

struct FjallView {
    snapshot: Snapshot,
    keyspaces: Arc<[Keyspace]>,
}

impl FjallEngine {
    /// Opens or makes a database in this folder.
    pub fn open(path: &Path, keyspaces: &[&'static str]) -> Result<Self, EngineError> {
        Self::open_with(path, keyspaces, FjallOptions::default())
    }

    /// [`Self::open`] with other sizes.
    pub fn open_with(
        path: &Path,
        keyspaces: &[&'static str],
        options: FjallOptions,
    ) -> Result<Self, EngineError> {
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.max_journals_bytes)
            .manual_journal_persist(true)
            .worker_threads(WORKERS)
            .open()?;
        let keyspace_options = || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(options.max_memtable_bytes)
        };
        let keyspaces = keyspaces
            .iter()
            .map(|name| database.keyspace(name, keyspace_options))
            .collect::<Result<_, _>>()?;
        Ok(Self { database, keyspaces })
    }
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        Self(format!("fjall: {error:?}"))
    }
}

impl fmt::Debug for FjallEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallEngine").finish_non_exhaustive()
    }
}

fn keyspace(keyspaces: &[Keyspace], index: KeyspaceIndex) -> Result<&Keyspace, EngineError> {
    keyspaces.get(index).ok_or_else(|| unknown_keyspace(index))
}

impl Engine for FjallEngine {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        // Without a sync the journal's own buffer is still handed to the operating system: a lazy
        // batch survives the end of the process.
        let mode = if durable { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for Write { keyspace: index, key, value } in writes {
            let keyspace = keyspace(&self.keyspaces, index)?;
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
        }
        Ok(batch.commit()?)
    }

    fn sync(&self) -> Result<(), EngineError> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        Box::new(FjallView {
            snapshot: self.database.snapshot(),
            keyspaces: self.keyspaces.clone(),
        })
    }

    fn close(&self) -> Result<(), EngineError> {
        if self.database.write_buffer_size() < CLOSE_WITH_BYTES {
            return Ok(());
        }
        for keyspace in self.keyspaces.iter() {
            keyspace.rotate_memtable()?;
        }
        let start = Instant::now();
        let waiting = |keyspace: &Keyspace| keyspace.sealed_memtable_count() > 0;
        while self.keyspaces.iter().any(waiting) && start.elapsed() < CLOSE_WITHIN {
            std::thread::sleep(CLOSE_POLL);
        }
        Ok(())
    }
}

fn visit_all(
    mut rows: fjall::Iter,
    direction: Direction,
    visit: &mut Visitor<'_>,
) -> Result<(), EngineError> {
    loop {
        let row = match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        };
        let Some(row) = row else { return Ok(()) };
        let (key, value) = row.into_inner()?;
        if visit(&key, value.into()).is_break() {
            return Ok(());
        }
    }
}

impl View for FjallEngine {
    fn get(&self, index: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(keyspace(&self.keyspaces, index)?.get(key)?.map(Bytes::from))
    }

    fn scan(
        &self,
        index: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        if is_empty(range) {
            return Ok(());
        }
        let keyspace = keyspace(&self.keyspaces, index)?;
        let rows = keyspace.range::<&[u8], (Bound<&[u8]>, Bound<&[u8]>)>(range);
        visit_all(rows, direction, visit)
    }
}

impl View for FjallView {
    fn get(&self, index: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.snapshot.get(keyspace(&self.keyspaces, index)?, key)?.map(Bytes::from))
    }

    fn scan(
        &self,
        index: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        if is_empty(range) {
            return Ok(());
        }
        let keyspace = keyspace(&self.keyspaces, index)?;
        let rows = self.snapshot.range::<&[u8], (Bound<&[u8]>, Bound<&[u8]>)>(keyspace, range);
        visit_all(rows, direction, visit)
    }
}
