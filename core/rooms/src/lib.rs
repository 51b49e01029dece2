//! The event graph of every room that this server takes part in.
//!
//! Owns: rooms' events and their edges, state at each event, the timeline, memberships, aliases, the
//! public directory, relations, and the ledger of what notifies whom. One writer task for each active
//! room is the only one to change that room's rows ([`writer`]); everything else here reads.
//!
//! Refuses to know: HTTP, users' accounts and settings, sync tokens. Other servers are reached through
//! [`RemoteRooms`], which the federation crate will implement.
//!
//! Map: [`schema`] names every row · [`writer`] changes them · [`state`] is the persistent state tree ·
//! [`resolve`] merges forks · [`read`] answers questions · [`format`] shapes events for clients.

mod cache;
mod config;
mod error;
pub mod format;
pub mod read;
pub mod resolve;
pub mod schema;
pub mod state;
pub mod writer;

mod rooms;

pub use self::{
    config::RoomsConfig,
    error::{ReadError, RoomError},
    rooms::Rooms,
    schema::{KEYSPACES, StoredEvent},
};
