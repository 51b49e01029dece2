//! What most tests need: refusals, event lists in words, answers made comparable.

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use hearth_testkit::{TestUser, encode};
use http::StatusCode;
use ruma::{EventId, RoomId};
use serde_json::{Map, Value, json};

/// The prefix of most endpoints.
pub(crate) const V3: &str = "/_matrix/client/v3";
/// The prefix of those that came with Matrix 1.0's successors.
pub(crate) const V1: &str = "/_matrix/client/v1";
/// Enough for the server to answer what it does not let wait.
const MOMENT: Duration = Duration::from_millis(100);

/// Checks that the server lets a request wait; starts it if need be.
#[track_caller]
pub(crate) fn still_waits<R: Future + Unpin>(request: &mut R) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let answer = tokio::time::timeout(MOMENT, request).await;
        assert!(answer.is_err(), "answered at once: {caller}");
    }
}

/// Checks that an answer is this refusal in the specification's form ("Standard error response");
/// returns the body.
#[track_caller]
pub(crate) fn refused(answer: (StatusCode, Value), status: u16, errcode: &str) -> Value {
    let (got, body) = answer;
    assert_eq!((got.as_u16(), body["errcode"].as_str()), (status, Some(errcode)), "{body}");
    assert!(body["error"].is_string(), "a message for people is missing: {body}");
    body
}

/// The status and the error code of an answer, for tables of cases.
pub(crate) fn outcome(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["errcode"].as_str().unwrap_or_default())
}

/// The path of something inside a room.
pub(crate) fn at(room_id: &RoomId, rest: impl AsRef<str>) -> String {
    TestUser::room_path(room_id, rest.as_ref())
}

/// The same under `/v1`.
pub(crate) fn at_v1(room_id: &RoomId, rest: impl AsRef<str>) -> String {
    format!("{V1}/rooms/{}/{}", encode(room_id.as_str()), rest.as_ref())
}

/// The path of a user's own things.
pub(crate) fn of_user(user: &TestUser, rest: impl AsRef<str>) -> String {
    format!("{V3}/user/{}/{}", encode(user.user_id.as_str()), rest.as_ref())
}

/// A text of the answer that a test cannot go on without.
#[track_caller]
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {value}"))
}

/// The elements of a list; none if it is absent.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What an event says, in a word: the body of a message, otherwise its type, and for members whose
/// membership it sets to what.
pub(crate) fn word(event: &Value) -> String {
    let kind = event["type"].as_str().unwrap_or("?");
    let content = &event["content"];
    match kind {
        "m.room.message" => content["body"].as_str().unwrap_or("[redacted]").to_owned(),
        "m.room.member" => {
            let who = event["state_key"].as_str().unwrap_or("?");
            let who = who.trim_start_matches('@').split(':').next().unwrap_or(who);
            format!("{who} {}", content["membership"].as_str().unwrap_or("?"))
        }
        _ => kind.to_owned(),
    }
}

/// The words of a list of events.
pub(crate) fn words(events: &Value) -> Vec<String> {
    list(events).iter().map(word).collect()
}

/// The bodies of the messages among a list of events.
pub(crate) fn bodies(events: &Value) -> Vec<String> {
    list(events).iter().filter(|event| event["type"] == "m.room.message").map(word).collect()
}

/// The IDs of a list of events.
pub(crate) fn ids(events: &Value) -> Vec<&str> {
    list(events).iter().map(|event| text(event, "event_id")).collect()
}

/// Types and state keys of a list of state events, in no particular order.
pub(crate) fn keys(events: &Value) -> BTreeSet<(String, String)> {
    list(events)
        .iter()
        .map(|event| (text(event, "type").to_owned(), text(event, "state_key").to_owned()))
        .collect()
}

/// The event of this type and state key among others.
#[track_caller]
pub(crate) fn state_of<'a>(events: &'a Value, kind: &str, state_key: &str) -> &'a Value {
    find_state(events, kind, state_key)
        .unwrap_or_else(|| panic!("no {kind} of {state_key:?} in {events}"))
}

/// The same, if there is one.
pub(crate) fn find_state<'a>(events: &'a Value, kind: &str, state_key: &str) -> Option<&'a Value> {
    list(events).iter().find(|event| event["type"] == kind && event["state_key"] == state_key)
}

/// The event of this type among others, such as account data.
#[track_caller]
pub(crate) fn of_type<'a>(events: &'a Value, kind: &str) -> &'a Value {
    find_type(events, kind).unwrap_or_else(|| panic!("no {kind} in {events}"))
}

/// The same, if there is one.
pub(crate) fn find_type<'a>(events: &'a Value, kind: &str) -> Option<&'a Value> {
    list(events).iter().find(|event| event["type"] == kind)
}

/// A joined room of a sync response; null if it is not in there.
pub(crate) fn joined<'a>(sync: &'a Value, room_id: &RoomId) -> &'a Value {
    &sync["rooms"]["join"][room_id.as_str()]
}

/// The timeline events of a joined room of a sync response.
pub(crate) fn timeline<'a>(sync: &'a Value, room_id: &RoomId) -> &'a Value {
    &joined(sync, room_id)["timeline"]["events"]
}

/// The token that continues a sync.
#[track_caller]
pub(crate) fn next(sync: &Value) -> String {
    text(sync, "next_batch").to_owned()
}

/// A text message.
pub(crate) fn message(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

/// A message that relates to an event.
pub(crate) fn related(body: &str, rel_type: &str, event_id: &EventId) -> Value {
    let mut content = message(body);
    content["m.relates_to"] = json!({ "rel_type": rel_type, "event_id": event_id });
    content
}

/// A reaction to an event.
pub(crate) fn reaction(key: &str, event_id: &EventId) -> Value {
    json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event_id, "key": key } })
}

/// A filter for a query.
pub(crate) fn filter(filter: &Value) -> String {
    format!("&filter={}", encode(&filter.to_string()))
}

/// Walks `/messages` from a token until there is no further one; all events in the order they came.
pub(crate) async fn walk(
    user: &TestUser,
    room_id: &RoomId,
    dir: &str,
    from: Option<&str>,
    query: &str,
) -> Vec<Value> {
    let mut events = Vec::new();
    let mut from = from.map(ToOwned::to_owned);
    for _ in 0..200 {
        let token = from.map_or_else(String::new, |from| format!("&from={}", encode(&from)));
        let page = user.get_ok(&at(room_id, format!("messages?dir={dir}{token}{query}"))).await;
        events.extend_from_slice(list(&page["chunk"]));
        match page["end"].as_str() {
            Some(end) => from = Some(end.to_owned()),
            None => return events,
        }
    }
    panic!("the pages of /messages do not end");
}

/// Asserts that no event of a list comes twice.
#[track_caller]
pub(crate) fn all_different(events: &[Value]) {
    let mut seen = BTreeSet::new();
    for event in events {
        assert!(seen.insert(text(event, "event_id")), "twice: {event}");
    }
}

/// Fields whose values differ from run to run.
const VOLATILE: &[&str] = &[
    "access_token",
    "age",
    "device_id",
    "end",
    "expires_in_ms",
    "last_active_ago",
    "last_seen_ts",
    "login_token",
    "next_batch",
    "origin_server_ts",
    "prev_batch",
    "refresh_token",
    "session",
    "start",
    "transaction_id",
    "ts",
];

/// An answer in which everything that differs from run to run is replaced: known IDs by the names
/// given here, other event IDs, room IDs, times and tokens by a placeholder.
pub(crate) fn tidy(value: &Value, names: &[(&dyn AsRef<str>, &str)]) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, value)| {
                    let volatile = VOLATILE.contains(&key.as_str())
                        && (value.is_number() || value.is_string());
                    let value = if volatile {
                        Value::String(format!("[{key}]"))
                    } else {
                        tidy(value, names)
                    };
                    (tidy_text(key, names), value)
                })
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => items.iter().map(|item| tidy(item, names)).collect(),
        Value::String(text) => Value::String(tidy_text(text, names)),
        _ => value.clone(),
    }
}

fn tidy_text(text: &str, names: &[(&dyn AsRef<str>, &str)]) -> String {
    if let Some((_, name)) = names.iter().find(|(id, _)| id.as_ref() == text) {
        return format!("[{name}]");
    }
    let long = text.len() > 15;
    match text.as_bytes().first() {
        Some(b'$') if long => "[an event]".to_owned(),
        Some(b'!') if long => "[a room]".to_owned(),
        _ => text.to_owned(),
    }
}

/// The elements of a set of texts.
pub(crate) fn set<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    texts.into_iter().map(|text| text.as_ref().to_owned()).collect()
}

/// Asserts that two lists have the same elements, in whatever order.
#[track_caller]
pub(crate) fn same<T: Ord + Debug>(
    left: impl IntoIterator<Item = T>,
    right: impl IntoIterator<Item = T>,
) {
    let (left, right): (BTreeSet<_>, BTreeSet<_>) =
        (left.into_iter().collect(), right.into_iter().collect());
    assert_eq!(left, right);
}
