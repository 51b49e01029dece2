//! Gaps in a room's history, as readers meet them: what other servers have and this one does not.

use ruma::RoomId;

use super::tokens::TimelineToken;
use crate::{
    ReadError, Rooms,
    schema::{HISTORY_GAPS, StoredEvent, TimelineIndex},
};

/// Gaps in a room's history that are compared with what was read: about as many as are asked for.
const MAX_GAPS: usize = 100;
/// Servers that may lack what is missing before a timeline goes on past a gap: as many as one reader of the
/// history asks. A server that names what nobody has would else cut every timeline there for long.
const MAX_TRIES: u32 = 4;

impl Rooms {
    /// Is history missing right before an event that other servers may have? Then a timeline is not to go on
    /// beyond it as if nothing was between.
    ///
    /// Costs a look at the store only for events that came without some of their previous events.
    pub async fn follows_gap(
        &self,
        room_id: &RoomId,
        event: &StoredEvent,
    ) -> Result<bool, ReadError> {
        let named = event.pdu.prev_events();
        if event.header.prev_events.len() >= named.len() || self.remote().is_none() {
            return Ok(false);
        }
        let room = room_id.to_owned();
        for missing in named {
            let gap = self.store().get(&HISTORY_GAPS, &room, &missing.to_owned()).await?;
            if gap.is_some_and(|gap| gap.child == event.ordinal && gap.tries < MAX_TRIES) {
                return self.is_resident(room_id).await;
            }
        }
        Ok(false)
    }

    /// Fetches history from before what is held, where other servers have some; says whether more is
    /// here now.
    pub(super) async fn fetch_history(
        &self,
        room_id: &RoomId,
        limit: usize,
    ) -> Result<bool, ReadError> {
        match self.remote() {
            Some(remote) => remote.backfill(room_id, limit).await,
            None => Ok(false),
        }
    }

    /// Has something been left out that other servers have of what was read, backwards from `start` to
    /// `last` or to the beginning?
    pub(super) async fn crosses_gap(
        &self,
        room_id: &RoomId,
        start: TimelineToken,
        last: Option<TimelineIndex>,
    ) -> Result<bool, ReadError> {
        if !self.has_more_elsewhere(room_id).await? {
            return Ok(false);
        }
        let crossed = |child: &StoredEvent| match child.index {
            // What was rejected stands nowhere, and history goes on before it.
            None => last.is_none(),
            Some(index) => {
                let behind = index <= start.0 || index.previous() == start.0;
                behind && last.is_none_or(|last| index > last)
            }
        };
        let gaps = self.open_gaps(room_id, MAX_GAPS).await?;
        Ok(gaps.iter().any(|(_, child)| crossed(child)))
    }

    /// Is there history that other servers can be asked for?
    pub(super) async fn has_more_elsewhere(&self, room_id: &RoomId) -> Result<bool, ReadError> {
        Ok(self.remote().is_some()
            && self.is_resident(room_id).await?
            && !self.history_gaps(room_id, 1).await?.is_empty())
    }
}
