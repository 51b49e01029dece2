//! The room summary: heroes and counts (CS "GET /sync", `RoomSummary`).

use std::{ops::ControlFlow, sync::Arc};

use hearth_rooms::{
    Rooms,
    schema::{EventOrdinal, Membership, RoomHead, StoredEvent},
    state::{StateRoot, walk},
};
use ruma::{RoomId, UserId};
use serde::Deserialize;

use crate::{SyncError, body::Object};

/// Heroes that a summary names.
const MAX_HEROES: usize = 5;
/// Members that are looked at for heroes, in the order of their first arrival.
const MAX_CANDIDATES: usize = 200;

/// A room's summary.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Membership events of the heroes; `None` if the room has a name or an alias.
    pub(crate) heroes: Option<Vec<Arc<StoredEvent>>>,
    joined: u64,
    invited: u64,
}

impl Summary {
    pub(crate) fn heroes(&self) -> &[Arc<StoredEvent>] {
        self.heroes.as_deref().unwrap_or_default()
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        if let Some(heroes) = &self.heroes {
            let ids: Vec<&str> = heroes.iter().filter_map(|event| event.pdu.state_key()).collect();
            object.member("m.heroes", &ids);
        }
        object.member("m.joined_member_count", &self.joined);
        object.member("m.invited_member_count", &self.invited);
        object.end();
    }
}

/// The summary of a room in this state, if it differs from that of the state that the client knows.
pub(crate) async fn summary(
    rooms: &Rooms,
    room_id: &RoomId,
    user_id: &UserId,
    head: &RoomHead,
    known: Option<StateRoot>,
    now: StateRoot,
) -> Result<Option<Summary>, SyncError> {
    let changed = match known {
        None => true,
        Some(known) => {
            known.members != now.members
                || (known.rest != now.rest && name_changed(rooms, room_id, known, now).await?)
        }
    };
    if !changed {
        return Ok(None);
    }
    let heroes = if is_named(rooms, room_id, now).await? {
        None
    } else {
        Some(heroes(rooms, room_id, user_id, now).await?)
    };
    Ok(Some(Summary { heroes, joined: head.joined_members, invited: head.invited_members }))
}

const NAMING_TYPES: [&str; 2] = ["m.room.name", "m.room.canonical_alias"];

async fn name_changed(
    rooms: &Rooms,
    room_id: &RoomId,
    known: StateRoot,
    now: StateRoot,
) -> Result<bool, SyncError> {
    for event_type in NAMING_TYPES {
        let before = rooms.state_ordinal(room_id, known, event_type, "").await?;
        if before != rooms.state_ordinal(room_id, now, event_type, "").await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Has the room a name or a canonical alias? Then clients need no heroes to call it something.
async fn is_named(rooms: &Rooms, room_id: &RoomId, root: StateRoot) -> Result<bool, SyncError> {
    #[derive(Deserialize)]
    struct Naming {
        #[serde(default, alias = "alias")]
        name: Option<String>,
    }
    for event_type in NAMING_TYPES {
        let event = rooms.state_event(room_id, root, event_type, "").await?;
        let naming = event.and_then(|event| event.pdu.content_as::<Naming>().ok());
        if naming.and_then(|naming| naming.name).is_some_and(|name| !name.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first five members by arrival, joined or invited ones before those who left; never the reader.
pub(crate) async fn heroes(
    rooms: &Rooms,
    room_id: &RoomId,
    user_id: &UserId,
    root: StateRoot,
) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
    let mut candidates: Vec<EventOrdinal> = Vec::new();
    walk(&rooms.nodes(room_id), root.members, 0, &mut |_, ordinal| {
        candidates.push(ordinal);
        if candidates.len() < MAX_CANDIDATES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .map_err(hearth_rooms::RoomError::from)?;
    let (mut here, mut gone) = (Vec::new(), Vec::new());
    for chunk in candidates.chunks(16) {
        for event in rooms.events(room_id, chunk).await? {
            if event.pdu.state_key() == Some(user_id.as_str()) {
                continue;
            }
            match Membership::of(&event.pdu) {
                Some(Membership::Join | Membership::Invite) => here.push(event),
                Some(Membership::Leave | Membership::Ban) => gone.push(event),
                Some(Membership::Knock) | None => {}
            }
        }
        if here.len() >= MAX_HEROES {
            break;
        }
    }
    let mut heroes = if here.is_empty() { gone } else { here };
    heroes.truncate(MAX_HEROES);
    Ok(heroes)
}
