//! What waits for each destination, in memory: plain state behind one lock, without any waiting.
//!
//! A lane knows everything that its destination is to be told from its first waiting event up to
//! [`Lanes::routed`], or it is *behind*: the log must be read again from a place on. Lanes hold places
//! of events, never events. Messages to devices wait in the store. Destinations that find no place are
//! remembered in `left_out`.
//!
//! Here is the whole of them. [`lane`] is one of them; `waiting` is what comes to wait in it, `turns` what
//! its task takes and what becomes of that, and `checkpoint` what is persisted of all.

mod checkpoint;
mod lane;
mod left_out;
mod turns;
mod waiting;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use hearth_types::StreamPosition;
use ruma::{OwnedServerName, ServerName};
use tokio::time::Instant;

pub(super) use self::{
    checkpoint::Checkpoint,
    lane::{Absence, Batch, Item, Task},
};
use self::{lane::Lane, left_out::LeftOut};

/// Events in one transaction (SS "Transactions").
pub(super) const MAX_PDUS: usize = 50;
/// Events that wait for one destination in memory; further ones are read from the log again.
/// (Tests fill it in less time.)
pub(super) const MAX_WAITING: usize = if cfg!(test) { 100 } else { 1_000 };
/// Destinations at the same time: more than any server of the public federation has. Each is a server
/// with members in a room, or was until lately. (Tests fill it in less time.)
const MAX_LANES: usize = if cfg!(test) { 20 } else { 200_000 };

/// What is known of a destination, to be told to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneState {
    /// Events in memory.
    pub(super) held: u64,
    /// What comes after this position in the log is still to be counted.
    pub(super) behind: Option<StreamPosition>,
    /// When it is tried again.
    pub(super) rests_until: Option<Instant>,
    /// Transactions in a row that were answered with an error.
    pub(super) refusals: u32,
    /// The last such error.
    pub(super) last_refusal: Option<String>,
}

/// All destinations that have something waiting.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// In order, so that the same happens in every simulation of the same seed.
    by_server: BTreeMap<OwnedServerName, Lane>,
    /// Lanes that hold a transaction to be offered again.
    again: usize,
    /// What is in the log up to here is distributed.
    routed: StreamPosition,
    /// Those that there was no place for.
    left_out: LeftOut,
    /// Something happened since the last checkpoint.
    changed: bool,
}

impl Lanes {
    /// The state as persisted.
    pub(super) fn new(
        shared: StreamPosition,
        rows: impl IntoIterator<Item = (OwnedServerName, StreamPosition)>,
    ) -> Self {
        let lane = |cursor| Lane { behind: Some(cursor), row: Some(cursor), ..Lane::default() };
        Self {
            by_server: rows.into_iter().map(|(server, cursor)| (server, lane(cursor))).collect(),
            again: 0,
            routed: shared,
            left_out: LeftOut::default(),
            changed: false,
        }
    }

    pub(super) fn routed(&self) -> StreamPosition {
        self.routed
    }

    /// A destination's lane, which is made if there is none; `None` if there is no place for it.
    fn lane(&mut self, server: &ServerName) -> Option<&mut Lane> {
        if !self.by_server.contains_key(server) {
            if self.by_server.len() >= MAX_LANES {
                return None;
            }
            let lane = Lane { behind: self.left_out.remove(server), ..Lane::default() };
            self.by_server.insert(server.to_owned(), lane);
        }
        self.by_server.get_mut(server)
    }

    /// Makes lanes for those that were left out, as far as there are places now.
    pub(super) fn let_in(&mut self) {
        while self.by_server.len() < MAX_LANES
            && let Some(server) = self.left_out.first()
        {
            self.changed = true;
            let _ = self.lane(&server);
        }
    }

    /// Everything up to here is pushed; `news` says whether the log told of anything.
    pub(super) fn set_routed(&mut self, position: StreamPosition, news: bool) {
        self.routed = self.routed.max(position);
        self.changed |= news;
    }

    /// Is there anything to persist since the last call? Cursors are no news in the log: persisting
    /// them must not be a reason to persist again.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Nothing is to be sent there any more.
    pub(super) fn drop_all(&mut self, server: &ServerName) {
        self.changed = true;
        let Some(lane) = self.by_server.get_mut(server) else { return };
        self.again = self.again.saturating_sub(usize::from(lane.again.is_some()));
        // Its task goes on, and ends when it finds nothing.
        *lane = Lane { row: lane.row, busy: lane.busy, ..Lane::default() };
    }

    /// What is known of those that have something waiting.
    pub(super) fn states(&self) -> HashMap<OwnedServerName, LaneState> {
        let waiting = self.by_server.iter().filter(|(_, lane)| lane.has_work() || lane.busy);
        let state = |(server, lane): (&OwnedServerName, &Lane)| {
            let state = LaneState {
                held: lane.held(),
                behind: lane.behind,
                rests_until: lane.rests_until,
                refusals: lane.refusals,
                last_refusal: lane.last_refusal.clone(),
            };
            (server.clone(), state)
        };
        waiting.map(state).collect()
    }
}
