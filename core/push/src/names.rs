//! What people call the rooms and senders of notifications.

use std::sync::Arc;

use hearth_rooms::{schema::StoredEvent, state::StateRoot};
use hearth_types::Pdu;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{PushError, payload::Names, service::Inner};

/// Senders in rooms whose names are remembered: all pushers of a room are told the same.
const MAX_REMEMBERED: usize = 10_000;

/// Names as of a state of the room.
#[derive(Debug)]
pub(crate) struct NamesCache(Cache<(OwnedRoomId, OwnedUserId), (StateRoot, Names)>);

impl NamesCache {
    pub(crate) fn new() -> Self {
        Self(Cache::new(MAX_REMEMBERED))
    }
}

/// Names in the contents of state events.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    displayname: Option<String>,
    name: Option<String>,
    alias: Option<String>,
}

impl Inner {
    /// What people call the room and a sender, as the room is now.
    pub(crate) async fn names_of(
        &self,
        room_id: &RoomId,
        sender: &UserId,
    ) -> Result<Names, PushError> {
        let Some(head) = self.parts.rooms.head(room_id).await? else {
            return Ok(Names::default());
        };
        let key = (room_id.to_owned(), sender.to_owned());
        if let Some((state, names)) = self.names.0.get(&key)
            && state == head.state
        {
            return Ok(names);
        }
        let names = self.read_names(room_id, sender, head.state).await?;
        self.names.0.insert(key, (head.state, names.clone()));
        Ok(names)
    }

    async fn read_names(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        state: StateRoot,
    ) -> Result<Names, PushError> {
        let rooms = &self.parts.rooms;
        let event = |kind, key| rooms.state_event(room_id, state, kind, key);
        let member = event("m.room.member", sender.as_str()).await?;
        let name = event("m.room.name", "").await?;
        let alias = event("m.room.canonical_alias", "").await?;
        let text = |event: Option<Arc<StoredEvent>>| {
            event.and_then(|event| event.pdu.content_as::<Named>().ok()).unwrap_or_default()
        };
        Ok(Names {
            sender: text(member).displayname,
            room: text(name).name.filter(|name| !name.is_empty()),
            alias: text(alias).alias,
        })
    }
}

/// The names that an invitation came with.
pub(crate) fn names_in(stripped: &[Box<RawValue>], event: &Pdu) -> Names {
    #[derive(Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        content: Named,
    }
    let mut names = Names::default();
    for state in stripped {
        let Ok(state) = serde_json::from_str::<Stripped>(state.get()) else { continue };
        match (state.kind.as_str(), state.state_key.as_str()) {
            ("m.room.name", "") => names.room = state.content.name,
            ("m.room.canonical_alias", "") => names.alias = state.content.alias,
            ("m.room.member", key) if key == event.sender() => {
                names.sender = state.content.displayname;
            }
            _ => {}
        }
    }
    names
}
