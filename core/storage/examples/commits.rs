//! What a commit costs: writers that each wait for their own durable commits, as rooms do.
//!
//! `commits [ENGINE] [SECONDS] [WRITERS] [FOLDER]` prints commits per second, CPU time per commit and
//! bytes written per commit.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for developers")]

use std::{
    env, fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hearth_storage::{
    Commit, EngineKind, Keyspace, LogEntry, Positioned, Store, StoreOptions, Topic,
};
use hearth_types::StreamPosition;

const EVENTS: Keyspace<String, u32, Bytes> = Keyspace::new("events");
const EVENT_IDS: Keyspace<String, String, Bytes> = Keyspace::new("event_ids");
const TIMELINE: Keyspace<String, StreamPosition, Positioned<Bytes>> = Keyspace::new("timeline");
const HEADS: Keyspace<String, (), Bytes> = Keyspace::new("heads");
const EDGES: Keyspace<String, (u32, u32), ()> = Keyspace::new("edges");
const TRANSACTIONS: Keyspace<String, String, Bytes> = Keyspace::new("transactions");
const KEYSPACES: &[&str] = &[
    EVENTS.name(),
    EVENT_IDS.name(),
    TIMELINE.name(),
    HEADS.name(),
    EDGES.name(),
    TRANSACTIONS.name(),
];
/// As many more as a whole server has, so that the memory at the start says something.
const OTHERS: &[&str] = &[
    "other01", "other02", "other03", "other04", "other05", "other06", "other07", "other08",
    "other09", "other10", "other11", "other12", "other13", "other14", "other15", "other16",
    "other17", "other18", "other19", "other20", "other21", "other22", "other23", "other24",
    "other25", "other26", "other27",
];
const EVENT_BYTES: usize = 600;

/// Eight operations over six keyspaces, and a log row.
fn message(room: &String, ordinal: u32, event: &Bytes) -> Commit {
    let mut commit = Commit::new(room);
    let position = commit.next_position();
    let event_id = format!("$event{ordinal:039}");
    let small = Bytes::from_static(&[7; 12]);
    commit.put(&EVENTS, room, &ordinal, event);
    commit.put(&EVENT_IDS, room, &event_id, &small);
    commit.put(&TIMELINE, room, &position, &Positioned { position, record: small.clone() });
    commit.put(&HEADS, room, &(), &Bytes::from_static(&[9; 60]));
    commit.put(&EDGES, room, &(ordinal, ordinal.wrapping_sub(1)), &());
    commit.put(&EDGES, room, &(ordinal, ordinal.wrapping_sub(2)), &());
    commit.put(&TRANSACTIONS, room, &format!("DEVICE m{ordinal}"), &small);
    let topic = Topic::new(room);
    commit.touch(topic.clone());
    commit.log(position, LogEntry { kind: 1, topic, payload: small });
    commit
}

/// Not compressible to nothing, not random either.
fn event_of(seed: u64) -> Bytes {
    let mut random = seed | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let words = std::iter::repeat_with(|| format!("\"key{}\":\"{:016x}\",", next() % 9, next()));
    words.flat_map(String::into_bytes).take(EVENT_BYTES).collect()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = env::args().skip(1);
    let engine = match arguments.next().as_deref() {
        Some("sled") => EngineKind::Sled,
        Some("memory") => EngineKind::Memory,
        _ => EngineKind::Fjall,
    };
    let seconds = arguments.next().map_or(10, |text| text.parse().unwrap());
    let writers: u64 = arguments.next().map_or(16, |text| text.parse().unwrap());
    let folder = arguments.next().map_or_else(|| PathBuf::from("target/commits"), PathBuf::from);
    drop(fs::remove_dir_all(&folder));
    let options = StoreOptions::for_tests(engine, &folder, &[KEYSPACES, OTHERS].concat());
    let store = Store::open(options).await.unwrap();
    println!(
        "{engine}, {writers} writers, {seconds} s; memory at start {} MB",
        resident_bytes() >> 20
    );

    let (cpu, written, start) = (cpu_time(), written_bytes(), Instant::now());
    let end = start + Duration::from_secs(seconds);
    let (count, slowest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..writers).map(|writer| {
        let (store, count, slowest) = (store.clone(), count.clone(), slowest.clone());
        tokio::spawn(async move {
            let room = format!("!room{writer}:hearth.test");
            let event = event_of(writer);
            for ordinal in 0.. {
                let before = Instant::now();
                if before >= end {
                    break;
                }
                store.commit(message(&room, ordinal, &event)).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let micros = u64::try_from(before.elapsed().as_micros()).unwrap();
                slowest.fetch_max(micros, Ordering::Relaxed);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let elapsed = start.elapsed();
    let count = count.load(Ordering::Relaxed);
    let cpu = cpu_time().checked_sub(cpu).unwrap();
    println!(
        "{} commits/s, {} µs of CPU and {} bytes written per commit, slowest {} ms, memory {} MB",
        u128::from(count) * 1_000 / elapsed.as_millis(),
        cpu.as_micros() / u128::from(count.max(1)),
        (written_bytes() - written) / count.max(1),
        slowest.load(Ordering::Relaxed) / 1_000,
        resident_bytes() >> 20,
    );
    store.close().await.unwrap();
    drop(store);
    drop(fs::remove_dir_all(&folder));
}

/// User and system time of this process; the kernel counts in hundredths of a second.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Bytes that this process had written to disks.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().parse().unwrap()
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
