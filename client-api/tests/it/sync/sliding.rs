//! Simplified sliding sync (MSC4186) over HTTP: both forms, their errors, several connections, messages to
//! the device, restarts. What is told of rooms is tested in `hearth-sync`.

use std::pin::pin;

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, at, bodies, list, message, outcome, refused, still_waits, text};

const DEPLOYED: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const ACCEPTED: &str = "/_matrix/client/v4/sync";

/// One connection in the deployed form.
struct Phone<'a> {
    user: &'a TestUser,
    body: Value,
    pos: Option<String>,
}

impl<'a> Phone<'a> {
    fn of(user: &'a TestUser, body: Value) -> Self {
        Self { user, body, pos: None }
    }

    fn path(&self, timeout: u64) -> String {
        let pos = self.pos.as_ref().map_or_else(String::new, |pos| format!("&pos={}", encode(pos)));
        format!("{DEPLOYED}?timeout={timeout}{pos}")
    }

    /// Asks, and takes the answer in.
    async fn ask(&mut self) -> Value {
        let answer = self.lose().await;
        self.pos = Some(text(&answer, "pos").to_owned());
        answer
    }

    /// Asks, and loses the answer.
    async fn lose(&self) -> Value {
        self.user.post_ok(&self.path(0), self.body.clone()).await
    }

    /// The connection is not known any more.
    async fn is_lost(&self) {
        refused(self.user.post(&self.path(0), self.body.clone()).await, 400, "M_UNKNOWN_POS");
    }
}

fn rooms() -> Value {
    json!({
        "conn_id": "room-list",
        "lists": {"all_rooms": {
            "ranges": [[0, 19]],
            "timeline_limit": 10,
            "required_state": [
                ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"], ["m.call.member", "*"], ["m.room.create", ""],
            ],
            "filters": {"is_invite": null},
        }},
        "extensions": {
            "account_data": {"enabled": true},
            "receipts": {"enabled": true, "rooms": ["*"]},
            "typing": {"enabled": true},
        },
    })
}

fn encryption(since: Option<&str>) -> Value {
    json!({
        "conn_id": "encryption",
        "extensions": {
            "e2ee": {"enabled": true}, "to_device": {"enabled": true, "since": since},
        },
    })
}

fn told<'a>(answer: &'a Value, room_id: &RoomId) -> &'a Value {
    &answer["rooms"][room_id.as_str()]
}

#[tokio::test]
async fn a_room_list_and_an_encryption_connection_live_side_by_side() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let mut list = Phone::of(&bob, rooms());
    let mut keys = Phone::of(&bob, encryption(None));
    let first = list.ask().await;
    assert_eq!(first["lists"], json!({"all_rooms": {"count": 1}}));
    assert_eq!(told(&first, &room)["initial"], true);
    let push_rules = first["extensions"]["account_data"]["global"].as_array().unwrap();
    assert!(push_rules.iter().any(|event| event["type"] == "m.push_rules"));
    let first = keys.ask().await;
    assert_eq!(first["rooms"], json!({}));
    assert!(first["extensions"]["e2ee"]["device_unused_fallback_key_types"].is_array());
    alice.send_text(&room, "hello").await;
    let typing = json!({"typing": true, "timeout": 30000});
    alice.put_ok(&at(&room, format!("typing/{}", encode(alice.user_id.as_str()))), typing).await;
    let news = list.ask().await;
    assert_eq!(bodies(&told(&news, &room)["timeline"]), ["hello"]);
    assert_eq!(told(&news, &room)["notification_count"], 1);
    let typing = &news["extensions"]["typing"]["rooms"][room.as_str()]["content"]["user_ids"];
    assert_eq!(*typing, json!([alice.user_id]));
    // The `pos` is a place in a timeline, too.
    let pos = encode(list.pos.as_ref().unwrap());
    let page = bob.get_ok(&at(&room, format!("messages?dir=b&limit=1&from={pos}"))).await;
    assert_eq!(bodies(&page["chunk"]), ["hello"]);
    assert_eq!(list.ask().await["rooms"], json!({}));
    assert_eq!(keys.ask().await["rooms"], json!({}));
}

#[tokio::test]
async fn the_accepted_form_has_all_in_its_body() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let mut body = json!({"lists": {"all": {
        "range": [0, 9], "timeline_limit": 5,
        "required_state": {"include": [{"type": "m.room.create"}], "lazy_members": true},
    }}});
    let first = alice.post_ok(ACCEPTED, body.clone()).await;
    assert_eq!(told(&first, &room)["membership"], "join");
    assert_eq!(told(&first, &room)["lists"], json!(["all"]));
    body["pos"] = first["pos"].clone();
    body["timeout"] = json!(30000);
    let mut waiting = pin!(alice.post_ok(ACCEPTED, body.clone()));
    still_waits(&mut waiting).await;
    let (woken, _) = tokio::join!(waiting, alice.send_text(&room, "wake up"));
    assert_eq!(bodies(&told(&woken, &room)["timeline"]), ["wake up"]);
    // A `pos` of one form is none of another device, whichever form it asks in.
    let other = server.login("alice").await;
    body["pos"] = woken["pos"].clone();
    body["timeout"] = json!(0);
    refused(other.post(ACCEPTED, body.clone()).await, 400, "M_UNKNOWN_POS");
    body["set_presence"] = json!("dancing");
    refused(alice.post(ACCEPTED, body).await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn bad_requests_are_refused_and_say_why() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let list = |list: Value| json!({"lists": {"l": list}});
    for (query, body, expected) in [
        ("", json!({"lists": 5}), (400, "M_BAD_JSON")),
        ("", list(json!({"ranges": [[0, 1]]})), (400, "M_BAD_JSON")),
        ("", list(json!({"ranges": [[2, 1]], "timeline_limit": 1})), (400, "M_INVALID_PARAM")),
        ("", json!({"conn_id": "x".repeat(300)}), (400, "M_INVALID_PARAM")),
        (
            "",
            json!({"extensions": {"to_device": {"enabled": true, "since": "x"}}}),
            (400, "M_INVALID_PARAM"),
        ),
        ("?timeout=soon", json!({}), (400, "M_INVALID_PARAM")),
        ("?set_presence=dancing", json!({}), (400, "M_INVALID_PARAM")),
        ("?pos=nonsense", json!({}), (400, "M_UNKNOWN_POS")),
        ("?pos=s1_1_p1_1_1", json!({}), (400, "M_UNKNOWN_POS")),
    ] {
        let answer = alice.post(&format!("{DEPLOYED}{query}"), body.clone()).await;
        assert_eq!(outcome(&answer), expected, "{query} {body}");
        assert!(answer.1["error"].is_string());
    }
    let anonymous = server.client();
    refused(anonymous.post(DEPLOYED, json!({})).await, 401, "M_MISSING_TOKEN");
    refused(anonymous.post(ACCEPTED, json!({})).await, 401, "M_MISSING_TOKEN");
    refused(alice.get(DEPLOYED).await, 405, "M_UNRECOGNIZED");
}

async fn send(from: &TestUser, to: &TestUser, n: u64) {
    let messages = json!({ to.user_id.as_str(): { to.device_id.as_str(): { "n": n } } });
    let path = format!("{V3}/sendToDevice/m.test/{n}");
    from.put_ok(&path, json!({ "messages": messages })).await;
}

/// The numbers that an answer brings, and the token behind them.
fn numbers(answer: &Value) -> (Vec<u64>, String) {
    let to_device = &answer["extensions"]["to_device"];
    let events = list(&to_device["events"]).iter();
    let numbers = events.map(|event| event["content"]["n"].as_u64().unwrap()).collect();
    (numbers, text(to_device, "next_batch").to_owned())
}

#[tokio::test]
async fn messages_to_devices_stay_until_their_own_token_is_shown() {
    let mut server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut phone = Phone::of(&bob, encryption(None));
    let (none, start) = numbers(&phone.ask().await);
    assert!(none.is_empty());
    send(&alice, &bob, 1).await;
    phone.body = encryption(Some(&start));
    let (first, token) = numbers(&phone.ask().await);
    assert_eq!(first, [1]);
    // The `pos` proves nothing about messages: the client may have failed to keep them.
    let (again, _) = numbers(&phone.ask().await);
    assert_eq!(again, [1]);
    let mut other = Phone::of(&bob, encryption(None));
    other.body["conn_id"] = json!("push");
    assert_eq!(numbers(&other.ask().await).0, [1], "another connection, without a token");
    server.restart().await;
    phone.is_lost().await;
    phone.pos = None;
    assert_eq!(numbers(&phone.ask().await).0, [1], "still there");
    send(&alice, &bob, 2).await;
    phone.body = encryption(Some(&token));
    let (second, token) = numbers(&phone.ask().await);
    assert_eq!(second, [2]);
    phone.body = encryption(Some(&token));
    assert!(numbers(&phone.ask().await).0.is_empty());
    other.pos = None;
    assert!(numbers(&other.ask().await).0.is_empty(), "deleted, since the token proved it");
}

#[tokio::test]
async fn a_limit_takes_messages_to_devices_in_parts() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for n in 1..=5 {
        send(&alice, &bob, n).await;
    }
    let mut phone = Phone::of(&bob, encryption(None));
    phone.body["extensions"]["to_device"]["limit"] = json!(2);
    for expected in [vec![1, 2], vec![3, 4], vec![5], vec![]] {
        let (numbers, token) = numbers(&phone.ask().await);
        assert_eq!(numbers, expected);
        phone.body["extensions"]["to_device"]["since"] = json!(token);
    }
}

#[tokio::test]
async fn a_restart_forgets_connections_and_nothing_else() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let mut phone = Phone::of(&alice, rooms());
    phone.ask().await;
    alice.send_text(&room, "before").await;
    server.restart().await;
    phone.is_lost().await;
    phone.pos = None;
    let anew = phone.ask().await;
    assert_eq!(told(&anew, &room)["initial"], true);
    assert_eq!(bodies(&told(&anew, &room)["timeline"]), ["before"]);
}

#[tokio::test]
async fn a_waiting_request_ends_with_its_session() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let other = server.login("alice").await;
    other.create_public_room().await;
    let mut phone = Phone::of(&alice, json!({"lists": {}}));
    phone.ask().await;
    let (path, body) = (phone.path(30000), phone.body.clone());
    let mut waiting = pin!(alice.post(&path, body));
    still_waits(&mut waiting).await;
    let logout = format!("{V3}/logout");
    let (answer, _) = tokio::join!(waiting, alice.post_ok(&logout, json!({})));
    refused(answer, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_message_sent_by_this_device_names_its_transaction() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let mut phone = Phone::of(&alice, rooms());
    phone.ask().await;
    alice.put_ok(&at(&room, "send/m.room.message/mine"), message("mine")).await;
    let answer = phone.ask().await;
    let event = &told(&answer, &room)["timeline"][0];
    assert_eq!(event["unsigned"]["transaction_id"], "mine");
    assert!(event["room_id"].is_null(), "{event}");
}
