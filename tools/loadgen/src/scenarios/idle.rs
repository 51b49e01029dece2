//! What a waiting connection costs the server in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::open_loop::RECEIVER_FILTER;
use crate::client::{Account, Client};
use crate::report::{Row, as_f64};
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

/// Counted by all waiting clients together.
#[derive(Default)]
struct Waiting {
    answered: AtomicU64,
    failed: AtomicU64,
}

/// Opens the asked number of long-polls in rooms where nothing happens.
pub(crate) async fn polls(world: &mut World) -> Result<(), Failure> {
    let idle = world.options.idle;
    let accounts = world.accounts(USERS.min(idle)).await?;
    let mut ready = Vec::new();
    let mut client = world.client();
    for account in &accounts {
        let synced =
            client.sync(account, None, 0, Some(RECEIVER_FILTER)).await.doing("initial syncs")?;
        ready.push((Arc::clone(account), Arc::<str>::from(synced.next_batch)));
    }
    settle(world).await;
    let before = world.usage();
    let waiting = Arc::new(Waiting::default());
    let mut polls = JoinSet::new();
    for (number, (account, since)) in (0..idle).zip(ready.into_iter().cycle()) {
        polls.spawn(poll(world.client(), account, since, Arc::clone(&waiting)));
        if number % BURST == BURST - 1 {
            tokio::time::sleep(PAUSE).await;
        }
    }
    settle(world).await;
    let quiet = (Instant::now(), world.usage());
    tokio::time::sleep(READING * 2).await;
    let after = world.usage();
    let open =
        as_f64(u64::from(idle).saturating_sub(waiting.failed.load(Ordering::Relaxed)).max(1));
    let mut row = Row::new("idle-polls", format!("{idle} long-polls of {} users", accounts.len()));
    if let (Some(before), Some(after), (since, Some(quiet))) = (before, after, quiet) {
        let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
        let cpu = after.cpu.saturating_sub(quiet.cpu).as_secs_f64();
        row = row
            .metric("memory per connection", "KiB", as_f64(grown) / 1024.0 / open)
            .metric("server memory before", "MiB", as_f64(before.resident_bytes) / 1024.0 / 1024.0)
            .metric("server memory", "MiB", as_f64(after.resident_bytes) / 1024.0 / 1024.0)
            .metric("server cpu while idle", "%", 100.0 * cpu / since.elapsed().as_secs_f64());
    }
    let row = row
        .count("answered early", waiting.answered.load(Ordering::Relaxed))
        .failures(waiting.failed.load(Ordering::Relaxed), None);
    world.report.add(row);
    polls.shutdown().await;
    Ok(())
}

/// Waits until the server's memory has stopped changing, within bounds.
async fn settle(world: &World) {
    let mut last = None;
    for _ in 0..MAX_READINGS {
        tokio::time::sleep(READING).await;
        let Some(now) = world.usage().map(|usage| usage.resident_bytes) else { return };
        if last.is_some_and(|last| now.abs_diff(last) < now / SETTLED_SHARE) {
            return;
        }
        last = Some(now);
    }
}

async fn poll(mut client: Client, account: Arc<Account>, since: Arc<str>, waiting: Arc<Waiting>) {
    let mut since = since.to_string();
    loop {
        let result = client.sync(&account, Some(&since), POLL_MS, Some(RECEIVER_FILTER)).await;
        let Ok(synced) = result else {
            waiting.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        waiting.answered.fetch_add(1, Ordering::Relaxed);
        since = synced.next_batch;
    }
}
