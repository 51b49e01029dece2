//! What a local user wants to send, before anything is known about the room.

use hearth_types::limits::MAX_ID_BYTES;
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId,
    events::TimelineEventType,
};
use serde_json::value::RawValue;

use super::content::parse_object;
use crate::error::RoomError;

/// An event as its sender asks for it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// A local user, already authenticated.
    pub sender: OwnedUserId,
    /// The event's type.
    pub event_type: TimelineEventType,
    /// The content, as the client sent it.
    pub content: Box<RawValue>,
    /// The state key; `None` for message-like events.
    pub state_key: Option<String>,
    /// The target of an `m.room.redaction`, if it is not named in the content.
    pub redacts: Option<OwnedEventId>,
    /// The time that the event shall carry, where the sender may choose it (application services).
    pub origin_server_ts: Option<MilliSecondsSinceUnixEpoch>,
}

impl Draft {
    /// A message-like event.
    #[must_use]
    pub fn message(
        sender: OwnedUserId,
        event_type: TimelineEventType,
        content: Box<RawValue>,
    ) -> Self {
        Self { sender, event_type, content, state_key: None, redacts: None, origin_server_ts: None }
    }

    /// A state event.
    #[must_use]
    pub fn state(
        sender: OwnedUserId,
        event_type: TimelineEventType,
        state_key: String,
        content: Box<RawValue>,
    ) -> Self {
        Self { state_key: Some(state_key), ..Self::message(sender, event_type, content) }
    }

    /// Checks what needs no room: identifiers' lengths and that the content is canonical JSON.
    pub(crate) fn check(&self) -> Result<CanonicalJsonObject, RoomError> {
        check_event_key(&self.event_type.to_string(), self.state_key.as_deref())?;
        parse_object(&self.content)
    }
}

/// Checks the length of a type and a state key (CS "Size limits").
pub(crate) fn check_event_key(event_type: &str, state_key: Option<&str>) -> Result<(), RoomError> {
    let state_key = state_key.unwrap_or_default();
    if event_type.len() > MAX_ID_BYTES || state_key.len() > MAX_ID_BYTES {
        return Err(RoomError::TooLarge);
    }
    // Zero bytes are escaped to two in the store's keys.
    if event_type.contains('\0') || state_key.contains('\0') {
        return Err(RoomError::InvalidParam("types and state keys hold no zero bytes".to_owned()));
    }
    Ok(())
}
