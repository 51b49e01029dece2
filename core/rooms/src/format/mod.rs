//! Events as clients see them (CS "Room event format"; "Stripped state").
//!
//! Here is the shape of one event; [`Rooms::client_events`](crate::Rooms::client_events) gathers what
//! goes into `unsigned` for a whole page. Contents are copied from the stored bytes, never parsed.

mod gather;

use std::borrow::Cow;

use hearth_types::Pdu;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, RoomId, TransactionId, UserId, events::TimelineEventType,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

pub use self::gather::ClientView;
pub(crate) use self::gather::{Gatherer, STRIPPED_TYPES};
use crate::{
    RoomError,
    schema::{Membership, StoredEvent},
};

/// What a client is told beside the event itself (CS "UnsignedData").
#[derive(Debug, Default, Serialize)]
pub struct Unsigned<'a> {
    /// Milliseconds since the event was sent.
    pub age: u64,
    /// The reader's membership after the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<&'static str>,
    /// The content of the state event that this one replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_content: Option<&'a RawValue>,
    /// The ID of the state event that this one replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces_state: Option<&'a EventId>,
    /// The redaction that was applied to the event, in client form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redacted_because: Option<Box<RawValue>>,
    /// The reader's own transaction that sent the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<&'a TransactionId>,
    /// The ID that the reader's own event had while it was delayed (MSC4140).
    #[serde(rename = "org.matrix.msc4140.delay_id", skip_serializing_if = "Option::is_none")]
    pub delay_id: Option<&'a TransactionId>,
    /// Bundled aggregations.
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    pub relations: Option<Relations>,
}

/// Bundled aggregations of an event's children (CS "Aggregations of child events").
#[derive(Debug, Default, Serialize)]
pub struct Relations {
    /// The newest valid edit, in client form.
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    pub replace: Option<Box<RawValue>>,
    /// The thread that the event is the root of.
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    pub thread: Option<ThreadSummary>,
    /// The events that refer to the event.
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    pub reference: Option<References>,
}

impl Relations {
    /// Is there nothing to tell?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replace.is_none() && self.thread.is_none() && self.reference.is_none()
    }
}

/// A thread as told with its root.
#[derive(Debug, Serialize)]
pub struct ThreadSummary {
    /// The newest reply, in client form.
    pub latest_event: Box<RawValue>,
    /// How many replies there are, without those of ignored users.
    pub count: u64,
    /// Did the reader send the root or a reply?
    pub current_user_participated: bool,
}

/// The events that refer to an event.
#[derive(Debug, Serialize)]
pub struct References {
    /// One entry for each, oldest first.
    pub chunk: Vec<Reference>,
}

/// One event that refers to another.
#[derive(Debug, Serialize)]
pub struct Reference {
    /// Its ID.
    pub event_id: ruma::OwnedEventId,
}

#[derive(Serialize)]
struct ClientEvent<'a> {
    content: &'a RawValue,
    event_id: &'a EventId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
    unsigned: &'a Unsigned<'a>,
}

/// An event in client form. `room_id` is left out where the response names the room elsewhere (sync).
///
/// Redactions name their target at the top level and in the content, whatever the room version
/// (rooms/v11 "Moving the redacts property").
pub fn client_event(
    event: &StoredEvent,
    room_id: Option<&RoomId>,
    unsigned: &Unsigned<'_>,
) -> Result<Box<RawValue>, RoomError> {
    in_client_form(event, room_id, unsigned, |shape| to_raw_value(shape))
}

/// The same, written behind what stands in `out` already.
pub(crate) fn write_client_event(
    event: &StoredEvent,
    room_id: Option<&RoomId>,
    unsigned: &Unsigned<'_>,
    out: &mut Vec<u8>,
) -> Result<(), RoomError> {
    in_client_form(event, room_id, unsigned, |shape| serde_json::to_writer(out, shape))
}

fn in_client_form<T>(
    event: &StoredEvent,
    room_id: Option<&RoomId>,
    unsigned: &Unsigned<'_>,
    write: impl FnOnce(&ClientEvent<'_>) -> Result<T, serde_json::Error>,
) -> Result<T, RoomError> {
    let pdu = &event.pdu;
    let redacts = pdu.redacts().filter(|_| *pdu.kind() == TimelineEventType::RoomRedaction);
    let content = match redacts {
        Some(target) => content_naming(pdu, target).map_err(internal)?,
        None => Cow::Borrowed(pdu.content()),
    };
    let shape = ClientEvent {
        content: &content,
        event_id: pdu.id(),
        origin_server_ts: pdu.origin_server_ts(),
        redacts,
        room_id,
        sender: pdu.sender(),
        state_key: pdu.state_key(),
        kind: pdu.kind(),
        unsigned,
    };
    write(&shape).map_err(internal)
}

/// A redaction's content with its target in it.
fn content_naming<'a>(
    pdu: &'a Pdu,
    target: &EventId,
) -> Result<Cow<'a, RawValue>, serde_json::Error> {
    let mut fields: serde_json::Map<String, serde_json::Value> = pdu.content_as()?;
    if fields.get("redacts").and_then(|named| named.as_str()) == Some(target.as_str()) {
        return Ok(Cow::Borrowed(pdu.content()));
    }
    fields.insert("redacts".to_owned(), target.as_str().into());
    to_raw_value(&fields).map(Cow::Owned)
}

#[derive(Serialize)]
struct StrippedEvent<'a> {
    content: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<MilliSecondsSinceUnixEpoch>,
    sender: &'a UserId,
    state_key: &'a str,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
}

/// A state event in stripped form (CS "Stripped state").
pub fn stripped_event(event: &StoredEvent) -> Result<Box<RawValue>, RoomError> {
    strip(event, None)
}

/// A state event in stripped form with its `origin_server_ts`, as `/hierarchy` wants it.
pub fn stripped_event_with_time(event: &StoredEvent) -> Result<Box<RawValue>, RoomError> {
    strip(event, Some(event.pdu.origin_server_ts()))
}

fn strip(
    event: &StoredEvent,
    origin_server_ts: Option<MilliSecondsSinceUnixEpoch>,
) -> Result<Box<RawValue>, RoomError> {
    let pdu = &event.pdu;
    let shape = StrippedEvent {
        content: pdu.content(),
        origin_server_ts,
        sender: pdu.sender(),
        state_key: pdu.state_key().unwrap_or_default(),
        kind: pdu.kind(),
    };
    to_raw_value(&shape).map_err(internal)
}

/// A membership in the specification's words.
#[must_use]
pub fn membership_name(membership: Membership) -> &'static str {
    match membership {
        Membership::Invite => "invite",
        Membership::Join => "join",
        Membership::Knock => "knock",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
    }
}

fn internal(error: serde_json::Error) -> RoomError {
    RoomError::Internal(Box::new(error))
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedEventId, owned_event_id, room_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        schema::{EventHeader, Standing},
        state::StateRoot,
    };

    fn stored(event_id: OwnedEventId, event: &Value) -> StoredEvent {
        let bytes = serde_json::to_vec(event).unwrap();
        let header = EventHeader {
            event_id: event_id.clone(),
            state_before: StateRoot::default(),
            state_after: StateRoot::default(),
            auth_events: Vec::new(),
            prev_events: Vec::new(),
            replaces_state: None,
            redacted_by: None,
            transaction: None,
            standing: Standing::Accepted,
        };
        let pdu = Pdu::parse(event_id, bytes.into()).unwrap();
        StoredEvent { ordinal: 7, index: None, header, pdu }
    }

    fn value(raw: &RawValue) -> Value {
        serde_json::from_str(raw.get()).unwrap()
    }

    #[test]
    fn shows_what_clients_may_see_and_nothing_else() {
        let event = stored(
            owned_event_id!("$one"),
            &json!({
                "type": "m.room.topic", "sender": "@a:b", "content": { "topic": "\"x\" \u{1F600}" },
                "origin_server_ts": 5, "state_key": "k\"ey", "room_id": "!r:b", "depth": 9,
                "auth_events": ["$a"], "prev_events": ["$p"], "hashes": { "sha256": "x" },
                "signatures": { "b": { "ed25519:1": "x" } }, "unsigned": { "age": 4 },
            }),
        );
        let unsigned = Unsigned { age: 12, membership: Some("join"), ..Unsigned::default() };
        let shown = client_event(&event, Some(room_id!("!r:b")), &unsigned).unwrap();
        assert_eq!(
            value(&shown),
            json!({
                "type": "m.room.topic", "sender": "@a:b", "content": { "topic": "\"x\" \u{1F600}" },
                "origin_server_ts": 5, "state_key": "k\"ey", "room_id": "!r:b",
                "event_id": "$one", "unsigned": { "age": 12, "membership": "join" },
            })
        );
        let shown = client_event(&event, None, &unsigned).unwrap();
        assert!(value(&shown).get("room_id").is_none());
    }

    #[test]
    fn redactions_name_their_target_twice() {
        let base = json!({ "type": "m.room.redaction", "sender": "@a:b", "origin_server_ts": 5 });
        let (mut old, mut new, mut plain) = (base.clone(), base.clone(), base);
        old["redacts"] = "$x".into();
        old["content"] = json!({ "reason": "spam", "redacts": "$forged" });
        new["content"] = json!({ "reason": "spam", "redacts": "$x" });
        for event in [old, new] {
            let event = stored(owned_event_id!("$one"), &event);
            let shown = value(&client_event(&event, None, &Unsigned::default()).unwrap());
            assert_eq!(shown["redacts"], "$x");
            assert_eq!(shown["content"], json!({ "reason": "spam", "redacts": "$x" }));
        }
        // A redaction that was redacted itself has no target any more.
        plain["content"] = json!({});
        let event = stored(owned_event_id!("$one"), &plain);
        let shown = value(&client_event(&event, None, &Unsigned::default()).unwrap());
        assert!(shown.get("redacts").is_none());
        assert_eq!(shown["content"], json!({}));
    }

    #[test]
    fn stripped_state_is_bare() {
        let event = stored(
            owned_event_id!("$one"),
            &json!({
                "type": "m.room.name", "sender": "@a:b", "content": { "name": "x" },
                "origin_server_ts": 5, "state_key": "", "room_id": "!r:b",
            }),
        );
        let mut bare = json!({
            "type": "m.room.name", "sender": "@a:b", "content": { "name": "x" }, "state_key": "",
        });
        assert_eq!(value(&stripped_event(&event).unwrap()), bare);
        bare["origin_server_ts"] = 5.into();
        assert_eq!(value(&stripped_event_with_time(&event).unwrap()), bare);
    }
}
