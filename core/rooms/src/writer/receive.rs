//! Events of other servers on their way into the room (SS "Checks performed on receipt of a PDU").
//!
//! An [`Arrival`] is an event whose auth events and previous events were found and whose state before
//! it is known. It is judged (`judge`), then stored: as part of the history, or quietly.
//! What its planning writes before it can still fail is state nodes, which nothing names yet.

use std::{collections::HashMap, sync::Arc};

use hearth_types::{Pdu, ServerIdentity};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};

use super::{
    Batch, Context, Facts, Room, StepError,
    beside::{Beside, Subject},
    effects::{NewKey, StateChange},
    forks::Newcomer,
    history::Places,
    parse_object,
};
use crate::{
    CheckedPdu, Teller, Verdict,
    error::RoomError,
    redaction::received_target,
    schema::{
        self, CurrentStateRow, EventHeader, EventOrdinal, Forwarding, Standing, StoredEvent,
        TimelineIndex, TransactionKey,
    },
    state::StateRoot,
};

/// The ordinal of every room's create event.
const CREATE_EVENT: EventOrdinal = 0;

/// Why an event is rejected that names auth events of another room.
const FOREIGN_AUTH: &str = "its auth events are not all of this room";

/// Events to receive, and how far that has come.
pub(crate) struct Receive {
    events: Vec<CheckedPdu>,
    how: How,
    verdicts: Vec<Verdict>,
    /// Where history is to stand.
    places: Places,
    /// The room's policy server was asked about the events that it has not signed.
    asked: bool,
}

/// How events are received.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// Into the timeline.
    Live(Forwarding),
    /// Because others refer to them.
    Outliers,
    /// As rejected, since they name auth events of another room.
    Foreign,
    /// Into the timeline, with the state before them as told by another server.
    WithState(Vec<OwnedEventId>, Teller),
    /// Into the timeline before what follows them.
    History(Arc<ToldHistory>),
    /// Into the timeline or not at all: made here a moment ago, for this request.
    Own(Option<TransactionKey>),
    /// Not at all: only judged.
    Judged,
}

/// What another server tells of a room's past.
#[derive(Debug)]
pub(crate) struct ToldHistory {
    /// The states before some events.
    pub(crate) states: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    pub(crate) teller: OwnedServerName,
}

impl How {
    /// The state before an event, if it is told.
    fn told(&self, event_id: &EventId) -> Option<&[OwnedEventId]> {
        match self {
            Self::Live(_) | Self::Outliers | Self::Foreign | Self::Own(_) | Self::Judged => None,
            Self::WithState(state, _) => Some(state),
            Self::History(told) => told.states.get(event_id).map(Vec::as_slice),
        }
    }

    /// Who passes an event on?
    fn forwarding(&self, identity: &ServerIdentity, pdu: &Pdu) -> Forwarding {
        match self {
            Self::Live(Forwarding::Elsewhere) if brings_local_user(identity, pdu) => {
                Forwarding::Arrival
            }
            Self::Live(forwarding) => *forwarding,
            Self::Own(_) => Forwarding::Here,
            Self::Outliers
            | Self::Foreign
            | Self::WithState(..)
            | Self::History(_)
            | Self::Judged => Forwarding::Elsewhere,
        }
    }
}

/// Does a user of this server join by this event?
fn brings_local_user(identity: &ServerIdentity, pdu: &Pdu) -> bool {
    #[derive(serde::Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    let user_id = pdu.state_key().and_then(|state_key| UserId::parse(state_key).ok());
    *pdu.kind() == TimelineEventType::RoomMember
        && user_id.is_some_and(|user_id| identity.is_local(&user_id))
        && matches!(pdu.content_as(), Ok(Content { membership: MembershipState::Join }))
}

impl Receive {
    pub(crate) fn new(events: Vec<CheckedPdu>, how: How, asked: bool) -> Self {
        let (verdicts, places) = (Vec::with_capacity(events.len()), Places::new());
        Self { events, how, verdicts, places, asked }
    }

    /// The request that made the events.
    pub(super) fn transaction(&self) -> Option<&TransactionKey> {
        match &self.how {
            How::Own(transaction) => transaction.as_ref(),
            _ => None,
        }
    }

    /// Starts again, where what came of the first events was lost.
    pub(super) fn restart(&mut self) {
        self.verdicts.clear();
        self.places.clear();
    }
}

/// An event with everything that it refers to.
pub(super) struct Arrival<'a> {
    pub(super) pdu: &'a Pdu,
    /// Its row, if it was an outlier until now.
    pub(super) known: Option<Arc<StoredEvent>>,
    pub(super) auth_events: Vec<Arc<StoredEvent>>,
    /// Those of its previous events that are here.
    pub(super) prev_events: Vec<EventOrdinal>,
    /// Those that are not.
    pub(super) missing: Vec<OwnedEventId>,
    /// The state before it.
    pub(super) before: StateRoot,
}

/// The state after an event, worked out while its batch had no room for what follows: kept so that the
/// next try finds the same.
pub(super) struct Prepared {
    event_id: OwnedEventId,
    before: StateRoot,
    after: StateRoot,
    replaces: Option<EventOrdinal>,
    new_key: Option<NewKey>,
}

impl Room {
    /// Receives events until all are done or the batch is full. Stops before an event about which the
    /// room's policy server is to be asked first: then there are fewer verdicts than events.
    pub(super) fn receive(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        receive: &mut Receive,
    ) -> Result<Vec<Verdict>, StepError> {
        if matches!(receive.how, How::History(_)) && receive.places.is_empty() {
            receive.places = self.history_places(view, batch, &receive.events)?;
        }
        while let Some(event) = receive.events.get(receive.verdicts.len()) {
            if batch.is_full() {
                return Err(StepError::Full);
            }
            let received = self.receive_one(view, batch, event.pdu(), receive);
            if !matches!(&received, Err(StepError::Full | StepError::Settle | StepError::Long)) {
                // What was worked out for it holds for the next try only, not for a later one.
                self.prepared = None;
                self.told = None;
            }
            let verdict = match received {
                Err(StepError::Unsigned) => break,
                received => received?,
            };
            if let Verdict::Rejected(reason) = &verdict {
                let (room_id, event_id) = (&self.id, event.pdu().id());
                tracing::info!(%room_id, %event_id, reason, "a received event was rejected");
            }
            receive.verdicts.push(verdict);
        }
        Ok(std::mem::take(&mut receive.verdicts))
    }

    fn receive_one(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        pdu: &Pdu,
        receive: &Receive,
    ) -> Result<Verdict, StepError> {
        let how = &receive.how;
        let known = self.event_by_id(view, pdu.id())?;
        let as_outlier = matches!(how, How::Outliers | How::Foreign);
        if known.as_ref().is_some_and(|known| as_outlier || has_state(known)) {
            return Ok(Verdict::Known);
        }
        // Where history ends, the room's own create event comes, which was an outlier until now.
        let is_beginning = matches!(how, How::History(_))
            && known.as_ref().is_some_and(|known| known.ordinal == CREATE_EVENT);
        if !is_beginning && let Err(reason) = self.fits(pdu) {
            return Ok(Verdict::Rejected(reason));
        }
        let auth_events = match self.find_all(view, pdu.auth_events(), |_| true)? {
            (found, missing) if missing.is_empty() => found,
            (found, _) if matches!(how, How::Foreign) => {
                let refused = Err(FOREIGN_AUTH.to_owned());
                return self.store_outlier(view, batch, (pdu, refused), &found);
            }
            // It was kept in spite of that.
            _ if known.is_some_and(|known| known.header.standing == Standing::Rejected) => {
                return Ok(Verdict::Rejected(FOREIGN_AUTH.to_owned()));
            }
            (_, missing) => return Ok(Verdict::MissingAuth(missing)),
        };
        if as_outlier {
            let allowed = self.allowed_by_auth_events(view, pdu, &auth_events)?;
            return self.store_outlier(view, batch, (pdu, allowed), &auth_events);
        }
        let (prev_events, missing) = self.find_all(view, pdu.prev_events(), has_state)?;
        let mut roots: Vec<_> = prev_events.iter().map(|prev| prev.header.state_after).collect();
        if !missing.is_empty() {
            let Some(state) = how.told(pdu.id()) else {
                return Ok(Verdict::MissingPrev(missing));
            };
            match self.told_state(view, batch, pdu.id(), state)? {
                Ok(root) => roots.push(root),
                Err(verdict) => return Ok(verdict),
            }
        }
        if is_beginning {
            roots.push(StateRoot::default());
        }
        let before = match self.resolved(view, batch, &roots, None) {
            Ok(before) => before,
            Err(error) => return unresolvable(error),
        };
        let known = known.filter(|known| !has_state(known));
        let prev_events = prev_events.iter().map(|prev| prev.ordinal).collect();
        let arrival = Arrival { pdu, known, auth_events, prev_events, missing, before };
        match (how, receive.places.get(pdu.id())) {
            (How::History(told), Some(place)) => {
                let teller = Teller::of(pdu, &told.teller);
                self.admit_history(view, batch, &arrival, teller, *place)
            }
            _ => self.admit(view, batch, &arrival, receive),
        }
    }

    /// Judges an event and gives it its place.
    fn admit(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
        receive: &Receive,
    ) -> Result<Verdict, StepError> {
        let mut verdict = self.judge(view, batch, arrival)?;
        if matches!(receive.how, How::Judged) {
            return Ok(verdict);
        }
        if verdict == Verdict::Accepted && self.lacks_recommendation(view, arrival.pdu)? {
            if !receive.asked {
                return Err(StepError::Unsigned);
            }
            verdict = Verdict::SoftFailed;
        }
        if verdict != Verdict::Accepted && matches!(receive.how, How::Own(_)) {
            return Ok(verdict);
        }
        if matches!(verdict, Verdict::Rejected(_))
            && matches!(receive.how, How::WithState(_, Teller::Other))
            && !arrival.missing.is_empty()
            && self.allowed_by_auth_events(view, arrival.pdu, &arrival.auth_events)?.is_ok()
        {
            return Ok(verdict);
        }
        let (standing, verdict) = match verdict {
            Verdict::Rejected(reason) => (Standing::Rejected, Verdict::Rejected(reason)),
            Verdict::SoftFailed => (Standing::SoftFailed, Verdict::SoftFailed),
            _ => (Standing::Accepted, Verdict::Accepted),
        };
        let change = self.state_after(view, batch, arrival, standing)?;
        let mut event = self.stored(view, batch, arrival, standing, &change)?;
        let request = receive.transaction();
        event.header.transaction =
            request.map(|key| (key.device_id.clone(), key.transaction_id.clone()));
        if standing != Standing::Accepted {
            self.store_quietly(view, batch, event, change.new_key, &[])?;
            return Ok(verdict);
        }
        self.accept(view, batch, arrival, (event, change), &receive.how)
    }

    /// Makes an event part of the history. Soft-fails it if the room has too many forks for it.
    fn accept(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
        (event, change): (StoredEvent, StateChange),
        how: &How,
    ) -> Result<Verdict, StepError> {
        let gap = self.gap(view, arrival.pdu.id())?;
        // What follows it in the timeline has it behind it already. History does not count: another
        // server told it, and may name in it what is still to come.
        let is_followed = self.is_live(view, gap)?;
        let Some(tips) = self.tips_with(view, &event, is_followed)? else {
            if !matches!(how, How::Own(_)) {
                let header = EventHeader { standing: Standing::SoftFailed, ..event.header };
                let event = StoredEvent { header, ..event };
                self.store_quietly(view, batch, event, change.new_key, &[])?;
            }
            return Ok(Verdict::SoftFailed);
        };
        let event = Arc::new(event);
        let newcomer = Newcomer { event: &event, new_key: change.new_key.as_ref() };
        let roots: Vec<_> = tips.iter().map(|tip| tip.state).collect();
        let state = match self.resolved(view, batch, &roots, Some(&newcomer)) {
            Ok(state) => state,
            Err(error) => return unresolvable(error),
        };
        let facts = if event.header.redacted_by.is_some() {
            Facts::default()
        } else {
            facts_of(&event.pdu)
        };
        let redacts = received_target(&self.rules, &event.pdu);
        let subject = Subject {
            sender: event.pdu.sender(),
            kind: event.pdu.kind(),
            state_key: event.pdu.state_key(),
            redacts: redacts.as_deref(),
            received_at: Some(arrival.before),
        };
        let beside = Beside::plan(self, view, batch, &subject, facts)?;
        let waits = match &redacts {
            Some(target) if self.event_by_id(view, target)?.is_none() => redacts,
            _ => None,
        };
        let members = self.member_changes(view, batch, state.members, &event)?;
        let pending = self.pending_redactions(view, arrival.pdu.id())?;
        let gaps = self.new_gaps(view, &event, &arrival.missing, true)?;

        // Nothing fails from here on.
        let position = batch.commit.next_position();
        let mut event = Arc::unwrap_or_clone(event);
        event.index = Some(TimelineIndex::Live(position));
        self.local.places.insert(event.ordinal, (batch.number, position));
        let announced = Some((position, how.forwarding(view.rooms.identity(), &event.pdu)));
        let event = self.add_stored(batch, event, announced, change.new_key);
        self.head.depth = tips.iter().map(|tip| tip.depth).max().unwrap_or(self.head.depth);
        self.head.extremities = tips.iter().map(|tip| tip.ordinal).collect();
        self.tips = tips;
        self.forget_remembered(state);
        self.head.state = state;
        if event.header.state_after != state {
            self.head.forks.has_current_states = true;
            let row = CurrentStateRow(state);
            batch.commit.put(&schema::CURRENT_STATES, &self.id, &position, &row);
        }
        members.apply(self, batch, &event, position);
        beside.apply(self, batch, &event, TimelineIndex::Live(position));
        self.close_gap(batch, &event, gap.is_some(), gaps);
        self.settle_redactions(batch, &event, waits, &pending);
        if let How::Own(Some(transaction)) = how {
            let at = view.rooms.clock().now();
            self.keep_transaction(batch, transaction.clone(), event.header.event_id.clone(), at);
        }
        Ok(Verdict::Accepted)
    }

    /// Stores an event that takes no place in the timeline. `missing` are those of its previous events
    /// by way of which history goes on, if something here follows it.
    pub(super) fn store_quietly(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        event: StoredEvent,
        new_key: Option<NewKey>,
        missing: &[OwnedEventId],
    ) -> Result<(), StepError> {
        let is_followed = has_state(&event) && self.gap(view, &event.header.event_id)?.is_some();
        let missing = if is_followed { missing } else { &[] };
        let gaps = self.new_gaps(view, &event, missing, false)?;
        let pending = self.pending_redactions(view, &event.header.event_id)?;
        let event = self.add_stored(batch, event, None, new_key);
        self.close_gap(batch, &event, is_followed, gaps);
        self.settle_redactions(batch, &event, None, &pending);
        Ok(())
    }

    /// The state after an event. New nodes are the batch's by then.
    pub(super) fn state_after(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
        standing: Standing,
    ) -> Result<StateChange, StepError> {
        let unchanged = StateChange {
            root: arrival.before,
            replaces: None,
            new_key: None,
            nodes: Vec::new(),
            next_node: self.head.next_node,
        };
        let Some(state_key) = arrival.pdu.state_key().filter(|_| standing != Standing::Rejected)
        else {
            return Ok(unchanged);
        };
        if let Some(prepared) = &self.prepared
            && prepared.event_id == arrival.pdu.id()
            && prepared.before == arrival.before
        {
            return Ok(StateChange {
                root: prepared.after,
                replaces: prepared.replaces,
                new_key: prepared.new_key.clone(),
                ..unchanged
            });
        }
        let ordinal = arrival.known.as_ref().map_or(self.head.next_event, |known| known.ordinal);
        let kind = arrival.pdu.kind().to_string();
        let mut change = StateChange::at(self, view, arrival.before, (&kind, state_key), ordinal)?;
        self.head.next_node = change.next_node;
        let nodes = std::mem::take(&mut change.nodes);
        batch.add_nodes(&self.id, &nodes);
        self.local.nodes.extend(nodes);
        self.prepared = Some(Prepared {
            event_id: arrival.pdu.id().to_owned(),
            before: arrival.before,
            after: change.root,
            replaces: change.replaces,
            new_key: change.new_key.clone(),
        });
        Ok(change)
    }

    /// The event as it is to be stored, without its place in the timeline.
    pub(super) fn stored(
        &self,
        view: &Context<'_>,
        batch: &mut Batch,
        arrival: &Arrival<'_>,
        standing: Standing,
        change: &StateChange,
    ) -> Result<StoredEvent, StepError> {
        let header = EventHeader {
            event_id: arrival.pdu.id().to_owned(),
            state_before: arrival.before,
            state_after: change.root,
            auth_events: arrival.auth_events.iter().map(|auth| auth.ordinal).collect(),
            prev_events: arrival.prev_events.clone(),
            replaces_state: change.replaces,
            redacted_by: None,
            transaction: None,
            standing,
        };
        let ordinal = arrival.known.as_ref().map_or(self.head.next_event, |known| known.ordinal);
        let pdu = arrival.pdu.clone();
        let pdu = if standing == Standing::Rejected { pdu.into_rejected() } else { pdu };
        let event = StoredEvent { ordinal, index: None, header, pdu };
        match &arrival.known {
            // It was redacted while it was an outlier.
            Some(known) if known.header.redacted_by.is_some() => {
                let redacted_by = known.header.redacted_by;
                let header = EventHeader { redacted_by, ..event.header };
                let pdu = known.pdu.clone();
                let rejected = standing == Standing::Rejected;
                let pdu = if rejected { pdu.into_rejected() } else { pdu };
                Ok(StoredEvent { header, pdu, ..event })
            }
            _ => Ok(self.redacted_on_arrival(view, batch, event)?),
        }
    }

    /// Puts an event's rows into the batch and the event into the room's memory.
    pub(super) fn add_stored(
        &mut self,
        batch: &mut Batch,
        event: StoredEvent,
        announced: Option<(hearth_types::StreamPosition, Forwarding)>,
        new_key: Option<NewKey>,
    ) -> Arc<StoredEvent> {
        let is_new = event.ordinal >= self.head.next_event;
        let event = batch.add_event(&self.id, event, announced);
        if is_new {
            self.head.next_event = event.ordinal + 1;
        } else {
            batch.announce_replaced(&event);
            self.replace_remembered(&event);
        }
        if let Some((key, ordinal)) = new_key {
            self.add_state_key(batch, key, ordinal);
        }
        if event.pdu.state_key().is_some() && event.header.standing != Standing::Rejected && is_new
        {
            self.add_auth_edges(batch, &event);
        }
        if has_state(&event) {
            self.note_while_partial(batch, event.ordinal);
        }
        self.local.event_ids.insert(event.header.event_id.clone(), event.ordinal);
        self.local.events.insert(event.ordinal, Arc::clone(&event));
        event
    }

    /// Splits named events into those that are here and fit, and the IDs of the others.
    fn find_all(
        &self,
        view: &Context<'_>,
        event_ids: &[OwnedEventId],
        fits: fn(&StoredEvent) -> bool,
    ) -> Result<(Vec<Arc<StoredEvent>>, Vec<OwnedEventId>), RoomError> {
        let (mut found, mut missing) = (Vec::with_capacity(event_ids.len()), Vec::new());
        for event_id in event_ids {
            match self.event_by_id(view, event_id)?.filter(|event| fits(event)) {
                Some(event) => found.push(event),
                None => missing.push(event_id.clone()),
            }
        }
        Ok((found, missing))
    }
}

/// Has an event a place in the event graph? Outliers, and what was rejected as one, have none.
pub(super) fn has_state(event: &StoredEvent) -> bool {
    event.header.state_after != StateRoot::default()
}

/// States that cannot be resolved harm only the event that needs it.
pub(super) fn unresolvable(error: StepError) -> Result<Verdict, StepError> {
    use crate::resolve::ResolveError::{Algorithm, TooLarge};
    if let StepError::Refused(RoomError::Internal(cause)) = &error
        && let Some(TooLarge(_) | Algorithm(_)) = cause.downcast_ref()
    {
        return Ok(Verdict::Rejected(format!("the state before it: {cause}")));
    }
    Err(error)
}

/// What an event says to the rows beside it; nothing if it cannot be read.
pub(super) fn facts_of(pdu: &Pdu) -> Facts {
    parse_object(pdu.content())
        .map(|content| Facts::of(&pdu.kind().to_string(), pdu.state_key(), &content))
        .unwrap_or_default()
}
