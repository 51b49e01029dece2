//! The state of a room, whole or in part.

use std::{ops::ControlFlow, sync::Arc};

use hearth_storage::Direction;
use hearth_types::StreamPosition;
use ruma::{RoomId, UserId};

use super::tokens::TimelineToken;
use crate::{
    ReadError, RoomError, Rooms,
    schema::{CURRENT_STATES, EventOrdinal, StoredEvent, TimelineIndex},
    state::{Change, NodeId, StateRoot, diff, walk},
};

/// Which part of a state a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePart {
    /// Everything.
    All,
    /// Memberships only.
    Members,
    /// Everything but memberships.
    Rest,
}

impl Rooms {
    /// The state that a user sees: the current one, or that at their leave (`GET /state`). Waits while
    /// the room's state is partial.
    pub async fn readable_state(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        self.access(room_id, user_id).await?;
        self.wait_until_whole(room_id).await?;
        let root = self.readable_root(room_id, user_id).await?;
        self.state_events(room_id, root, StatePart::All).await
    }

    /// One event of the state that a user sees (`GET /state/{type}/{key}`). Waits for a member whom the
    /// room's state, which is partial, may omit.
    pub async fn readable_state_event(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Arc<StoredEvent>, ReadError> {
        let root = self.readable_root(room_id, user_id).await?;
        let found = self.state_event(room_id, root, event_type, state_key).await?;
        if let Some(event) = found {
            return Ok(event);
        }
        if event_type != "m.room.member" || !self.is_partial(room_id).await? {
            return Err(RoomError::UnknownEvent);
        }
        self.wait_until_whole(room_id).await?;
        let root = self.readable_root(room_id, user_id).await?;
        self.state_event(room_id, root, event_type, state_key).await?.ok_or(RoomError::UnknownEvent)
    }

    /// The root of the state that a user sees.
    pub async fn readable_root(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<StateRoot, ReadError> {
        let access = self.access(room_id, user_id).await?;
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        Ok(access.state(&head))
    }

    /// The events of a state. Costs what it returns.
    pub async fn state_events(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        part: StatePart,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let mut ordinals = Vec::new();
        if part != StatePart::Members {
            self.collect(room_id, root.rest, &mut ordinals)?;
        }
        if part != StatePart::Rest {
            self.collect(room_id, root.members, &mut ordinals)?;
        }
        self.events(room_id, &ordinals).await
    }

    /// What the second state has that the first had not, with the events that it replaced.
    pub fn state_changes(
        &self,
        room_id: &RoomId,
        before: StateRoot,
        after: StateRoot,
        part: StatePart,
    ) -> Result<Vec<Change>, ReadError> {
        let nodes = self.nodes(room_id);
        let mut changes = Vec::new();
        if part != StatePart::Members && before.rest != after.rest {
            changes = diff(&nodes, before.rest, after.rest)?;
        }
        if part != StatePart::Rest && before.members != after.members {
            changes.extend(diff(&nodes, before.members, after.members)?);
        }
        Ok(changes)
    }

    /// The room's current state as it was at a place in its timeline: after the last event before it,
    /// unless a fork was resolved otherwise. Before the first event it is empty.
    pub async fn state_at(
        &self,
        room_id: &RoomId,
        at: TimelineToken,
    ) -> Result<StateRoot, ReadError> {
        if let Some(event) = self.last_event_at(room_id, at).await? {
            return self.current_state_after(room_id, &event, at).await;
        }
        let noted = self.noted_state(room_id, StreamPosition::ZERO, at).await?;
        Ok(noted.unwrap_or_default())
    }

    /// The same for a caller who has the last event before that place.
    pub async fn current_state_after(
        &self,
        room_id: &RoomId,
        last: &StoredEvent,
        at: TimelineToken,
    ) -> Result<StateRoot, ReadError> {
        let from = match last.index {
            Some(TimelineIndex::Live(position)) => position,
            Some(TimelineIndex::History { before, .. }) => before.previous(),
            None => return Ok(last.header.state_after),
        };
        let noted = self.noted_state(room_id, from, at).await?;
        Ok(noted.unwrap_or(last.header.state_after))
    }

    /// The last current state that was noted, since it is not what an event says.
    async fn noted_state(
        &self,
        room_id: &RoomId,
        from: StreamPosition,
        at: TimelineToken,
    ) -> Result<Option<StateRoot>, ReadError> {
        let until = match at.0 {
            TimelineIndex::Live(position) => position,
            TimelineIndex::History { before, distance: 0 } => before.previous(),
            TimelineIndex::History { .. } => return Ok(None),
        };
        let head = self.head(room_id).await?;
        if from > until || !head.is_some_and(|head| head.forks.has_current_states) {
            return Ok(None);
        }
        let (room_id, back) = (room_id.to_owned(), Direction::Backward);
        let rows = self.store().page(&CURRENT_STATES, &room_id, from..=until, back, 1).await?;
        Ok(rows.first().map(|(_, row)| row.0))
    }

    /// The current state of a room when this event came: not the state before it in the event graph, where
    /// it stands on a fork.
    pub async fn current_state_before(
        &self,
        room_id: &RoomId,
        event: &StoredEvent,
    ) -> Result<StateRoot, ReadError> {
        let head = self.head(room_id).await?;
        match event.index {
            Some(index @ TimelineIndex::Live(_))
                if head.is_some_and(|head| head.forks.has_current_states) =>
            {
                self.state_at(room_id, TimelineToken::before(index)).await
            }
            _ => Ok(event.header.state_before),
        }
    }

    fn collect(
        &self,
        room_id: &RoomId,
        tree: NodeId,
        ordinals: &mut Vec<EventOrdinal>,
    ) -> Result<(), ReadError> {
        walk(&self.nodes(room_id), tree, 0, &mut |_, ordinal| {
            ordinals.push(ordinal);
            ControlFlow::Continue(())
        })?;
        Ok(())
    }
}
