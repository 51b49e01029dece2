//! Redactions that arrive before what they redact.

use std::{ops::Bound, sync::Arc};

use hearth_storage::Direction;
use ruma::{EventId, OwnedEventId};

use super::{Batch, Context, Room};
use crate::{
    error::RoomError,
    redaction::redacted_pdu,
    schema::{EventHeader, EventOrdinal, PENDING_REDACTIONS, Standing, StoredEvent},
};

/// Redactions of one event that are read at a time, and forgotten when it has arrived: nobody asks for
/// what is left of more.
const PAGE: usize = 20;
/// Pages that are read at most: it takes many senders to fill so many, and whoever may redact can do so
/// again.
const MAX_PAGES: usize = 100;

impl Room {
    /// Accepted redactions of an event that was not here when they came, the first of them.
    pub(super) fn pending_redactions(
        &self,
        view: &Context<'_>,
        target: &EventId,
    ) -> Result<Vec<EventOrdinal>, RoomError> {
        let mut pending = self.page_of_pending(view, target, None)?;
        pending.extend(self.local.pending_redactions.get(target).into_iter().flatten());
        Ok(pending)
    }

    /// Those of them that the store has, from behind one on.
    fn page_of_pending(
        &self,
        view: &Context<'_>,
        target: &EventId,
        after: Option<EventOrdinal>,
    ) -> Result<Vec<EventOrdinal>, RoomError> {
        let key = |ordinal| (target.to_owned(), ordinal);
        let from = match after {
            Some(after) => Bound::Excluded(key(after)),
            None => Bound::Included(key(EventOrdinal::MIN)),
        };
        let range = (from, Bound::Included(key(EventOrdinal::MAX)));
        let forward = Direction::Forward;
        let rows = view.snapshot.page(&PENDING_REDACTIONS, &self.id, range, forward, PAGE)?;
        Ok(rows.into_iter().map(|((_, ordinal), ())| ordinal).collect())
    }

    /// The first redaction among these that applies to an event.
    fn redaction_among(
        &self,
        view: &Context<'_>,
        event: &StoredEvent,
        pending: &[EventOrdinal],
    ) -> Result<Option<EventOrdinal>, RoomError> {
        for ordinal in pending {
            let redaction = self.event(view, *ordinal)?;
            let (by, of) = (redaction.pdu.sender(), event.pdu.sender());
            if redaction.header.standing == Standing::Accepted
                && self.may_redact(view, by, of, redaction.header.state_before)?
            {
                return Ok(Some(*ordinal));
            }
        }
        Ok(None)
    }

    /// The redaction that applies to an event that arrives: those that anybody may send without any
    /// effect do not hide it.
    fn redaction_of(
        &self,
        view: &Context<'_>,
        event: &StoredEvent,
    ) -> Result<Option<EventOrdinal>, RoomError> {
        let target = &event.header.event_id;
        let mut pending = self.page_of_pending(view, target, None)?;
        for _ in 0..MAX_PAGES {
            if let Some(found) = self.redaction_among(view, event, &pending)? {
                return Ok(Some(found));
            }
            match pending.last() {
                Some(last) if pending.len() >= PAGE => {
                    pending = self.page_of_pending(view, target, Some(*last))?;
                }
                _ => break,
            }
        }
        match self.local.pending_redactions.get(target) {
            Some(newest) => self.redaction_among(view, event, newest),
            None => Ok(None),
        }
    }

    /// The event as it is to be stored: redacted, if a redaction was here first.
    pub(super) fn redacted_on_arrival(
        &self,
        view: &Context<'_>,
        batch: &mut Batch,
        event: StoredEvent,
    ) -> Result<StoredEvent, RoomError> {
        let Some(ordinal) = self.redaction_of(view, &event)? else { return Ok(event) };
        self.keep_unredacted(batch, &event.header.event_id, event.pdu.json());
        let pdu = redacted_pdu(&self.rules, &event.pdu)?;
        let header = EventHeader { redacted_by: Some(ordinal), ..event.header };
        Ok(StoredEvent { header, pdu, ..event })
    }

    /// Keeps a redaction whose target is not here, and forgets those whose target has come.
    pub(super) fn settle_redactions(
        &mut self,
        batch: &mut Batch,
        event: &Arc<StoredEvent>,
        waits: Option<OwnedEventId>,
        pending: &[EventOrdinal],
    ) {
        let event_id = &event.header.event_id;
        for redaction in pending {
            let key = (event_id.clone(), *redaction);
            batch.commit.delete(&PENDING_REDACTIONS, &self.id, &key);
        }
        self.local.pending_redactions.remove(event_id);
        if let Some(target) = waits {
            let key = (target, event.ordinal);
            batch.commit.put(&PENDING_REDACTIONS, &self.id, &key, &());
            self.local.pending_redactions.entry(key.0).or_default().push(event.ordinal);
        }
    }
}
