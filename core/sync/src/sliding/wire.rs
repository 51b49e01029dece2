//! The two forms of a request's body.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, UserId, presence::PresenceState};
use serde::Deserialize;

use super::{
    request::{Extensions, Filter, List, RoomConfig, Rules, Scope, SlidingBody, SlidingForm},
    required::{Element, RequiredState, StateSet},
};
use crate::SyncError;

/// Messages to the device in one response, where the client names no limit.
const TO_DEVICE_LIMIT: u64 = 100;

#[derive(Deserialize)]
struct Body<L, S> {
    conn_id: Option<String>,
    txn_id: Option<String>,
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
    lists: Option<BTreeMap<String, L>>,
    room_subscriptions: Option<BTreeMap<OwnedRoomId, S>>,
    extensions: Option<WireExtensions>,
}

#[derive(Deserialize)]
struct DeployedConfig {
    timeline_limit: u64,
    #[serde(default)]
    required_state: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct DeployedList {
    #[serde(default)]
    ranges: Vec<(u64, u64)>,
    filters: Option<WireFilter>,
    #[serde(flatten)]
    config: DeployedConfig,
}

#[derive(Deserialize)]
struct AcceptedConfig {
    timeline_limit: u64,
    required_state: AcceptedState,
}

#[derive(Deserialize)]
struct AcceptedState {
    #[serde(default)]
    include: Vec<AcceptedElement>,
    #[serde(default)]
    exclude: Vec<AcceptedElement>,
    #[serde(default)]
    lazy_members: bool,
}

#[derive(Deserialize)]
struct AcceptedElement {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

#[derive(Deserialize)]
struct AcceptedList {
    range: Option<(u64, u64)>,
    filters: Option<WireFilter>,
    #[serde(flatten)]
    config: AcceptedConfig,
}

/// The filters of both forms; `is_invite` was renamed to `is_invited`.
#[derive(Default, Deserialize)]
struct WireFilter {
    is_dm: Option<bool>,
    is_encrypted: Option<bool>,
    is_invite: Option<bool>,
    is_invited: Option<bool>,
    spaces: Option<Vec<OwnedRoomId>>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    room_name_like: Option<String>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct WireExtensions {
    to_device: Option<WireToDevice>,
    e2ee: Option<WireScope>,
    account_data: Option<WireScope>,
    receipts: Option<WireScope>,
    typing: Option<WireScope>,
}

#[derive(Deserialize)]
struct WireToDevice {
    #[serde(default)]
    enabled: Option<bool>,
    limit: Option<u64>,
    since: Option<String>,
}

#[derive(Deserialize)]
struct WireScope {
    #[serde(default)]
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl SlidingBody {
    /// Reads a body of the deployed form, in which `pos`, `timeout` and `set_presence` stand in the
    /// query. [`SyncError::BadJson`] if it has another shape, [`SyncError::InvalidParam`] if it is out
    /// of bounds.
    pub fn deployed(json: &[u8], user_id: &UserId) -> Result<Self, SyncError> {
        let body: Body<DeployedList, DeployedConfig> = read(json)?;
        let body = Body { pos: None, timeout: None, set_presence: None, ..body };
        let config = |config: DeployedConfig| RoomConfig {
            timeline_limit: config.timeline_limit,
            required: StateSet::of_pairs(&config.required_state, user_id).into(),
        };
        let list = |name: String, list: DeployedList| List {
            name,
            ranges: Some(list.ranges),
            filter: list.filters.unwrap_or_default().into_filter(SlidingForm::Deployed),
            config: config(list.config),
        };
        body.into_request(SlidingForm::Deployed, list, config)
    }

    /// The same for the accepted form.
    pub fn accepted(json: &[u8]) -> Result<Self, SyncError> {
        let body: Body<AcceptedList, AcceptedConfig> = read(json)?;
        let config = |config: AcceptedConfig| RoomConfig {
            timeline_limit: config.timeline_limit,
            required: config.required_state.into(),
        };
        let list = |name: String, list: AcceptedList| List {
            name,
            ranges: list.range.map(|range| vec![range]),
            filter: list.filters.unwrap_or_default().into_filter(SlidingForm::Accepted),
            config: config(list.config),
        };
        body.into_request(SlidingForm::Accepted, list, config)
    }
}

fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, SyncError> {
    serde_json::from_slice(json).map_err(|error| SyncError::BadJson(error.to_string()))
}

impl<L, S> Body<L, S> {
    fn into_request(
        self,
        form: SlidingForm,
        list: impl Fn(String, L) -> List,
        config: impl Fn(S) -> RoomConfig,
    ) -> Result<SlidingBody, SyncError> {
        let extensions = self.extensions.unwrap_or_default();
        let to_device_since = extensions.to_device.as_ref().and_then(|ext| ext.since.clone());
        let lists = self.lists.unwrap_or_default().into_iter();
        let subscriptions = self.room_subscriptions.unwrap_or_default().into_iter();
        let body = SlidingBody {
            form,
            conn_id: self.conn_id.unwrap_or_default(),
            txn_id: self.txn_id,
            rules: Rules {
                lists: lists.map(|(name, wanted)| list(name, wanted)).collect(),
                subscriptions: subscriptions.map(|(id, wanted)| (id, config(wanted))).collect(),
                extensions: extensions.into(),
            },
            to_device_since,
            pos: self.pos,
            timeout_ms: self.timeout,
            set_presence: self.set_presence,
        };
        body.checked()
    }
}

impl WireFilter {
    fn into_filter(self, form: SlidingForm) -> Filter {
        let deployed = form == SlidingForm::Deployed;
        Filter {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invite: if deployed { self.is_invite } else { self.is_invited },
            spaces: self.spaces,
            room_types: self.room_types,
            not_room_types: self.not_room_types.unwrap_or_default(),
            name_like: self.room_name_like.filter(|_| deployed).map(|name| name.to_lowercase()),
            tags: self.tags,
            not_tags: self.not_tags.unwrap_or_default(),
        }
    }
}

impl From<AcceptedState> for RequiredState {
    fn from(state: AcceptedState) -> Self {
        let elements = |elements: Vec<AcceptedElement>| {
            let mut elements: Vec<_> = elements
                .into_iter()
                .map(|element| Element { kind: element.kind, key: element.state_key })
                .collect();
            elements.sort();
            elements.dedup();
            elements
        };
        let AcceptedState { include, exclude, lazy_members } = state;
        let (include, exclude) = (elements(include), elements(exclude));
        StateSet { include, exclude, lazy_members }.into()
    }
}

impl From<WireExtensions> for Extensions {
    fn from(wire: WireExtensions) -> Self {
        let to_device = wire.to_device.filter(|ext| ext.enabled == Some(true));
        let limit = |ext: WireToDevice| {
            let limit = ext.limit.unwrap_or(TO_DEVICE_LIMIT).clamp(1, TO_DEVICE_LIMIT);
            usize::try_from(limit).unwrap_or(usize::MAX)
        };
        Self {
            to_device: to_device.map(limit),
            e2ee: wire.e2ee.and_then(WireScope::if_enabled).is_some(),
            account_data: wire.account_data.and_then(WireScope::if_enabled),
            receipts: wire.receipts.and_then(WireScope::if_enabled),
            typing: wire.typing.and_then(WireScope::if_enabled),
        }
    }
}

impl WireScope {
    fn if_enabled(self) -> Option<Scope> {
        (self.enabled == Some(true)).then_some(Scope { lists: self.lists, rooms: self.rooms })
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::sliding::request::{MAX_LISTS, MAX_NAME_BYTES, MAX_REQUIRED, MAX_SUBSCRIPTIONS};

    fn deployed(body: &Value) -> Result<SlidingBody, SyncError> {
        SlidingBody::deployed(body.to_string().as_bytes(), user_id!("@me:x"))
    }

    fn accepted(body: &Value) -> Result<SlidingBody, SyncError> {
        SlidingBody::accepted(body.to_string().as_bytes())
    }

    #[test]
    fn both_forms_say_the_same() {
        let old = deployed(&json!({
            "conn_id": "c",
            "lists": {"l": {
                "ranges": [[0, 19]],
                "timeline_limit": 3,
                "required_state": [["m.room.name", ""], ["m.room.member", "$LAZY"]],
                "filters": {"is_invite": false, "not_room_types": ["m.space", null]},
            }},
            "extensions": {"typing": {"enabled": true}, "receipts": {"enabled": false}},
        }));
        let new = accepted(&json!({
            "conn_id": "c",
            "lists": {"l": {
                "range": [0, 19],
                "timeline_limit": 3,
                "required_state": {
                    "include": [{"type": "m.room.name", "state_key": ""}], "lazy_members": true,
                },
                "filters": {"is_invited": false, "not_room_types": ["m.space", null]},
            }},
            "extensions": {"typing": {"enabled": true}, "receipts": {"enabled": false}},
        }));
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!(old.rules, new.rules);
        assert_eq!(old.conn_id, new.conn_id);
        assert!(old.rules.extensions.typing.is_some() && old.rules.extensions.receipts.is_none());
    }

    #[test]
    fn what_is_too_much_or_of_another_shape_is_refused() {
        let list = |ranges: Value, required: Value| {
            json!({"lists": {"l": {
                "ranges": ranges, "timeline_limit": 1, "required_state": required,
            }}})
        };
        let many: Vec<_> = (0..=100).map(|number| json!(["t", number.to_string()])).collect();
        let lists: BTreeMap<String, Value> = (0..=100)
            .map(|number| (number.to_string(), json!({"ranges": [], "timeline_limit": 1})))
            .collect();
        let rooms: BTreeMap<String, Value> = (0..=100)
            .map(|number| (format!("!{number}:x"), json!({"timeline_limit": 1})))
            .collect();
        for body in [
            list(json!([[5, 4]]), json!([])),
            list(json!(vec![[0, 1]; 21]), json!([])),
            list(json!([]), json!(many)),
            json!({"lists": lists}),
            json!({"room_subscriptions": rooms}),
            json!({"conn_id": "x".repeat(256)}),
        ] {
            assert!(matches!(deployed(&body), Err(SyncError::InvalidParam(_))), "{body}");
        }
        for body in [
            json!({"lists": []}),
            json!({"lists": {"l": {"ranges": [[0, 1]]}}}),
            list(json!([[-1, 4]]), json!([])),
            list(json!([]), json!([["one"]])),
            json!({"room_subscriptions": {"no room": {"timeline_limit": 1}}}),
        ] {
            assert!(matches!(deployed(&body), Err(SyncError::BadJson(_))), "{body}");
        }
        assert!(matches!(
            accepted(&json!({"lists": {"l": {"timeline_limit": 1}}})),
            Err(SyncError::BadJson(_))
        ));
        let named = |name: &str| {
            accepted(&json!({"lists": {name: {"timeline_limit": 1, "required_state": {}}}}))
        };
        assert!(named("a.b-c_d~1").is_ok());
        assert!(matches!(named("two words"), Err(SyncError::InvalidParam(_))));
        assert!(matches!(named(""), Err(SyncError::InvalidParam(_))));
    }

    #[test]
    fn what_stays_the_same_does_not_depend_on_the_messages_to_the_device() {
        let body =
            |since: &str| json!({"extensions": {"to_device": {"enabled": true, "since": since}}});
        let (one, two) = (deployed(&body("1")).unwrap(), deployed(&body("2")).unwrap());
        assert_eq!(one.rules, two.rules);
        assert_eq!(one.to_device_since.as_deref(), Some("1"));
        assert_eq!(one.rules.extensions.to_device, Some(100));
    }

    #[test]
    fn fuzz_requests() {
        let deployed: &[u8] = br#"{"conn_id":"c","lists":{"l":{"ranges":[[0,19]],"timeline_limit":3,
            "required_state":[["m.room.member","$LAZY"],["*","*"]],"filters":{"not_room_types":[null]}}},
            "room_subscriptions":{"!r:x":{"timeline_limit":20}},"extensions":{"to_device":{"enabled":true}}}"#;
        let accepted: &[u8] = br#"{"pos":"s1_1_p1_1_1","timeout":30000,"lists":{"l":{"range":[0,19],
            "timeline_limit":1,"required_state":{"include":[{"type":"m.room.name"}],"lazy_members":true}}},
            "extensions":{"receipts":{"enabled":true,"rooms":["*"]}}}"#;
        let words: &[&[u8]] = &[
            b"{",
            b"}",
            b"[",
            b"]",
            b"\"",
            b",",
            b":",
            b"null",
            b"-1",
            b"18446744073709551615",
            b"1e99",
            b"\"$ME\"",
            b"[20,0]",
            b"\"a\":{},",
            b"\"is_dm\":true,",
            b"\"filters\":",
        ];
        hearth_fuzz::fuzz(&[deployed, accepted], words, |input| {
            let forms =
                [SlidingBody::deployed(input, user_id!("@me:x")), SlidingBody::accepted(input)];
            for body in forms {
                match body {
                    Ok(SlidingBody { rules, conn_id, .. }) => {
                        assert!(rules.lists.len() <= MAX_LISTS);
                        assert!(rules.subscriptions.len() <= MAX_SUBSCRIPTIONS);
                        assert!(conn_id.len() <= MAX_NAME_BYTES);
                        for List { ranges, config, .. } in &rules.lists {
                            assert!(ranges.iter().flatten().all(|(first, last)| first <= last));
                            assert!(config.required.len() <= MAX_REQUIRED);
                        }
                    }
                    Err(SyncError::BadJson(_) | SyncError::InvalidParam(_)) => {}
                    Err(other) => panic!("not the client's fault: {other}"),
                }
            }
        });
    }
}
