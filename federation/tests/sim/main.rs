//! Three to five real servers in one process, on simulated time and a simulated network that loses,
//! delays and reorders, is cut and healed, while servers crash and come back and others come into the
//! rooms. At the end of each run every server must hold the same events and the same state of each of its
//! rooms, and nothing that was acknowledged may be lost.
//!
//! In other runs nobody does anything in the rooms, but devices send each other messages, come, are renamed
//! and go: the messages must have arrived once and in order, and device lists be known everywhere.
//!
//! Servers that were in a room before the storm must agree by themselves, or after one word of each. Those
//! that came into it in the storm may need another word: Matrix tells a server nothing of what others did
//! before they heard of its join, but for what their later events refer to.
//!
//! `HEARTH_SIM_SEEDS` sets how many seeds run (200), `HEARTH_SIM_SEED` runs one alone, which replays
//! exactly; `HEARTH_SIM_TRACE=1` prints every message, and with `RUST_LOG=debug` what the
//! servers log.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod deeds;
mod devices;
mod engine;
mod hostile;
mod network;
mod server;
mod view;
mod world;

use std::env;

use tokio::runtime::Builder;

use self::world::Busy;

/// Seeds in an ordinary run.
const SEEDS: u64 = 200;
/// Seeds in which devices are busy.
const DEVICE_SEEDS: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// With `HEARTH_SIM_TRACE=1`, prints what the servers log, by the variable `RUST_LOG`.
fn init_log() {
    if env::var_os("HEARTH_SIM_TRACE").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let log = tracing_subscriber::fmt().with_env_filter(filter).without_time();
        // Already there in the next seed.
        drop(log.with_test_writer().try_init());
    }
}

/// Runs one seed on a runtime of its own, whose time stands still but for timers.
fn run(seed: u64) -> world::Outcome {
    run_with(seed, Busy::Rooms)
}

fn run_with(seed: u64, busy: Busy) -> world::Outcome {
    init_log();
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(world::run(seed, busy));
    outcome.unwrap_or_else(|failure| {
        panic!("seed {seed} (HEARTH_SIM_SEED={seed} replays it): {failure}")
    })
}

#[test]
fn servers_agree_and_lose_nothing() {
    if let Some(seed) = number("HEARTH_SIM_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let seeds = number("HEARTH_SIM_SEEDS").unwrap_or(SEEDS);
    let (mut acknowledged, mut messages, mut late) = (0, 0, 0);
    let (mut silent, mut agreed) = (0, 0);
    for seed in 0..seeds {
        let outcome = run(seed);
        acknowledged += outcome.acknowledged;
        messages += outcome.messages;
        late += outcome.late;
        silent += u64::from(outcome.in_silence.is_some());
        agreed += u64::from(outcome.in_silence == Some(true));
    }
    println!("{seeds} seeds, {acknowledged} events acknowledged, {messages} messages");
    println!("{agreed} of {silent} seeds agreed without a word after the storm");
    assert_eq!(agreed, silent, "some servers wait for a word");
    println!("{late} times a server came into a room while the network was bad, and stayed");
}

#[test]
fn devices_are_told_everything_once_and_in_order() {
    if let Some(seed) = number("HEARTH_SIM_SEED") {
        println!("{:?}", run_with(seed, Busy::Devices));
        return;
    }
    let seeds = number("HEARTH_SIM_SEEDS").unwrap_or(SEEDS).min(DEVICE_SEEDS);
    let (mut messages, mut followed) = (0, 0);
    for seed in 0..seeds {
        let outcome = run_with(seed, Busy::Devices);
        messages += outcome.to_devices;
        followed += outcome.followed;
    }
    println!(
        "{seeds} seeds, {messages} messages to devices, {followed} lists known from following"
    );
    assert!(followed > 0, "nobody followed anybody's list");
}

#[test]
fn a_seed_replays_exactly() {
    for (seed, busy) in [(1, Busy::Rooms), (7, Busy::Rooms), (3, Busy::Devices)] {
        assert_eq!(run_with(seed, busy), run_with(seed, busy), "seed {seed}");
    }
}
