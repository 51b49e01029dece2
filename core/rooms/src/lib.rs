//! The event graph of every room that this server takes part in.
//!
//! Owns: rooms' events and their edges, state at each event, the timeline, memberships, aliases, the
//! public directory, relations, and the ledger of what notifies whom. One writer task for each active
//! room is the only one to change that room's rows ([`writer`]); everything else here reads.
//!
//! Refuses to know: HTTP, users' accounts and settings, sync tokens. Other servers are reached through
//! a trait that the federation crate will implement.
//!
//! Map: [`schema`] names every row · [`writer`] changes them · [`state`] is the persistent state tree ·
//! [`resolve`] merges forks · [`read`] answers questions · [`mod@format`] shapes events for clients.

mod aliases;
mod cache;
mod config;
mod create;
mod directory;
mod error;
pub mod format;
mod membership;
pub mod read;
mod redaction;
pub mod resolve;
mod rooms;
pub mod schema;
mod send;
pub mod state;
mod transactions;
mod unread;
mod upgrade;
pub mod writer;

pub use self::{
    config::{RoomsConfig, SUPPORTED_VERSIONS},
    create::{CreateRoomOptions, InitialState, Invitee, Preset, json_object},
    directory::{DirectoryPage, DirectoryQuery, PublicRoom},
    error::{ReadError, RoomError},
    membership::MemberProfile,
    rooms::{RoomNodes, Rooms},
    schema::{KEYSPACES, StoredEvent},
    writer::Draft,
};
