//! Gaps: previous events that are named here and are not here, so that history can be asked for there.

use ruma::{EventId, OwnedEventId};

use super::{Batch, Context, Room};
use crate::{
    error::RoomError,
    schema::{GapRow, HISTORY_GAPS, MAX_GAP_TRIES, Standing, StoredEvent, TimelineIndex},
};

/// Gaps that an event opens.
pub(super) type NewGaps = Vec<(OwnedEventId, GapRow)>;

impl Room {
    /// The gap that an event leaves that is not here yet, if something here names it.
    pub(super) fn gap(
        &self,
        view: &Context<'_>,
        event_id: &EventId,
    ) -> Result<Option<GapRow>, RoomError> {
        if let Some(gap) = self.local.history_gaps.get(event_id) {
            return Ok(*gap);
        }
        Ok(view.snapshot.get(&HISTORY_GAPS, &self.id, &event_id.to_owned())?)
    }

    /// Did what names the missing event come into the timeline in the ordinary way?
    pub(super) fn is_live(
        &self,
        view: &Context<'_>,
        gap: Option<GapRow>,
    ) -> Result<bool, RoomError> {
        let Some(gap) = gap else { return Ok(false) };
        let child = self.event(view, gap.child)?;
        let is_accepted = child.header.standing == Standing::Accepted;
        Ok(is_accepted && matches!(child.index, Some(TimelineIndex::Live(_))))
    }

    /// The gaps that an event opens which names these as previous events. Where another event that came
    /// in the ordinary way names one of them, one of history does not take its place.
    pub(super) fn new_gaps(
        &self,
        view: &Context<'_>,
        event: &StoredEvent,
        missing: &[OwnedEventId],
        is_live: bool,
    ) -> Result<NewGaps, RoomError> {
        let mut gaps = NewGaps::with_capacity(missing.len());
        for event_id in missing {
            let known = self.gap(view, event_id)?;
            if is_live || !self.is_live(view, known)? {
                let (child, depth) = (event.ordinal, event.pdu.depth());
                // Naming an event again makes it no likelier that somebody has it.
                let tries = known.map_or(0, |known| known.tries);
                gaps.push((event_id.clone(), GapRow { child, depth, tries }));
            }
        }
        Ok(gaps)
    }

    /// Opens an event's gaps, and closes its own.
    pub(super) fn close_gap(
        &mut self,
        batch: &mut Batch,
        event: &StoredEvent,
        was_gap: bool,
        gaps: NewGaps,
    ) {
        if was_gap {
            self.write_gap(batch, event.header.event_id.clone(), None);
        }
        for (event_id, gap) in gaps {
            self.write_gap(batch, event_id, Some(gap));
        }
    }

    /// Notes that one more server did not have these missing events, and gives up those that enough
    /// servers did not have.
    pub(super) fn gaps_tried(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        missing: &[OwnedEventId],
    ) -> Result<(), RoomError> {
        for event_id in missing {
            let Some(gap) = self.gap(view, event_id)? else { continue };
            let tries = gap.tries.saturating_add(1);
            let gap = (tries < MAX_GAP_TRIES).then_some(GapRow { tries, ..gap });
            self.write_gap(batch, event_id.clone(), gap);
        }
        Ok(())
    }

    fn write_gap(&mut self, batch: &mut Batch, event_id: OwnedEventId, gap: Option<GapRow>) {
        match &gap {
            Some(gap) => batch.commit.put(&HISTORY_GAPS, &self.id, &event_id, gap),
            None => batch.commit.delete(&HISTORY_GAPS, &self.id, &event_id),
        }
        self.local.history_gaps.insert(event_id, gap);
    }
}
