//! The scenarios: each prepares its users and rooms, measures, and adds its rows to the report.

mod claims;
mod create_join;
mod delivery;
mod fanout;
mod federation;
mod idle;
mod media;
mod open_loop;
mod pagination;
mod push;
mod receipts;
mod sends;
mod sliding;
mod sync;

use self::idle::Transport;
use crate::options::Scenario;
use crate::world::{Failure, World};

/// Runs one scenario.
pub(crate) async fn run(world: &mut World, scenario: Scenario) -> Result<(), Failure> {
    match scenario {
        Scenario::All => Ok(()),
        Scenario::Sends => {
            let (rooms, senders) = (world.options.rooms, world.options.senders);
            sends::run(world, rooms, senders).await?;
            if rooms > 1 { sends::run(world, 1, senders).await } else { Ok(()) }
        }
        Scenario::Delivery => delivery::run(world).await,
        Scenario::CreateJoin => create_join::run(world).await,
        Scenario::Fanout => fanout::run(world).await,
        Scenario::Members => delivery::by_room_size(world).await,
        Scenario::Sync => sync::run(world).await,
        Scenario::Sliding => sliding::run(world).await,
        Scenario::Pagination => pagination::run(world).await,
        Scenario::Push => push::run(world).await,
        Scenario::Receipts => receipts::run(world).await,
        Scenario::Claims => claims::run(world).await,
        Scenario::Media => media::run(world).await,
        Scenario::Federation => federation::run(world).await,
        Scenario::IdlePolls => idle::run(world, Transport::LongPoll).await,
        Scenario::IdleSockets => idle::run(world, Transport::WebSocket).await,
    }
}
