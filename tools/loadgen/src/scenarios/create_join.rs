//! Creating rooms, and joining one while it grows.

use std::sync::Arc;

use tokio::time::Instant;

use crate::report::Row;
use crate::world::{Doing as _, Failure, Tally, World};

/// Rooms created one after another.
const CREATED: u32 = 50;

/// Measures both, one request at a time.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let mut sizes = world.options.sizes.clone();
    sizes.sort_unstable();
    let accounts = world.accounts(sizes.last().copied().unwrap_or(1)).await?;
    let Some((owner, joiners)) = accounts.split_first() else { return Ok(()) };
    let mut client = world.client();

    let mut tally = Tally::default();
    let before = world.usage();
    for number in 0..CREATED {
        let begun = Instant::now();
        tally.note(begun, client.create_room(owner, &format!("Created {number}")).await);
    }
    let row = Row::new("create-join", format!("{CREATED} rooms created"))
        .latency("create", &tally.latency)
        .usage(before, world.usage(), u64::from(CREATED), "room")
        .failures(tally.failed, tally.first_error.as_deref());
    world.report.add(row);

    let room = client.create_room(owner, "Growing").await.doing("creating a room")?;
    let mut joiners = joiners.iter().map(Arc::clone);
    let mut members = 1;
    for size in sizes.iter().copied() {
        let (mut tally, before, first) = (Tally::default(), world.usage(), members + 1);
        for joiner in joiners.by_ref().take((size - members) as usize) {
            let begun = Instant::now();
            tally.note(begun, client.join(&joiner, &room).await);
        }
        if first > size {
            continue;
        }
        members = size;
        let row = Row::new("create-join", format!("joins {first} to {size} of one room"))
            .latency("join", &tally.latency)
            .metric("join mean", "ms", tally.latency.mean_ms().unwrap_or_default())
            .usage(before, world.usage(), tally.latency.count(), "join")
            .failures(tally.failed, tally.first_error.as_deref());
        world.report.add(row);
        if tally.failed > 0 {
            return Ok(());
        }
    }
    world.keep_room(members, room);
    Ok(())
}
