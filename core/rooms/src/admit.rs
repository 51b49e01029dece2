//! Memberships that begin on another server: joins of rooms that were not here, invitations from
//! elsewhere, knocks; and history from before all that.

mod complete;
mod install;
mod meaning;
mod members;
mod order;
mod out_of_band;
mod partial;
mod plan;
mod recompute;
mod rows;

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use hearth_storage::{Direction, Snapshot};

use hearth_types::Pdu;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId,
    events::TimelineEventType,
};
use serde_json::value::RawValue;

use crate::{
    CheckedPdu, Rooms, Teller, Verdict,
    error::RoomError,
    schema::{EventOrdinal, GapRow, HISTORY_GAPS, Standing, StoredEvent},
    writer::{Action, Outcome, fits},
};

/// What a resident server answered to a join (SS "Joining Rooms"), each event checked.
#[derive(Clone, Debug)]
pub struct RemoteJoin {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version, as the join's template said; the create event must agree.
    pub room_version: RoomVersionId,
    /// The join event, signed by this server (and by the resident one, if the room is restricted).
    pub event: CheckedPdu,
    /// The state before the join.
    pub state: Vec<CheckedPdu>,
    /// The auth chain of the state and of the join.
    pub auth_chain: Vec<CheckedPdu>,
    /// Members were left out of the state: it must be completed by
    /// [`Rooms::complete_state`].
    pub members_omitted: bool,
    /// Who can be asked for the rest.
    pub servers_in_room: Vec<OwnedServerName>,
}

/// A room whose full state is still to be fetched (faster joins).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The join before which the state is wanted.
    pub join: OwnedEventId,
}

/// An invitation or a knock in a room that this server may not be in.
#[derive(Clone, Debug)]
pub struct OutOfBand {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub room_version: RoomVersionId,
    /// The local user.
    pub user_id: OwnedUserId,
    /// The membership event, signed by all who must.
    pub event: CheckedPdu,
    /// What the user may know of the room, as stripped state events.
    pub stripped_state: Vec<Box<RawValue>>,
}

/// Gaps of one room that are read at all: others take their places as these are filled or given up.
const MAX_GAPS: usize = 10_000;
/// Gaps that are read inline; more are read in one job.
const FEW_GAPS: usize = 100;
/// Gaps that are named of one event at a time: it may have invented all of its previous events. The
/// others have their turn when these are filled, or were tried.
const MAX_GAPS_OF_CHILD: usize = 3;

/// What a writer is asked to admit.
pub(crate) enum Admission {
    /// A join by way of another server.
    Join(Arc<RemoteJoin>),
    /// A membership in a room that this server is not in.
    OutOfBand(Box<OutOfBand>),
    /// A user forgets such a membership.
    Forget(OwnedRoomId, OwnedUserId),
    /// The whole state before a partial join, whose events are here.
    Complete(OwnedRoomId, Arc<[OwnedEventId]>),
}

/// Admits; only by the room's writer, while nothing of the room is in flight.
pub(crate) async fn admit(rooms: &Rooms, admission: Admission) -> Result<Outcome, RoomError> {
    match admission {
        Admission::Join(join) => Ok(match install::install(rooms, join).await? {
            Some(event_id) => Outcome::Event(event_id),
            None => Outcome::Done,
        }),
        Admission::OutOfBand(membership) => out_of_band::keep(rooms, *membership).await,
        Admission::Forget(room_id, user_id) => out_of_band::forget(rooms, room_id, user_id).await,
        Admission::Complete(room_id, state) => {
            complete::complete(rooms, room_id, state).await.map(|()| Outcome::Done)
        }
    }
}

impl Rooms {
    /// Makes a room of the answer to a join, or, if the room is here already, adds the join to it.
    /// Every event is authorized; a state that does not hold together is refused as a whole. Returns
    /// when the room and the join are durable.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidRoomState`] if the answer does not hold together: no create event, one of
    /// another room or version, two events at one state key, an auth event of the join missing; or if
    /// it leaves members out, and other local users are in the room.
    /// [`RoomError::Forbidden`] if the join is not allowed by its auth events or by the state.
    /// [`RoomError::UnsupportedVersion`].
    pub async fn admit_join(&self, join: RemoteJoin) -> Result<OwnedEventId, RoomError> {
        let join = Arc::new(join);
        let admission = Action::Admit(Admission::Join(Arc::clone(&join)));
        match self.act_anywhere(&join.room_id, admission).await? {
            Outcome::Event(event_id) => Ok(event_id),
            Outcome::Prepared(_) | Outcome::Done | Outcome::Verdicts(_) => {
                self.admit_further_join(&join).await
            }
        }
    }

    /// Adds a join to a room that other local users are in. Where its previous events are not here, the
    /// told state becomes part of the room's: it must be whole.
    async fn admit_further_join(&self, join: &RemoteJoin) -> Result<OwnedEventId, RoomError> {
        let room_id = &join.room_id;
        if join.members_omitted {
            let text = "a further join needs the state with all of its members";
            return Err(RoomError::InvalidRoomState(text.to_owned()));
        }
        let others = join.auth_chain.iter().chain(&join.state).cloned().collect();
        self.receive_outliers(room_id, others).await?;
        let mut before = Vec::with_capacity(join.state.len());
        for event in &join.state {
            let stored = self.event_by_id(room_id, event.pdu().id()).await?;
            if stored.is_some_and(|stored| stored.header.standing != Standing::Rejected) {
                before.push(event.pdu().id().to_owned());
            }
        }
        let event_id = join.event.pdu().id().to_owned();
        // The join is this server's, its state the resident's word.
        let teller = Teller::Other;
        match self.receive_with_state(room_id, join.event.clone(), before, teller).await? {
            Verdict::Accepted | Verdict::Known => Ok(event_id),
            Verdict::Rejected(reason) => Err(RoomError::Forbidden(reason)),
            Verdict::SoftFailed => {
                Err(RoomError::Forbidden("the room's state does not allow the join".to_owned()))
            }
            Verdict::MissingPrev(_) | Verdict::MissingAuth(_) => {
                let text = "the join's auth events are missing";
                Err(RoomError::InvalidRoomState(text.to_owned()))
            }
        }
    }

    /// Completes a partial room with the whole state before its join (SS "Joining Rooms",
    /// `members_omitted`). The states of all events that came since are worked out again; those that
    /// the whole state does not allow are rejected. Returns when that is durable; does nothing in a
    /// room that is whole.
    ///
    /// # Errors
    ///
    /// [`RoomError::InvalidRoomState`] if the state does not hold together or does not allow the join:
    /// then the room is as it was, and another server may be asked.
    pub async fn complete_state(
        &self,
        room_id: &RoomId,
        state: Vec<CheckedPdu>,
        auth_chain: Vec<CheckedPdu>,
    ) -> Result<(), RoomError> {
        let wanted = fitting(room_id, &state);
        if self.is_partial(room_id).await? {
            // Others' events come in between: this is the longer part.
            self.receive_outliers(room_id, auth_chain.into_iter().chain(state).collect()).await?;
        }
        let admission = Admission::Complete(room_id.to_owned(), wanted);
        self.act(room_id, Action::Admit(admission)).await.map(drop)
    }

    /// Previous events that the room's events name and that are not here, each with the event that
    /// names it: where history can be asked for. Those come first that the fewest servers did not have;
    /// among them those whose followers are deepest, a few of each follower.
    pub async fn history_gaps(
        &self,
        room_id: &RoomId,
        limit: usize,
    ) -> Result<Vec<(OwnedEventId, OwnedEventId)>, RoomError> {
        let gaps = self.open_gaps(room_id, limit).await?;
        Ok(gaps.into_iter().map(|(id, child)| (id, child.header.event_id.clone())).collect())
    }

    /// The same, with the events that name them.
    pub(crate) async fn open_gaps(
        &self,
        room_id: &RoomId,
        limit: usize,
    ) -> Result<Vec<(OwnedEventId, Arc<StoredEvent>)>, RoomError> {
        let mut gaps = self.all_gaps(room_id).await?;
        gaps.sort_by_key(|(_, gap)| (gap.tries, Reverse(gap.depth)));
        let mut of_child: HashMap<EventOrdinal, usize> = HashMap::new();
        gaps.retain(|(_, gap)| {
            let count = of_child.entry(gap.child).or_default();
            *count += 1;
            *count <= MAX_GAPS_OF_CHILD
        });
        gaps.truncate(limit);
        let ordinals: Vec<_> = gaps.iter().map(|(_, gap)| gap.child).collect();
        let children = self.events(room_id, &ordinals).await?;
        Ok(gaps.into_iter().map(|(missing, _)| missing).zip(children).collect())
    }

    async fn all_gaps(&self, room_id: &RoomId) -> Result<Vec<(OwnedEventId, GapRow)>, RoomError> {
        let room_id = room_id.to_owned();
        let forward = Direction::Forward;
        let few = self.store().page(&HISTORY_GAPS, &room_id, .., forward, FEW_GAPS).await?;
        if few.len() < FEW_GAPS {
            return Ok(few);
        }
        let read = move |view: &Snapshot| view.page(&HISTORY_GAPS, &room_id, .., forward, MAX_GAPS);
        Ok(self.store().bulk(read).await?)
    }

    /// Notes that a server that was asked for these previous events, which are not here, has none of
    /// them: they are asked for after others, and in the end no more.
    pub async fn history_not_had(
        &self,
        room_id: &RoomId,
        missing: Vec<OwnedEventId>,
    ) -> Result<(), RoomError> {
        if missing.is_empty() {
            return Ok(());
        }
        self.act(room_id, Action::GapsTried(missing)).await.map(drop)
    }
}

/// The events of a told state without those state events that cannot be part of the room: these are left
/// out, as where they come in any other way.
fn fitting(room_id: &RoomId, state: &[CheckedPdu]) -> Arc<[OwnedEventId]> {
    let is_fit = |pdu: &&Pdu| {
        let is_checked = *pdu.kind() != TimelineEventType::RoomCreate && pdu.state_key().is_some();
        let reason = if is_checked { fits(pdu, room_id).err() } else { None };
        if let Some(reason) = reason {
            tracing::warn!(%room_id, event_id = %pdu.id(), reason, "a state event is left out");
        }
        reason.is_none()
    };
    state.iter().map(CheckedPdu::pdu).filter(is_fit).map(|pdu| pdu.id().to_owned()).collect()
}
