//! What `/sync` tells whom, over the real writer and a store in memory.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod counts;
mod delivery;
mod device_lists;
mod directory;
mod ephemeral;
mod forks;
mod lazy;
mod membership;
mod publishing;
mod sliding;
mod timeline;
mod waiting;
mod world;
