//! Types that every other crate of Hearth speaks: events as they travel between servers ([`Pdu`]),
//! the local order of things ([`StreamPosition`]), the sources of time ([`Clock`]), the server's name
//! and signing key ([`ServerIdentity`]) and the specification's limits ([`limits`]).
//!
//! This crate performs no input or output and holds no state but a test clock's.

mod clock;
mod identity;
pub mod limits;
mod pdu;
mod position;

pub use self::{
    clock::{Clock, ManualClock, SystemClock},
    identity::{IdentityError, ServerIdentity},
    pdu::{Pdu, PduError},
    position::StreamPosition,
};
