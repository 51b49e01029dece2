//! The body of `POST /_matrix/push/v1/notify`.
//!
//! Not ruma's type: that leaves out a count of zero, as the specification advises, and a phone would go on showing
//! the badge of what was read elsewhere. Here the unread count is always told.

use bytes::Bytes;
use ruma::{EventId, RoomId, UserId, events::TimelineEventType, push::Action, serde::JsonObject};
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use crate::registry::Entry;

/// What is told of an event.
#[derive(Debug)]
pub(crate) struct ToldEvent<'a> {
    pub(crate) event_id: &'a EventId,
    pub(crate) room_id: &'a RoomId,
    pub(crate) kind: String,
    pub(crate) sender: &'a UserId,
    pub(crate) content: &'a RawValue,
    /// Is it the user's own membership?
    pub(crate) user_is_target: bool,
    pub(crate) names: Names,
    pub(crate) actions: &'a [Action],
}

/// What people call what the event is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) sender: Option<String>,
    pub(crate) room: Option<String>,
    pub(crate) alias: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    notification: Notification<'a>,
}

#[derive(Default, Serialize)]
struct Notification<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_is_target: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prio: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    counts: Counts,
    devices: [Device<'a>; 1],
}

#[derive(Default, Serialize)]
struct Counts {
    unread: u64,
}

#[derive(Default, Serialize)]
struct Device<'a> {
    app_id: &'a str,
    pushkey: &'a str,
    /// In seconds.
    pushkey_ts: u64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    tweaks: Map<String, Value>,
}

/// The body that tells a pusher's gateway of an event, or, without one, of the unread count alone.
pub(crate) fn body(
    entry: &Entry,
    event: Option<&ToldEvent<'_>>,
    unread: u64,
) -> Result<Bytes, serde_json::Error> {
    let row = entry.row();
    let mut data = data_of(row.further_data(), row.format.as_deref());
    let device = Device {
        app_id: &entry.key.0,
        pushkey: &entry.key.1,
        pushkey_ts: row.set_ms / 1_000,
        data: std::mem::take(&mut data),
        tweaks: event.map(|event| tweaks(event.actions)).unwrap_or_default(),
    };
    let counts = Counts { unread };
    let notification = match event {
        None => Notification { prio: Some("low"), counts, devices: [device], ..<_>::default() },
        Some(event) if row.event_id_only() => Notification {
            event_id: Some(event.event_id),
            room_id: Some(event.room_id),
            prio: Some(priority(event)),
            counts,
            devices: [device],
            ..<_>::default()
        },
        Some(event) => Notification {
            event_id: Some(event.event_id),
            room_id: Some(event.room_id),
            kind: Some(&event.kind),
            sender: Some(event.sender),
            sender_display_name: event.names.sender.as_deref(),
            room_name: event.names.room.as_deref(),
            room_alias: event.names.alias.as_deref(),
            user_is_target: event.user_is_target.then_some(true),
            prio: Some(priority(event)),
            content: Some(event.content),
            counts,
            devices: [device],
        },
    };
    serde_json::to_vec(&Body { notification }).map(Bytes::from)
}

/// `data` as it was set, without the URL.
fn data_of(mut rest: JsonObject, format: Option<&str>) -> Map<String, Value> {
    if let Some(format) = format {
        rest.insert("format".to_owned(), format.into());
    }
    rest.remove("url");
    rest
}

/// What makes a sound or stands out is shown at once; so is what is encrypted, of which nobody here knows.
fn priority(event: &ToldEvent<'_>) -> &'static str {
    let is_loud = |action: &Action| action.is_highlight() || action.sound().is_some();
    let is_encrypted = event.kind == TimelineEventType::RoomEncrypted.to_string();
    if is_encrypted || event.actions.iter().any(is_loud) { "high" } else { "low" }
}

/// The tweaks among actions, by name.
fn tweaks(actions: &[Action]) -> Map<String, Value> {
    let mut tweaks = Map::new();
    for action in actions {
        let Ok(Value::Object(mut action)) = serde_json::to_value(action) else { continue };
        let Some(Value::String(name)) = action.remove("set_tweak") else { continue };
        // A highlight without a value is one.
        let value = action.remove("value").unwrap_or(Value::Bool(true));
        if value != Value::Bool(false) {
            tweaks.insert(name, value);
        }
    }
    tweaks
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{event_id, owned_user_id, room_id, user_id};
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::{
        pushers::{ProgressRow, PusherRow},
        registry::Registry,
    };

    fn entry(format: Option<&str>) -> Arc<Entry> {
        let row = PusherRow {
            device_id: "DEVICE".into(),
            app_display_name: "App".to_owned(),
            device_display_name: "Phone".to_owned(),
            profile_tag: None,
            lang: "en".to_owned(),
            url: "https://push.example/_matrix/push/v1/notify".to_owned(),
            format: format.map(ToOwned::to_owned),
            data: r#"{"brand":"x"}"#.to_owned(),
            set_ms: 12_345,
        };
        let registry = Registry::default();
        let owner = owned_user_id!("@a:hearth.test");
        let key = ("app".to_owned(), "key".to_owned());
        registry.insert(owner.clone(), key, row, ProgressRow::default());
        registry.of_user(&owner).remove(0)
    }

    fn parsed(entry: &Entry, event: Option<&ToldEvent<'_>>, unread: u64) -> Value {
        serde_json::from_slice(&body(entry, event, unread).unwrap()).unwrap()
    }

    #[test]
    fn a_notification_has_what_the_specification_names() {
        let content = to_raw_value(&json!({ "body": "hi" })).unwrap();
        let actions: Vec<Action> = serde_json::from_value(json!([
            "notify", { "set_tweak": "sound", "value": "default" }, { "set_tweak": "highlight" },
        ]))
        .unwrap();
        let mut told = ToldEvent {
            event_id: event_id!("$e"),
            room_id: room_id!("!r:hearth.test"),
            kind: "m.room.message".to_owned(),
            sender: user_id!("@b:hearth.test"),
            content: &content,
            user_is_target: false,
            names: Names {
                sender: Some("Bob".to_owned()),
                room: Some("Room".to_owned()),
                alias: None,
            },
            actions: &actions,
        };
        let device = json!({
            "app_id": "app", "pushkey": "key", "pushkey_ts": 12, "data": { "brand": "x" },
            "tweaks": { "sound": "default", "highlight": true },
        });
        let expected = json!({ "notification": {
            "event_id": "$e", "room_id": "!r:hearth.test", "type": "m.room.message",
            "sender": "@b:hearth.test", "sender_display_name": "Bob", "room_name": "Room",
            "prio": "high", "content": { "body": "hi" }, "counts": { "unread": 3 },
            "devices": [device],
        } });
        assert_eq!(parsed(&entry(None), Some(&told), 3), expected);
        let quiet: Vec<Action> = serde_json::from_value(json!([
            "notify", { "set_tweak": "highlight", "value": false },
        ]))
        .unwrap();
        told.actions = &quiet;
        let quiet = parsed(&entry(None), Some(&told), 3);
        assert_eq!(quiet["notification"]["prio"], "low");
        assert_eq!(quiet["notification"]["devices"][0].get("tweaks"), None);
        told.kind = "m.room.encrypted".to_owned();
        assert_eq!(parsed(&entry(None), Some(&told), 3)["notification"]["prio"], "high");
    }

    #[test]
    fn the_reduced_format_tells_only_which_event_it_is() {
        let content = to_raw_value(&json!({ "body": "secret" })).unwrap();
        let told = ToldEvent {
            event_id: event_id!("$e"),
            room_id: room_id!("!r:hearth.test"),
            kind: "m.room.message".to_owned(),
            sender: user_id!("@b:hearth.test"),
            content: &content,
            user_is_target: true,
            names: Names { sender: Some("Bob".to_owned()), ..Names::default() },
            actions: &[],
        };
        let expected = json!({ "notification": {
            "event_id": "$e", "room_id": "!r:hearth.test", "prio": "low", "counts": { "unread": 1 },
            "devices": [{ "app_id": "app", "pushkey": "key", "pushkey_ts": 12,
                          "data": { "brand": "x", "format": "event_id_only" } }],
        } });
        assert_eq!(parsed(&entry(Some("event_id_only")), Some(&told), 1), expected);
    }

    #[test]
    fn a_badge_of_zero_is_told() {
        let expected = json!({ "notification": {
            "prio": "low", "counts": { "unread": 0 },
            "devices": [{ "app_id": "app", "pushkey": "key", "pushkey_ts": 12, "data": { "brand": "x" } }],
        } });
        assert_eq!(parsed(&entry(None), None, 0), expected);
    }
}
