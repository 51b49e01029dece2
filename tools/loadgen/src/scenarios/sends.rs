//! Closed-loop sends: every sender sends its next message when the last is answered.

use std::sync::Arc;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Account, Client};
use crate::paths::Room;
use crate::report::Row;
use crate::world::{Failure, Tally, Window, World, gather, message, transaction};

/// Rooms that each sender joins beside its own share, so that most rooms have several senders.
const EXTRA_ROOMS: u32 = 4;

/// Measures `senders` concurrent senders over `rooms` rooms.
pub(crate) async fn run(world: &mut World, rooms: u32, senders: u32) -> Result<(), Failure> {
    let accounts = world.accounts(senders).await?;
    let Some(owner) = accounts.first().cloned() else { return Ok(()) };
    let created = world.create_rooms(&owner, rooms).await?;
    let shares = shares(rooms, senders, &mut world.rng(0));
    let mut joins = Vec::new();
    let mut plans = Vec::new();
    for (account, share) in accounts.iter().zip(shares) {
        let mine: Vec<Room> =
            share.iter().filter_map(|index| created.get(*index as usize).cloned()).collect();
        if !Arc::ptr_eq(account, &owner) {
            joins.extend(mine.iter().map(|room| (Arc::clone(account), room.clone())));
        }
        plans.push((Arc::clone(account), mine));
    }
    world.join_all(joins).await?;

    let marker = world.next_marker();
    let window = Window::starting_now(world.options.length());
    let mut workers = JoinSet::new();
    for (number, (account, mine)) in (1..).zip(plans) {
        let sender =
            Sender { client: world.client(), account, rooms: mine, rng: world.rng(number) };
        workers.spawn(sender.send_until_over(format!("{marker}{number}-"), window));
    }
    let (before, after) = window.observe(world).await;
    let tally = gather(workers).await?;
    let count = tally.latency.count();
    let row = Row::new("sends", format!("{rooms} rooms, {senders} senders"))
        .rate("sends", count, world.options.length().as_secs_f64())
        .latency("", &tally.latency)
        .usage(before, after, count, "send")
        .failures(tally.failed, tally.first_error.as_deref());
    world.report.add(row);
    Ok(())
}

struct Sender {
    client: Client,
    account: Arc<Account>,
    rooms: Vec<Room>,
    rng: StdRng,
}

impl Sender {
    async fn send_until_over(mut self, marker: String, window: Window) -> Tally {
        let mut tally = Tally::default();
        let mut number = 0;
        while !window.over() && !tally.hopeless() {
            let Some(room) = self.rooms.get(self.rng.random_range(0..self.rooms.len().max(1)))
            else {
                break;
            };
            number += 1;
            let begun = Instant::now();
            let id = transaction(&marker, number);
            let result = self.client.send(&self.account, room, &id, message(&marker, number)).await;
            if window.counts() || result.is_err() {
                tally.note(begun, result);
            }
        }
        tally
    }
}

/// The rooms of each sender: every room has at least one sender, every sender at least one room.
fn shares(rooms: u32, senders: u32, rng: &mut StdRng) -> Vec<Vec<u32>> {
    (0..senders)
        .map(|sender| {
            let mut share: Vec<u32> = (sender..rooms).step_by(senders as usize).collect();
            if share.is_empty() {
                share.push(sender % rooms);
            }
            share.extend((0..EXTRA_ROOMS).map(|_| rng.random_range(0..rooms)));
            share.sort_unstable();
            share.dedup();
            share
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_room_has_a_sender_and_every_sender_a_room() {
        for (rooms, senders) in [(1, 64), (100, 64), (64, 100), (7, 1)] {
            let shares = shares(rooms, senders, &mut StdRng::seed_from_u64(5));
            assert_eq!(shares.len(), senders as usize);
            assert!(shares.iter().all(|share| !share.is_empty()));
            let covered: BTreeSet<u32> = shares.into_iter().flatten().collect();
            assert_eq!(covered, (0..rooms).collect(), "{rooms} rooms, {senders} senders");
        }
    }

    #[test]
    fn shares_depend_on_the_seed_only() {
        let of = |seed| shares(100, 64, &mut StdRng::seed_from_u64(seed));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
