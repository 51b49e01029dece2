//! From one client's send to another's long-poll, at a fixed rate.

use std::sync::Arc;

use super::open_loop::{self, Outcome, Plan};
use crate::report::Row;
use crate::world::{Failure, World};

/// Most rooms of the receiver in [`run`].
const MAX_ROOMS: u32 = 20;
/// Connections that send in [`run`].
const SENDERS: u32 = 8;
/// Connections that send in [`by_room_size`].
const FEW_SENDERS: u32 = 2;

/// One receiver in several rooms, several senders.
pub(crate) async fn run(world: &mut World) -> Result<(), Failure> {
    let accounts = world.accounts(SENDERS + 1).await?;
    let Some((receiver, senders)) = accounts.split_first() else { return Ok(()) };
    let rooms = world.create_rooms(receiver, world.options.rooms.min(MAX_ROOMS)).await?;
    let joins = senders
        .iter()
        .flat_map(|sender| rooms.iter().map(|room| (Arc::clone(sender), room.clone())));
    world.join_all(joins.collect()).await?;
    let per_second = world.options.rate;
    let case = format!("{per_second}/s over {} rooms, 1 receiver", rooms.len());
    let plan = Plan {
        rooms,
        senders: senders.to_vec(),
        receivers: vec![Arc::clone(receiver)],
        receivers_at: Arc::clone(&world.target),
        per_second,
    };
    let outcome = open_loop::run(world, plan).await?;
    world.report.add(row("delivery", case, &outcome));
    Ok(())
}

/// The same few members connected and the same rate, in rooms of different sizes: what a message costs must not grow.
pub(crate) async fn by_room_size(world: &mut World) -> Result<(), Failure> {
    for size in world.options.sizes.clone() {
        let room = world.room_of(size).await?;
        let accounts = world.accounts(size).await?;
        let receivers: Vec<_> =
            accounts.iter().skip(1).take(world.options.active as usize).map(Arc::clone).collect();
        let senders =
            accounts.iter().take(1).cycle().take(FEW_SENDERS as usize).map(Arc::clone).collect();
        let per_second = world.options.members_rate;
        let case = format!("room of {size}, {} connected, {per_second}/s", receivers.len());
        let receivers_at = Arc::clone(&world.target);
        let plan = Plan { rooms: vec![room], senders, receivers, receivers_at, per_second };
        let outcome = open_loop::run(world, plan).await?;
        world.report.add(row("members", case, &outcome));
    }
    Ok(())
}

pub(crate) fn row(scenario: &'static str, case: String, outcome: &Outcome) -> Row {
    let sends = outcome.sends.latency.count();
    let seconds = outcome.took.as_secs_f64();
    let first_error =
        outcome.sends.first_error.as_deref().or(outcome.deliveries.first_error.as_deref());
    Row::new(scenario, case)
        .rate("sent", sends, seconds)
        .rate("delivered", outcome.deliveries.latency.count(), seconds)
        .latency("send", &outcome.sends.latency)
        .latency("delivery", &outcome.deliveries.latency)
        .count("missing", outcome.missing)
        .usage(outcome.before, outcome.after, sends, "message")
        .failures(outcome.sends.failed + outcome.deliveries.failed, first_error)
}
