//! Simplified sliding sync (MSC4186).

mod extensions;
mod filters;
mod lists;
mod many;
mod oracle;
mod outside;
mod replay;
mod state;
mod timelines;
mod unread;
mod waiting;

use std::time::Duration;

use hearth_sync::{SlidingBody, SlidingRequest, SyncError};
use ruma::{OwnedUserId, RoomId, UserId, presence::PresenceState};
use serde_json::{Value, json};

use crate::world::World;

/// One sliding sync connection of a client.
#[derive(Clone)]
pub(crate) struct Phone {
    user_id: OwnedUserId,
    device_id: String,
    pub(crate) body: Value,
    pub(crate) pos: Option<String>,
    pub(crate) timeout: Duration,
    accepted: bool,
}

impl Phone {
    /// A connection that asks this, in the deployed form.
    pub(crate) fn of(user_id: &UserId, body: Value) -> Self {
        let user_id = user_id.to_owned();
        let (device_id, timeout) = ("DEVICE".to_owned(), Duration::ZERO);
        Self { user_id, device_id, body, pos: None, timeout, accepted: false }
    }

    /// The same in the accepted form.
    pub(crate) fn accepted(user_id: &UserId, body: Value) -> Self {
        Self { accepted: true, ..Self::of(user_id, body) }
    }

    pub(crate) fn request(&self) -> SlidingRequest {
        let json = self.body.to_string();
        let body = if self.accepted {
            SlidingBody::accepted(json.as_bytes())
        } else {
            SlidingBody::deployed(json.as_bytes(), &self.user_id)
        };
        SlidingRequest {
            user_id: self.user_id.clone(),
            device_id: self.device_id.as_str().into(),
            body: body.unwrap(),
            pos: self.pos.clone(),
            timeout: self.timeout,
            set_presence: PresenceState::Offline,
        }
    }

    /// Asks without taking the answer in, as if it was lost.
    pub(crate) async fn try_ask(&self, world: &World) -> Result<Value, SyncError> {
        let response = world.sync.sliding(self.request()).await?;
        Ok(serde_json::from_slice(&response.body).unwrap())
    }

    /// Asks and takes the answer in.
    pub(crate) async fn ask(&mut self, world: &World) -> Value {
        let answer = self.try_ask(world).await.unwrap();
        self.take(&answer);
        answer
    }

    pub(crate) fn take(&mut self, answer: &Value) {
        self.pos = Some(answer["pos"].as_str().unwrap().to_owned());
    }
}

/// A request with one list of these rooms.
pub(crate) fn window(first: u64, last: u64) -> Value {
    json!({"lists": {"all": {
        "ranges": [[first, last]],
        "timeline_limit": 3,
        "required_state": [["m.room.create", ""], ["m.room.name", ""]],
    }}})
}

/// A request with one subscription.
pub(crate) fn subscription(room_id: &RoomId, limit: u64, required: &Value) -> Value {
    let config = json!({"timeline_limit": limit, "required_state": required});
    json!({"room_subscriptions": {room_id.as_str(): config}})
}

pub(crate) fn room<'a>(answer: &'a Value, room_id: &RoomId) -> &'a Value {
    &answer["rooms"][room_id.as_str()]
}

/// IDs of the rooms in an answer, in no particular order.
pub(crate) fn rooms(answer: &Value) -> Vec<String> {
    answer["rooms"].as_object().unwrap().keys().cloned().collect()
}

/// Bodies of messages, or types and memberships.
pub(crate) fn words(events: &Value) -> Vec<String> {
    let word = |event: &Value| {
        let content = &event["content"];
        let word = match event["type"].as_str().unwrap() {
            "m.room.message" => content["body"].as_str().unwrap_or("[redacted]").to_owned(),
            "m.room.member" => {
                format!("{} {}", event["state_key"].as_str().unwrap(), content["membership"])
                    .replace('"', "")
            }
            kind => kind.to_owned(),
        };
        word.replace(":x", "")
    };
    events.as_array().unwrap().iter().map(word).collect()
}

/// The same, sorted.
pub(crate) fn sorted(events: &Value) -> Vec<String> {
    let mut words = words(events);
    words.sort();
    words
}

/// Nothing new.
pub(crate) fn is_quiet(answer: &Value) -> bool {
    rooms(answer).is_empty()
}
