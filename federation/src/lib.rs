//! The server-server API: everything that is said to and heard from other homeservers.
//!
//! Owns: the key ring ([`keys`]), finding servers ([`discovery`]), speaking to them ([`transport`],
//! [`client`]) and explaining how they are reached ([`diagnosis`]), the first three checks on received events ([`check`]), what other servers ask
//! ([`inbound`]), what they are sent ([`outbound`]) and what is asked of them in the name of local users
//! ([`remote`], which implements [`hearth_rooms::RemoteRooms`]).
//!
//! Refuses to know: clients, sync, sessions. Rooms decide what becomes of an event; this crate fetches,
//! proves and delivers.
//!
//! Invariants: nothing is signed that another server made, but the membership event that was asked for,
//! rebuilt from its own fields; every fetch is bounded in count, depth, bytes and time; a destination has
//! at most one transaction in flight; time, randomness and the network enter by parameters.

mod arrivals;
pub mod check;
pub mod client;
pub mod config;
pub mod destinations;
pub mod diagnosis;
pub mod discovery;
mod error;
mod federation;
pub mod inbound;
pub mod keys;
pub mod outbound;
pub mod remote;
pub mod schema;
mod tasks;
#[cfg(test)]
mod testing;
pub mod transport;

pub use self::{
    config::FederationConfig,
    error::{FederationError, RemoteError},
    federation::{Federation, FederationParts},
    schema::KEYSPACES,
};
