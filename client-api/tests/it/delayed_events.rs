//! Events that are sent later (MSC4140, under its unstable name).

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hearth_http::{ClassLimits, Rate};
use hearth_storage::{
    Direction,
    engine::{Engine as _, Write, fjall::FjallEngine},
};
use hearth_testkit::{TestServer, TestServerBuilder, TestUser, encode};
use hearth_types::ManualClock;
use http::StatusCode;
use ruma::RoomId;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    account::with_password,
    support::{V3, at, bodies, list, message, next, refused, state_of, text, timeline},
};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.msc4140";
/// Longer than any test.
const LONG: u64 = 3_600_000;

fn delayed(rest: &str) -> String {
    format!("{UNSTABLE}/delayed_events{rest}")
}

/// Where a message is sent with a delay.
fn send_later(room: &RoomId, transaction: &str, delay_ms: u64) -> String {
    let transaction = encode(transaction);
    let rest = format!("send/m.room.message/{transaction}?org.matrix.msc4140.delay={delay_ms}");
    at(room, rest)
}

async fn schedule(user: &TestUser, room: &RoomId, body: &str, delay_ms: u64) -> String {
    let answer = user.put_ok(&send_later(room, body, delay_ms), message(body)).await;
    assert!(answer.get("event_id").is_none(), "{answer}");
    text(&answer, "delay_id").to_owned()
}

async fn manage(user: &TestUser, delay_id: &str, action: &str) -> (StatusCode, Value) {
    // Whoever knows the ID may: no token is needed.
    let path = delayed(&format!("/{delay_id}/{action}"));
    user.without_token().post(&path, json!({})).await
}

/// Those of all times.
async fn listed(user: &TestUser, query: &str) -> Vec<Value> {
    let query = format!("?since_ts=0&{}", query.trim_start_matches('?'));
    list(&user.get_ok(&delayed(&query)).await["delayed_events"]).to_vec()
}

/// An event once it is written down what became of it, which is a moment after the room has it.
async fn ended(user: &TestUser, delay_id: &str) -> Value {
    loop {
        let known = user.get_ok(&delayed(&format!("/{delay_id}"))).await;
        if known.get("origin_server_ts").is_some() {
            return known;
        }
    }
}

/// Syncs on until a message with this body is there; the event.
async fn wait_for(user: &TestUser, room: &RoomId, since: &str, body: &str) -> Value {
    let mut since = since.to_owned();
    loop {
        let sync = user.wait_for_sync(&since).await;
        let found =
            list(timeline(&sync, room)).iter().find(|event| event["content"]["body"] == body);
        if let Some(found) = found {
            return found.clone();
        }
        since = next(&sync);
    }
}

fn few() -> TestServerBuilder {
    TestServer::builder().config(|config| {
        config.delayed_events.max_delay_s = 7_200;
        config.delayed_events.max_scheduled = 2;
    })
}

/// Each user may send three events at once, and one more every thousand seconds of a clock that the test moves.
fn slowly(clock: &Arc<ManualClock>) -> TestServerBuilder {
    TestServer::builder().clock(Arc::clone(clock) as _).config(|config| {
        let limits = &mut config.http.rate_limits;
        limits.enabled = true;
        limits.message.user = Rate::new(0.001, 3);
        // What asks how far things are.
        let any = Rate::new(1e6, 1_000_000);
        limits.general = ClassLimits { user: any, address: any };
    })
}

async fn say(user: &TestUser, room: &RoomId, body: &str) -> (StatusCode, Value) {
    user.put(&at(room, format!("send/m.room.message/{body}")), message(body)).await
}

/// The rows of delayed events of a server that is stopped, by keyspace and key.
type Rows = BTreeMap<(usize, Bytes), Bytes>;

fn engine(server: &TestServer) -> FjallEngine {
    FjallEngine::open(&server.data_dir().join("store"), hearth_delayed::KEYSPACES).unwrap()
}

fn rows(server: &TestServer) -> Rows {
    let mut rows = Rows::new();
    let view = engine(server).view();
    for keyspace in 0..hearth_delayed::KEYSPACES.len() {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let mut note = |key: &[u8], value| {
            rows.insert((keyspace, Bytes::copy_from_slice(key)), value);
            ControlFlow::Continue(())
        };
        view.scan(keyspace, all, Direction::Forward, &mut note).unwrap();
    }
    rows
}

fn put_back(server: &TestServer, rows_then: Rows) {
    let mut writes: BTreeMap<_, _> = rows(server).into_keys().map(|at| (at, None)).collect();
    writes.extend(rows_then.into_iter().map(|(at, value)| (at, Some(value))));
    let writes = writes.into_iter().map(|((keyspace, key), value)| Write { keyspace, key, value });
    engine(server).apply(writes.collect(), true).unwrap();
}

#[tokio::test]
async fn what_falls_due_is_charged_to_its_user_and_to_nobody_else() {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let mut server = slowly(&clock).start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    let mut scheduled = Vec::new();
    for number in 0..3 {
        scheduled.push(schedule(&alice, &room, &format!("a{number}"), 6_000_000 + number).await);
    }
    let answer = alice.put(&send_later(&room, "x", LONG), message("x")).await;
    refused(answer, 429, "M_LIMIT_EXCEEDED");
    clock.advance(Duration::from_mins(50));
    for number in 3..6 {
        scheduled.push(schedule(&alice, &room, &format!("a{number}"), 3_000_000 + number).await);
    }
    let of_bob = schedule(&bob, &room, "b", 3_000_100).await;
    server.stop().await;
    clock.advance(Duration::from_secs(3_001));
    server.restart().await;
    for (number, delay_id) in scheduled.iter().enumerate() {
        let known = ended(&alice, delay_id).await;
        assert_eq!(known.get("event_id").is_some(), number < 3, "{known}");
        let error = (number >= 3).then_some("M_LIMIT_EXCEEDED");
        assert_eq!(known["error"]["errcode"].as_str(), error, "{known}");
    }
    assert!(ended(&bob, &of_bob).await["event_id"].is_string());
    let sync = bob.sync(Some(&since), "").await;
    let mut sent = bodies(timeline(&sync, &room));
    sent.retain(|body| *body != "b");
    assert_eq!(sent, ["a0", "a1", "a2"], "in their order, and each once");
    refused(say(&alice, &room, "now").await, 429, "M_LIMIT_EXCEEDED");
    assert_eq!(say(&bob, &room, "now").await.0, StatusCode::OK);
}

#[tokio::test]
async fn who_sends_by_hand_what_is_over_the_limit_may_try_again() {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let server = slowly(&clock).start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let delay_id = schedule(&alice, &room, "later", 10 * LONG).await;
    for body in ["1", "2"] {
        assert_eq!(say(&alice, &room, body).await.0, StatusCode::OK);
    }
    let answer = refused(manage(&alice, &delay_id, "send").await, 429, "M_LIMIT_EXCEEDED");
    assert_eq!(answer["retry_after_ms"], 1_000_000);
    assert_eq!(listed(&alice, "?status=scheduled").await.len(), 1);
    clock.advance(Duration::from_secs(1_000));
    assert_eq!(manage(&alice, &delay_id, "send").await.0, StatusCode::OK);
    // What has happened is not charged.
    assert_eq!(manage(&alice, &delay_id, "send").await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_was_sent_before_a_crash_is_neither_sent_nor_charged_again() {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let mut server = slowly(&clock).start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let delay_id = schedule(&alice, &room, "once", 1_000).await;
    server.stop().await;
    let scheduled = rows(&server);
    clock.advance(Duration::from_secs(10));
    server.restart().await;
    let sent = ended(&alice, &delay_id).await;
    server.stop().await;
    // As if it had been killed when the room had the event, and nothing else said so.
    put_back(&server, scheduled);
    server.restart().await;
    let again = ended(&alice, &delay_id).await;
    assert_eq!(again["event_id"], sent["event_id"]);
    let sync = alice.sync(None, "").await;
    assert_eq!(bodies(timeline(&sync, &room)), ["once"]);
    for body in ["1", "2", "3"] {
        assert_eq!(say(&alice, &room, body).await.0, StatusCode::OK, "the whole limit is left");
    }
    refused(say(&alice, &room, "4").await, 429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_message_is_sent_when_its_delay_is_over() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let (since, bob_since) = (alice.now().await, bob.now().await);
    let phone = server.login("alice").await;
    let phone_since = phone.now().await;
    let delay_id = schedule(&alice, &room, "later", 50).await;
    // Its sender knows it again, on every device; nobody else is told.
    for (user, since) in [(&alice, &since), (&phone, &phone_since)] {
        let event = wait_for(user, &room, since, "later").await;
        assert_eq!(event["unsigned"]["org.matrix.msc4140.delay_id"], json!(delay_id), "{event}");
        assert!(event["unsigned"].get("transaction_id").is_none(), "{event}");
    }
    let event = wait_for(&bob, &room, &bob_since, "later").await;
    assert!(event["unsigned"].get("org.matrix.msc4140.delay_id").is_none(), "{event}");

    let known = ended(&alice, &delay_id).await;
    assert_eq!(known["event_id"], event["event_id"]);
    assert!(known["origin_server_ts"].is_u64(), "{known}");
    let (at, event_id) = (&known["origin_server_ts"], &known["event_id"]);
    assert_eq!(known["finalised"], json!({ "finalised_ts": at, "event_id": event_id }));
    assert_eq!(listed(&alice, "?status=scheduled").await, [] as [Value; 0]);
    assert_eq!(listed(&alice, "?outcome=send&reason=delay").await, [known]);
}

#[tokio::test]
async fn state_is_set_when_its_delay_is_over() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    let member = "org.matrix.msc3401.call.member";
    let rest = format!("state/{member}/_alice?org.matrix.msc4140.delay=50");
    let answer = alice.put_ok(&at(&room, rest), json!({ "left": true })).await;
    let delay_id = text(&answer, "delay_id");
    let mut since = since;
    loop {
        let sync = alice.wait_for_sync(&since).await;
        if !list(timeline(&sync, &room)).is_empty() {
            let event = state_of(timeline(&sync, &room), member, "_alice");
            assert_eq!(event["content"], json!({ "left": true }));
            assert_eq!(event["unsigned"]["org.matrix.msc4140.delay_id"], delay_id);
            break;
        }
        since = next(&sync);
    }
}

#[tokio::test]
async fn the_endpoint_of_its_own_takes_messages_and_state() {
    let server = few().start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let path = |kind: &str, transaction: &str| {
        let room = encode(room.as_str());
        format!("{UNSTABLE}/rooms/{room}/delayed_event/{kind}/{transaction}")
    };
    let body = json!({ "delay": LONG, "content": message("later") });
    let first = alice.put_ok(&path("m.room.message", "1"), body.clone()).await;
    let again = alice.put_ok(&path("m.room.message", "1"), body).await;
    assert_eq!(first, again, "a repeated request is the same event");
    let body = json!({ "delay_ms": LONG, "state_key": "", "content": { "topic": "later" } });
    let state = alice.put_ok(&path("m.room.topic", "1"), body).await;
    let all = listed(&alice, "?order_by=running_since").await;
    assert_eq!(all.len(), 2);
    assert_eq!(
        (&all[0]["delay_id"], &all[1]["delay_id"]),
        (&first["delay_id"], &state["delay_id"])
    );
    assert_eq!(all[0]["room_id"], room.as_str());
    assert_eq!(all[0]["content"], message("later"));
    assert_eq!((&all[0]["type"], all[0].get("state_key")), (&json!("m.room.message"), None));
    assert_eq!((&all[1]["type"], &all[1]["state_key"]), (&json!("m.room.topic"), &json!("")));
    for event in &all {
        assert_eq!((&event["delay_ms"], &event["delay"]), (&json!(LONG), &json!(LONG)));
        assert_eq!(event["delayed_since_ts"], event["running_since"]);
        assert!(event["delayed_since_ts"].is_u64() && event.get("finalised").is_none(), "{event}");
    }

    let too_long = json!({ "delay": 7_200_001, "content": {} });
    let answer = alice.put(&path("a", "2"), too_long).await;
    let answer = refused(answer, 400, "ORG.MATRIX.MSC4140_MAX_DELAY_EXCEEDED");
    assert_eq!(answer["org.matrix.msc4140.max_delay"], 7_200_000);
    let answer = alice.put(&path("a", "3"), json!({ "delay": 1, "content": 5 })).await;
    refused(answer, 400, "M_BAD_JSON");
    let answer = alice.put(&path("a", "4"), json!({ "content": {} })).await;
    refused(answer, 400, "M_BAD_JSON");
    let anonymous = alice.without_token().put(&path("a", "5"), json!({})).await;
    refused(anonymous, 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn what_is_cancelled_is_never_sent() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let delay_id = schedule(&alice, &room, "never", LONG).await;
    assert_eq!(manage(&alice, &delay_id, "cancel").await, (StatusCode::OK, json!({})));
    assert_eq!(manage(&alice, &delay_id, "cancel").await.0, StatusCode::OK);
    refused(manage(&alice, &delay_id, "send").await, 409, "M_UNKNOWN");
    refused(manage(&alice, &delay_id, "restart").await, 409, "M_UNKNOWN");
    let ended = listed(&alice, "?status=finalised&outcome=cancel&reason=action").await;
    assert_eq!(ended.len(), 1);
    assert!(ended[0].get("event_id").is_none() && ended[0].get("error").is_none());
    assert_eq!(ended[0]["finalised"], json!({ "finalised_ts": ended[0]["origin_server_ts"] }));
    refused(manage(&alice, "unknown", "cancel").await, 404, "M_NOT_FOUND");
    refused(manage(&alice, &delay_id, "forget").await, 404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn whoever_sends_bodies_is_limited_before_they_are_read() {
    let server = TestServer::builder().config(|config| {
        config.http.rate_limits.enabled = true;
        config.http.rate_limits.general.address = Rate::new(0.001, 2);
    });
    let server = server.start().await;
    let manage = async || server.client().post(&delayed("/unknown"), json!([])).await;
    for _ in 0..2 {
        refused(manage().await, 400, "M_BAD_JSON");
    }
    refused(manage().await, 429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn what_is_sent_at_once_is_sent_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let delay_id = schedule(&alice, &room, "now", LONG).await;
    for _ in 0..2 {
        assert_eq!(manage(&alice, &delay_id, "send").await, (StatusCode::OK, json!({})));
    }
    refused(manage(&alice, &delay_id, "cancel").await, 409, "M_UNKNOWN");
    let sync = alice.sync(None, "").await;
    assert_eq!(bodies(timeline(&sync, &room)), ["now"]);
    assert_eq!(listed(&alice, "?outcome=send&reason=action").await.len(), 1);
}

#[tokio::test]
async fn a_restart_begins_the_delay_anew() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let delay_id = schedule(&alice, &room, "later", LONG).await;
    let path = delayed(&format!("/{delay_id}"));
    let before = alice.get_ok(&path).await;
    assert_eq!(manage(&alice, &delay_id, "restart").await, (StatusCode::OK, json!({})));
    // The form that clients spoke before.
    alice.post_ok(&path, json!({ "action": "restart" })).await;
    let after = alice.get_ok(&path).await;
    assert!(after["running_since"].as_u64() >= before["running_since"].as_u64());
    assert_eq!(after["delay"], LONG);
    assert_eq!(listed(&alice, "").await.len(), 1);
}

#[tokio::test]
async fn delays_and_numbers_are_bounded() {
    let server = few().start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let answer = alice.put(&send_later(&room, "1", 7_200_001), message("a")).await;
    let answer = refused(answer, 400, "M_UNKNOWN");
    assert_eq!(answer["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
    assert_eq!(answer["org.matrix.msc4140.max_delay"], 7_200_000);
    let answer = alice.put(&send_later(&room, "2", 0), message("a")).await;
    refused(answer, 400, "M_INVALID_PARAM");
    let bad = at(&room, "send/m.room.message/3?org.matrix.msc4140.delay=soon");
    refused(alice.put(&bad, message("a")).await, 400, "M_INVALID_PARAM");

    let first = schedule(&alice, &room, "first", LONG).await;
    schedule(&alice, &room, "second", LONG).await;
    let answer = alice.put(&send_later(&room, "third", LONG), message("third")).await;
    let answer = refused(answer, 429, "M_LIMIT_EXCEEDED");
    assert_eq!(answer["org.matrix.msc4140.errcode"], "M_MAX_DELAYED_EVENTS_EXCEEDED");
    assert_eq!(schedule(&alice, &room, "first", LONG).await, first, "known, so not one more");
    manage(&alice, &first, "cancel").await;
    schedule(&alice, &room, "third", LONG).await;
    // Nothing of all that was sent at once.
    let sync = alice.sync(None, "").await;
    assert_eq!(bodies(timeline(&sync, &room)), [] as [&str; 0]);
    let capabilities = alice.get_ok(&format!("{V3}/capabilities")).await;
    let limits = json!({ "max_delay_ms": 7_200_000, "max_scheduled": 2 });
    assert_eq!(capabilities["capabilities"]["org.matrix.msc4140.delayed_events"], limits);
}

#[tokio::test]
async fn what_a_room_refuses_is_told_and_recorded() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    // Whether he may is asked when it is sent.
    let delay_id = schedule(&bob, &room, "from outside", LONG).await;
    refused(manage(&bob, &delay_id, "send").await, 403, "M_FORBIDDEN");
    assert_eq!(listed(&bob, "?status=scheduled").await.len(), 1, "it may go better later");
    bob.join(&room).await;
    assert_eq!(manage(&bob, &delay_id, "send").await.0, StatusCode::OK);
    bob.leave(&room).await;

    let since = alice.now().await;
    let delay_id = schedule(&bob, &room, "never", 1).await;
    let known = ended(&bob, &delay_id).await;
    assert_eq!(known["error"]["errcode"], "M_FORBIDDEN", "{known}");
    let finalised = json!({ "finalised_ts": known["origin_server_ts"], "error": known["error"] });
    assert_eq!(known["finalised"], finalised);
    assert_eq!(listed(&bob, "?outcome=error&reason=delay").await, [known]);
    let sync = alice.sync(Some(&since), "").await;
    assert_eq!(bodies(timeline(&sync, &room)), [] as [&str; 0]);
}

#[tokio::test]
async fn a_list_is_the_users_own_narrowed_ordered_and_paged() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let other = alice.create_public_room().await;
    for number in 0..52_u64 {
        schedule(&alice, &room, &format!("m{number}"), LONG - number).await;
    }
    // Those that began in one millisecond come by their IDs.
    sleep(Duration::from_millis(2)).await;
    let elsewhere = schedule(&alice, &other, "elsewhere", LONG).await;
    assert_eq!(listed(&alice, &format!("?room_id={}", encode(other.as_str()))).await.len(), 1);
    assert_eq!(listed(&alice, "?type=m.room.topic").await.len(), 0);
    assert_eq!(listed(&alice, "?status=finalised").await.len(), 0);
    let first = alice.get_ok(&delayed("")).await;
    assert_eq!(list(&first["delayed_events"]).len(), 50);
    let from = encode(text(&first, "next_batch"));
    let second = alice.get_ok(&delayed(&format!("?from={from}"))).await;
    assert_eq!(list(&second["delayed_events"]).len(), 3);
    assert!(second.get("next_batch").is_none(), "{second}");
    let newest = alice.get_ok(&delayed("?dir=b&order_by=running_since")).await;
    assert_eq!(newest["delayed_events"][0]["delay_id"], json!(elsewhere));
    assert!(newest["prev_batch"].is_string());
    let since = |since: &str| format!("?order_by=running_since&since_ts={since}");
    let count =
        async |query: String| list(&alice.get_ok(&delayed(&query)).await["delayed_events"]).len();
    assert_eq!(count("?order_by=running_since".to_owned()).await, 0, "all began before now");
    assert_eq!(count(since("0")).await, 50);
    assert_eq!(count(since("end")).await, 0);
    assert_eq!(count(since("end") + "&dir=b").await, 50);
    assert_eq!(count(since("1") + "&dir=b").await, 0);
    for query in [
        "?dir=x",
        "?status=lost",
        "?order_by=size",
        "?from=nowhere",
        "?room_id=x",
        "?since_ts=soon",
        "?since_ts=-1",
    ] {
        refused(alice.get(&delayed(query)).await, 400, "M_INVALID_PARAM");
    }
    assert_eq!(listed(&bob, "").await.len(), 0);
    refused(bob.get(&delayed(&format!("/{elsewhere}"))).await, 404, "M_NOT_FOUND");
    refused(bob.without_token().get(&delayed("")).await, 401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn what_is_scheduled_outlives_the_server_and_the_session() {
    let mut server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    schedule(&alice, &room, "a last will", 2_000).await;
    let cancelled = schedule(&alice, &room, "never", 2_000).await;
    let later = schedule(&alice, &room, "much later", LONG).await;
    manage(&alice, &cancelled, "cancel").await;
    alice.post_ok(&format!("{V3}/logout"), json!({})).await;
    server.restart().await;
    wait_for(&bob, &room, &since, "a last will").await;
    assert_eq!(manage(&bob, &later, "send").await.0, StatusCode::OK);
    refused(manage(&bob, &cancelled, "send").await, 409, "M_UNKNOWN");
    let sync = bob.sync(Some(&since), "").await;
    assert_eq!(bodies(timeline(&sync, &room)), ["a last will", "much later"]);
}

#[tokio::test]
async fn what_a_deactivated_account_left_goes_with_it() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let delay_id = schedule(&alice, &room, "never", LONG).await;
    let path = format!("{V3}/account/deactivate");
    let password = alice.password();
    let post = http::Method::POST;
    let (status, _) = with_password(&alice, post, &path, json!({}), "alice", &password).await;
    assert_eq!(status, StatusCode::OK);
    refused(manage(&alice, &delay_id, "send").await, 404, "M_NOT_FOUND");
    refused(manage(&alice, &delay_id, "cancel").await, 404, "M_NOT_FOUND");
}
