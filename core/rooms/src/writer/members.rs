//! Changes of memberships, and the rows that follow them: members, users' lists of rooms, servers.

use std::sync::Arc;

use hearth_storage::Topic;
use hearth_types::StreamPosition;
use ruma::{CanonicalJsonValue, OwnedUserId, ServerName, UserId, events::TimelineEventType};

use super::{Batch, Context, NewEvent, Room, StepError};
use crate::{
    error::RoomError,
    schema::{
        self, EventOrdinal, MemberLag, MemberRow, Membership, StoredEvent, TimelineIndex,
        UserRoomDetails, UserRoomRow,
    },
    state::{Change, NodeId, diff},
};

/// A change of somebody's membership.
pub(super) struct MemberChange {
    user_id: OwnedUserId,
    before: Option<Membership>,
    after: Membership,
    /// Local users have a row under their own prefix.
    local: bool,
    /// Since when the user was joined until now.
    joined_at: Option<StreamPosition>,
    /// Has the (local) user been in the room before?
    has_joined: bool,
}

impl MemberChange {
    /// The change that a membership event drafted here makes.
    pub(super) fn plan(
        room: &mut Room,
        view: &Context<'_>,
        batch: &Batch,
        event: &NewEvent,
    ) -> Result<Option<Self>, StepError> {
        let (TimelineEventType::RoomMember, Some(state_key)) =
            (&event.event_type, &event.state_key)
        else {
            return Ok(None);
        };
        let user_id = UserId::parse(state_key)
            .map_err(|_| RoomError::InvalidParam("the state key is not a user ID".to_owned()))?;
        let after = event
            .content
            .get("membership")
            .and_then(CanonicalJsonValue::as_str)
            .and_then(Membership::named)
            .ok_or_else(|| RoomError::BadJson("no such membership".to_owned()))?;
        let before = room.membership(view, &user_id)?;
        Self::between(room, view, batch, user_id, before, after).map(Some)
    }

    /// The change of a user's membership from one to another.
    pub(super) fn between(
        room: &mut Room,
        view: &Context<'_>,
        batch: &Batch,
        user_id: OwnedUserId,
        before: Option<Membership>,
        after: Membership,
    ) -> Result<Self, StepError> {
        let local = view.rooms.identity().is_local(&user_id);
        let was_joined = before == Some(Membership::Join);
        let (mut joined_at, mut has_joined) = (None, was_joined);
        if local && let Some((written, row)) = room.user_room(view, &user_id)? {
            has_joined |= row.details.has_joined;
            if was_joined {
                joined_at = Some(room.real_position(batch.number, (written, row.joined_at))?);
            }
        }
        if !local && was_joined != (after == Membership::Join) {
            room.remember_joined(view, user_id.server_name())?;
        }
        Ok(Self { user_id, before, after, local, joined_at, has_joined })
    }

    /// Writes the rows. `stored` is the event that says so, `position` where it takes effect.
    pub(super) fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        let row = MemberRow { membership: self.after, event: stored.ordinal };
        batch.commit.put(&schema::MEMBERS, &room.id, &self.user_id, &row);
        room.local.members.insert(self.user_id.clone(), row);
        let head = &mut room.head;
        count(&mut head.joined_members, &self, Membership::Join);
        count(&mut head.invited_members, &self, Membership::Invite);
        if self.local {
            count(&mut head.joined_local_members, &self, Membership::Join);
            self.apply_local(room, batch, stored, position);
        } else {
            room.count_joined(batch, &self, stored);
        }
    }

    fn apply_local(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        let was_joined = self.before == Some(Membership::Join);
        let joined_at = match self.after {
            Membership::Join => self.joined_at.unwrap_or(position),
            _ => self.joined_at.unwrap_or(StreamPosition::ZERO),
        };
        let details = UserRoomDetails {
            membership: self.after,
            event: stored.ordinal,
            sender: stored.pdu.sender().to_owned(),
            state: room.head.state,
            was_joined,
            has_joined: self.has_joined || self.after == Membership::Join,
            forgotten: false,
        };
        let row = UserRoomRow { position, joined_at, details };
        batch.commit.effect_put(&schema::USER_ROOMS, &self.user_id, &room.id, &row);
        batch.commit.touch(Topic::new(self.user_id.as_str()));
        room.local.user_rooms.insert(self.user_id, (batch.number, row));
    }
}

/// Moves a counter of members in a membership.
fn count(counter: &mut u64, change: &MemberChange, membership: Membership) {
    if change.before == Some(membership) {
        *counter = counter.saturating_sub(1);
    }
    if change.after == membership {
        *counter += 1;
    }
}

impl Room {
    /// Reads how many joined members another server has, before that changes.
    fn remember_joined(
        &mut self,
        view: &Context<'_>,
        server: &ServerName,
    ) -> Result<(), RoomError> {
        if !self.local.servers.contains_key(server) {
            let row = view.snapshot.get(&schema::ROOM_SERVERS, &self.id, &server.to_owned())?;
            self.local.servers.insert(server.to_owned(), row.unwrap_or_default());
        }
        Ok(())
    }

    /// How many joined members another server has.
    pub(super) fn joined_of(
        &mut self,
        view: &Context<'_>,
        server: &ServerName,
    ) -> Result<u64, RoomError> {
        self.remember_joined(view, server)?;
        Ok(self.local.servers.get(server).map_or(0, |row| row.joined))
    }

    /// Counts a change of a remote user's membership for their server.
    fn count_joined(&mut self, batch: &mut Batch, change: &MemberChange, stored: &StoredEvent) {
        let server = change.user_id.server_name().to_owned();
        // Without an entry the change was none of joining or leaving.
        let Some(row) = self.local.servers.get_mut(&server) else {
            return;
        };
        let before = row.joined;
        count(&mut row.joined, change, Membership::Join);
        if row.joined == before {
            return;
        }
        if before == 0 {
            // What is known from others' states happened before this server heard of it.
            let live = matches!(stored.index, Some(TimelineIndex::Live(_)));
            row.since = if live { stored.ordinal } else { 0 };
        }
        let row = *row;
        batch.commit.put(&schema::ROOM_SERVERS, &self.id, &server, &row);
        if (before == 0) != (row.joined == 0) {
            batch.commit.effect_put(&schema::SERVER_ROOMS, &server, &self.id, &row);
        }
    }
}

/// Memberships that change at once in one commit; the rest follows in the next ones.
const MAX_CHANGES: usize = 200;
/// So many are taken by any batch that is not full.
const FEW_CHANGES: usize = 10;
/// Operations that a batch may hold that is to take more than a few changes.
const NEARLY_EMPTY: usize = 100;

/// What a new current state changes in the rows of members.
pub(super) struct MemberChanges {
    changes: Vec<(MemberChange, Arc<StoredEvent>)>,
    lag: Option<MemberLag>,
}

impl MemberChanges {
    /// Writes the rows. `newcomer` is the event that brought the new state, as it is stored; the
    /// changes take effect at its position.
    pub(super) fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        newcomer: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        for (change, event) in self.changes {
            let event = if event.ordinal == newcomer.ordinal { newcomer } else { &event };
            change.apply(room, batch, event, position);
        }
        room.head.forks.lag = self.lag;
        if self.lag.is_some() {
            batch.stop();
        }
    }
}

impl Room {
    /// What changes for members when the current state gets this tree of them.
    pub(super) fn member_changes(
        &mut self,
        view: &Context<'_>,
        batch: &Batch,
        members: NodeId,
        newcomer: &Arc<StoredEvent>,
    ) -> Result<MemberChanges, StepError> {
        let shown = MemberLag { shown: self.head.state.members, next_key: 0 };
        self.changes_since(view, batch, shown, members, Some(newcomer))
    }

    /// Brings more rows of members up to the current state, if they lag behind it.
    pub(super) fn catch_up(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
    ) -> Result<(), StepError> {
        let Some(lag) = self.head.forks.lag else {
            return Ok(());
        };
        let members = self.head.state.members;
        let MemberChanges { changes, lag } = self.changes_since(view, batch, lag, members, None)?;
        let position = batch.commit.next_position();
        for (change, event) in changes {
            change.apply(self, batch, &event, position);
        }
        self.head.forks.lag = lag;
        if lag.is_some() {
            batch.stop();
        }
        Ok(())
    }

    fn changes_since(
        &mut self,
        view: &Context<'_>,
        batch: &Batch,
        lag: MemberLag,
        members: NodeId,
        newcomer: Option<&Arc<StoredEvent>>,
    ) -> Result<MemberChanges, StepError> {
        let all = diff(&self.nodes(view), lag.shown, members)?;
        let mut open = all.into_iter().filter(|change| change.key >= lag.next_key);
        let now: Vec<_> = open.by_ref().take(MAX_CHANGES).collect();
        if now.len() > FEW_CHANGES && batch.commit.len() > NEARLY_EMPTY {
            return Err(StepError::Full);
        }
        let lag = open.next().map(|change| MemberLag { next_key: change.key, ..lag });
        let mut changes = Vec::with_capacity(now.len());
        for change in now {
            changes.extend(self.change_of(view, batch, change, newcomer)?);
        }
        Ok(MemberChanges { changes, lag })
    }

    /// One difference between two trees of members, and the event that shows it.
    fn change_of(
        &mut self,
        view: &Context<'_>,
        batch: &Batch,
        change: Change,
        newcomer: Option<&Arc<StoredEvent>>,
    ) -> Result<Option<(MemberChange, Arc<StoredEvent>)>, StepError> {
        let event = |ordinal: Option<EventOrdinal>| match (ordinal, newcomer) {
            (Some(ordinal), Some(newcomer)) if newcomer.ordinal == ordinal => {
                Ok(Some(Arc::clone(newcomer)))
            }
            (Some(ordinal), _) => self.event(view, ordinal).map(Some),
            (None, _) => Ok(None),
        };
        let (before, after) = (event(change.before)?, event(change.after)?);
        let Some(shown) = after.as_ref().or(before.as_ref()).map(Arc::clone) else {
            return Ok(None);
        };
        let user_id = shown.pdu.state_key().and_then(|key| UserId::parse(key).ok());
        let Some(user_id) = user_id else {
            return Ok(None);
        };
        let membership =
            |event: Option<Arc<StoredEvent>>| event.and_then(|e| Membership::of(&e.pdu));
        // A membership that a resolution took back without putting another in its place.
        let after = membership(after).unwrap_or(Membership::Leave);
        let before = membership(before);
        let change = MemberChange::between(self, view, batch, user_id, before, after)?;
        Ok(Some((change, shown)))
    }
}
