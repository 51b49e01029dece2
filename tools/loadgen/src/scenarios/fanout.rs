//! One message at a time to every connected member of a room: the next is sent when all of them have the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::open_loop::RECEIVER_FILTER;
use crate::client::{Account, Client};
use crate::histogram::Histogram;
use crate::report::Row;
use crate::scan;
use crate::world::{Doing as _, Failure, Tally, World, gather, message, transaction};

/// Timeout of the receivers' long-polls.
const POLL_MS: u32 = 2_000;
/// How long a message may take to reach everybody.
const ROUND_TIMEOUT: Duration = Duration::from_secs(20);
/// Messages that do not reach everybody in time, after which the measurement ends.
const MAX_LOST_ROUNDS: u32 = 3;

/// The message that is on its way.
struct Round {
    marker: String,
    epoch: Instant,
    number: AtomicU32,
    begun_us: AtomicU64,
    left: AtomicU32,
    reached_all: Notify,
    over: AtomicBool,
}

/// Measures a room of each size.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    for size in world.options.sizes.clone() {
        one_size(world, size).await?;
    }
    Ok(())
}

async fn one_size(world: &mut World, size: u32) -> Result<(), Failure> {
    let room = world.room_of(size).await?;
    let accounts = world.accounts(size).await?;
    let Some((sender, members)) = accounts.split_first() else { return Ok(()) };
    let connected = world.options.connected.min(size - 1);
    let round = Arc::new(Round {
        marker: world.next_marker(),
        epoch: Instant::now(),
        number: AtomicU32::new(0),
        begun_us: AtomicU64::new(0),
        left: AtomicU32::new(0),
        reached_all: Notify::new(),
        over: AtomicBool::new(false),
    });
    let mut receivers = JoinSet::new();
    for member in members.iter().take(connected as usize) {
        let mut client = world.client();
        let synced = client
            .sync(member, None, 0, Some(RECEIVER_FILTER))
            .await
            .doing("receivers' initial sync")?;
        receivers.spawn(receive(client, Arc::clone(member), synced.next_batch, Arc::clone(&round)));
    }
    let before = world.usage();
    let begun = Instant::now();
    let mut client = world.client();
    let mut sends = Tally::default();
    let mut rounds = Histogram::default();
    let mut lost = 0;
    while begun.elapsed() < world.options.length() && lost < MAX_LOST_ROUNDS && !sends.hopeless() {
        let number = round.number.load(Ordering::Relaxed) + 1;
        let at = Instant::now();
        round.left.store(connected, Ordering::Relaxed);
        round.begun_us.store(micros(at - round.epoch), Ordering::Relaxed);
        round.number.store(number, Ordering::Release);
        let id = transaction(&round.marker, number);
        let result = client.send(sender, &room, &id, message(&round.marker, number)).await;
        if sends.note(at, result).is_none() {
            continue;
        }
        if tokio::time::timeout(ROUND_TIMEOUT, round.reached_all.notified()).await.is_ok() {
            rounds.record(at.elapsed());
        } else {
            lost += 1;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let after = world.usage();
    round.over.store(true, Ordering::Release);
    let deliveries = gather(receivers).await?;
    let first_error = sends.first_error.as_deref().or(deliveries.first_error.as_deref());
    let row = Row::new("fanout", format!("room of {size}, {connected} connected"))
        .rate("messages", rounds.count(), took)
        .rate("deliveries", deliveries.latency.count(), took)
        .latency("delivery", &deliveries.latency)
        .latency("to all", &rounds)
        .count("lost", u64::from(lost))
        .usage(before, after, sends.latency.count(), "message")
        .failures(sends.failed + deliveries.failed, first_error);
    world.report.add(row);
    Ok(())
}

async fn receive(
    mut client: Client,
    account: Arc<Account>,
    mut since: String,
    round: Arc<Round>,
) -> Tally {
    let mut tally = Tally::default();
    let mut last = 0;
    while !round.over.load(Ordering::Acquire) && !tally.hopeless() {
        match client.sync(&account, Some(&since), POLL_MS, Some(RECEIVER_FILTER)).await {
            Ok(synced) => {
                let current = round.number.load(Ordering::Acquire);
                if last < current
                    && scan::marked_numbers(&synced.body, &round.marker)
                        .any(|number| number == current)
                {
                    last = current;
                    let begun =
                        round.epoch + Duration::from_micros(round.begun_us.load(Ordering::Relaxed));
                    tally.latency.record(begun.elapsed());
                    if round.left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        round.reached_all.notify_one();
                    }
                }
                since = synced.next_batch;
            }
            Err(error) => tally.fail(&error),
        }
    }
    tally
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
