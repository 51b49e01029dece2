//! Who a room shows its history to, in each of its states (CS "Room History Visibility").

use std::{borrow::Cow, collections::HashMap};

use ruma::{OwnedRoomId, RoomId};
use serde::Deserialize;

use crate::{
    ReadError, Rooms,
    schema::StoredEvent,
    state::{NodeId, StateKeyOrdinal, StateRoot, get},
};

/// Remembered roots of each tree. More than this and the memory starts anew: pages are long stretches.
const REMEMBERED_ROOTS: usize = 256;

/// The room's `m.room.history_visibility`, `shared` when unset or unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryVisibility {
    /// Anybody may read.
    WorldReadable,
    /// Members may read all that was sent while this held.
    Shared,
    /// From the moment of the invitation.
    Invited,
    /// From the moment of joining.
    Joined,
}

/// What was found out about state trees, by their roots.
#[derive(Debug)]
pub(crate) struct ByRoot<T>(HashMap<NodeId, T>);

impl<T> Default for ByRoot<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy> ByRoot<T> {
    pub(crate) fn get(&self, root: NodeId) -> Option<T> {
        self.0.get(&root).copied()
    }

    pub(crate) fn keep(&mut self, root: NodeId, found: T) {
        if self.0.len() >= REMEMBERED_ROOTS {
            self.0.clear();
        }
        self.0.insert(root, found);
    }
}

/// The history visibility in states of one room. Those of one stretch of history mostly have it, and
/// everything else but their members, in common: it is looked up once for them all.
#[derive(Debug)]
pub(crate) struct VisibilityInStates {
    rooms: Rooms,
    room_id: OwnedRoomId,
    /// The number of its state key, if the room ever set it.
    key: Option<u32>,
    known: ByRoot<HistoryVisibility>,
}

impl VisibilityInStates {
    pub(crate) async fn of(rooms: &Rooms, room_id: &RoomId) -> Result<Self, ReadError> {
        let key = match rooms.state_key(room_id, "m.room.history_visibility", "").await? {
            Some(StateKeyOrdinal::Rest(key)) => Some(key),
            _ => None,
        };
        let (rooms, room_id) = (rooms.clone(), room_id.to_owned());
        Ok(Self { rooms, room_id, key, known: ByRoot::default() })
    }

    /// The history visibility in this state.
    pub(crate) async fn at(&mut self, state: StateRoot) -> Result<HistoryVisibility, ReadError> {
        if let Some(known) = self.known.get(state.rest) {
            return Ok(known);
        }
        let ordinal = match self.key {
            Some(key) => get(&self.rooms.nodes(&self.room_id), state.rest, key)?,
            None => None,
        };
        let visibility = match ordinal {
            Some(ordinal) => visibility_of(&*self.rooms.event(&self.room_id, ordinal).await?),
            None => HistoryVisibility::Shared,
        };
        self.known.keep(state.rest, visibility);
        Ok(visibility)
    }
}

impl HistoryVisibility {
    /// The one of the two that shows more.
    pub(crate) fn or_kinder(self, other: Self) -> Self {
        let rank = |visibility| match visibility {
            Self::WorldReadable => 3,
            Self::Shared => 2,
            Self::Invited => 1,
            Self::Joined => 0,
        };
        if rank(self) >= rank(other) { self } else { other }
    }
}

impl Rooms {
    /// The history visibility in this state.
    pub async fn history_visibility(
        &self,
        room_id: &RoomId,
        root: StateRoot,
    ) -> Result<HistoryVisibility, ReadError> {
        let event = self.state_event(room_id, root, "m.room.history_visibility", "").await?;
        Ok(event.map_or(HistoryVisibility::Shared, |event| visibility_of(&event)))
    }
}

fn visibility_of(event: &StoredEvent) -> HistoryVisibility {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        history_visibility: Cow<'a, str>,
    }
    match event.pdu.content_as::<Content<'_>>().as_ref().map(|c| c.history_visibility.as_ref()) {
        Ok("world_readable") => HistoryVisibility::WorldReadable,
        Ok("invited") => HistoryVisibility::Invited,
        Ok("joined") => HistoryVisibility::Joined,
        _ => HistoryVisibility::Shared,
    }
}
