//! Who may see which event (CS "Room History Visibility").
//!
//! An event is judged with the state right before it; changes of the visibility itself and of the
//! reader's own membership are judged with the state after them as well, and the kinder answer counts.
//! Events in one stretch of history share their state's tree roots, so a page of 50 messages costs one
//! look-up in each tree.

use std::sync::Arc;

use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::TimelineEventType};

use super::history_visibility::{ByRoot, HistoryVisibility, VisibilityInStates};
use crate::{
    ReadError, RoomError, Rooms,
    schema::{EventOrdinal, Membership, RoomHead, StoredEvent, TimelineIndex, UserRoomRow},
    state::{NodeId, StateKeyOrdinal, StateRoot, get},
};

/// On what ground a user reads a room.
#[derive(Clone, Debug)]
pub enum Access {
    /// They are in the room.
    Joined(UserRoomRow),
    /// They were, and see what was there until then.
    Former(UserRoomRow, Departure),
    /// The room is world-readable now.
    Peeking(Option<UserRoomRow>),
}

impl Access {
    /// The last index that this user may ask about.
    #[must_use]
    pub fn end(&self) -> TimelineIndex {
        match self {
            Self::Joined(_) | Self::Peeking(_) => TimelineIndex::END,
            Self::Former(_, departure) => TimelineIndex::Live(departure.position),
        }
    }

    /// The state that this user sees as the room's latest.
    #[must_use]
    pub fn state(&self, head: &RoomHead) -> StateRoot {
        match self {
            Self::Joined(_) | Self::Peeking(_) => head.state,
            Self::Former(_, departure) => departure.state,
        }
    }

    /// The user's own row, if they ever had a membership and did not forget the room.
    #[must_use]
    pub fn row(&self) -> Option<&UserRoomRow> {
        match self {
            Self::Joined(row) | Self::Former(row, _) => Some(row),
            Self::Peeking(row) => row.as_ref(),
        }
    }
}

/// How a user's last stay in a room ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The place of the event that put them out.
    pub position: StreamPosition,
    /// The room's state after it.
    pub state: StateRoot,
}

/// Judges events of one room for one user.
#[derive(Debug)]
pub struct Visibility {
    rooms: Rooms,
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    row: Option<UserRoomRow>,
    /// The last place that the user was in the room for.
    inside_until: Option<TimelineIndex>,
    member_key: Option<u32>,
    history: VisibilityInStates,
    by_members: ByRoot<Option<Membership>>,
}

/// Changes of a membership since the user was last inside (an invitation, a ban and the like) that are
/// gone back over; who had more has no way back to the room's past.
const MAX_CHANGES_OUTSIDE: usize = 100;

impl Rooms {
    /// On what ground a user may read this room's timeline and state. [`RoomError::Forbidden`] if on
    /// none, also when there is no such room, so that nobody learns which rooms exist.
    pub async fn access(&self, room_id: &RoomId, user_id: &UserId) -> Result<Access, ReadError> {
        let row = self.user_room(user_id, room_id).await?.filter(|row| !row.details.forgotten);
        if let Some(row) = &row
            && row.details.membership == Membership::Join
        {
            return Ok(Access::Joined(row.clone()));
        }
        let refused =
            || RoomError::Forbidden("You are not in this room and it is not world-readable".into());
        let head = self.head(room_id).await?.ok_or_else(refused)?;
        if self.history_visibility(room_id, head.state).await? == HistoryVisibility::WorldReadable {
            return Ok(Access::Peeking(row));
        }
        let Some(row) = row else { return Err(refused()) };
        match self.departure(room_id, user_id, &row).await? {
            Some(departure) => Ok(Access::Former(row, departure)),
            None => Err(refused()),
        }
    }

    /// How the last stay of a user ended who is not in the room; `None` if they are, or never were.
    pub async fn departure(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        row: &UserRoomRow,
    ) -> Result<Option<Departure>, ReadError> {
        if row.details.membership == Membership::Join {
            return Ok(None);
        }
        if row.details.was_joined {
            let (position, state) = (row.position, row.details.state);
            return Ok(Some(Departure { position, state }));
        }
        // A ban, its end or an invitation came after they left.
        let mut latest = row.details.event;
        if row.details.is_out_of_band() {
            // The room knows them from before this server's last member left, if at all.
            let member = self.member_row(room_id, user_id).await?;
            let Some(member) = member else { return Ok(None) };
            latest = member.event;
        }
        let mut event = self.event(room_id, latest).await?;
        for _ in 0..MAX_CHANGES_OUTSIDE {
            let Some(replaced) = event.header.replaces_state else { return Ok(None) };
            let earlier = self.event(room_id, replaced).await?;
            if Membership::of(&earlier.pdu) == Some(Membership::Join) {
                let state = event.header.state_after;
                return Ok(match event.index {
                    Some(TimelineIndex::Live(position)) => Some(Departure { position, state }),
                    _ => None,
                });
            }
            event = earlier;
        }
        Ok(None)
    }

    /// A judge of this room's events for this user.
    pub async fn visibility(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Visibility, ReadError> {
        let row = self.user_room(user_id, room_id).await?.filter(|row| !row.details.forgotten);
        self.visibility_with(room_id, user_id, row).await
    }

    /// The same for a caller who has the user's row already.
    pub async fn visibility_with(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        row: Option<UserRoomRow>,
    ) -> Result<Visibility, ReadError> {
        let member_key = match self.state_key(room_id, "m.room.member", user_id.as_str()).await? {
            Some(StateKeyOrdinal::Member(key)) => Some(key),
            _ => None,
        };
        let inside_until = match &row {
            Some(row) if row.details.membership == Membership::Join => Some(TimelineIndex::END),
            Some(row) => {
                let departure = self.departure(room_id, user_id, row).await?;
                departure.map(|departure| TimelineIndex::Live(departure.position))
            }
            None => None,
        };
        Ok(Visibility {
            inside_until,
            rooms: self.clone(),
            room_id: room_id.to_owned(),
            user_id: user_id.to_owned(),
            row,
            member_key,
            history: VisibilityInStates::of(self, room_id).await?,
            by_members: ByRoot::default(),
        })
    }
}

impl Visibility {
    /// May the user see this event? Events that are in no timeline are seen by nobody, and redactions only
    /// with what they redact.
    pub async fn can_see(&mut self, event: &StoredEvent) -> Result<bool, ReadError> {
        let Some(index) = event.index else { return Ok(false) };
        Ok(self.is_shown(index, event).await?
            && !self.rooms.withholds(&self.room_id, event).await?)
    }

    /// May the user see an event at this place, whatever it says?
    async fn is_shown(
        &mut self,
        index: TimelineIndex,
        event: &StoredEvent,
    ) -> Result<bool, ReadError> {
        let before = event.header.state_before;
        let after = event.header.state_after;
        let mut visibility = self.history.at(before).await?;
        // The create event is preceded by nothing: what the room set up at once judges it.
        if *event.pdu.kind() == TimelineEventType::RoomHistoryVisibility && before != after {
            visibility = visibility.or_kinder(self.history.at(after).await?);
        }
        match visibility {
            HistoryVisibility::WorldReadable => return Ok(true),
            // Was the user in the room at this place, or at a later one?
            HistoryVisibility::Shared if Some(index) <= self.inside_until => return Ok(true),
            _ => {}
        }
        let mut memberships = [self.membership(before.members).await?, None];
        if *event.pdu.kind() == TimelineEventType::RoomMember
            && event.pdu.state_key() == Some(self.user_id.as_str())
        {
            // One's own leave, kick and invitation are one's own business.
            memberships[1] = self.membership(after.members).await?;
            if self.row.is_some() {
                return Ok(true);
            }
        }
        let is = |wanted| memberships.contains(&Some(wanted));
        Ok(is(Membership::Join)
            || (visibility == HistoryVisibility::Invited && is(Membership::Invite)))
    }

    /// The user's membership after this event; `None` if they had none then, or if the event has no
    /// place in the room's history.
    pub async fn membership_after(
        &mut self,
        event: &StoredEvent,
    ) -> Result<Option<Membership>, ReadError> {
        self.membership(event.header.state_after.members).await
    }

    /// Those of these events that the user may see, in their order.
    pub async fn filter(
        &mut self,
        events: Vec<Arc<StoredEvent>>,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let mut visible = Vec::with_capacity(events.len());
        for event in events {
            if self.can_see(&event).await? {
                visible.push(event);
            }
        }
        Ok(visible)
    }

    async fn membership(&mut self, members: NodeId) -> Result<Option<Membership>, ReadError> {
        if let Some(known) = self.by_members.get(members) {
            return Ok(known);
        }
        let ordinal = match self.member_key {
            Some(key) => get(&self.rooms.nodes(&self.room_id), members, key)?,
            None => None,
        };
        let membership = match ordinal {
            Some(ordinal) => Membership::of(&self.event(ordinal).await?.pdu),
            None => None,
        };
        self.by_members.keep(members, membership);
        Ok(membership)
    }

    async fn event(&self, ordinal: EventOrdinal) -> Result<Arc<StoredEvent>, ReadError> {
        self.rooms.event(&self.room_id, ordinal).await
    }
}
