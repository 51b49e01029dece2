//! Events as servers exchange them.

use bytes::Bytes;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::TimelineEventType, state_res::Event,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// One event of a room in its federation form, parsed once and never changed.
///
/// The canonical bytes are kept beside the parsed fields, so that the event is stored and served as it
/// was signed. Fields that only readers for clients want (`unsigned`, `hashes`, `signatures`) stay in
/// the bytes.
#[derive(Clone, Debug)]
pub struct Pdu {
    event_id: OwnedEventId,
    json: Bytes,
    fields: Fields,
    rejected: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Fields {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(rename = "type")]
    event_type: TimelineEventType,
    content: Box<RawValue>,
    state_key: Option<String>,
    #[serde(default)]
    prev_events: Vec<OwnedEventId>,
    #[serde(default)]
    auth_events: Vec<OwnedEventId>,
    redacts: Option<OwnedEventId>,
    #[serde(default)]
    depth: u64,
}

/// The part of a content that names a redaction's target from room version 11 on.
#[derive(Deserialize)]
struct RedactionContent {
    redacts: Option<OwnedEventId>,
}

/// Bytes that are not an event.
#[derive(Debug, thiserror::Error)]
#[error("not an event: {0}")]
pub struct PduError(#[from] serde_json::Error);

impl Pdu {
    /// Reads an event from its canonical JSON. The ID is the caller's: it is computed from the bytes
    /// by whoever proved them, or was stored beside them.
    pub fn parse(event_id: OwnedEventId, json: Bytes) -> Result<Self, PduError> {
        let mut fields: Fields = serde_json::from_slice(&json)?;
        if fields.event_type == TimelineEventType::RoomRedaction && fields.redacts.is_none() {
            // From room version 11 on the target is inside the content (rooms/v11 "Redactions").
            fields.redacts = serde_json::from_str::<RedactionContent>(fields.content.get())
                .ok()
                .and_then(|content| content.redacts);
        }
        Ok(Self { event_id, json, fields, rejected: false })
    }

    /// The same event, marked as rejected by the authorization rules.
    #[must_use]
    pub fn into_rejected(mut self) -> Self {
        self.rejected = true;
        self
    }

    /// The event's ID.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.event_id
    }

    /// The event's canonical JSON, as signed.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The `room_id` field; a create event of room version 12 has none.
    #[must_use]
    pub fn room_id_field(&self) -> Option<&RoomId> {
        self.fields.room_id.as_deref()
    }

    /// The user who sent the event.
    #[must_use]
    pub fn sender(&self) -> &UserId {
        &self.fields.sender
    }

    /// The sender's server's time when the event was made.
    #[must_use]
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.fields.origin_server_ts
    }

    /// The event's type.
    #[must_use]
    pub fn kind(&self) -> &TimelineEventType {
        &self.fields.event_type
    }

    /// The event's content.
    #[must_use]
    pub fn content(&self) -> &RawValue {
        &self.fields.content
    }

    /// The content as a type of the caller's choice.
    pub fn content_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.fields.content.get())
    }

    /// The state key; `None` for message-like events.
    #[must_use]
    pub fn state_key(&self) -> Option<&str> {
        self.fields.state_key.as_deref()
    }

    /// The events that this one follows.
    #[must_use]
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.fields.prev_events
    }

    /// The events that allow this one.
    #[must_use]
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.fields.auth_events
    }

    /// The target of a redaction event, wherever the room version puts it.
    #[must_use]
    pub fn redacts(&self) -> Option<&EventId> {
        self.fields.redacts.as_deref()
    }

    /// The event's distance from the room's creation, as its sender claims it.
    #[must_use]
    pub fn depth(&self) -> u64 {
        self.fields.depth
    }

    /// Was the event rejected by the authorization rules?
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.rejected
    }
}

impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id_field()
    }

    fn sender(&self) -> &UserId {
        &self.fields.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.fields.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.fields.event_type
    }

    fn content(&self) -> &RawValue {
        &self.fields.content
    }

    fn state_key(&self) -> Option<&str> {
        self.fields.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.fields.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.fields.auth_events.iter())
    }

    fn redacts(&self) -> Option<&Self::Id> {
        self.fields.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;

    use super::*;

    fn parse(json: &str) -> Result<Pdu, PduError> {
        Pdu::parse(owned_event_id!("$one"), Bytes::copy_from_slice(json.as_bytes()))
    }

    #[test]
    fn reads_the_target_of_a_redaction_from_either_place() {
        let old = r#"{"content":{},"origin_server_ts":1,"redacts":"$old","sender":"@a:b","type":"m.room.redaction"}"#;
        let new = r#"{"content":{"redacts":"$new"},"origin_server_ts":1,"sender":"@a:b","type":"m.room.redaction"}"#;
        let other =
            r#"{"content":{"redacts":"$new"},"origin_server_ts":1,"sender":"@a:b","type":"x"}"#;
        let target = |json| parse(json).unwrap().redacts().map(ToString::to_string);
        assert_eq!(target(old).as_deref(), Some("$old"));
        assert_eq!(target(new).as_deref(), Some("$new"));
        assert_eq!(target(other), None);
    }

    #[test]
    fn refuses_what_is_not_an_event() {
        assert!(parse(r#"{"content":{}}"#).is_err());
        assert!(parse("[]").is_err());
    }
}
