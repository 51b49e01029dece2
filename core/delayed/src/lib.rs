//! Delayed events (MSC4140): events that a user leaves with the server, to be sent when they are due.
//!
//! Owns, for each event, two rows of its user's (what it is and where it stands, and its content) and two
//! that lead to it: by time, which the clock follows, and by its ID, which is all that whoever manages it
//! needs to know. An event that is sent, cancelled or refused stays for a while as finalised.
//!
//! - **Nothing is in memory** but what is being sent: after a restart what fell due meanwhile is sent at once.
//! - **Sent once.** The event's ID is the ID of the transaction by which the room knows it. A process that was
//!   killed between the room's commit and the one here sends it again, and the room answers with the same
//!   event. Whoever sends, cancels or restarts an event has its turn until the outcome is durable.
//! - **In their order**: what is due of one user is sent one after the other, by the time at which it fell due, and
//!   charged to the user's rate limit as if it were sent by hand. What is over the limit is finalised with that
//!   error, as MSC4140 has it. Other users wait for none of this.
//! - **Bounded**: so many scheduled events a user, so many finalised ones for so long, so many users whose
//!   events are sent at a time.
//!
//! The crate sends through [`Sender`], which the client-server API plugs in: a due event goes the way of
//! every other one.

mod config;
mod due;
mod error;
mod finalise;
mod list;
mod manage;
mod schedule;
mod schema;
mod sender;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    config::DelayedConfig,
    error::DelayedError,
    list::{DelayedEvent, DelayedList, ListRequest, Order, Outcome, Reason, Since, Status},
    manage::Action,
    schedule::NewDelayed,
    schema::KEYSPACES,
    sender::{Due, Fate, Refusal, Sender, Unsent},
    service::{Delayed, DelayedParts},
};
