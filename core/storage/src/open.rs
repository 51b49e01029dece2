//! Opening: the right engine, the right store, the next position, what the notifier must know.
//!
//! Positions stay unique although a loss of power may take lazy commits whose positions were already
//! seen: each opening goes on at the next multiple of 2^20 above the last position that is on the disk,
//! and the committer syncs before it shows half as many. Positions are therefore not dense, and what
//! was seen before is never ahead of [`Notifier::published`].

use std::{
    fs::{self, File, TryLockError},
    ops::{Bound, ControlFlow},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hearth_types::StreamPosition;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Direction, Engine, EngineKind, KeyDecoder, KeyPart, Notifier, RecordError, StoreError,
    StoreOptions, Topic,
    committer::Committer,
    engine::{fjall::FjallEngine, memory::MemoryEngine, sled::SledEngine},
    log::{CURSORS, LOG, visit_topics},
    meta::{META, Meta},
    migrate::{self, Migration},
    queue::Queue,
    reads,
    store::{Inner, Places, RunningCommitter},
    trim::{Cursors, KEPT_POSITIONS, Trimmer},
};

/// Keyspaces of the store itself.
pub(crate) const OWN_KEYSPACES: [&str; 3] = [META.name(), LOG.name(), CURSORS.name()];
/// Positions are skipped up to a multiple of this.
const POSITION_JUMP: u64 = 1 << 20;
/// The file whose lock says that the store is open.
const LOCK_FILE: &str = "lock";

pub(crate) fn open(options: &StoreOptions, migrations: &[Migration]) -> Result<Inner, StoreError> {
    let lock = (options.engine != EngineKind::Memory).then(|| lock(&options.path)).transpose()?;
    let engine = open_engine(options, &options.all_keyspaces())?;
    open_over(engine, lock, options, migrations, CommitterKind::Thread)
}

/// Where the committer runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommitterKind {
    /// On a thread of its own.
    Thread,
    /// As a task that gives each batch this long.
    Task(Duration),
}

/// Opens a store over an open engine.
pub(crate) fn open_over(
    engine: Arc<dyn Engine>,
    lock: Option<File>,
    options: &StoreOptions,
    migrations: &[Migration],
    kind: CommitterKind,
) -> Result<Inner, StoreError> {
    let names = options.all_keyspaces();
    let places: Places = names.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    if places.len() != names.len() {
        return Err(StoreError::Engine("a keyspace is named twice".to_owned()));
    }
    let meta = Meta { engine: engine.as_ref(), place: place(&places, META.name())? };
    let is_new = check(&meta, options, migrations)?;
    migrate::run(engine.as_ref(), &places, &meta, migrations)?;

    let found = meta.last_position()?.unwrap_or_default();
    let opened = if is_new { found } else { after_jump(found) };
    if opened != found {
        // Otherwise another loss of power would lead to the same positions again.
        engine.apply(vec![meta.set_last_position(opened)], true)?;
    }
    let log = place(&places, LOG.name())?;
    let trimmed = meta.trimmed()?.unwrap_or_default();
    let notifier = Arc::new(Notifier::new());
    let kept = warm_up(engine.as_ref(), log, trimmed, &notifier)?;
    notifier.publish(opened);
    let cursors = Arc::new(load_cursors(engine.as_ref(), &places)?);
    cursors.set_trimmed(trimmed);
    let queue = Arc::new(Queue::new());
    let committer = Committer {
        engine: engine.clone(),
        queue: queue.clone(),
        notifier: notifier.clone(),
        last_position_row: meta.last_position_row(),
        last: opened,
        synced: opened,
        max_unsynced: POSITION_JUMP / 2,
        trimmer: Trimmer {
            cursors: cursors.clone(),
            log,
            trimmed_row: meta.trimmed_row(),
            trimmed,
            opened,
            kept,
            last_run: opened,
        },
        unsynced_since: None,
    };
    let committer = match kind {
        CommitterKind::Thread => {
            let spawned = committer.spawn();
            RunningCommitter::Thread(
                spawned.map_err(|error| StoreError::Engine(error.to_string()))?,
            )
        }
        CommitterKind::Task(pace) => RunningCommitter::Task(committer.spawn_task(pace)),
    };
    Ok(Inner {
        engine,
        kind: options.engine,
        places: Arc::new(places),
        notifier,
        queue,
        cursors,
        committer: Mutex::new(Some(committer)),
        bulk_reads: Inner::bulk_reads(),
        _lock: lock,
        released: watch::Sender::new(()),
    })
}

fn after_jump(found: StreamPosition) -> StreamPosition {
    StreamPosition::new((found.get() / POSITION_JUMP + 1) * POSITION_JUMP)
}

fn place(places: &Places, keyspace: &'static str) -> Result<usize, StoreError> {
    let unknown = || StoreError::Engine(format!("keyspace {keyspace} is not open"));
    places.get(keyspace).copied().ok_or_else(unknown)
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    move |error| StoreError::Engine(format!("{}: {error}", path.display()))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    fs::create_dir_all(path).map_err(failed(path))?;
    let path = path.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
    }
}

fn open_engine(
    options: &StoreOptions,
    names: &[&'static str],
) -> Result<Arc<dyn Engine>, StoreError> {
    let kind = options.engine;
    for other in [EngineKind::Fjall, EngineKind::Sled] {
        if kind != EngineKind::Memory && other != kind && options.path.join(other.name()).exists() {
            let (found, expected) = (other.to_string(), kind.to_string());
            return Err(StoreError::Foreign { found, expected });
        }
    }
    let path = options.path.join(kind.name());
    Ok(match kind {
        EngineKind::Fjall => Arc::new(FjallEngine::open(&path, names)?),
        EngineKind::Sled => Arc::new(SledEngine::open(&path, names)?),
        EngineKind::Memory => Arc::new(MemoryEngine::new(names.len())),
    })
}

/// Is this store ours? A new one becomes so. Says whether it is new.
fn check(
    meta: &Meta<'_>,
    options: &StoreOptions,
    migrations: &[Migration],
) -> Result<bool, StoreError> {
    let known = migrate::newest_schema(migrations);
    let Some(found) = meta.schema()? else {
        let rows = vec![
            meta.set_schema(known),
            meta.set_engine_name(options.engine.name()),
            meta.set_server_name(&options.server_name),
        ];
        meta.engine.apply(rows, true)?;
        return Ok(true);
    };
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let belongs = |found: Option<String>, expected: &str| match found {
        Some(found) if found == expected => Ok(()),
        found => Err(StoreError::Foreign {
            found: found.unwrap_or_else(|| "nobody".to_owned()),
            expected: expected.to_owned(),
        }),
    };
    belongs(meta.engine_name()?, options.engine.name())?;
    belongs(meta.server_name()?, &options.server_name)?;
    Ok(false)
}

/// Teaches the notifier the topics of the newest log rows. Returns the oldest position read.
fn warm_up(
    engine: &dyn Engine,
    log: usize,
    trimmed: StreamPosition,
    notifier: &Notifier,
) -> Result<StreamPosition, StoreError> {
    let mut oldest = trimmed.next();
    let mut rows = 0;
    let mut failure = None;
    let mut one = |key: &[u8], row: &[u8]| -> Result<(), RecordError> {
        oldest = StreamPosition::decode(&mut KeyDecoder::new(key))?;
        let mut topics = Vec::new();
        visit_topics(row, |topic| {
            topics.push(Topic::new(topic));
            ControlFlow::Continue(())
        })?;
        notifier.touch(topics.iter().map(|topic| (topic, oldest)));
        Ok(())
    };
    let all = (Bound::Unbounded, Bound::Unbounded);
    engine.scan(log, all, Direction::Backward, &mut |key, row| {
        failure = one(key, &row).err();
        rows += 1;
        if failure.is_none() && rows < KEPT_POSITIONS {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    if let Some(RecordError(reason)) = failure {
        return Err(StoreError::Damaged { keyspace: LOG.name(), reason });
    }
    // Beyond the rows that were read nothing is known of topics that do not occur in them.
    notifier.set_floor(if rows < KEPT_POSITIONS { trimmed } else { oldest });
    Ok(oldest)
}

fn load_cursors(engine: &dyn Engine, places: &Places) -> Result<Cursors, StoreError> {
    let cursors = Cursors::default();
    let range = reads::Range::new::<(), String>(&(), &..);
    reads::visit(engine, places, &CURSORS, &range, Direction::Forward, |consumer, position| {
        cursors.set(&consumer, position);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(cursors)
}
