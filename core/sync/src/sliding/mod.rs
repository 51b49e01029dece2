//! Simplified sliding sync (MSC4186): `POST /_matrix/client/v4/sync` as it was accepted, and
//! `…/unstable/org.matrix.simplified_msc3575/sync` as clients speak it today.
//!
//! A client names rooms by lists (windows on its rooms, the most recently active first) and by
//! subscriptions; a response has those of them that changed since they were last sent. It is read from
//! the same log, tokens and wake-ups as `/v3/sync`. What each connection was sent stands in memory alone
//! (`connections`): bounded, lost with the process, and its loss is an unknown `pos`, after which the
//! client begins anew. Messages to the device are not among it: only a `since` of their own, which the
//! client keeps, proves that they arrived.
//!
//! What it costs: a room's place in the order and what filters ask of it are remembered for all users
//! (`activity`, `facets`) and read again only where the room changed. A request that finds nothing new costs
//! a look at the last position of each of the user's rooms, in memory; one with news orders the rooms
//! anew, in memory too, and reads the rooms that changed.
//!
//! - `request`: what a client asks, whichever form it came in; `wire`: the two forms; `required`: which
//!   state.
//! - `connections`, `connection`: what is remembered. `service`: the long poll. `pass`: one response.
//! - `view`: which rooms; `rooms`: all that are told of together; `room`, `state`, `unread`, `outside`: what is
//!   told of one; `extensions`, `receipts`: the rest.

mod activity;
mod connection;
mod connections;
mod extensions;
mod facets;
mod outside;
mod pass;
mod pos;
mod receipts;
mod request;
mod required;
mod room;
mod rooms;
mod service;
mod state;
mod unread;
mod view;
mod wire;

pub(crate) use self::service::Sliding;
pub use self::{
    request::{SlidingBody, SlidingForm},
    service::{SlidingRequest, SlidingResponse},
};
