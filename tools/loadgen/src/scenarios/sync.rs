//! Initial sync, and incremental sync with nothing new, of a user in many rooms.

use std::sync::Arc;

use tokio::time::Instant;

use crate::client::Synced;
use crate::process::Reading;
use crate::report::{Row, as_f64};
use crate::world::{Doing as _, Failure, Tally, World, message, transaction};

/// Messages in each room.
const MESSAGES: u32 = 3;
/// Most initial syncs of one run.
const MAX_INITIAL: u64 = 1_000;
/// Most incremental syncs of one run.
const MAX_INCREMENTAL: u64 = 1_000_000;

/// Measures both with one connection.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let accounts = world.accounts(2).await?;
    let [owner, user] = accounts.as_slice() else { return Ok(()) };
    let rooms = world.create_rooms(owner, world.options.sync_rooms).await?;
    world.join_all(rooms.iter().map(|room| (Arc::clone(user), room.clone())).collect()).await?;
    let marker = world.next_marker();
    let mut client = world.client();
    for (number, room) in (0..).zip(rooms.iter().flat_map(|room| (0..MESSAGES).map(move |_| room)))
    {
        let id = transaction(&marker, number);
        client.send(owner, room, &id, message(&marker, number)).await.doing("filling rooms")?;
    }

    let initial = repeat(world, user, None, MAX_INITIAL).await;
    let case = format!("initial, {} rooms", rooms.len());
    world.report.add(initial.row(case));
    let Some(last) = initial.last else { return Ok(()) };
    let empty = repeat(world, user, Some(&last.next_batch), MAX_INCREMENTAL).await;
    let case = format!("incremental with nothing new, {} rooms", rooms.len());
    world.report.add(empty.row(case));
    Ok(())
}

struct Repeated {
    tally: Tally,
    seconds: f64,
    last: Option<Synced>,
    before: Reading,
    after: Reading,
}

impl Repeated {
    fn row(&self, case: String) -> Row {
        let count = self.tally.latency.count();
        let bytes = self.last.as_ref().map_or(0, |last| last.body.len() as u64);
        Row::new("sync", case)
            .rate("syncs", count, self.seconds)
            .latency("", &self.tally.latency)
            .metric("response", "KiB", as_f64(bytes) / 1024.0)
            .usage(self.before, self.after, count, "sync")
            .failures(self.tally.failed, self.tally.first_error.as_deref())
    }
}

/// The same sync again and again for half of the asked length.
async fn repeat(
    world: &World,
    user: &Arc<crate::client::Account>,
    since: Option<&str>,
    most: u64,
) -> Repeated {
    let mut client = world.client();
    let (mut tally, mut last) = (Tally::default(), None);
    let (begun, before) = (Instant::now(), world.usage());
    while begun.elapsed() < world.options.length() / 2
        && tally.latency.count() < most
        && !tally.hopeless()
    {
        let at = Instant::now();
        last = tally.note(at, client.sync(user, since, 0, None).await).or(last);
    }
    Repeated { tally, seconds: begun.elapsed().as_secs_f64(), last, before, after: world.usage() }
}
