//! What filters ask of rooms: type, encryption, name, parents. Remembered for all members of a room
//! together, for as long as its state (members aside) stays the same.

use std::{collections::HashSet, sync::Arc};

use hearth_rooms::{
    read::StatePart,
    schema::{Membership, UserRoomRow},
    state::{NodeId, StateRoot},
};
use hearth_types::StreamPosition;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::TimelineEventType};
use serde::Deserialize;

use crate::{SyncError, service::Inner};

/// Rooms of which this is remembered.
const MAX_ROOMS: usize = 100_000;
/// Invitations (and the like) of which this is remembered.
const MAX_OUTSIDE: usize = 10_000;
/// Children that are taken from one space.
const MAX_CHILDREN: usize = 5_000;

/// What is remembered.
pub(crate) struct FacetCache {
    /// A room's type never changes.
    types: Cache<OwnedRoomId, Option<Arc<str>>>,
    states: Cache<OwnedRoomId, (NodeId, StateFacets)>,
    /// Of rooms that a user knows from outside, by the position of their membership.
    outside: Cache<(OwnedUserId, OwnedRoomId), (StreamPosition, OutsideFacets)>,
}

/// What filters ask of a room's state.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateFacets {
    pub(crate) encrypted: bool,
    /// In lower case.
    pub(crate) name: Option<Arc<str>>,
}

/// What filters ask of what an invited user is told.
#[derive(Clone, Debug, Default)]
struct OutsideFacets {
    /// The room's type.
    kind: Option<Arc<str>>,
    state: StateFacets,
}

impl FacetCache {
    pub(crate) fn new() -> Self {
        Self {
            types: Cache::new(MAX_ROOMS),
            states: Cache::new(MAX_ROOMS),
            outside: Cache::new(MAX_OUTSIDE),
        }
    }
}

/// What is asked of an event, stripped or not.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    content: Content,
}

#[derive(Default, Deserialize)]
struct Content {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
}

impl Inner {
    /// The room's type (CS "Types"), as this user knows it.
    pub(crate) async fn room_type(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<Option<Arc<str>>, SyncError> {
        if is_outside(row) {
            return Ok(self.outside_facets(user_id, room_id, row).await?.kind);
        }
        if let Some(known) = self.sliding.facets.types.get(room_id) {
            return Ok(known);
        }
        let create =
            self.rooms.state_event(room_id, row.details.state, "m.room.create", "").await?;
        let content = create.and_then(|event| event.pdu.content_as::<Content>().ok());
        let kind: Option<Arc<str>> = content.and_then(|content| content.kind).map(Arc::from);
        self.sliding.facets.types.insert(room_id.to_owned(), kind.clone());
        Ok(kind)
    }

    /// What the room's state says to filters, as this user knows it.
    pub(crate) async fn state_facets(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<StateFacets, SyncError> {
        if is_outside(row) {
            return Ok(self.outside_facets(user_id, room_id, row).await?.state);
        }
        let root = match row.details.membership {
            Membership::Join => self.rooms.head(room_id).await?.map(|head| head.state),
            _ => None,
        };
        let root = root.unwrap_or(row.details.state);
        if let Some((rest, facets)) = self.sliding.facets.states.get(room_id)
            && rest == root.rest
        {
            return Ok(facets);
        }
        let facets = self.read_facets(room_id, root).await?;
        self.sliding.facets.states.insert(room_id.to_owned(), (root.rest, facets.clone()));
        Ok(facets)
    }

    async fn read_facets(
        &self,
        room_id: &RoomId,
        root: StateRoot,
    ) -> Result<StateFacets, SyncError> {
        let encryption = self.rooms.state_ordinal(room_id, root, "m.room.encryption", "").await?;
        let name = self.rooms.state_event(room_id, root, "m.room.name", "").await?;
        let name = name.and_then(|event| event.pdu.content_as::<Content>().ok()?.name);
        Ok(StateFacets {
            encrypted: encryption.is_some(),
            name: name.map(|name| name.to_lowercase().into()),
        })
    }

    /// What a room is to somebody who knows it from outside: the same until their membership changes.
    async fn outside_facets(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<OutsideFacets, SyncError> {
        let cache = &self.sliding.facets.outside;
        let key = (user_id.to_owned(), room_id.to_owned());
        if let Some((position, known)) = cache.get(&key)
            && position == row.position
        {
            return Ok(known);
        }
        let mut facets = OutsideFacets::default();
        for json in self.rooms.stripped_state_for(room_id, user_id, row).await? {
            let Ok(Event { kind, content }) = serde_json::from_str(json.get()) else { continue };
            match &*kind {
                "m.room.create" => facets.kind = content.kind.map(Arc::from),
                "m.room.encryption" => facets.state.encrypted = true,
                "m.room.name" => {
                    facets.state.name = content.name.map(|name| name.to_lowercase().into());
                }
                _ => {}
            }
        }
        cache.insert(key, (row.position, facets.clone()));
        Ok(facets)
    }

    /// The rooms that a space names as its children (CS "m.space.child relationship").
    pub(crate) async fn children_of(
        &self,
        space_id: &RoomId,
    ) -> Result<HashSet<OwnedRoomId>, SyncError> {
        #[derive(Deserialize)]
        struct Child {
            via: Vec<String>,
        }
        let Some(head) = self.rooms.head(space_id).await? else { return Ok(HashSet::new()) };
        let events = self.rooms.state_events(space_id, head.state, StatePart::Rest).await?;
        let children = events.iter().filter(|event| {
            *event.pdu.kind() == TimelineEventType::SpaceChild
                && event.pdu.content_as::<Child>().is_ok_and(|child| !child.via.is_empty())
        });
        let keys = children.filter_map(|event| event.pdu.state_key()?.try_into().ok());
        Ok(keys.take(MAX_CHILDREN).collect())
    }
}

/// Does the user know the room from outside only?
fn is_outside(row: &UserRoomRow) -> bool {
    row.details.is_out_of_band()
        || matches!(row.details.membership, Membership::Invite | Membership::Knock)
}
