//! Killed at any moment: every acknowledged commit is there, and none is there by half.
//!
//! A child process (this test binary, with an environment variable set) commits batches of rows over
//! several keyspaces from several tasks and reports each acknowledged one on its standard output. It is
//! killed with SIGKILL at a random moment, during its opening too. Then the store is opened here, and
//! everything in it is compared with what was acknowledged. The next round goes on in the same store.
//!
//! `HEARTH_CRASH_ROUNDS` and `HEARTH_CRASH_SEED` change the run.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hearth_storage::{
    Commit, Direction, Engine, EngineKind, Keyspace, LogEntry, Positioned, Store, StoreOptions,
    Topic,
    engine::{
        fjall::{FjallEngine, FjallOptions},
        sled::SledEngine,
    },
    migrate::MIGRATIONS,
    postcard_record,
};
use hearth_types::StreamPosition;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// A batch: (round, writer, number). Numbers of a writer count from 0 in each round.
type Batch = (u32, u32, u32);

const HEADS: Keyspace<u32, (u32, u32), BatchRow> = Keyspace::new("heads");
const PARTS: Keyspace<u32, (u32, u32, u32), Bytes> = Keyspace::new("parts");
const PLACES: Keyspace<u32, StreamPosition, Positioned<BatchRow>> = Keyspace::new("places");
const NEWEST: Keyspace<u32, u32, BatchRow> = Keyspace::new("newest");
const MARKS: Keyspace<u32, (u32, u32), ()> = Keyspace::new("marks");
const KEYSPACES: &[&str] =
    &[HEADS.name(), PARTS.name(), PLACES.name(), NEWEST.name(), MARKS.name()];

const WRITERS: u32 = 4;
const MAX_PARTS: u32 = 8;
const DEFAULT_ROUNDS: u32 = 100;

const CHILD_FOLDER: &str = "HEARTH_CRASH_FOLDER";
const CHILD_ENGINE: &str = "HEARTH_CRASH_ENGINE";
const CHILD_ROUND: &str = "HEARTH_CRASH_ROUND";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BatchRow {
    batch: Batch,
    /// How many rows the batch has in [`PARTS`].
    parts: u32,
    /// Was it to be durable before it was acknowledged?
    durable: bool,
}
postcard_record!(BatchRow, version = 1);

/// What a part holds: it can be told whole from its number alone.
fn part(batch: Batch, number: u32) -> Bytes {
    let (round, writer, count) = batch;
    let pattern = [round, writer, count, number].map(u32::to_be_bytes).concat();
    pattern.repeat(1 + (count as usize * 7 + number as usize * 13) % 60).into()
}

fn batch_row(batch: Batch) -> BatchRow {
    let (_, writer, number) = batch;
    // Every fourth batch of a writer is lazy: it may be lost, but only whole.
    BatchRow { batch, parts: 1 + (writer + number) % MAX_PARTS, durable: number % 4 != 3 }
}

fn commit_of(batch: Batch) -> Commit {
    let (round, writer, number) = batch;
    let row = batch_row(batch);
    let mut commit = Commit::new(&round);
    let position = commit.next_position();
    commit.put(&HEADS, &round, &(writer, number), &row);
    for part_number in 0..row.parts {
        let value = part(batch, part_number);
        commit.put(&PARTS, &round, &(writer, number, part_number), &value);
    }
    commit.put(&PLACES, &round, &position, &Positioned { position, record: row.clone() });
    commit.put(&NEWEST, &round, &writer, &row);
    // One mark moves: a batch by half would leave none or two.
    if let Some(before) = number.checked_sub(1) {
        commit.require(&MARKS, &round, &(writer, before), &());
        commit.delete(&MARKS, &round, &(writer, before));
    }
    commit.put(&MARKS, &round, &(writer, number), &());
    let payload = [writer, number].map(u32::to_be_bytes).concat().into();
    commit.log(position, LogEntry { kind: 1, topic: Topic::new(&round.to_string()), payload });
    if row.durable { commit } else { commit.lazy() }
}

/// The child: commits until it is killed.
#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let Ok(folder) = env::var(CHILD_FOLDER) else { return };
    let engine = engine_named(&env::var(CHILD_ENGINE).unwrap());
    let round: u32 = env::var(CHILD_ROUND).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(engine, Path::new(&folder));
        say("open");
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), round, writer)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

async fn write(store: Store, round: u32, writer: u32) {
    for number in 0.. {
        let committed = store.commit(commit_of((round, writer, number))).await.unwrap();
        say(&format!("ack {writer} {number} {}", committed.first));
    }
}

/// One line in one write: it is in the pipe whole before anything else happens.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).unwrap();
}

fn engine_named(name: &str) -> EngineKind {
    if name == "sled" { EngineKind::Sled } else { EngineKind::Fjall }
}

#[test]
fn fjall_loses_nothing_that_was_acknowledged() {
    survive(EngineKind::Fjall);
}

#[test]
fn sled_loses_nothing_that_was_acknowledged() {
    survive(EngineKind::Sled);
}

fn survive(engine: EngineKind) {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("HEARTH_CRASH_SEED").unwrap_or_else(rand::random);
    let rounds =
        number("HEARTH_CRASH_ROUNDS").map_or(DEFAULT_ROUNDS, |rounds| rounds.try_into().unwrap());
    println!("engine {engine}, seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut kept, mut opened) = (0, 0, 0);
    let mut last = StreamPosition::ZERO;
    for round in 0..rounds {
        let report = run_and_kill(engine, folder.path(), round, &mut random);
        let found = verify(engine, folder.path(), round, &report, &mut last);
        acknowledged += report.batches.len();
        kept += found;
        opened += u32::from(report.opened);
    }
    println!(
        "{rounds} kills, {opened} after the opening; {acknowledged} acknowledged, {kept} found"
    );
    assert!(opened > rounds / 2, "most kills hit a store at work");
    assert!(acknowledged > rounds as usize, "there was something to lose");
    verify_all(engine, folder.path(), kept);
}

/// What the child said before it died.
#[derive(Debug, Default)]
struct Report {
    opened: bool,
    batches: BTreeMap<(u32, u32), StreamPosition>,
}

fn run_and_kill(engine: EngineKind, folder: &Path, round: u32, random: &mut StdRng) -> Report {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD_FOLDER, folder)
        .env(CHILD_ENGINE, engine.name())
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let reader = if random.random_ratio(1, 10) {
        // Somewhere in its start or its opening.
        let reader = thread::spawn(move || read_report(BufReader::new(output)));
        thread::sleep(Duration::from_millis(random.random_range(0..60)));
        reader
    } else {
        let output = wait_until_open(output);
        let reader = thread::spawn(move || read_report(output));
        thread::sleep(Duration::from_micros(random.random_range(5_000..150_000)));
        reader
    };
    kill(&mut child);
    reader.join().unwrap()
}

fn kill(child: &mut Child) {
    let early = child.try_wait().unwrap();
    assert!(early.is_none(), "the child ended by itself: {early:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Reads up to the line that says so, and puts it back.
fn wait_until_open(output: ChildStdout) -> BufReader<Box<dyn Read + Send>> {
    let start = Instant::now();
    let mut output = BufReader::new(output);
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        if line.trim() == "open" {
            let rest: Box<dyn Read + Send> = Box::new((&b"open\n"[..]).chain(output));
            return BufReader::new(rest);
        }
        line.clear();
    }
    panic!("the child did not open the store within {:?}", start.elapsed());
}

fn read_report(output: impl BufRead) -> Report {
    let mut report = Report::default();
    for line in output.lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["open"] => report.opened = true,
            ["ack", writer, number, position] => {
                let batch = (writer.parse().unwrap(), number.parse().unwrap());
                let position = StreamPosition::new(position.parse().unwrap());
                report.batches.insert(batch, position);
            }
            _ => {}
        }
    }
    report
}

/// Opens the store after a kill and compares the round with the report. Returns the batches found.
fn verify(
    engine: EngineKind,
    folder: &Path,
    round: u32,
    report: &Report,
    last: &mut StreamPosition,
) -> usize {
    let store = open(engine, folder);
    let before = std::mem::replace(last, store.notifier().published());
    let found = whole_batches(&store, round);
    for (batch, position) in &report.batches {
        let (writer, number) = *batch;
        if batch_row((round, writer, number)).durable {
            assert_eq!(found.get(batch), Some(position), "round {round}: lost {batch:?}");
        }
        assert!(*position > before, "round {round}: a position was given twice");
        assert!(*position <= *last, "round {round}: a position that was seen is ahead");
    }
    let logged: BTreeSet<(u32, u32)> = log_of(&store, before).into_iter().collect();
    assert_eq!(logged, found.keys().copied().collect(), "round {round}: the log");
    found.len()
}

/// Checks that what is there of a round is there whole. Returns its batches with their positions.
fn whole_batches(store: &Store, round: u32) -> BTreeMap<(u32, u32), StreamPosition> {
    const ALL: usize = usize::MAX;
    let forward = Direction::Forward;
    let snapshot = store.snapshot();
    let heads = snapshot.page(&HEADS, &round, .., forward, ALL).unwrap();
    let parts = snapshot.page(&PARTS, &round, .., forward, ALL).unwrap();
    let places = snapshot.page(&PLACES, &round, .., forward, ALL).unwrap();
    let newest = snapshot.page(&NEWEST, &round, .., forward, ALL).unwrap();
    let marks = snapshot.page(&MARKS, &round, .., forward, ALL).unwrap();

    let mut expected_parts = Vec::new();
    let mut last_of_writer = BTreeMap::new();
    for ((writer, number), row) in &heads {
        let batch = (round, *writer, *number);
        assert_eq!(*row, batch_row(batch));
        let next = last_of_writer.insert(*writer, *number).map_or(0, |before| before + 1);
        assert_eq!(*number, next, "round {round}: a batch without the one before it");
        for number in 0..row.parts {
            expected_parts.push(((batch.1, batch.2, number), part(batch, number)));
        }
    }
    assert_eq!(parts, expected_parts, "round {round}: the parts");
    let positions: BTreeMap<_, _> = places
        .iter()
        .map(|(position, row)| {
            assert_eq!(*position, row.position);
            ((row.record.batch.1, row.record.batch.2), *position)
        })
        .collect();
    assert_eq!(positions.len(), places.len(), "round {round}: a batch at two positions");
    assert!(positions.keys().eq(heads.iter().map(|(batch, _)| batch)), "round {round}: the places");
    let newest: BTreeMap<_, _> =
        newest.iter().map(|(writer, row)| (*writer, row.batch.2)).collect();
    assert_eq!(newest, last_of_writer, "round {round}: the newest of each writer");
    let marks: BTreeMap<_, _> = marks.into_iter().map(|(mark, ())| mark).collect();
    assert_eq!(marks, last_of_writer, "round {round}: one mark of each writer");
    positions
}

/// The batches of the log after a position.
fn log_of(store: &Store, after: StreamPosition) -> Vec<(u32, u32)> {
    let records = runtime().block_on(store.log_after(after, usize::MAX)).unwrap();
    let batch = |payload: &[u8]| {
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        (number(0), number(4))
    };
    records.iter().map(|record| batch(&record.entry.payload)).collect()
}

/// At the end everything is still there.
fn verify_all(engine: EngineKind, folder: &Path, kept: usize) {
    let store = open(engine, folder);
    let mut rounds = BTreeSet::new();
    let each = |round, _, _: BatchRow| {
        rounds.insert(round);
        std::ops::ControlFlow::Continue(())
    };
    store.snapshot().for_each(&HEADS, each).unwrap();
    let found: usize = rounds.iter().map(|round| whole_batches(&store, *round).len()).sum();
    assert_eq!(found, kept, "batches that were there after their round");
}

/// Opens the store; fjall with small memtables, so that kills also meet it writing and merging tables.
fn open(kind: EngineKind, folder: &Path) -> Store {
    let options = StoreOptions::for_tests(kind, folder, KEYSPACES);
    let names = options.all_keyspaces();
    let path = folder.join(kind.name());
    let engine: Arc<dyn Engine> = if kind == EngineKind::Sled {
        Arc::new(SledEngine::open(&path, &names).unwrap())
    } else {
        let sizes = FjallOptions { max_memtable_bytes: 128 << 10, ..FjallOptions::default() };
        Arc::new(FjallEngine::open_with(&path, &names, sizes).unwrap())
    };
    Store::open_over(engine, &options, MIGRATIONS).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
