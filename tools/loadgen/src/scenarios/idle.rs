//! What a waiting connection costs the server in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::open_loop::RECEIVER_FILTER;
use crate::client::{Account, Client};
use crate::connection::Target;
use crate::process::Reading;
use crate::report::{Row, as_f64};
use crate::socket::Socket;
use crate::world::{Doing as _, Failure, World};

/// Users that the connections are spread over.
const USERS: u32 = 100;
/// Timeout that the long-polls ask for; a server may answer sooner, then they ask again.
const POLL_MS: u32 = 120_000;
/// New connections between two short pauses, so that the listen queue does not overflow.
const BURST: u32 = 64;
/// The pause.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two readings of the server's memory.
const READING: Duration = Duration::from_secs(1);
/// Most readings until the memory counts as settled.
const MAX_READINGS: u32 = 15;
/// A change between two readings below this share counts as settled.
const SETTLED_SHARE: u64 = 200;

/// How the connections wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `/sync` with a long timeout.
    LongPoll,
    /// Hearth's WebSocket.
    WebSocket,
}

/// Counted by all waiting clients together.
#[derive(Default)]
struct Waiting {
    opened: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Waiting {
    fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn note(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens the asked number of connections in rooms where nothing happens.
pub(crate) async fn run(world: &mut World, transport: Transport) -> Result<(), Failure> {
    let idle = world.options.idle;
    let accounts = world.accounts(USERS.min(idle)).await?;
    let mut ready = Vec::new();
    let mut client = world.client();
    for account in &accounts {
        let synced = client.sync(account, None, 0, Some(RECEIVER_FILTER)).await;
        let since = Arc::<str>::from(synced.doing("initial syncs")?.next_batch);
        ready.push((Arc::clone(account), since));
    }
    let (scenario, kind) = match transport {
        Transport::LongPoll => ("idle-polls", "long-polls"),
        Transport::WebSocket => ("idle-sockets", "WebSockets"),
    };
    let row = Row::new(scenario, format!("{idle} {kind} of {} users", accounts.len()));
    if let (Transport::WebSocket, Some((account, since))) = (transport, ready.first())
        && let Err(error) = Socket::open(&world.target, account, since, RECEIVER_FILTER).await
    {
        world.report.add(row.note(format!("not measured, the server does not open one: {error}")));
        return Ok(());
    }

    settle(world).await;
    let before = world.usage();
    let waiting = Arc::new(Waiting::default());
    let mut clients = JoinSet::new();
    for (number, (account, since)) in (0..idle).zip(ready.into_iter().cycle()) {
        let waiting = Arc::clone(&waiting);
        match transport {
            Transport::LongPoll => {
                clients.spawn(poll(world.client(), account, since, waiting));
            }
            Transport::WebSocket => {
                clients.spawn(listen(Arc::clone(&world.target), account, since, waiting));
            }
        }
        if number % BURST == BURST - 1 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    settle(world).await;
    let row = measure(world, row, before, &waiting).await;
    world.report.add(row);
    clients.shutdown().await;
    Ok(())
}

async fn measure(world: &World, mut row: Row, before: Reading, waiting: &Waiting) -> Row {
    let (begun, quiet) = (Instant::now(), world.usage());
    tokio::time::sleep(READING * 2).await;
    let open = Waiting::of(&waiting.opened).saturating_sub(Waiting::of(&waiting.failed));
    if let (Some(before), Some(quiet), Some(after)) =
        (before.server, quiet.server, world.usage().server)
    {
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        let cpu = after.cpu.saturating_sub(quiet.cpu).as_secs_f64();
        row = row
            .metric("memory per connection", "KiB", as_f64(grown) / 1024.0 / as_f64(open.max(1)))
            .metric("server memory before", "MiB", as_f64(before.resident_bytes) / 1024.0 / 1024.0)
            .metric("server memory", "MiB", as_f64(after.resident_bytes) / 1024.0 / 1024.0)
            .metric("server cpu while idle", "%", 100.0 * cpu / begun.elapsed().as_secs_f64());
    }
    row.count("open", open)
        .count("answered early", Waiting::of(&waiting.answered))
        .failures(Waiting::of(&waiting.failed), None)
}

/// Waits until the server's memory has stopped changing, within bounds.
async fn settle(world: &World) {
    let mut last = None;
    for _ in 0..MAX_READINGS {
        tokio::time::sleep(READING).await;
        let Some(now) = world.usage().server.map(|usage| usage.resident_bytes) else { return };
        if last.is_some_and(|last| now.abs_diff(last) < now / SETTLED_SHARE) {
            return;
        }
        last = Some(now);
    }
}

async fn poll(mut client: Client, account: Arc<Account>, since: Arc<str>, waiting: Arc<Waiting>) {
    let mut since = since.to_string();
    Waiting::note(&waiting.opened);
    loop {
        let result = client.sync(&account, Some(&since), POLL_MS, Some(RECEIVER_FILTER)).await;
        let Ok(synced) = result else {
            Waiting::note(&waiting.failed);
            return;
        };
        Waiting::note(&waiting.answered);
        since = synced.next_batch;
    }
}

async fn listen(
    target: Arc<Target>,
    account: Arc<Account>,
    since: Arc<str>,
    waiting: Arc<Waiting>,
) {
    Waiting::note(&waiting.opened);
    if let Ok(mut socket) = Socket::open(&target, &account, &since, RECEIVER_FILTER).await {
        while let Some(Ok(())) = socket.update().await {
            Waiting::note(&waiting.answered);
        }
    }
    Waiting::note(&waiting.failed);
}
