//! What the endpoints that answer with events share: shaping events for their reader, and writing
//! bodies around JSON that is already text.

use std::{collections::HashSet, sync::Arc};

use hearth_http::{MatrixError, RawJson};
use hearth_rooms::{StoredEvent, format::ClientView};
use ruma::{OwnedUserId, RoomId};
use serde_json::value::RawValue;

use crate::{ApiError, ClientApi, LocalUser};

/// Events as text.
pub(crate) type Chunk = Vec<Box<RawValue>>;

/// Events in the form that clients of this user see, with `room_id` and bundled aggregations.
pub(crate) async fn client_events(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    events: &[Arc<StoredEvent>],
) -> Result<Chunk, ApiError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let ignored = ignored(app, caller).await?;
    let view = ClientView::full(caller.user_id(), Some(caller.device_id())).ignoring(&ignored);
    Ok(app.rooms().client_events(room_id, events, &view).await?)
}

/// Whom the caller does not want to hear.
pub(crate) async fn ignored(
    app: &ClientApi,
    caller: &LocalUser,
) -> Result<Arc<HashSet<OwnedUserId>>, ApiError> {
    Ok(app.users().ignored_users(caller.user_id()).await?)
}

/// A JSON object under construction.
pub(crate) struct Body(String);

/// An empty object.
pub(crate) fn body() -> Body {
    Body("{".to_owned())
}

impl Body {
    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    /// A field with a JSON text.
    pub(crate) fn raw(&mut self, key: &str, value: &RawValue) {
        self.key(key);
        self.0.push_str(value.get());
    }

    /// A field with a string.
    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        // Strings always serialize.
        self.0.push_str(&serde_json::to_string(value).unwrap_or_default());
    }

    /// A field with a number.
    pub(crate) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.0.push_str(&value.to_string());
    }

    /// A field with a list of events.
    pub(crate) fn events(&mut self, key: &str, events: &[Box<RawValue>]) {
        self.key(key);
        self.0.push('[');
        push_events(&mut self.0, events);
        self.0.push(']');
    }

    /// The object with the members that another one's text has behind its opening brace.
    pub(crate) fn rest(mut self, rest: &str) -> Result<Box<RawValue>, MatrixError> {
        if self.0.len() > 1 && !rest.trim_start().starts_with('}') {
            self.0.push(',');
        }
        self.0.push_str(rest);
        RawValue::from_string(self.0).map_err(|error| MatrixError::internal(&error))
    }

    /// The object as a part of another.
    pub(crate) fn into_raw(mut self) -> Result<Box<RawValue>, MatrixError> {
        self.0.push('}');
        RawValue::from_string(self.0).map_err(|error| MatrixError::internal(&error))
    }

    /// The answer.
    pub(crate) fn finish(mut self) -> RawJson {
        self.0.push('}');
        RawJson(self.0.into())
    }
}

/// A list of events as the whole answer.
pub(crate) fn list(events: &[Box<RawValue>]) -> RawJson {
    let mut text = "[".to_owned();
    push_events(&mut text, events);
    text.push(']');
    RawJson(text.into())
}

fn push_events(text: &mut String, events: &[Box<RawValue>]) {
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(event.get());
    }
}
