//! Sends at a fixed rate, whatever the server does, and receivers that take the time of every delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Account, Client};
use crate::connection::Target;
use crate::paths::Room;
use crate::process::Reading;
use crate::scan;
use crate::schedule::OpenLoop;
use crate::world::{Doing as _, Failure, Tally, World, gather, message, transaction};

/// Inline filter of the receivers: long timelines, so that a burst is not cut off, and nothing that is not measured.
pub(crate) const RECEIVER_FILTER: &str = r#"{"presence":{"types":[]},"account_data":{"types":[]},"room":{"account_data":{"types":[]},"ephemeral":{"types":[]},"state":{"lazy_load_members":true},"timeline":{"limit":100}}}"#;
/// Timeout of the receivers' long-polls.
const POLL_MS: u32 = 2_000;
/// How long stragglers are waited for behind the schedule's end.
const GRACE: Duration = Duration::from_secs(10);

/// Who sends what to whom.
pub(crate) struct Plan {
    /// Every sender is a member of every room.
    pub(crate) rooms: Vec<Room>,
    /// Each has one connection.
    pub(crate) senders: Vec<Arc<Account>>,
    /// Each has one connection and is a member of every room.
    pub(crate) receivers: Vec<Arc<Account>>,
    /// The receivers' server.
    pub(crate) receivers_at: Arc<Target>,
    /// Messages per second, all senders together.
    pub(crate) per_second: u32,
}

/// What came of it.
pub(crate) struct Outcome {
    /// From the start of a send to its answer.
    pub(crate) sends: Tally,
    /// From the start of a send to a receiver's having its response.
    pub(crate) deliveries: Tally,
    /// Acknowledged messages times receivers, less what was delivered.
    pub(crate) missing: u64,
    /// From the first slot to the last answer or delivery.
    pub(crate) took: Duration,
    /// The server's usage before.
    pub(crate) before: Reading,
    /// The server's usage afterwards.
    pub(crate) after: Reading,
}

/// Shared by senders and receivers.
struct Shared {
    marker: String,
    schedule: OpenLoop,
    start: Instant,
    /// By slot: when its send began, in microseconds from `start`, plus one. Zero: not yet.
    begun_us: Vec<AtomicU64>,
    acknowledged: AtomicU64,
    /// When the last answer or delivery came, in microseconds from `start`.
    last_us: AtomicU64,
    sent: AtomicBool,
}

impl Shared {
    fn begin(&self, slot: u32, at: Instant) {
        let us = u64::try_from((at - self.start).as_micros()).unwrap_or(u64::MAX - 1);
        if let Some(begun) = self.begun_us.get(slot as usize) {
            begun.store(us + 1, Ordering::Relaxed);
        }
    }

    fn begun(&self, slot: u32) -> Option<Instant> {
        let us = self.begun_us.get(slot as usize)?.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start + Duration::from_micros(us))
    }

    fn note_progress(&self) {
        let us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_us.fetch_max(us, Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        self.start + self.schedule.due(self.schedule.slots()) + GRACE
    }
}

/// Runs `plan` for the length that the command line asks for.
pub(crate) async fn run(world: &mut World, plan: Plan) -> Result<Outcome, Failure> {
    let mut ready = Vec::new();
    for account in &plan.receivers {
        let mut client = Client::new(&plan.receivers_at);
        let synced = client
            .sync(account, None, 0, Some(RECEIVER_FILTER))
            .await
            .doing("receivers' initial sync")?;
        ready.push((client, Arc::clone(account), synced.next_batch));
    }
    let schedule = OpenLoop::new(plan.per_second, world.options.length());
    let shared = Arc::new(Shared {
        marker: world.next_marker(),
        schedule,
        start: Instant::now() + Duration::from_millis(100),
        begun_us: (0..schedule.slots()).map(|_| AtomicU64::new(0)).collect(),
        acknowledged: AtomicU64::new(0),
        last_us: AtomicU64::new(0),
        sent: AtomicBool::new(false),
    });
    let before = world.usage();
    let mut receivers = JoinSet::new();
    for (client, account, since) in ready {
        receivers.spawn(receive(client, account, since, Arc::clone(&shared)));
    }
    let mut senders = JoinSet::new();
    let workers = u32::try_from(plan.senders.len()).unwrap_or(u32::MAX);
    let rooms: Arc<[Room]> = plan.rooms.into();
    for (number, account) in (0..).zip(plan.senders) {
        let sender = Sender {
            client: world.client(),
            account,
            rooms: Arc::clone(&rooms),
            rng: world.rng(number + 1),
        };
        senders.spawn(sender.send_slots(number, workers, Arc::clone(&shared)));
    }
    let sends = gather(senders).await?;
    shared.sent.store(true, Ordering::Release);
    let deliveries = gather(receivers).await?;
    let after = world.usage();
    let expected = shared.acknowledged.load(Ordering::Relaxed) * plan.receivers.len() as u64;
    let took = Duration::from_micros(shared.last_us.load(Ordering::Relaxed));
    let missing = expected.saturating_sub(deliveries.latency.count());
    Ok(Outcome { sends, deliveries, missing, took, before, after })
}

struct Sender {
    client: Client,
    account: Arc<Account>,
    rooms: Arc<[Room]>,
    rng: StdRng,
}

impl Sender {
    async fn send_slots(mut self, number: u32, workers: u32, shared: Arc<Shared>) -> Tally {
        let mut tally = Tally::default();
        for slot in shared.schedule.slots_of(number, workers) {
            let due = shared.start + shared.schedule.due(slot);
            let now = Instant::now();
            // A slot that waited for the server counts from when it was due; one that waited for the timer from its wake-up.
            let begun = if now >= due {
                due
            } else {
                tokio::time::sleep_until(due).await;
                Instant::now()
            };
            if tally.hopeless() || now > shared.deadline() {
                break;
            }
            let Some(room) = self.rooms.get(self.rng.random_range(0..self.rooms.len().max(1)))
            else {
                break;
            };
            shared.begin(slot, begun);
            let id = transaction(&shared.marker, slot);
            let content = message(&shared.marker, slot);
            let result = self.client.send(&self.account, room, &id, content).await;
            if tally.note(begun, result).is_some() {
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                shared.note_progress();
            }
        }
        tally
    }
}

async fn receive(
    mut client: Client,
    account: Arc<Account>,
    mut since: String,
    shared: Arc<Shared>,
) -> Tally {
    let mut tally = Tally::default();
    let mut seen = vec![false; shared.schedule.slots() as usize];
    loop {
        let complete = shared.sent.load(Ordering::Acquire)
            && tally.latency.count() >= shared.acknowledged.load(Ordering::Relaxed);
        if complete || tally.hopeless() || Instant::now() > shared.deadline() {
            return tally;
        }
        match client.sync(&account, Some(&since), POLL_MS, Some(RECEIVER_FILTER)).await {
            Ok(synced) => {
                for slot in scan::marked_numbers(&synced.body, &shared.marker) {
                    let Some(seen) = seen.get_mut(slot as usize) else { continue };
                    if let Some(begun) = shared.begun(slot)
                        && !*seen
                    {
                        *seen = true;
                        tally.latency.record(begun.elapsed());
                        shared.note_progress();
                    }
                }
                since = synced.next_batch;
            }
            Err(error) => tally.fail(&error),
        }
    }
}
