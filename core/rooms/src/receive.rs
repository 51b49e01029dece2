//! Events of other servers on their way into a room (SS "Checks performed on receipt of a PDU",
//! checks 4 to 6; the first three are proven by a [`CheckedPdu`]).

use std::sync::Arc;

use hearth_types::Pdu;
use ruma::{OwnedEventId, RoomId, ServerName};

use crate::{
    Rooms,
    error::RoomError,
    schema::{Forwarding, TransactionKey},
    writer::{Action, How, Outcome, Receive, ToldHistory, by_edges},
};

/// An event that passed the first three checks on receipt: its form and size, the signatures of the
/// servers that must have signed it, and its content hash (if that was wrong, this is the redacted
/// form). Its ID is computed from its bytes. Made only by who has checked all that.
#[derive(Clone, Debug)]
pub struct CheckedPdu(Pdu);

impl CheckedPdu {
    /// Vouches for an event.
    #[must_use]
    pub fn new(pdu: Pdu) -> Self {
        Self(pdu)
    }

    /// The event.
    #[must_use]
    pub fn pdu(&self) -> &Pdu {
        &self.0
    }

    /// The event, out of its wrapping.
    #[must_use]
    pub fn into_pdu(self) -> Pdu {
        self.0
    }
}

/// What became of a received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was here already.
    Known,
    /// Part of the room's history now.
    Accepted,
    /// Kept, not shown: the current state does not allow it.
    SoftFailed,
    /// Kept, never used.
    Rejected(String),
    /// Not taken, nothing stored: these of its previous events are not here.
    MissingPrev(Vec<OwnedEventId>),
    /// Not taken, nothing stored: these of its auth events are not here.
    MissingAuth(Vec<OwnedEventId>),
}

/// Who tells the state before an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teller {
    /// The server whose user made the event.
    Author,
    /// Any other server of the room.
    Other,
}

impl Teller {
    /// What a server is to an event.
    #[must_use]
    pub fn of(event: &Pdu, server: &ServerName) -> Self {
        if event.sender().server_name() == server { Self::Author } else { Self::Other }
    }
}

/// Events that the writer is handed at a time: about a commit's worth, so that others come in between.
const CHUNK: usize = 50;
/// Events of history that are received at a time.
pub const MAX_HISTORY: usize = 500;

impl Rooms {
    /// Receives events of one room, in the order given: each is authorized by its auth events, by the
    /// state before it and by the current state, and gets its verdict. Forks are resolved. The answer
    /// has a verdict for each event, and is given when all of them are durable.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if this server is not in the room.
    pub async fn receive(
        &self,
        room_id: &RoomId,
        events: Vec<CheckedPdu>,
    ) -> Result<Vec<Verdict>, RoomError> {
        self.receive_all(room_id, events, &How::Live(Forwarding::Elsewhere)).await
    }

    /// Receives an event that this server passes on to the others: a membership event that another
    /// server finished from this one's template (SS "Joining Rooms").
    pub(crate) async fn admit_event(
        &self,
        room_id: &RoomId,
        event: CheckedPdu,
    ) -> Result<Verdict, RoomError> {
        let verdicts = self.receive_all(room_id, vec![event], &How::Live(Forwarding::Here)).await?;
        only(verdicts)
    }

    /// Judges an event as if it was received now, and keeps nothing of it. The room's policy server is not
    /// asked.
    pub(crate) async fn judge(
        &self,
        room_id: &RoomId,
        event: CheckedPdu,
    ) -> Result<Verdict, RoomError> {
        only(self.receive_all(room_id, vec![event], &How::Judged).await?)
    }

    /// Stores events that are known only because others refer to them (state and auth events of a gap):
    /// each is authorized by its auth events alone, and takes no place in the timeline; accepted here
    /// means kept as such. The events may come in any order; those whose auth events are neither here
    /// nor among them are not taken. The verdicts are in the order given.
    pub async fn receive_outliers(
        &self,
        room_id: &RoomId,
        events: Vec<CheckedPdu>,
    ) -> Result<Vec<Verdict>, RoomError> {
        let pdus: Vec<&Pdu> = events.iter().map(CheckedPdu::pdu).collect();
        let (sorted, _) = by_edges(&pdus, Pdu::auth_events);
        let in_order = in_this_order(&events, &sorted);
        let verdicts = self.receive_all(room_id, in_order, &How::Outliers).await?;
        Ok(as_given(events.len(), sorted, verdicts, "its auth events rest on itself"))
    }

    /// Keeps an event as rejected that names events of another room among its auth events (rooms/v6
    /// "Authorization rules"): the caller has found that out, here they are just not known. Nothing happens if
    /// all of them are here.
    pub async fn refuse_foreign(
        &self,
        room_id: &RoomId,
        event: CheckedPdu,
    ) -> Result<Verdict, RoomError> {
        only(self.receive_all(room_id, vec![event], &How::Foreign).await?)
    }

    /// Receives an event whose previous events are not all here, with the state before it as another
    /// server tells it. The state's events must be here, as outliers or otherwise: those that are not
    /// are named as missing auth events. Where some previous events are here, the states after them
    /// are resolved with the told one; where all are, it is not looked at.
    ///
    /// What only the told state forbids is kept as rejected if its author tells that state. Of any other
    /// teller it is rejected without being kept: whoever passes an event on must not be able to have it
    /// rejected for good by a state of their own making.
    pub async fn receive_with_state(
        &self,
        room_id: &RoomId,
        event: CheckedPdu,
        state_before: Vec<OwnedEventId>,
        teller: Teller,
    ) -> Result<Verdict, RoomError> {
        only(self.receive_all(room_id, vec![event], &How::WithState(state_before, teller)).await?)
    }

    /// Receives history: events from before what is held, in any order, with the states before the
    /// earliest of them (whose events must be here), all as one server tells them. They are placed in the
    /// timeline before the events that follow them, and change neither the extremities nor the current
    /// state. Where neither the events before one nor the state there are known, it is not taken.
    ///
    /// What only the state before it forbids is kept as rejected if its author tells that state. Otherwise it
    /// is rejected without being kept: the states of the past are what any server told.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if this server is not in the room; [`RoomError::InvalidParam`] for
    /// more than [`MAX_HISTORY`] events.
    pub async fn receive_history(
        &self,
        room_id: &RoomId,
        events: Vec<CheckedPdu>,
        state_before: Vec<(OwnedEventId, Vec<OwnedEventId>)>,
        teller: &ServerName,
    ) -> Result<Vec<Verdict>, RoomError> {
        if events.len() > MAX_HISTORY {
            return Err(RoomError::InvalidParam("too many events of history".to_owned()));
        }
        let pdus: Vec<&Pdu> = events.iter().map(CheckedPdu::pdu).collect();
        let (sorted, _) = by_edges(&pdus, Pdu::prev_events);
        let in_order = in_this_order(&events, &sorted);
        let how = How::History(Arc::new(ToldHistory {
            states: state_before.into_iter().collect(),
            teller: teller.to_owned(),
        }));
        // All at once: the places of the earlier ones depend on the later ones.
        let verdicts = self.act_receive(room_id, Receive::new(in_order, how, false)).await?;
        Ok(as_given(events.len(), sorted, verdicts, "it comes before itself"))
    }

    async fn receive_all(
        &self,
        room_id: &RoomId,
        events: Vec<CheckedPdu>,
        how: &How,
    ) -> Result<Vec<Verdict>, RoomError> {
        let mut verdicts = Vec::with_capacity(events.len());
        for chunk in events.chunks(CHUNK) {
            let mut open = chunk.to_vec();
            let mut asked = false;
            while !open.is_empty() {
                let receive = Receive::new(open.clone(), how.clone(), asked);
                let received = self.act_receive(room_id, receive).await?;
                open.drain(..received.len().min(open.len()));
                verdicts.extend(received);
                if !open.is_empty() {
                    if asked {
                        return Err(RoomError::internal("the writer received not all events"));
                    }
                    open = self.ask_about(room_id, open).await?;
                    asked = true;
                }
            }
        }
        Ok(verdicts)
    }

    /// Makes an event part of the room that was made here a moment ago. It is not kept if the room has
    /// changed so that it does not allow it any more.
    pub(crate) async fn add_own(
        &self,
        room_id: &RoomId,
        event: CheckedPdu,
        transaction: Option<TransactionKey>,
    ) -> Result<OwnedEventId, RoomError> {
        let event_id = event.pdu().id().to_owned();
        let receive = Receive::new(vec![event], How::Own(transaction), true);
        let verdict = match self.act(room_id, Action::Receive(receive)).await? {
            // The same request was here a moment before.
            Outcome::Event(event_id) => return Ok(event_id),
            Outcome::Verdicts(verdicts) => only(verdicts)?,
            Outcome::Prepared(_) | Outcome::Done => {
                return Err(RoomError::internal("the writer received nothing"));
            }
        };
        match verdict {
            Verdict::Accepted | Verdict::Known => Ok(event_id),
            Verdict::SoftFailed => {
                Err(RoomError::Forbidden("the room has changed meanwhile".to_owned()))
            }
            Verdict::Rejected(reason) => Err(RoomError::Forbidden(reason)),
            Verdict::MissingPrev(_) | Verdict::MissingAuth(_) => {
                Err(RoomError::internal("an event of this server hangs in the air"))
            }
        }
    }
}

/// The events at these places.
fn in_this_order(events: &[CheckedPdu], places: &[usize]) -> Vec<CheckedPdu> {
    places.iter().filter_map(|place| events.get(*place).cloned()).collect()
}

/// Verdicts on sorted events in the order in which these were given; those that have no order are
/// rejected.
fn as_given(
    count: usize,
    sorted: Vec<usize>,
    verdicts: Vec<Verdict>,
    cyclic: &str,
) -> Vec<Verdict> {
    let mut all = vec![Verdict::Rejected(cyclic.to_owned()); count];
    for (place, verdict) in sorted.into_iter().zip(verdicts) {
        if let Some(slot) = all.get_mut(place) {
            *slot = verdict;
        }
    }
    all
}

/// The verdict on a single event.
fn only(verdicts: Vec<Verdict>) -> Result<Verdict, RoomError> {
    let verdict = verdicts.into_iter().next();
    verdict.ok_or_else(|| RoomError::internal("an event without a verdict"))
}
