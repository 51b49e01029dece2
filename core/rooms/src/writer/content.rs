//! What the server reads in contents: relations, mentions, and whether an event notifies.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedUserId, UserId,
    canonical_json::try_from_json_map,
};
use serde_json::value::RawValue;

use crate::error::RoomError;

/// Levels of arrays and objects that a content may have. Parsers of whole events and responses add
/// a few of their own and stop at 128.
const MAX_DEPTH: usize = 100;
/// Users who are told of one event that mentions them; further ones are not.
pub(crate) const MAX_MENTIONS: usize = 200;
/// The longest relation type that is indexed, in bytes.
const MAX_REL_TYPE_BYTES: usize = 128;
/// The longest annotation key that is guarded against duplicates, in bytes.
const MAX_ANNOTATION_KEY_BYTES: usize = 200;
/// Bytes of the parent's ID and of "type key" of an indexed annotation: with the sender's and the
/// room's IDs they fit into a key of the store.
const MAX_ANNOTATION_BYTES: usize = 490;

/// Reads an object as canonical JSON: no floats, no integers beyond 53 bits, bounded depth.
pub(crate) fn parse_object(json: &RawValue) -> Result<CanonicalJsonObject, RoomError> {
    let map = serde_json::from_str(json.get())
        .map_err(|error| RoomError::BadJson(format!("the content is not an object: {error}")))?;
    let object = try_from_json_map(map).map_err(|error| RoomError::BadJson(error.to_string()))?;
    if object.values().all(|value| is_shallow(value, MAX_DEPTH)) {
        Ok(object)
    } else {
        Err(RoomError::BadJson(format!("more than {MAX_DEPTH} levels of JSON")))
    }
}

/// Turns a JSON literal of this server's own making into an object.
pub(crate) fn to_object(value: serde_json::Value) -> Result<CanonicalJsonObject, RoomError> {
    match CanonicalJsonValue::try_from(value) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        Ok(_) => Err(RoomError::BadJson("not an object".to_owned())),
        Err(error) => Err(RoomError::BadJson(error.to_string())),
    }
}

fn is_shallow(value: &CanonicalJsonValue, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else {
        return false;
    };
    match value {
        CanonicalJsonValue::Array(items) => items.iter().all(|item| is_shallow(item, below)),
        CanonicalJsonValue::Object(map) => map.values().all(|item| is_shallow(item, below)),
        _ => true,
    }
}

/// A relation to another event (CS "Forming relationships between events").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    /// The relation's type.
    pub(crate) rel_type: String,
    /// The event related to.
    pub(crate) parent: OwnedEventId,
    /// The key of an annotation.
    pub(crate) key: Option<String>,
}

impl Relation {
    fn of(content: &CanonicalJsonObject) -> Option<Self> {
        let relates_to = content.get("m.relates_to")?.as_object()?;
        let rel_type = relates_to.get("rel_type")?.as_str()?;
        let parent = EventId::parse(relates_to.get("event_id")?.as_str()?).ok()?;
        let has_zero = rel_type.contains('\0') || parent.as_str().contains('\0');
        if rel_type.len() > MAX_REL_TYPE_BYTES || has_zero {
            return None;
        }
        let key = relates_to.get("key").and_then(CanonicalJsonValue::as_str).map(str::to_owned);
        Some(Self { rel_type: rel_type.to_owned(), parent, key })
    }

    /// Is the event part of a thread?
    pub(crate) fn is_thread(&self) -> bool {
        self.rel_type == "m.thread"
    }

    /// What tells this annotation from the sender's others to the same event.
    pub(crate) fn annotation(&self, event_type: &str) -> Option<String> {
        let key = self.key.as_ref().filter(|_| self.rel_type == "m.annotation")?;
        let bytes = self.parent.as_str().len() + event_type.len() + key.len();
        let indexed = key.len() <= MAX_ANNOTATION_KEY_BYTES
            && bytes <= MAX_ANNOTATION_BYTES
            && !key.contains('\0')
            && !event_type.contains('\0');
        indexed.then(|| format!("{event_type} {key}"))
    }
}

/// What a content says to the rows beside its event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The event related to.
    pub(crate) relation: Option<Relation>,
    /// Does it notify by the default push rules, as far as the content alone decides?
    pub(crate) notifies: bool,
    /// Users mentioned, at most [`MAX_MENTIONS`].
    pub(crate) mentions: Vec<OwnedUserId>,
    /// Is the whole room mentioned? Counts only if the sender may.
    pub(crate) mentions_room: bool,
    /// Does it highlight for everybody without asking for power? (`.m.rule.tombstone`)
    pub(crate) alerts_room: bool,
}

impl Facts {
    /// Reads an event's content.
    pub(crate) fn of(
        event_type: &str,
        state_key: Option<&str>,
        content: &CanonicalJsonObject,
    ) -> Self {
        if state_key.is_some() {
            // State neither relates nor notifies, but for the end of the room.
            let alerts_room = event_type == "m.room.tombstone" && state_key == Some("");
            return Self { notifies: alerts_room, alerts_room, ..Self::default() };
        }
        let relation = Relation::of(content);
        let is_edit = relation.as_ref().is_some_and(|relation| relation.rel_type == "m.replace");
        let notifies = !is_edit
            && match event_type {
                "m.room.message" => {
                    content.get("msgtype").and_then(CanonicalJsonValue::as_str) != Some("m.notice")
                }
                "m.room.encrypted" | "m.call.invite" => true,
                _ => false,
            };
        let mut facts = Self { relation, notifies, ..Self::default() };
        if notifies {
            facts.read_mentions(content);
        }
        facts
    }

    fn read_mentions(&mut self, content: &CanonicalJsonObject) {
        let Some(mentions) = content.get("m.mentions").and_then(CanonicalJsonValue::as_object)
        else {
            return;
        };
        self.mentions_room =
            mentions.get("room").and_then(CanonicalJsonValue::as_bool) == Some(true);
        let users = mentions.get("user_ids").and_then(CanonicalJsonValue::as_array);
        for user in users.unwrap_or_default().iter().take(MAX_MENTIONS) {
            if let Some(user_id) = user.as_str().and_then(|user| UserId::parse(user).ok())
                && !self.mentions.contains(&user_id)
            {
                self.mentions.push(user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(event_type: &str, content: serde_json::Value) -> Facts {
        Facts::of(event_type, None, &to_object(content).unwrap())
    }

    #[test]
    fn messages_notify_but_not_notices_edits_or_reactions() {
        assert!(facts("m.room.message", json!({ "msgtype": "m.text" })).notifies);
        assert!(facts("m.room.encrypted", json!({})).notifies);
        assert!(!facts("m.room.message", json!({ "msgtype": "m.notice" })).notifies);
        let edit = json!({ "m.relates_to": { "rel_type": "m.replace", "event_id": "$a" } });
        assert!(!facts("m.room.message", edit).notifies);
        assert!(!facts("m.reaction", json!({})).notifies);
    }

    #[test]
    fn a_tombstone_alerts_everybody_and_other_state_nobody() {
        let empty = CanonicalJsonObject::new();
        assert!(Facts::of("m.room.tombstone", Some(""), &empty).alerts_room);
        assert!(!Facts::of("m.room.message", Some(""), &empty).notifies);
    }

    #[test]
    fn mentions_are_read_once_each() {
        let content =
            json!({ "m.mentions": { "user_ids": ["@a:x", "@a:x", 5, "nobody"], "room": true } });
        let facts = facts("m.room.message", content);
        assert_eq!(facts.mentions, ["@a:x"]);
        assert!(facts.mentions_room);
    }

    #[test]
    fn refuses_what_canonical_json_does_not_admit() {
        let parse = |json: &str| parse_object(&RawValue::from_string(json.to_owned()).unwrap());
        for bad in [r#"{"a":1.5}"#, r#"{"a":9007199254740992}"#, "[]", r#"{"a":1e3}"#] {
            assert!(matches!(parse(bad), Err(RoomError::BadJson(_))), "{bad}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(101), "]".repeat(101));
        assert!(matches!(parse(&deep), Err(RoomError::BadJson(_))));
        assert!(parse(r#"{"a":9007199254740991,"b":[null,true]}"#).is_ok());
    }
}
