//! The only way to change a room: one task for each active room, a bounded mailbox, one commit for all
//! that it finds there.
//!
//! Map: `table` starts and finds writer tasks · `task` is their loop: drain the mailbox, submit, go on
//! building on the optimistic head while the disk works, answer · `room` is what a writer holds in
//! memory · `append` makes one event: plan, build, sign, authorize, apply · `effects`, `members` and `beside` are the
//! rows beside the event · `receive` takes in the events of other servers, as `judge` decides, and `outliers` what they
//! refer to · `history` what came before them · `gaps` where that is not here · `policy` says which events need a policy server's signature ·
//! `redactions` keeps those that come too early · `forks` resolves the states of several extremities ·
//! `batch` is the commit being built and what becomes visible with it.
//!
//! Invariants: nothing of an event is changed in memory before everything about it that can fail has
//! been done; nothing is answered or put into the shared caches before its commit is durable; what is
//! not durable is only in the writer's `Local`.

mod append;
mod batch;
mod beside;
mod content;
mod draft;
mod effects;
mod forks;
mod gaps;
mod history;
mod judge;
mod members;
mod outliers;
mod policy;
mod power;
mod receive;
mod redactions;
mod room;
mod room_id;
mod table;
mod task;
mod template;
#[cfg(test)]
mod tests;

pub use self::draft::Draft;
pub(crate) use self::{
    append::{NewEvent, room_id_of_create, sign},
    batch::Batch,
    beside::Subject,
    content::{Facts, parse_object, to_object},
    draft::check_event_key,
    judge::fits,
    outliers::by_edges,
    power::Power,
    receive::{How, Receive, ToldHistory},
    room::{Context, Room},
    table::WriterTable,
    task::{Action, Command, Outcome},
};

use crate::error::RoomError;

/// Why a step of a writer did not happen. Nothing was changed.
#[derive(Debug)]
pub(crate) enum StepError {
    /// The request is refused; the next may be fine.
    Refused(RoomError),
    /// The step needs the position of an event that is not durable yet: to be tried again when
    /// nothing is in flight.
    Settle,
    /// The batch has no room for the step: to be gone on with in the next one.
    Full,
    /// The step takes long: to be tried again where it holds up nothing else than this room.
    Long,
    /// A received event lacks the signature of the room's policy server, which is to be asked first.
    Unsigned,
}

impl<E: Into<RoomError>> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}
