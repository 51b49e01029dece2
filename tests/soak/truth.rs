//! What really happened in a room, as the watcher reads it at the end, and who may know of it.

use std::collections::HashMap;

use serde_json::Value;

use crate::{
    api,
    device::{list, text},
    world::World,
};

pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) sender: String,
    pub(crate) json: Value,
    /// The history visibility before the event.
    visibility: String,
    /// The same after it.
    visibility_after: String,
}

impl Event {
    pub(crate) fn is_state(&self) -> bool {
        self.json.get("state_key").is_some()
    }

    pub(crate) fn is_redacted(&self) -> bool {
        self.json["unsigned"].get("redacted_because").is_some()
    }

    fn membership_of(&self, user_id: &str) -> Option<String> {
        let own = self.json["type"] == "m.room.member" && self.json["state_key"] == *user_id;
        own.then(|| text(&self.json["content"]["membership"]))
    }
}

/// A room's whole timeline.
pub(crate) struct Truth {
    pub(crate) events: Vec<Event>,
    pub(crate) places: HashMap<String, usize>,
}

/// One user's way through a room.
pub(crate) struct Stay<'a> {
    truth: &'a Truth,
    user_id: String,
    /// The membership before each event, and after the last.
    before: Vec<String>,
    /// The place of the last event before or at which the user was joined.
    last_inside: Option<usize>,
}

impl Truth {
    pub(crate) async fn read(world: &World, room_id: &str) -> Self {
        let mut events: Vec<Event> = Vec::new();
        let mut places = HashMap::new();
        let mut from = String::new();
        let mut visibility = "shared".to_owned();
        loop {
            let path = api::room(room_id, &format!("messages?dir=f&limit=100{from}"));
            let page = api::get(world, &world.watcher, &path).await;
            for event in list(&page["chunk"]) {
                let id = text(&event["event_id"]);
                let before = visibility.clone();
                if event["type"] == "m.room.history_visibility" {
                    visibility = text(&event["content"]["history_visibility"]);
                }
                if places.insert(id.clone(), events.len()).is_some() {
                    world.fail(format!("{id} is in the timeline of {room_id} twice"));
                }
                events.push(Event {
                    id,
                    sender: text(&event["sender"]),
                    json: event.clone(),
                    visibility: before,
                    visibility_after: visibility.clone(),
                });
            }
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        Self { events, places }
    }

    pub(crate) fn stay(&self, user_id: &str) -> Stay<'_> {
        let mut membership = String::new();
        let mut before = Vec::with_capacity(self.events.len() + 1);
        let mut last_inside = None;
        for (place, event) in self.events.iter().enumerate() {
            before.push(membership.clone());
            if membership == "join" {
                last_inside = Some(place);
            }
            if let Some(next) = event.membership_of(user_id) {
                membership = next;
                if membership == "join" {
                    last_inside = Some(place);
                }
            }
        }
        before.push(membership);
        Stay { truth: self, user_id: user_id.to_owned(), before, last_inside }
    }
}

impl Stay<'_> {
    pub(crate) fn membership(&self) -> &str {
        self.before.last().map_or("", String::as_str)
    }

    /// The place of the last event that the user was in the room for.
    pub(crate) fn last_inside(&self) -> Option<usize> {
        self.last_inside
    }

    /// Where the present membership began.
    pub(crate) fn joined_at(&self) -> Option<usize> {
        (self.membership() == "join").then(|| {
            let last_out = self.before.iter().rposition(|membership| membership != "join");
            last_out.unwrap_or_default()
        })
    }

    /// The user was in the room, or the event is their own joining or leaving.
    pub(crate) fn must_see(&self, place: usize) -> bool {
        self.before[place] == "join"
            || self.truth.events[place].membership_of(&self.user_id).as_deref() == Some("join")
    }

    pub(crate) fn may_see(&self, place: usize) -> bool {
        let event = &self.truth.events[place];
        if event.membership_of(&self.user_id).is_some() || self.must_see(place) {
            return true;
        }
        let by = |visibility: &str| match visibility {
            "world_readable" => true,
            "shared" => self.last_inside.is_some_and(|last| place <= last),
            "invited" => self.before[place] == "invite",
            _ => false,
        };
        by(&event.visibility) || by(&event.visibility_after)
    }
}
