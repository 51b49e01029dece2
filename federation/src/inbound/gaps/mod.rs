//! Fetching what received events refer to and is not here: bounded in count, depth, bytes and time.
//!
//! An event whose previous events are not here waits while the gap before it is walked backwards
//! (`walk`). Where the gap is too long, or its far end cannot be had, the state at that place is
//! fetched (`state`) and history goes on from there. Whatever a server answers is checked like what it
//! pushes, and taken only if it was asked for. What nobody tells at that moment is noted and asked for
//! again (`holes`).

mod before;
#[cfg(test)]
mod floods;
mod holes;
mod state;
#[cfg(test)]
pub(super) mod tests;
mod turns;
mod walk;

use std::{
    collections::{BTreeMap, HashSet},
    iter,
    time::Duration,
};

use hearth_rooms::{CheckedPdu, RoomError, Teller, Verdict};
use ruma::{OwnedEventId, RoomId, RoomVersionId, ServerName};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use self::{holes::Hole, state::MAX_AUTH_EVENTS, turns::Turn};
pub(crate) use self::{
    holes::{HOLES, Holes, run as fill_holes},
    turns::{Pusher, Turns},
};
use crate::{Federation, check::Dropped, transport::Limits};

/// How long events may wait for what they refer to, in all. Longer than servers wait for an answer:
/// the work goes on, and they find it done when they ask again.
const MAX_TIME: Duration = Duration::from_mins(5);
/// Places at which one gap is closed by fetching state or auth events.
const MAX_CLOSED: usize = 20;
/// Times that one event is tried again after something was fetched for it.
const MAX_TRIES: usize = 4;
/// Bytes of ordinary answers: a hundred events.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Fetches gaps for one federation.
#[derive(Clone, Debug)]
pub struct Gaps(Federation);

/// One server's answers to one room's gap.
struct Filling<'a> {
    federation: &'a Federation,
    origin: &'a ServerName,
    room_id: &'a RoomId,
    version: RoomVersionId,
    turn: &'a Turn,
    /// How many more places may be closed.
    closes_left: usize,
    /// How many more auth events may be taken.
    auth_left: usize,
    /// Attempts before this one.
    tries: u32,
    /// Events that could not be had.
    left_open: BTreeMap<OwnedEventId, Hole>,
    /// Events that turned out to be of other rooms.
    foreign: HashSet<OwnedEventId>,
    /// The server has told some of the gap that is being filled.
    told_some: bool,
}

impl Gaps {
    /// Fetches for this server.
    #[must_use]
    pub fn new(federation: Federation) -> Self {
        Self(federation)
    }

    /// Receives events of one room, and what they need: missing auth events by `event_auth` and
    /// `event`, missing previous events by `get_missing_events`, and if the gap stays open the state by
    /// `state_ids`, `state` and `event`. One verdict for each event given.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if this server is not in the room; [`RoomError::Busy`] if too many
    /// wait for the room's gaps already.
    pub async fn receive(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        events: Vec<CheckedPdu>,
    ) -> Result<Vec<Verdict>, RoomError> {
        let rooms = self.0.rooms();
        let mut verdicts = rooms.receive(room_id, events.clone()).await?;
        if !verdicts.iter().any(is_open) {
            return Ok(verdicts);
        }
        let deadline = Instant::now() + MAX_TIME;
        let pusher = Pusher::of(&self.0, room_id, origin).await?;
        let turn = timeout_at(deadline, self.0.turns().take(&pusher, room_id)).await;
        let turn = turn.ok().flatten().ok_or(RoomError::Busy)?;
        let version = rooms.version(room_id).await?;
        let mut filling = Filling::new(&self.0, &turn, version, 0);
        let received = filling.receive_all(&events, &mut verdicts, deadline).await;
        // What was found before something failed is missing all the same.
        filling.note_holes().await?;
        received.map(|()| verdicts)
    }
}

/// Is there something to fetch before an event can be judged?
fn is_open(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::MissingPrev(_) | Verdict::MissingAuth(_))
}

impl<'a> Filling<'a> {
    /// Fills with this turn's server, after so many attempts.
    fn new(federation: &'a Federation, turn: &'a Turn, version: RoomVersionId, tries: u32) -> Self {
        Self {
            federation,
            origin: &turn.pusher().server,
            room_id: turn.room_id(),
            version,
            turn,
            closes_left: MAX_CLOSED,
            auth_left: MAX_AUTH_EVENTS,
            tries,
            left_open: BTreeMap::new(),
            foreign: HashSet::new(),
            told_some: false,
        }
    }

    /// Receives those of the events that could not be judged so far, and what they need.
    async fn receive_all(
        &mut self,
        events: &[CheckedPdu],
        verdicts: &mut [Verdict],
        deadline: Instant,
    ) -> Result<(), RoomError> {
        // Whoever had the turn before may have filled the same gap.
        self.receive_open(events, verdicts).await?;
        for (place, event) in events.iter().enumerate() {
            let Some((verdict, behind)) =
                verdicts.get_mut(place..).and_then(<[Verdict]>::split_first_mut)
            else {
                break;
            };
            if !is_open(verdict) {
                continue;
            }
            let settled = self.settle(event.clone(), verdict.clone());
            if let Ok(settled) = timeout_at(deadline, settled).await {
                *verdict = settled?;
            } else {
                // Those behind it have no time either.
                let event_id = event.pdu().id().to_owned();
                let (origin, room_id) = (self.origin, self.room_id);
                tracing::info!(%origin, %room_id, %event_id, "a gap was not filled in time");
                self.left_open.insert(event_id, Hole::Pushed);
            }
            // What was fetched for one is mostly what all the others wait for: they need one commit.
            self.receive_open(events.get(place + 1..).unwrap_or_default(), behind).await?;
        }
        Ok(())
    }

    /// Receives those events again that could not be judged.
    async fn receive_open(
        &self,
        events: &[CheckedPdu],
        verdicts: &mut [Verdict],
    ) -> Result<(), RoomError> {
        let open: Vec<_> = iter::zip(events, verdicts).filter(|(_, open)| is_open(open)).collect();
        if open.is_empty() {
            return Ok(());
        }
        let again = open.iter().map(|(event, _)| (*event).clone()).collect();
        let verdicts = self.federation.rooms().receive(self.room_id, again).await?;
        for ((_, verdict), now) in iter::zip(open, verdicts) {
            *verdict = now;
        }
        Ok(())
    }

    /// Receives one event that could not be judged, and before it what can be had of the gap before it.
    async fn settle(
        &mut self,
        event: CheckedPdu,
        mut verdict: Verdict,
    ) -> Result<Verdict, RoomError> {
        // Only with its auth events is told whether there is a gap.
        if let Verdict::MissingAuth(missing) = &verdict {
            let left = self.closes_left.checked_sub(1);
            self.closes_left = left.unwrap_or_default();
            if left.is_none() || !self.fetch_auth(&event, missing).await? {
                self.left_open.insert(event.pdu().id().to_owned(), Hole::Pushed);
                return Ok(verdict);
            }
            verdict = self.receive(&event).await?;
        }
        let mut chain = match &verdict {
            Verdict::MissingPrev(missing) => self.walk(&event, missing).await?,
            Verdict::MissingAuth(_) => Vec::new(),
            _ => return Ok(verdict),
        };
        self.told_some = !chain.is_empty();
        let event_id = event.pdu().id().to_owned();
        chain.push(event);
        let verdict = self.receive_chain(chain, verdict).await?;
        if is_open(&verdict) {
            self.left_open.insert(event_id, Hole::Pushed);
        }
        Ok(verdict)
    }

    /// Has what could not be had asked for again.
    async fn note_holes(&mut self) -> Result<(), RoomError> {
        let holes = std::mem::take(&mut self.left_open);
        self.federation.holes().note(self.room_id, holes, self.turn.pusher(), self.tries).await
    }

    async fn receive(&self, event: &CheckedPdu) -> Result<Verdict, RoomError> {
        let rooms = self.federation.rooms();
        let mut verdicts = rooms.receive(self.room_id, vec![event.clone()]).await?;
        verdicts.pop().ok_or(RoomError::UnknownEvent)
    }

    /// Receives events of which each follows others before it, and closes what is open on the way. The
    /// verdict is the last event's.
    async fn receive_chain(
        &mut self,
        mut chain: Vec<CheckedPdu>,
        mut verdict: Verdict,
    ) -> Result<Verdict, RoomError> {
        while !chain.is_empty() {
            let rooms = self.federation.rooms();
            let verdicts = rooms.receive(self.room_id, chain.clone()).await?;
            if let Some(last) = verdicts.last() {
                verdict = last.clone();
            }
            let mut rest = iter::zip(chain, verdicts).skip_while(|(_, verdict)| !is_open(verdict));
            let Some((event, open)) = rest.next() else { break };
            let Some(left) = self.closes_left.checked_sub(1) else { break };
            self.closes_left = left;
            let mut rest = rest.peekable();
            let is_last = rest.peek().is_none();
            chain = rest.filter(|(_, verdict)| is_open(verdict)).map(|(event, _)| event).collect();
            let closed = self.close(event, open).await?;
            if is_last {
                verdict = closed;
            }
        }
        Ok(verdict)
    }

    /// Fetches what one event needs, and receives it.
    async fn close(&mut self, event: CheckedPdu, open: Verdict) -> Result<Verdict, RoomError> {
        let rooms = self.federation.rooms();
        let mut verdict = open;
        let mut behind = Vec::new();
        let teller = Teller::of(event.pdu(), self.origin);
        let mut state: Option<Vec<OwnedEventId>> = None;
        for _ in 0..MAX_TRIES {
            match &verdict {
                Verdict::MissingAuth(missing) => {
                    if !self.fetch_auth(&event, missing).await? {
                        break;
                    }
                }
                Verdict::MissingPrev(missing) if state.is_none() => {
                    behind.clone_from(missing);
                    state = match self.fetch_state(event.pdu().id()).await? {
                        Some(state) => Some(state),
                        None => self.fetch_state_after(missing).await?,
                    };
                    if state.is_none() {
                        break;
                    }
                }
                _ => break,
            }
            verdict = match &state {
                Some(state) => {
                    let (event, state) = (event.clone(), state.clone());
                    rooms.receive_with_state(self.room_id, event, state, teller).await?
                }
                None => self.receive(&event).await?,
            };
        }
        if !is_open(&verdict) {
            // What comes before an event that is no part of the room is not behind anything here.
            let hole = if verdict == Verdict::Accepted { Hole::Behind } else { Hole::Pushed };
            self.left_open.extend(behind.into_iter().map(|missing| (missing, hole)));
        }
        Ok(verdict)
    }

    /// The first three checks; what does not pass is left out.
    async fn check(&mut self, events: Vec<Box<RawValue>>) -> Vec<CheckedPdu> {
        let checker = self.federation.checker();
        let results = checker.check(&self.version, self.room_id, events).await;
        let passed = results
            .into_iter()
            .filter_map(|event| event.map_err(|dropped| self.note_dropped(dropped)).ok());
        passed.collect()
    }

    fn note_dropped(&mut self, dropped: Dropped) {
        let (origin, room_id) = (self.origin, self.room_id);
        tracing::debug!(%origin, %room_id, reason = dropped.reason, "an event was dropped");
        if dropped.foreign && self.foreign.len() < MAX_AUTH_EVENTS {
            self.foreign.extend(dropped.event_id);
        }
    }

    /// The limits of ordinary answers.
    fn limits(&self) -> Limits {
        Limits { max_bytes: ANSWER_BYTES, ..self.federation.client().limits() }
    }
}
