//! Fetching what received events refer to and is not here: bounded in count, depth, bytes and time.

use hearth_rooms::{CheckedPdu, RoomError, Verdict};
use ruma::{RoomId, ServerName};

use crate::Federation;

/// Fetches gaps for one federation.
#[derive(Clone, Debug)]
pub struct Gaps(Federation);

impl Gaps {
    /// Fetches for this server.
    #[must_use]
    pub fn new(federation: Federation) -> Self {
        Self(federation)
    }

    /// Receives events of one room, and what they need: missing auth events by `event_auth` and
    /// `event`, missing previous events by `get_missing_events`, and if the gap stays open the state by
    /// `state_ids`, `state` and `event`. One verdict for each event given.
    pub async fn receive(
        &self,
        _origin: &ServerName,
        _room_id: &RoomId,
        _events: Vec<CheckedPdu>,
    ) -> Result<Vec<Verdict>, RoomError> {
        unimplemented!("fed-trust")
    }
}
