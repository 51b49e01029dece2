//! Servers that never come to an end with what they tell: each bound of this module, reached.

use std::{collections::HashMap, sync::Arc};

use axum::{Router, body::Body};
use hearth_rooms::schema::Standing;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    signatures::{hash_and_sign_event, reference_hash},
};
use serde_json::{Value, json};

use super::{
    tests::{Bench, bench, member},
    *,
};

/// A server that tells what a test puts there, and counts what it is asked.
#[derive(Clone, Default)]
struct Script(Arc<Told>);

#[derive(Default)]
struct Told {
    /// Events by their IDs, and the IDs of those before each.
    events: Mutex<HashMap<String, (Value, String)>>,
    /// How many missing events one answer has; none: it tells of none.
    at_once: Mutex<usize>,
    state_ids: Mutex<Value>,
    /// The same for single events.
    states: Mutex<HashMap<String, Value>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    /// Takes the place of their server.
    fn replacing(bench: &Bench) -> Self {
        let script = Self::default();
        let this = script.clone();
        let router = Router::new().fallback(move |request: Request<Body>| {
            let this = this.clone();
            async move { this.answer(request).await }
        });
        bench.network.put("them.example", router);
        script
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let mut path = head.uri.path().trim_start_matches("/_matrix/federation/v1/").split('/');
        let what = path.next().unwrap_or_default();
        self.0.asked.lock().push(what.to_owned());
        let events = self.0.events.lock();
        let answer = match what {
            "get_missing_events" => {
                let body: Value = serde_json::from_slice(&body).unwrap();
                // What comes before an event is asked for by the event.
                let latest = body["latest_events"][0].as_str().unwrap();
                let mut next = events.get(latest).map(|(_, before)| before.clone());
                let mut told = Vec::new();
                while told.len() < *self.0.at_once.lock()
                    && let Some((event, before)) = next.and_then(|next| events.get(&next))
                {
                    told.push(event.clone());
                    next = Some(before.clone());
                }
                Some(json!({ "events": told }))
            }
            "event" => {
                let id = path.next().unwrap_or_default().replace("%24", "$");
                events.get(&id).map(|(event, _)| {
                    json!({ "origin": "them.example", "origin_server_ts": 1, "pdus": [event] })
                })
            }
            "state_ids" => {
                let id = head.uri.query().unwrap_or_default().replace("event_id=%24", "$");
                let of_event = self.0.states.lock().get(&id).cloned();
                of_event
                    .or_else(|| Some(self.0.state_ids.lock().clone()))
                    .filter(|told| !told.is_null())
            }
            _ => None,
        };
        let status = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        let body = answer.unwrap_or_else(|| json!({ "errcode": "M_NOT_FOUND" }));
        Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
    }

    fn count(&self, what: &str) -> usize {
        self.0.asked.lock().iter().filter(|asked| *asked == what).count()
    }
}

/// An event of theirs as they would sign it, and its ID.
fn signed(bench: &Bench, version: &RoomVersionId, event: Value) -> (OwnedEventId, Value) {
    let rules = version.rules().unwrap();
    let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let identity = bench.them.federation.identity();
    let name = identity.server_name().as_str();
    hash_and_sign_event(name, identity.key_pair(), &mut object, &rules.redaction).unwrap();
    let hash = reference_hash(&object, &rules).unwrap();
    (format!("${hash}").try_into().unwrap(), serde_json::to_value(object).unwrap())
}

/// A message of theirs.
fn message(bench: &Bench, depth: usize, prev: &str, auth: &[String], body: &str) -> Value {
    json!({
        "type": "m.room.message", "sender": bench.alice, "room_id": bench.room_id,
        "content": { "msgtype": "m.text", "body": body }, "depth": 1_000 + depth,
        "origin_server_ts": 1_700_000_000_000_u64, "prev_events": [prev], "auth_events": auth,
    })
}

fn unknown(number: usize) -> String {
    format!("${number:0>43}")
}

impl Script {
    /// Tells of a chain of so many messages that follows nothing; the last of them, checked, and what
    /// it follows.
    async fn chain(&self, bench: &Bench, count: usize, bytes: usize) -> (CheckedPdu, OwnedEventId) {
        let version = bench.us.federation.rooms().version(&bench.room_id).await.unwrap();
        let body = "x".repeat(bytes);
        let mut before: OwnedEventId = unknown(0).try_into().unwrap();
        for number in 0..count {
            let auth = [unknown(1_000_000 + number)];
            let event = message(bench, number, before.as_str(), &auth, &body);
            let (id, event) = signed(bench, &version, event);
            self.0.events.lock().insert(id.to_string(), (event, before.to_string()));
            before = id;
        }
        // Of the last one nothing but what it follows is missing.
        let last = message(bench, count, before.as_str(), &auth_here(bench).await, "last");
        let (id, last) = signed(bench, &version, last);
        self.0.events.lock().insert(id.to_string(), (last.clone(), before.to_string()));
        (checked(bench, &version, last).await, before)
    }
}

/// Auth events that are here.
async fn auth_here(bench: &Bench) -> Vec<String> {
    let newest = bench.us.federation.rooms().newest_events(&bench.room_id).await.unwrap();
    newest[0].pdu.auth_events().iter().map(ToString::to_string).collect()
}

async fn checked(bench: &Bench, version: &RoomVersionId, event: Value) -> CheckedPdu {
    let event = RawValue::from_string(event.to_string()).unwrap();
    let checker = bench.us.federation.checker();
    checker.check(version, &bench.room_id, vec![event]).await.remove(0).unwrap()
}

/// Walks a gap of so many events of this size, of which one answer tells some; how many are taken, and
/// by how many requests.
async fn walked(count: usize, bytes: usize, at_once: usize) -> (usize, usize) {
    let bench = bench().await;
    let us = &bench.us.federation;
    let script = Script::replacing(&bench);
    *script.0.at_once.lock() = at_once;
    let (last, missing) = script.chain(&bench, count, bytes).await;
    let turn = us.turns().take(&member("them.example"), &bench.room_id).await.unwrap();
    let version = us.rooms().version(&bench.room_id).await.unwrap();
    let mut filling = Filling::new(us, &turn, version, 0);
    let taken = filling.walk(&last, &[missing]).await.unwrap();
    (taken.len(), script.count("get_missing_events"))
}

#[tokio::test]
async fn a_gap_without_end_is_walked_for_so_many_events() {
    assert_eq!(walked(1_200, 1, 50).await, (1_000, 20));
}

#[tokio::test]
async fn a_gap_without_end_is_walked_for_so_many_requests() {
    assert_eq!(walked(70, 1, 1).await, (50, 50));
}

#[tokio::test]
async fn a_gap_without_end_is_walked_for_so_many_bytes() {
    let (taken, requests) = walked(400, 60_000, 50).await;
    assert_eq!((taken, requests), (300, 6), "16 MiB, and the rest of an answer");
}

#[tokio::test]
async fn auth_events_without_end_are_followed_for_so_many_steps() {
    let bench = bench().await;
    let us = &bench.us.federation;
    let script = Script::replacing(&bench);
    let version = us.rooms().version(&bench.room_id).await.unwrap();
    let prev = us.rooms().newest_events(&bench.room_id).await.unwrap()[0].pdu.id().to_string();
    let mut rests_on = unknown(0);
    for number in 0..30 {
        let event = message(&bench, number, &prev, &[rests_on.clone()], "auth");
        let (id, event) = signed(&bench, &version, event);
        script.0.events.lock().insert(id.to_string(), (event, String::new()));
        rests_on = id.to_string();
    }
    let last = message(&bench, 99, &prev, &[rests_on], "last");
    let last = checked(&bench, &version, signed(&bench, &version, last).1).await;
    let origin = bench.alice.server_name();
    let verdicts = Gaps::new(us.clone()).receive(origin, &bench.room_id, vec![last]).await;
    assert!(matches!(verdicts.unwrap()[0], Verdict::MissingAuth(_)));
    assert_eq!((script.count("event_auth"), script.count("event")), (1, 8));
}

#[tokio::test]
async fn a_gap_that_is_open_everywhere_is_closed_at_so_many_places() {
    let bench = bench().await;
    let script = Script::replacing(&bench);
    *script.0.at_once.lock() = 50;
    let (last, _) = script.chain(&bench, 40, 1).await;
    let us = bench.us.federation.clone();
    let origin = bench.alice.server_name();
    let verdicts = Gaps::new(us).receive(origin, &bench.room_id, vec![last]).await.unwrap();
    assert!(matches!(verdicts[0], Verdict::MissingAuth(_) | Verdict::MissingPrev(_)));
    assert_eq!((script.count("get_missing_events"), script.count("event_auth")), (2, 20));
}

#[tokio::test]
async fn a_state_without_end_is_not_fetched() {
    let bench = bench().await;
    let script = Script::replacing(&bench);
    let us = bench.us.federation.clone();
    let version = us.rooms().version(&bench.room_id).await.unwrap();
    let last = message(&bench, 1, &unknown(0), &auth_here(&bench).await, "last");
    let last = checked(&bench, &version, signed(&bench, &version, last).1).await;
    let origin = bench.alice.server_name();
    for (count, asked) in [(300_001, 0), (101, 1)] {
        let ids: Vec<_> = (1..=count).map(unknown).collect();
        *script.0.state_ids.lock() = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
        let gaps = Gaps::new(us.clone());
        let verdicts = gaps.receive(origin, &bench.room_id, vec![last.clone()]).await.unwrap();
        assert!(matches!(verdicts[0], Verdict::MissingPrev(_)));
        assert_eq!(script.count("state"), asked);
    }
}

#[tokio::test]
async fn of_an_auth_chain_only_what_is_missing_is_kept() {
    let bench = bench().await;
    let us = &bench.us.federation;
    let topic = |number: usize| json!({ "topic": format!("topic {number}") });
    // Their server tells a chain with more than the event rests on.
    let mut others = Vec::new();
    for number in 0..3 {
        others.push(bench.set("m.room.topic", "", topic(number)).await);
    }
    let levels = json!({ "events_default": 0, "users_default": 0 });
    let levels = bench.set("m.room.power_levels", "", levels).await;
    let last = bench.say(1).await.remove(0);
    let mut chain = vec![serde_json::to_value(bench.theirs(&levels).await).unwrap()];
    for id in &others {
        chain.push(serde_json::to_value(bench.theirs(id).await).unwrap());
    }
    let chain = json!({ "auth_chain": chain }).to_string();
    let router = Router::new().fallback(move || {
        let chain = chain.clone();
        async move { chain }
    });
    bench.network.put("them.example", router);
    let version = us.rooms().version(&bench.room_id).await.unwrap();
    let last = serde_json::to_value(bench.theirs(&last).await).unwrap();
    let last = checked(&bench, &version, last).await;
    let turn = us.turns().take(&member("them.example"), &bench.room_id).await.unwrap();
    let mut filling = Filling::new(us, &turn, version, 0);
    assert!(filling.fetch_auth(&last, std::slice::from_ref(&levels)).await.unwrap());
    assert!(bench.standing(&levels).await.is_some());
    for id in &others {
        assert_eq!(bench.standing(id).await, None, "nobody asked for it");
    }
}

/// The room's current state here, as IDs.
async fn state_here(bench: &Bench, kinds: &[(&str, &str)]) -> Vec<OwnedEventId> {
    let rooms = bench.us.federation.rooms();
    let head = rooms.head(&bench.room_id).await.unwrap().unwrap();
    let mut state = Vec::new();
    for (kind, state_key) in kinds {
        let event = rooms.state_event(&bench.room_id, head.state, kind, state_key).await.unwrap();
        state.push(event.unwrap().pdu.id().to_owned());
    }
    state
}

const ALICE: &str = "@alice:them.example";
/// What a message of Alice's rests on.
const AUTH: [(&str, &str); 2] = [("m.room.power_levels", ""), ("m.room.member", ALICE)];
/// The rest of the state.
const REST: [(&str, &str); 3] =
    [("m.room.create", ""), ("m.room.join_rules", ""), ("m.room.topic", "")];

#[tokio::test]
async fn where_a_state_is_told_only_further_back_it_is_taken_from_there() {
    let bench = bench().await;
    let (us, room_id) = (&bench.us.federation, &bench.room_id);
    let version = us.rooms().version(room_id).await.unwrap();
    let topic = bench.set("m.room.topic", "", json!({ "topic": "old" })).await;
    let topic =
        checked(&bench, &version, serde_json::from_str(bench.theirs(&topic).await.get()).unwrap())
            .await;
    let gaps = Gaps::new(us.clone());
    let origin = ruma::server_name!("them.example");
    assert_eq!(gaps.receive(origin, room_id, vec![topic]).await.unwrap(), [Verdict::Accepted]);

    let script = Script::replacing(&bench);
    *script.0.at_once.lock() = 1;
    let auth: Vec<_> = state_here(&bench, &AUTH).await.iter().map(ToString::to_string).collect();
    let mut first = message(&bench, 1, &unknown(0), &auth, "");
    first["type"] = json!("m.room.topic");
    first["state_key"] = json!("");
    first["content"] = json!({ "topic": "new" });
    let (first_id, first) = signed(&bench, &version, first);
    let middle = message(&bench, 2, first_id.as_str(), &auth, "middle");
    let (middle_id, middle) = signed(&bench, &version, middle);
    let last = message(&bench, 3, middle_id.as_str(), &auth, "last");
    let (last_id, last) = signed(&bench, &version, last);
    let state = state_here(&bench, &[&AUTH[..], &REST[..]].concat()).await;
    {
        let mut events = script.0.events.lock();
        events.insert(first_id.to_string(), (first, String::new()));
        // The walk is told of nothing before it.
        events.insert(middle_id.to_string(), (middle, String::new()));
        events.insert(last_id.to_string(), (last.clone(), middle_id.to_string()));
        let told = json!({ "pdu_ids": state, "auth_chain_ids": [] });
        script.0.states.lock().insert(first_id.to_string(), told);
    }
    let last = checked(&bench, &version, last).await;
    assert_eq!(gaps.receive(origin, room_id, vec![last]).await.unwrap(), [Verdict::Accepted]);
    assert_eq!(bench.standing(&middle_id).await, Some(Standing::Accepted));
    assert_eq!(bench.standing(&first_id).await, Some(Standing::Outlier));
    let middle = us.rooms().event_by_id(room_id, &middle_id).await.unwrap().unwrap();
    let before = middle.header.state_before;
    let topic = us.rooms().state_event(room_id, before, "m.room.topic", "").await.unwrap();
    assert_eq!(topic.unwrap().pdu.id(), first_id);
    let member = us.rooms().state_event(room_id, before, "m.room.member", ALICE).await.unwrap();
    assert!(member.is_some());
}

#[tokio::test]
async fn an_event_that_rests_on_another_rooms_is_rejected_and_not_asked_about_again() {
    let bench = bench().await;
    let (us, room_id) = (&bench.us.federation, &bench.room_id);
    let version = us.rooms().version(room_id).await.unwrap();
    let script = Script::replacing(&bench);
    let mut foreign = message(&bench, 1, &unknown(0), &[], "elsewhere");
    foreign["room_id"] = json!("!elsewhere:them.example");
    let (foreign_id, foreign) = signed(&bench, &version, foreign);
    script.0.events.lock().insert(foreign_id.to_string(), (foreign, String::new()));
    let here = state_here(&bench, &AUTH).await;
    let auth: Vec<_> = here.iter().chain([&foreign_id]).map(ToString::to_string).collect();
    let newest = us.rooms().newest_events(room_id).await.unwrap();
    let event = message(&bench, 2, newest[0].pdu.id().as_str(), &auth, "here");
    let (event_id, event) = signed(&bench, &version, event);
    let event = checked(&bench, &version, event).await;
    let origin = ruma::server_name!("them.example");
    let gaps = Gaps::new(us.clone());
    for _ in 0..2 {
        let verdicts = gaps.receive(origin, room_id, vec![event.clone()]).await.unwrap();
        assert!(matches!(verdicts[0], Verdict::Rejected(_)), "{verdicts:?}");
    }
    assert_eq!(bench.standing(&event_id).await, Some(Standing::Rejected));
    assert_eq!(script.count("event"), 1);
    assert!(us.holes().of_room(room_id).is_empty());
}
