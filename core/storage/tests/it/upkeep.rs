//! Migrations, and the log's trimming.

use std::{
    ops::{Bound, ControlFlow},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use hearth_storage::{
    Commit, Direction, EngineError, EngineKind, Keyspace, LogEntry, Store, StoreError,
    StoreOptions, Topic,
    engine::Write,
    migrate::{Migration, MigrationPart, MigrationRows},
};
use hearth_types::StreamPosition;

const ROWS: Keyspace<(), u32, Bytes> = Keyspace::new("rows");
const KEYSPACES: &[&str] = &[ROWS.name()];
const COUNT: u32 = 25;
const PART: usize = 10;

/// Whether the migration breaks after its first part.
static BREAKS: AtomicBool = AtomicBool::new(true);

/// Appends "+" to each row, ten at a time.
fn append(rows: &MigrationRows<'_>, mark: Option<&[u8]>) -> Result<MigrationPart, EngineError> {
    if mark.is_some() && BREAKS.load(Ordering::SeqCst) {
        return Err(EngineError("broken on purpose".to_owned()));
    }
    let keyspace = rows.place(ROWS.name())?;
    let lower = mark.map_or(Bound::Unbounded, Bound::Excluded);
    let mut writes = Vec::new();
    let range = (lower, Bound::Unbounded);
    rows.engine().scan(keyspace, range, Direction::Forward, &mut |key, value| {
        let value = Some([&value[..], b"+"].concat().into());
        writes.push(Write { keyspace, key: Bytes::copy_from_slice(key), value });
        if writes.len() < PART { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let mark = (writes.len() == PART).then(|| writes.last().unwrap().key.clone());
    Ok(MigrationPart { writes, mark })
}

const MIGRATIONS: [Migration; 1] = [Migration { schema: 2, name: "append a sign", part: append }];

#[tokio::test]
async fn a_migration_resumes_where_it_broke() {
    for engine in [EngineKind::Fjall, EngineKind::Sled] {
        BREAKS.store(true, Ordering::SeqCst);
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::for_tests(engine, folder.path(), KEYSPACES);
        let store = Store::open(options.clone()).await.unwrap();
        let mut commit = Commit::new(&());
        for number in 0..COUNT {
            commit.put(&ROWS, &(), &number, &Bytes::from_static(b"row"));
        }
        store.commit(commit).await.unwrap();
        drop(store);

        let broken = Store::open_with(&options, &MIGRATIONS);
        assert!(matches!(broken, Err(StoreError::Engine(_))), "{broken:?}");
        BREAKS.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            let store = Store::open_with(&options, &MIGRATIONS).unwrap();
            let rows = store.page(&ROWS, &(), .., Direction::Forward, 100).await.unwrap();
            assert_eq!(rows.len(), COUNT as usize);
            assert!(rows.iter().all(|(_, row)| row == "row+"), "each row once: {rows:?}");
        }

        let refused = Store::open(options).await;
        let newer = matches!(refused, Err(StoreError::NewerSchema { found: 2, known: 1 }));
        assert!(newer, "{refused:?}");
    }
}

async fn take_positions(store: &Store, commits: usize) {
    for _ in 0..commits {
        let mut commit = Commit::new(&());
        let topic = Topic::new("!room");
        let position = commit.next_position();
        commit.log(position, LogEntry { kind: 1, topic, payload: Bytes::new() });
        for _ in 0..1_000 {
            commit.next_position();
        }
        store.commit(commit.lazy()).await.unwrap();
    }
}

#[tokio::test]
async fn the_log_is_trimmed_behind_the_slowest_cursor() {
    let store = Store::memory_for_tests(KEYSPACES);
    take_positions(&store, 1).await;
    let first = store.notifier().published();
    store.set_cursor("slow", first).await.unwrap();
    take_positions(&store, 300).await;
    let oldest = async || store.log_after(StreamPosition::ZERO, 1).await.unwrap()[0].position;
    assert!(oldest().await > first, "what the slow consumer has read is gone");
    assert!(oldest().await <= first.plus(1_002), "what it has not read is there");

    let published = store.notifier().published();
    store.set_cursor("slow", published).await.unwrap();
    take_positions(&store, 10).await;
    let published = store.notifier().published().get();
    let kept = published - oldest().await.get();
    assert!((100_000..110_000).contains(&kept), "the newest positions stay: {kept}");
}

#[tokio::test]
async fn trimming_goes_on_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions::for_tests(EngineKind::Fjall, folder.path(), KEYSPACES);
    let store = Store::open(options.clone()).await.unwrap();
    take_positions(&store, 150).await;
    let oldest =
        async |store: &Store| store.log_after(StreamPosition::ZERO, 1).await.unwrap()[0].position;
    let last = store.notifier().published();
    drop(store);

    let store = Store::open(options).await.unwrap();
    // Asked for only now: a commit is answered before the log is trimmed behind it.
    let before = oldest(&store).await;
    assert!(before.get() > 1_000);
    let notifier = store.notifier();
    let (known, never) = (Topic::new("!room"), Topic::new("!never"));
    assert!(notifier.changed_since(&known, before));
    assert!(!notifier.changed_since(&known, last));
    assert!(!notifier.changed_since(&never, before), "the whole log is known");
    assert!(notifier.changed_since(&never, StreamPosition::ZERO), "not what was trimmed");
    take_positions(&store, 90).await;
    assert_eq!(oldest(&store).await, before, "the gap between the runs counts for nothing");
    take_positions(&store, 30).await;
    assert!(oldest(&store).await > last, "then the old run goes");
}
