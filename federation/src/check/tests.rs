use ruma::{
    owned_room_id, room_id,
    signatures::{hash_and_sign_event, sign_event},
};
use serde_json::{Value, json};

use super::*;
use crate::testing::{Network, START_MS, Server};

const ROOM: &str = "!room:them.example";

/// The room that most events here are of.
fn room() -> &'static RoomId {
    room_id!("!room:them.example")
}

struct Bench {
    us: Server,
    them: Server,
    network: Network,
}

async fn bench() -> Bench {
    let network = Network::default();
    let us = Server::open("us.example", &network).await;
    let them = Server::open("them.example", &network).await;
    Bench { us, them, network }
}

/// An event's fields before it is hashed and signed.
fn fields() -> Value {
    json!({
        "auth_events": ["$create", "$power"],
        "content": { "body": "hello", "msgtype": "m.text" },
        "depth": 7,
        "origin_server_ts": START_MS,
        "prev_events": ["$before"],
        "room_id": ROOM,
        "sender": "@alice:them.example",
        "type": "m.room.message",
    })
}

fn signed_by(server: &Server, fields: Value, version: &RoomVersionId) -> Value {
    let mut object: CanonicalJsonObject = serde_json::from_value(fields).unwrap();
    let identity = server.federation.identity();
    let rules = version.rules().unwrap();
    hash_and_sign_event(
        identity.server_name().as_str(),
        identity.key_pair(),
        &mut object,
        &rules.redaction,
    )
    .unwrap();
    serde_json::to_value(object).unwrap()
}

fn raw(event: &Value) -> Box<RawValue> {
    RawValue::from_string(event.to_string()).unwrap()
}

impl Bench {
    fn signed(&self, fields: Value) -> Value {
        signed_by(&self.them, fields, &RoomVersionId::V11)
    }

    async fn check_as(&self, version: &RoomVersionId, event: Value) -> Result<CheckedPdu, Dropped> {
        let checker = self.us.federation.checker();
        checker.check(version, room(), vec![raw(&event)]).await.pop().unwrap()
    }

    async fn check(&self, event: Value) -> Result<CheckedPdu, Dropped> {
        self.check_as(&RoomVersionId::V11, event).await
    }

    /// The reason why an event with these changes is dropped.
    async fn refusal(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut event = fields();
        change(&mut event);
        self.check(self.signed(event)).await.unwrap_err().reason
    }
}

#[tokio::test]
async fn a_signed_event_passes_as_it_is_but_for_what_nobody_signed() {
    let bench = bench().await;
    let mut event = bench.signed(fields());
    event["signatures"]["other.example"] = json!({ "ed25519:x": "dGVzdA" });
    let id = bench.us.federation.checker().event_id(&RoomVersionId::V11, &raw(&event)).unwrap();
    let mut sent = event.clone();
    sent["unsigned"] = json!({ "age": 5 });
    let checked = bench.check(sent).await.unwrap();
    assert_eq!(checked.pdu().id(), id);
    assert_eq!(checked.pdu().json(), event.to_string().as_bytes());
}

#[tokio::test]
async fn a_signature_must_be_there_and_right_and_the_senders() {
    let bench = bench().await;
    let event = bench.signed(fields());
    let mut none = event.clone();
    none["signatures"] = json!({});
    let mut other = signed_by(&bench.us, fields(), &RoomVersionId::V11);
    other["hashes"] = event["hashes"].clone();
    let mut changed = event.clone();
    changed["depth"] = json!(8);
    let mut broken = event.clone();
    broken["signatures"]["them.example"]["ed25519:1"] = json!("dGVzdA");
    let mut unknown = event.clone();
    unknown["signatures"] = json!({ "them.example": { "ed25519:9": event["signatures"]["them.example"]["ed25519:1"] } });
    for event in [none, other, changed, broken, unknown] {
        let dropped = bench.check(event.clone()).await.unwrap_err();
        assert!(dropped.event_id.is_some(), "{event}: {}", dropped.reason);
    }
}

#[tokio::test]
async fn a_changed_content_leaves_the_redacted_event() {
    let bench = bench().await;
    let whole = bench.signed(fields());
    let mut changed = whole.clone();
    changed["content"]["body"] = json!("something else");
    let checked = bench.check(changed).await.unwrap();
    assert_eq!(checked.pdu().content().get(), "{}");
    let id = bench.us.federation.checker().event_id(&RoomVersionId::V11, &raw(&whole)).unwrap();
    assert_eq!(checked.pdu().id(), id);
    // The copy itself passes again, as what it is.
    let again =
        RawValue::from_string(String::from_utf8(checked.pdu().json().to_vec()).unwrap()).unwrap();
    let version = RoomVersionId::V11;
    let again = bench.us.federation.checker().check(&version, room(), vec![again]).await.remove(0);
    assert_eq!(again.unwrap().pdu().json(), checked.pdu().json());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_keep_their_order_whatever_becomes_of_each() {
    let bench = bench().await;
    let events: Vec<_> = (0..300_u32)
        .map(|number| {
            let mut event = fields();
            event["depth"] = json!(number);
            let mut event = bench.signed(event);
            if number % 3 == 0 {
                event["signatures"] = json!({});
            }
            raw(&event)
        })
        .collect();
    let checker = bench.us.federation.checker();
    let results = checker.check(&RoomVersionId::V11, room(), events).await;
    assert_eq!(results.len(), 300);
    for (number, event) in (0..).zip(results) {
        match event {
            Ok(event) => assert_eq!(event.pdu().depth(), number),
            Err(_) => assert_eq!(number % 3, 0),
        }
    }
}

#[tokio::test]
async fn fields_have_their_types_and_limits() {
    let bench = bench().await;
    let long = "x".repeat(256);
    let ids = |count: usize| vec!["$id"; count];
    let changes: Vec<(&str, Value)> = vec![
        ("auth_events", json!(ids(11))),
        ("auth_events", json!("$id")),
        ("auth_events", json!([5])),
        ("prev_events", json!(ids(21))),
        ("prev_events", json!({})),
        ("prev_events", json!(["no ID"])),
        ("depth", json!(-1)),
        ("depth", json!("7")),
        ("origin_server_ts", json!(-1)),
        ("origin_server_ts", json!("now")),
        ("room_id", json!("!other:them.example")),
        ("room_id", json!(7)),
        ("sender", json!("alice")),
        ("sender", json!(format!("@{long}:them.example"))),
        ("state_key", json!(long)),
        ("state_key", json!(null)),
        ("type", json!(long)),
        ("content", json!([])),
    ];
    for (field, value) in changes {
        let shown = format!("{field}: {value}");
        let mut event = fields();
        event[field] = value;
        // What has no type cannot be signed as an event.
        let event = bench.signed(event);
        assert!(bench.check(event).await.is_err(), "{shown}");
    }
    for field in
        ["auth_events", "content", "depth", "origin_server_ts", "prev_events", "room_id", "sender"]
    {
        let mut event = fields();
        event.as_object_mut().unwrap().remove(field);
        let mut event = bench.signed(event);
        event.as_object_mut().unwrap().remove(field);
        assert!(bench.check(event).await.is_err(), "without {field}");
    }
}

#[tokio::test]
async fn the_largest_event_passes_and_one_byte_more_does_not() {
    let bench = bench().await;
    let sized = |bytes: usize| {
        let mut event = fields();
        event["content"] = json!({ "body": "" });
        let empty = bench.signed(event.clone()).to_string().len();
        event["content"]["body"] = json!("x".repeat(bytes - empty));
        let event = bench.signed(event);
        assert_eq!(event.to_string().len(), bytes);
        event
    };
    assert!(bench.check(sized(MAX_PDU_BYTES)).await.is_ok());
    let dropped = bench.check(sized(MAX_PDU_BYTES + 1)).await.unwrap_err();
    assert!(dropped.reason.contains("65537"), "{}", dropped.reason);
}

#[tokio::test]
async fn numbers_that_canonical_json_does_not_have_are_refused() {
    let bench = bench().await;
    let event = bench.signed(fields()).to_string();
    for number in ["1.5", "1e3", "-0", "9007199254740992", "-9007199254740992"] {
        let event = event.replace(r#""body":"hello""#, &format!(r#""body":{number}"#));
        let events = vec![RawValue::from_string(event).unwrap()];
        let checker = bench.us.federation.checker();
        let results = checker.check(&RoomVersionId::V11, room(), events).await.remove(0);
        assert_eq!(results.unwrap_err().event_id, None, "{number}");
    }
}

#[tokio::test]
async fn who_vouches_for_a_restricted_join_must_sign_it() {
    let bench = bench().await;
    let mut join = fields();
    join["type"] = json!("m.room.member");
    join["state_key"] = json!("@alice:them.example");
    join["content"] = json!({
        "membership": "join", "join_authorised_via_users_server": "@bob:us.example",
    });
    let version = RoomVersionId::V9;
    let alone = signed_by(&bench.them, join, &version);
    assert!(bench.check_as(&version, alone.clone()).await.is_err());
    // Before room version 8 the field meant nothing.
    let old =
        signed_by(&bench.them, serde_json::from_value(alone.clone()).unwrap(), &RoomVersionId::V7);
    assert!(bench.check_as(&RoomVersionId::V7, old).await.is_ok());

    let mut both: CanonicalJsonObject = serde_json::from_value(alone).unwrap();
    let identity = bench.us.federation.identity();
    let redaction = &version.rules().unwrap().redaction;
    sign_event("us.example", identity.key_pair(), &mut both, redaction).unwrap();
    assert!(bench.check_as(&version, serde_json::to_value(both).unwrap()).await.is_ok());
}

#[tokio::test]
async fn whoever_an_event_that_is_no_join_names_as_its_voucher_need_not_sign_it() {
    let bench = bench().await;
    let membership = |membership: &str, voucher: Value| {
        let mut event = fields();
        event["type"] = json!("m.room.member");
        event["state_key"] = json!("@alice:them.example");
        event["content"] =
            json!({ "membership": membership, "join_authorised_via_users_server": voucher });
        event
    };
    let mut message = fields();
    message["content"]["join_authorised_via_users_server"] = json!("@x:nowhere.example");
    let mut powers = fields();
    powers["type"] = json!("m.room.power_levels");
    powers["state_key"] = json!("");
    powers["content"] = json!({ "join_authorised_via_users_server": 5 });
    let leave = membership("leave", json!("@x:nowhere.example"));
    let ban = membership("ban", json!(["@x:nowhere.example"]));
    for version in [RoomVersionId::V8, RoomVersionId::V9, RoomVersionId::V11] {
        for event in [&message, &powers, &leave, &ban] {
            let event = signed_by(&bench.them, event.clone(), &version);
            let checked = bench.check_as(&version, event.clone()).await;
            let checked = checked.unwrap_or_else(|dropped| panic!("{event}: {}", dropped.reason));
            assert_eq!(checked.pdu().json(), event.to_string().as_bytes());
        }
        let join = membership("join", json!("@x:nowhere.example"));
        let join = signed_by(&bench.them, join, &version);
        assert!(bench.check_as(&version, join).await.is_err(), "a join in {version}");
    }
}

#[tokio::test]
async fn a_create_event_of_version_12_makes_the_room_of_its_own_name() {
    let bench = bench().await;
    let mut create = fields();
    create["type"] = json!("m.room.create");
    create["state_key"] = json!("");
    create["content"] = json!({ "room_version": "12" });
    create["auth_events"] = json!([]);
    create["prev_events"] = json!([]);
    create.as_object_mut().unwrap().remove("room_id");
    let version = RoomVersionId::V12;
    let create = signed_by(&bench.them, create, &version);
    let checker = bench.us.federation.checker();
    let id = checker.event_id(&version, &raw(&create)).unwrap();
    let room_id = RoomId::parse(id.as_str().replace('$', "!")).unwrap();
    let results = checker.check(&version, &room_id, vec![raw(&create)]).await.remove(0);
    assert_eq!(results.unwrap().pdu().id(), id);
    let other = owned_room_id!("!wAY3BnfwwuNp44MUKOQCQxB9Y4LIPNB4EGUvJ6Lh5Yw");
    assert!(checker.check(&version, &other, vec![raw(&create)]).await.remove(0).is_err());

    let mut message = fields();
    message["room_id"] = json!(room_id);
    message["auth_events"] = json!([id]);
    let message = signed_by(&bench.them, message, &version);
    let results = checker.check(&version, &room_id, vec![raw(&message)]).await.remove(0);
    assert!(results.is_err(), "the create event is no auth event");
}

#[tokio::test]
async fn a_key_must_have_been_valid_when_the_event_was_made() {
    let bench = bench().await;
    let far = START_MS + 8 * 24 * 3_600 * 1_000;
    let reason = bench.refusal(|event| event["origin_server_ts"] = json!(far)).await;
    assert!(!reason.is_empty());
    assert!(bench.check(bench.signed(fields())).await.is_ok());
}

#[tokio::test]
async fn keys_of_a_server_that_is_gone_are_missing() {
    let bench = bench().await;
    let event = bench.signed(fields());
    bench.network.remove(bench.them.federation.identity().server_name());
    let dropped = bench.check(event).await.unwrap_err();
    assert!(dropped.event_id.is_some());
}

#[tokio::test]
async fn versions_that_are_not_served_have_no_events() {
    let bench = bench().await;
    for version in [RoomVersionId::V5, RoomVersionId::try_from("org.example.x").unwrap()] {
        assert!(bench.check_as(&version, bench.signed(fields())).await.is_err());
    }
}

#[test]
fn fuzz_events() {
    let versions = [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
    let all: Vec<_> = versions.iter().map(|version| rules(version).unwrap()).collect();
    let message = fields().to_string();
    let signed = {
        let mut event = fields();
        event["hashes"] = json!({ "sha256": "dGVzdA" });
        event["signatures"] = json!({ "them.example": { "ed25519:1": "dGVzdA" } });
        event["state_key"] = json!("");
        event["unsigned"] = json!({ "age": 1 });
        event.to_string()
    };
    let seeds: &[&[u8]] = &[message.as_bytes(), signed.as_bytes()];
    let words: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\u0000",
        b"\\ud800",
        b":",
        b",",
        b"9007199254740992",
        b"-0",
        b"1.5",
        b"1e9",
        b"null",
        b"\"room_id\":\"!room:them.example\"",
        b"\"sender\":",
        b"\"type\":\"m.room.create\"",
        b"\"type\":\"m.room.member\"",
        b"\"state_key\":\"\"",
        b"\"third_party_invite\":{}",
        b"\"join_authorised_via_users_server\":",
        b"\xc3\xa4",
        b"\"a\":[[[[",
    ];
    hearth_fuzz::fuzz(seeds, words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(event) = RawValue::from_string(text.to_owned()) else { return };
        for rules in &all {
            let Ok(formed) = form(&event, room(), rules) else { continue };
            assert!(formed.json.len() <= MAX_PDU_BYTES);
            // The canonical form is its own, and the same event.
            let again: Box<RawValue> = serde_json::from_slice(&formed.json).unwrap();
            let again = form(&again, room(), rules).ok().unwrap();
            assert_eq!((&again.event_id, &again.json), (&formed.event_id, &formed.json));
        }
    });
}
