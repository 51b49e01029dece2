//! The second engine: sled 0.34, a log-structured tree.
//!
//! All keyspaces share one tree, because one tree's batches are atomic: a key is the keyspace's name,
//! 0x00, the row's key; names in front cost little in nodes that share prefixes. Weaker than the
//! contract in two ways, which its suite marks: views are live, and a batch that is not synced yet may
//! be lost with the process (it is never lost by half).

use std::{
    collections::HashSet,
    ffi::OsString,
    fmt,
    fs::{self, File},
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Direction, Engine, EngineError, KeyRange, KeyspaceIndex, View, Visitor, Write, is_empty,
    unknown_keyspace,
};

/// Pages held in memory, in bytes.
const CACHE_BYTES: u64 = 64 << 20;
/// sled's unit of writing, in bytes; a power of two. A node of more than a quarter of it goes into a
/// file of its own in [`BLOBS`]; with sled's default even a few of the largest events would.
const SEGMENT_BYTES: usize = 8 << 20;
/// How long threads of a dropped database may hold its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to get it.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// The folder of sled's for nodes that are too large for the data file.
const BLOBS: &str = "blobs";
/// Ends the keyspace's name; names have no such byte.
const NAME_END: u8 = 0;
/// The file of sled's that holds all pages.
const DATA_FILE: &str = "db";

/// sled behind the engine's seam.
pub struct SledEngine {
    rows: SledRows,
    data: File,
    blobs: PathBuf,
    /// Names in [`BLOBS`] that are on the disk; they are never written again.
    synced_blobs: Mutex<HashSet<OsString>>,
}

#[derive(Clone)]
struct SledRows {
    database: sled::Db,
    /// What keys of each keyspace begin with.
    prefixes: Arc<[Box<[u8]>]>,
}

/// Opens the database once its lock is free. The store has a lock of its own around this, so whoever
/// holds sled's are threads of a database that this process has dropped: they let go on their own time.
fn open_released(config: &sled::Config) -> sled::Result<sled::Db> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && Instant::now() < deadline => {
                thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    // sled puts the system's error into a text.
    error.to_string().contains("could not acquire lock")
}

impl SledEngine {
    /// Opens or makes a database in this folder.
    pub fn open(path: &Path, keyspaces: &[&'static str]) -> Result<Self, EngineError> {
        // The committer alone says when to flush.
        let config = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let database = open_released(&config)?;
        let data = path.join(DATA_FILE);
        let data = File::open(&data)
            .map_err(|error| EngineError(format!("{}: {error}", data.display())))?;
        let prefix = |name: &&str| [name.as_bytes(), &[NAME_END]].concat().into_boxed_slice();
        let prefixes = keyspaces.iter().map(prefix).collect();
        let rows = SledRows { database, prefixes };
        Ok(Self { rows, data, blobs: path.join(BLOBS), synced_blobs: Mutex::default() })
    }
}

impl SledEngine {
    /// sled writes large nodes into files that it never syncs.
    fn sync_blobs(&self) -> io::Result<()> {
        let mut synced = self.synced_blobs.lock();
        let mut present = HashSet::new();
        let mut is_changed = false;
        for entry in fs::read_dir(&self.blobs)? {
            let entry = entry?;
            let name = entry.file_name();
            if !synced.contains(&name) {
                match File::open(entry.path()).and_then(|file| file.sync_all()) {
                    Ok(()) => is_changed = true,
                    // Removed meanwhile, because its node was written again.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            present.insert(name);
        }
        *synced = present;
        if is_changed { File::open(&self.blobs)?.sync_all() } else { Ok(()) }
    }
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        Self(format!("sled: {error}"))
    }
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine").finish_non_exhaustive()
    }
}

impl SledRows {
    fn prefix(&self, keyspace: KeyspaceIndex) -> Result<&[u8], EngineError> {
        let prefix = self.prefixes.get(keyspace).ok_or_else(|| unknown_keyspace(keyspace))?;
        Ok(prefix)
    }
}

/// The upper bound of all keys with a keyspace's prefix.
fn after(prefix: &[u8]) -> Vec<u8> {
    let name = prefix.strip_suffix(&[NAME_END]).unwrap_or(prefix);
    [name, &[NAME_END + 1]].concat()
}

impl Engine for SledEngine {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        for Write { keyspace, key, value } in writes {
            let key = [self.rows.prefix(keyspace)?, &key].concat();
            match value {
                Some(value) => batch.insert(key, &*value),
                None => batch.remove(key),
            }
        }
        self.rows.database.apply_batch(batch)?;
        if durable { self.sync() } else { Ok(()) }
    }

    /// sled's own flush ends in `sync_file_range`, which leaves data in the disk's cache and does not
    /// cover the file's metadata: acknowledged commits were lost in every replay of a power loss. The
    /// `fdatasync` after it makes them durable; large nodes need the same.
    fn sync(&self) -> Result<(), EngineError> {
        self.rows.database.flush()?;
        let failed = |error| EngineError(format!("sled's files: {error}"));
        self.sync_blobs().map_err(failed)?;
        self.data.sync_data().map_err(failed)
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        Box::new(self.rows.clone())
    }
}

impl View for SledRows {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.database.get([self.prefix(keyspace)?, key].concat())?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        if is_empty(range) {
            return Ok(());
        }
        let prefix = self.prefix(keyspace)?;
        let within = |key: &[u8]| [prefix, key].concat();
        let lower = match range.0 {
            Bound::Unbounded => Bound::Included(prefix.to_vec()),
            bound => bound.map(within),
        };
        let upper = match range.1 {
            Bound::Unbounded => Bound::Excluded(after(prefix)),
            bound => bound.map(within),
        };
        let mut rows = self.database.range::<Vec<u8>, _>((lower, upper));
        loop {
            let row = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            let Some((key, value)) = row.transpose()? else { return Ok(()) };
            let key = key.get(prefix.len()..).unwrap_or_default();
            if visit(key, Bytes::copy_from_slice(&value)).is_break() {
                return Ok(());
            }
        }
    }
}

impl View for SledEngine {
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
