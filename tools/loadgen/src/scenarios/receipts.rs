//! A storm of read receipts in one room, with one member observing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Account, Client};
use crate::paths::Room;
use crate::report::Row;
use crate::scan;
use crate::world::{Doing as _, Failure, Tally, Window, World, gather, message, transaction};

/// Events that receipts are sent for.
const EVENTS: u32 = 50;
/// Timeout of the observer's long-polls.
const POLL_MS: u32 = 1_000;

/// Every sender sends its next receipt when the last is answered.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let senders = world.options.senders;
    let size = senders + 2;
    let room = world.room_of(size).await?;
    let accounts = world.accounts(size).await?;
    let (Some(owner), Some(observer)) = (accounts.first(), accounts.last()) else { return Ok(()) };
    let (marker, mut client) = (world.next_marker(), world.client());
    let mut events = Vec::new();
    for number in 0..EVENTS {
        let id = transaction(&marker, number);
        let answer = client.send(owner, &room, &id, message(&marker, number)).await;
        let answer = answer.doing("filling the room")?;
        events.extend(scan::string_field(&answer, "event_id").map(str::to_owned));
    }
    let events: Arc<[String]> = events.into();
    let synced = client.sync(observer, None, 0, None).await.doing("the observer's initial sync")?;

    let over = Arc::new(AtomicBool::new(false));
    let mut observing = JoinSet::new();
    observing.spawn(observe(client, Arc::clone(observer), synced.next_batch, Arc::clone(&over)));
    let window = Window::starting_now(world.options.length());
    let mut workers = JoinSet::new();
    for (number, account) in (1..).zip(accounts.iter().skip(1).take(senders as usize)) {
        let events = Arc::clone(&events);
        let reader =
            Reader { client: world.client(), account: Arc::clone(account), rng: world.rng(number) };
        workers.spawn(reader.read_until_over(room.clone(), events, window));
    }
    let (before, after) = window.observe(world).await;
    let tally = gather(workers).await?;
    over.store(true, Ordering::Release);
    let syncs = gather(observing).await?;
    let count = tally.latency.count();
    let row = Row::new("receipts", format!("{senders} senders in a room of {size}"))
        .rate("receipts", count, world.options.length().as_secs_f64())
        .latency("", &tally.latency)
        .count("observer's syncs", syncs.latency.count())
        .usage(before, after, count, "receipt")
        .failures(
            tally.failed + syncs.failed,
            tally.first_error.as_deref().or(syncs.first_error.as_deref()),
        );
    world.report.add(row);
    Ok(())
}

struct Reader {
    client: Client,
    account: Arc<Account>,
    rng: StdRng,
}

impl Reader {
    async fn read_until_over(mut self, room: Room, events: Arc<[String]>, window: Window) -> Tally {
        let mut tally = Tally::default();
        while !window.over() && !tally.hopeless() {
            let Some(event_id) = events.get(self.rng.random_range(0..events.len().max(1))) else {
                break;
            };
            let begun = Instant::now();
            let result = self.client.receipt(&self.account, &room, event_id).await;
            if window.counts() || result.is_err() {
                tally.note(begun, result);
            }
        }
        tally
    }
}

async fn observe(
    mut client: Client,
    account: Arc<Account>,
    mut since: String,
    over: Arc<AtomicBool>,
) -> Tally {
    let mut tally = Tally::default();
    while !over.load(Ordering::Acquire) && !tally.hopeless() {
        let begun = Instant::now();
        if let Some(synced) =
            tally.note(begun, client.sync(&account, Some(&since), POLL_MS, None).await)
        {
            since = synced.next_batch;
        }
    }
    tally
}
