//! The answers of `/sync` taken apart. Events stay the text that they are, as far as possible.

use std::collections::BTreeMap;

use hearth_http::MatrixError;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::routes::events::{Chunk, body};

/// A response of `/sync`, as far as it has a place in the older endpoints.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) presence: Events,
    pub(super) account_data: Events,
    pub(super) rooms: Rooms,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Rooms {
    pub(super) join: BTreeMap<OwnedRoomId, Section>,
    pub(super) invite: BTreeMap<OwnedRoomId, Stripped>,
    pub(super) knock: BTreeMap<OwnedRoomId, Stripped>,
    pub(super) leave: BTreeMap<OwnedRoomId, Section>,
}

/// A room that the user is in, or was.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Section {
    pub(super) timeline: Timeline,
    pub(super) state_after: Events,
    pub(super) ephemeral: Events,
    pub(super) account_data: Events,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Timeline {
    pub(super) events: Chunk,
    pub(super) prev_batch: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Events {
    pub(super) events: Chunk,
}

/// An event, and who sent it.
type SentEvent = (Box<RawValue>, Option<String>);

/// A room that the user is asked into, or asks to be let into.
#[derive(Deserialize)]
pub(super) struct Stripped {
    #[serde(alias = "invite_state", alias = "knock_state")]
    state: Events,
}

impl Stripped {
    /// The membership event that it is about, and who sent it.
    pub(super) fn membership(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<SentEvent>, MatrixError> {
        for event in &self.state.events {
            let mut event: Map<String, Value> = parsed(event.get().as_bytes())?;
            let is = |field, value| event.get(field).and_then(Value::as_str) == Some(value);
            if is("type", "m.room.member") && is("state_key", user_id.as_str()) {
                let sender = event.get("sender").and_then(Value::as_str).map(ToOwned::to_owned);
                event.insert("room_id".to_owned(), json!(room_id));
                return Ok(Some((raw(&event)?, sender)));
            }
        }
        Ok(None)
    }
}

impl Answer {
    pub(super) fn read(text: &[u8]) -> Result<Self, MatrixError> {
        parsed(text)
    }

    /// Everything as one list of events, each with its room.
    pub(super) fn chunk(&self, user_id: &UserId) -> Result<Chunk, MatrixError> {
        let mut chunk = self.presence()?;
        chunk.extend(self.account_data.events.iter().cloned());
        for (room_id, section) in self.rooms.join.iter().chain(&self.rooms.leave) {
            for events in
                [&section.timeline.events, &section.ephemeral.events, &section.account_data.events]
            {
                chunk.extend(in_room(room_id, events)?);
            }
        }
        for (room_id, stripped) in self.rooms.invite.iter().chain(&self.rooms.knock) {
            let event = stripped.membership(room_id, user_id)?;
            chunk.extend(event.map(|(event, _)| event));
        }
        Ok(chunk)
    }

    /// Presence, with its user also in the content, where these endpoints have it.
    pub(super) fn presence(&self) -> Result<Chunk, MatrixError> {
        let events = self.presence.events.iter().map(|event| {
            let mut event: Map<String, Value> = parsed(event.get().as_bytes())?;
            let sender = event.get("sender").cloned();
            let content = event.get_mut("content").and_then(Value::as_object_mut);
            if let (Some(sender), Some(content)) = (sender, content) {
                content.insert("user_id".to_owned(), sender);
            }
            raw(&event)
        });
        events.collect()
    }
}

/// The same events with the room's ID, which `/sync` leaves out.
pub(super) fn in_room(room_id: &RoomId, events: &[Box<RawValue>]) -> Result<Chunk, MatrixError> {
    let events = events.iter().map(|event| {
        let Some(rest) = event.get().trim_start().strip_prefix('{') else {
            return Ok(event.clone());
        };
        let mut with_room = body();
        with_room.text("room_id", room_id.as_str());
        with_room.rest(rest)
    });
    events.collect()
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, MatrixError> {
    serde_json::from_slice(text).map_err(|error| MatrixError::internal(&error))
}

fn raw(value: &Map<String, Value>) -> Result<Box<RawValue>, MatrixError> {
    to_raw_value(value).map_err(|error| MatrixError::internal(&error))
}
