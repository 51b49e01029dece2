//! Random users on random devices against the real server, with restarts in between, and a model on
//! the clients' side that says what each of them must have been told: nothing lost, nothing twice,
//! nothing that was not theirs to see.
//!
//! `HEARTH_SOAK_SEED` repeats a run's choices (not its interleaving), `HEARTH_SOAK_SECONDS` makes it
//! longer; see docs/development.md.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod actor;
mod api;
mod check;
mod device;
mod socket;
mod truth;
mod world;

use std::{env, sync::Arc, time::Duration};

use hearth_testkit::TestServer;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use self::{
    actor::{Actor, Ledger},
    device::Device,
    world::World,
};

/// Users that do things; one more watches every room from its first moment.
const USERS: usize = 7;
/// What one user does at a time.
const ACTORS: usize = 2;
/// How long the random part lasts unless `HEARTH_SOAK_SECONDS` says otherwise.
const DEFAULT_SECONDS: u64 = 20;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_leaked() {
    let seed = setting("HEARTH_SOAK_SEED").unwrap_or_else(|| u64::from(rand::rng().next_u32()));
    let seconds = setting("HEARTH_SOAK_SECONDS").unwrap_or(DEFAULT_SECONDS).max(1);
    println!("HEARTH_SOAK_SEED={seed} HEARTH_SOAK_SECONDS={seconds}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut server = TestServer::start().await;
    let world = Arc::new(World::new(&server, USERS).await);

    let mut devices = Vec::new();
    for user in 0..USERS {
        for number in 0..dice.random_range(1..=2) {
            let login = match number {
                0 => world.users[user].login.clone(),
                _ => server.login(&format!("u{user}")).await,
            };
            let device = Device::new(&world, user, number, login, dice.next_u64());
            devices.push(tokio::spawn(device.run(Arc::clone(&world))));
        }
    }
    let actors: Vec<_> = (0..USERS * ACTORS)
        .map(|place| (place % USERS, place / USERS, dice.next_u64()))
        .map(|(user, number, seed)| Actor::new(Arc::clone(&world), user, number, seed))
        .map(|actor| tokio::spawn(actor.run()))
        .collect();

    let (start, whole) = (Instant::now(), Duration::from_secs(seconds));
    let restarts = (seconds / 8).max(1);
    for number in 1..=restarts {
        tokio::time::sleep_until(
            start + whole * u32::try_from(number).unwrap() / (u32::try_from(restarts).unwrap() + 1),
        )
        .await;
        world.set_up(false);
        server.restart().await;
        world.set_up(true);
    }
    tokio::time::sleep_until(start + whole).await;

    world.finish_acting();
    let mut ledgers: Vec<Ledger> = (0..USERS).map(|_| Ledger::default()).collect();
    for (place, actor) in actors.into_iter().enumerate() {
        ledgers[place % USERS].add(actor.await.unwrap());
    }
    world.fall_quiet();
    let mut ended = Vec::new();
    for device in devices {
        ended.push(device.await.unwrap());
    }
    check::all(&world, &ledgers, &ended).await;
    println!("{}", world.stats());
    let failures = world.failures();
    assert!(
        failures.is_empty(),
        "HEARTH_SOAK_SEED={seed}: {} faults, the first of them:\n{}",
        failures.len(),
        failures.iter().take(25).cloned().collect::<Vec<_>>().join("\n")
    );
}
