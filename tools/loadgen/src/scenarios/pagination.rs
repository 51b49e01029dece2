//! Reading a room's history backwards, page by page.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::report::Row;
use crate::scan;
use crate::world::{Failure, Tally, World, gather, message, transaction};

/// Events of one page.
const PAGE: u32 = 100;
/// Connections that fill the room.
const FILLERS: u32 = 8;
/// Most pages of one pass: more than the largest history that can be asked for.
const MAX_PAGES: u32 = 20_000;

/// Fills a room, then reads it from end to start again and again.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let accounts = world.accounts(1).await?;
    let Some(account) = accounts.first() else { return Ok(()) };
    let rooms = world.create_rooms(account, 1).await?;
    let Some(room) = rooms.first() else { return Ok(()) };
    let (marker, history) = (world.next_marker(), world.options.history);
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let (mut client, account, room, marker) =
            (world.client(), Arc::clone(account), room.clone(), marker.clone());
        fillers.spawn(async move {
            let mut tally = Tally::default();
            for number in (filler..history).step_by(FILLERS as usize) {
                let begun = Instant::now();
                let id = transaction(&marker, number);
                tally
                    .note(begun, client.send(&account, &room, &id, message(&marker, number)).await);
            }
            tally
        });
    }
    let filled = gather(fillers).await?.latency.count();

    let mut client = world.client();
    let (mut tally, mut events, mut passes, mut short) = (Tally::default(), 0, 0_u64, 0_u64);
    let (begun, before) = (Instant::now(), world.usage());
    while begun.elapsed() < world.options.length() && !tally.hopeless() {
        let (mut from, mut found) = (None::<String>, 0);
        for _ in 0..MAX_PAGES {
            let at = Instant::now();
            let Some((body, end)) =
                tally.note(at, client.messages(account, room, from.as_deref(), PAGE).await)
            else {
                break;
            };
            found += scan::marked_numbers(&body, &marker).count() as u64;
            from = end;
            if from.is_none() {
                break;
            }
        }
        events += found;
        passes += 1;
        short += u64::from(found != filled);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let pages = tally.latency.count();
    let row = Row::new("pagination", format!("{filled} messages, {PAGE} per page"))
        .rate("events", events, seconds)
        .latency("page", &tally.latency)
        .count("passes", passes)
        .count("passes that missed messages", short)
        .usage(before, world.usage(), pages, "page")
        .failures(tally.failed, tally.first_error.as_deref());
    world.report.add(row);
    Ok(())
}
