//! How far everybody has come, as it is persisted.

use hearth_types::StreamPosition;
use ruma::OwnedServerName;

use super::Lanes;

/// A destination that lags by more positions gets a cursor of its own instead of holding back the one
/// that all others share.
const MAX_SHARED_LAG: u64 = 10_000;

/// A cursor to persist: `None` means that the shared one says all.
pub(in crate::outbound) type Row = (OwnedServerName, Option<StreamPosition>);

/// What is to be persisted, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::outbound) struct Checkpoint {
    /// Cursors of those who lag.
    pub(in crate::outbound) rows: Vec<Row>,
    /// The cursor of all others.
    pub(in crate::outbound) shared: StreamPosition,
}

impl Lanes {
    /// What to persist now. To be followed by [`Self::persisted`] when that is done; if it is not, the
    /// same is to be persisted the next time.
    pub(in crate::outbound) fn checkpoint(&self) -> Checkpoint {
        let routed = self.routed;
        let mut rows = Vec::new();
        let mut shared = self.left_out.since().map_or(routed, |since| since.min(routed));
        for (server, lane) in &self.by_server {
            let delivered = lane.delivered(routed);
            let idle = lane.is_idle();
            let lags = lane.behind.is_some()
                || routed.get().saturating_sub(delivered.get()) > MAX_SHARED_LAG;
            let wanted = if idle {
                None
            } else if lags {
                Some(delivered)
            } else {
                shared = shared.min(delivered);
                // An older cursor repeats a little after a restart, and loses nothing.
                lane.row
            };
            if wanted != lane.row {
                rows.push((server.clone(), wanted));
            }
        }
        Checkpoint { rows, shared }
    }

    /// A checkpoint is written. Lanes without work go.
    pub(in crate::outbound) fn persisted(&mut self, checkpoint: &Checkpoint) {
        for (server, row) in &checkpoint.rows {
            if let Some(lane) = self.by_server.get_mut(server) {
                lane.row = *row;
            }
        }
        self.by_server.retain(|_, lane| !lane.is_idle() || lane.row.is_some());
    }

    /// A checkpoint could not be written: it is made again.
    pub(in crate::outbound) fn not_persisted(&mut self) {
        self.changed = true;
    }
}
