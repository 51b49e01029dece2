//! Redactions that arrive before what they redact.

use std::sync::Arc;

use hearth_storage::Direction;
use ruma::{EventId, OwnedEventId};

use super::{Batch, Context, Room};
use crate::{
    error::RoomError,
    redaction::redacted_pdu,
    schema::{EventHeader, EventOrdinal, PENDING_REDACTIONS, Standing, StoredEvent},
};

/// Redactions of one event that are looked at when it arrives.
const MAX_PENDING: usize = 20;

impl Room {
    /// Accepted redactions of an event that was not here when they came.
    pub(super) fn pending_redactions(
        &self,
        view: &Context<'_>,
        target: &EventId,
    ) -> Result<Vec<EventOrdinal>, RoomError> {
        let range = (target.to_owned(), EventOrdinal::MIN)..=(target.to_owned(), EventOrdinal::MAX);
        let forward = Direction::Forward;
        let rows =
            view.snapshot.page(&PENDING_REDACTIONS, &self.id, range, forward, MAX_PENDING)?;
        let mut pending: Vec<_> = rows.into_iter().map(|((_, ordinal), ())| ordinal).collect();
        pending.extend(self.local.pending_redactions.get(target).into_iter().flatten());
        Ok(pending)
    }

    /// The event as it is to be stored: redacted, if a redaction was here first.
    pub(super) fn redacted_on_arrival(
        &self,
        view: &Context<'_>,
        event: StoredEvent,
    ) -> Result<StoredEvent, RoomError> {
        for ordinal in self.pending_redactions(view, &event.header.event_id)? {
            let redaction = self.event(view, ordinal)?;
            let (by, of) = (redaction.pdu.sender(), event.pdu.sender());
            if redaction.header.standing == Standing::Accepted
                && self.may_redact(view, by, of, redaction.header.state_before)?
            {
                let pdu = redacted_pdu(&self.rules, &event.pdu)?;
                let header = EventHeader { redacted_by: Some(ordinal), ..event.header };
                return Ok(StoredEvent { header, pdu, ..event });
            }
        }
        Ok(event)
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
