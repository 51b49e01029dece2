//! Walking a gap backwards by `get_missing_events` (SS "Retrieving missing events").

use std::collections::{BTreeMap, BTreeSet};

use hearth_rooms::{CheckedPdu, RoomError, schema::Standing};
use ruma::{EventId, OwnedEventId, UInt, api::federation::event::get_missing_events};

use super::Filling;

/// Events of one gap that are fetched. What is before them is left to backfilling.
const MAX_EVENTS: usize = 1_000;
/// Their bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Events asked for at once. Many servers give 20 at most.
const EVENTS_PER_REQUEST: u32 = 50;
/// Requests for one gap.
const MAX_REQUESTS: usize = 50;
/// Events that a request names as its ends.
const MAX_ENDS: usize = 20;

/// What is known of a gap: the events found in it, and the previous events of theirs (each with one
/// of those that name it) that are still missing.
#[derive(Default)]
struct Gap {
    /// What is less deep was there before this server was: it is left to backfilling.
    min_depth: u64,
    found: BTreeMap<OwnedEventId, CheckedPdu>,
    missing: BTreeMap<OwnedEventId, OwnedEventId>,
    bytes: usize,
}

impl Filling<'_> {
    /// The events of the gap before an event, as far as they can be had, in the order in which they
    /// follow each other.
    pub(super) async fn walk(
        &mut self,
        event: &CheckedPdu,
        missing: &[OwnedEventId],
    ) -> Result<Vec<CheckedPdu>, RoomError> {
        let named_by = event.pdu().id();
        let missing = missing.iter().map(|id| (id.clone(), named_by.to_owned())).collect();
        let head = self.federation.rooms().head(self.room_id).await?;
        let min_depth = head.map_or(0, |head| head.forks.from_depth);
        let mut gap = Gap { min_depth, missing, ..Gap::default() };
        for _ in 0..MAX_REQUESTS {
            if gap.missing.is_empty() || gap.found.len() >= MAX_EVENTS || gap.bytes >= MAX_BYTES {
                break;
            }
            let events = self.ask_for_missing(&gap).await?;
            if !self.take_in(&mut gap, events).await? {
                break;
            }
        }
        Ok(in_order(gap.found))
    }

    /// One request. A server that cannot answer has nothing to tell.
    async fn ask_for_missing(&mut self, gap: &Gap) -> Result<Vec<CheckedPdu>, RoomError> {
        let newest = self.federation.rooms().newest_events(self.room_id).await?;
        let earliest = newest.iter().take(MAX_ENDS).map(|event| event.pdu.id().to_owned());
        let latest: BTreeSet<_> = gap.missing.values().cloned().collect();
        let mut request = get_missing_events::v1::Request::new(
            self.room_id.to_owned(),
            earliest.collect(),
            latest.into_iter().take(MAX_ENDS).collect(),
        );
        request.limit = UInt::from(EVENTS_PER_REQUEST);
        request.min_depth = UInt::try_from(gap.min_depth).unwrap_or_default();
        match self.federation.client().send(self.origin, request, self.limits()).await {
            Ok(mut answer) => {
                answer.events.truncate(2 * EVENTS_PER_REQUEST as usize);
                Ok(self.check(answer.events).await)
            }
            Err(error) => {
                let (origin, room_id) = (self.origin, self.room_id);
                tracing::debug!(%origin, %room_id, %error, "no missing events were told");
                Ok(Vec::new())
            }
        }
    }

    /// Takes those events that are missing, and what they follow; anything else was not asked for.
    /// Says whether there were any.
    async fn take_in(&self, gap: &mut Gap, events: Vec<CheckedPdu>) -> Result<bool, RoomError> {
        let news = events.into_iter().filter(|event| event.pdu().depth() >= gap.min_depth);
        let mut told: BTreeMap<_, _> =
            news.map(|event| (event.pdu().id().to_owned(), event)).collect();
        let mut next: Vec<_> = gap.missing.keys().cloned().collect();
        let mut grew = false;
        while let Some(id) = next.pop() {
            let Some(event) = told.remove(&id) else { continue };
            gap.missing.remove(&id);
            gap.bytes = gap.bytes.saturating_add(event.pdu().json().len());
            grew = true;
            for prev in event.pdu().prev_events() {
                let is_found = *prev == id || gap.found.contains_key(prev);
                if !is_found && !gap.missing.contains_key(prev) && !self.has_history(prev).await? {
                    gap.missing.insert(prev.clone(), id.clone());
                    next.push(prev.clone());
                }
            }
            gap.found.insert(id, event);
        }
        Ok(grew)
    }

    /// Is the event here, with the state at it?
    pub(super) async fn has_history(&self, event_id: &EventId) -> Result<bool, RoomError> {
        let event = self.federation.rooms().event_by_id(self.room_id, event_id).await?;
        Ok(event.is_some_and(|event| event.header.standing != Standing::Outlier))
    }
}

/// Sorts events so that each comes behind those of them that it follows. No event can follow itself:
/// its ID is made of what it follows.
fn in_order(mut events: BTreeMap<OwnedEventId, CheckedPdu>) -> Vec<CheckedPdu> {
    let mut order = Vec::with_capacity(events.len());
    let mut placed = BTreeSet::new();
    let ids: Vec<_> = events.keys().cloned().collect();
    for id in ids {
        // Down to what follows nothing here, then up again. An event is pushed once for each that
        // names it at most: 20,000 for the largest gap.
        let mut path = vec![id];
        while let Some(id) = path.last().cloned() {
            let pending = events.get(&id).and_then(|event| {
                let mut prev = event.pdu().prev_events().iter();
                prev.find(|prev| events.contains_key(*prev) && !placed.contains(*prev)).cloned()
            });
            if let Some(prev) = pending {
                path.push(prev);
                continue;
            }
            path.pop();
            if placed.insert(id.clone())
                && let Some(event) = events.get(&id)
            {
                order.push(event.clone());
            }
        }
    }
    events.clear();
    order
}
