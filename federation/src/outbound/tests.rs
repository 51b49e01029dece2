//! The sender over real rooms, under simulated time, against a network that is a table.

mod devices;

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use hearth_e2ee::{E2eeConfig, E2eeParts};
use hearth_rooms::{
    CreateRoomOptions, Draft, RoomsConfig,
    schema::{EventOrdinal, ROOM_SERVERS, SERVER_ROOMS, ServerRow},
};
use hearth_storage::{Commit, Engine, EngineKind, StoreOptions, engine::memory::MemoryEngine};
use hearth_types::StreamPosition;
use hearth_users::UsersConfig;
use http::{Request, Response};
use ruma::{
    OwnedRoomId, OwnedUserId, events::receipt::ReceiptType, owned_server_name, owned_user_id,
    server_name, user_id,
};
use serde_json::{Value, json, value::RawValue};
use tokio::time::sleep;

use super::*;
use crate::transport::{Limits, Transport, TransportError};

mod answers;
mod partial;

/// A transaction that arrived.
#[derive(Clone, Debug)]
struct Arrived {
    server: OwnedServerName,
    transaction_id: String,
    body: Value,
}

/// How a server takes requests.
#[derive(Clone, Debug)]
enum Mode {
    Down,
    /// Answers with this status and errcode.
    Error(u16, &'static str),
    /// Takes everything, but the answers do not come back.
    LosesAnswers,
    /// Refuses transactions that contain this text.
    Allergic(&'static str),
    /// Something in front of it answers with this status.
    Masked(u16),
    /// Takes everything, and says too much about it.
    Verbose,
    /// Takes everything, and says nothing of what becomes of it.
    Terse,
    /// Fails, and asks to be spared for so many seconds.
    Asks(&'static str),
    /// Does not answer.
    Silent,
}

#[derive(Debug, Default)]
struct Network {
    latency: Mutex<Duration>,
    modes: Mutex<HashMap<OwnedServerName, Mode>>,
    arrived: Mutex<Vec<Arrived>>,
    attempts: Mutex<HashMap<OwnedServerName, usize>>,
    in_flight: Mutex<HashMap<OwnedServerName, usize>>,
}

impl Network {
    fn set(&self, server: &ServerName, mode: Option<Mode>) {
        let mut modes = self.modes.lock();
        match mode {
            Some(mode) => modes.insert(server.to_owned(), mode),
            None => modes.remove(server),
        };
    }

    fn attempts(&self, server: &ServerName) -> usize {
        self.attempts.lock().get(server).copied().unwrap_or(0)
    }

    fn arrived_at(&self, server: &ServerName) -> Vec<Arrived> {
        self.arrived.lock().iter().filter(|one| one.server == server).cloned().collect()
    }

    /// The texts of the messages that a server got, in order.
    fn texts(&self, server: &ServerName) -> Vec<String> {
        let arrived = self.arrived_at(server);
        let pdus = arrived.iter().flat_map(|one| one.body["pdus"].as_array().unwrap());
        pdus.filter_map(|pdu| Some(pdu["content"]["body"].as_str()?.to_owned())).collect()
    }
}

#[async_trait::async_trait]
impl Transport for Network {
    async fn send(
        &self,
        destination: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        let server = destination.to_owned();
        *self.attempts.lock().entry(server.clone()).or_default() += 1;
        {
            let mut in_flight = self.in_flight.lock();
            let count = in_flight.entry(server.clone()).or_default();
            *count += 1;
            assert_eq!(*count, 1, "two transactions in flight to {server}");
        }
        // Given back by a sender that a crash ends in the middle, too.
        let flight = Flight { in_flight: &self.in_flight, server: &server };
        let latency = *self.latency.lock();
        sleep(latency).await;
        drop(flight);
        let text = String::from_utf8_lossy(request.body()).into_owned();
        let mode = self.modes.lock().get(&server).cloned();
        let error = |status: u16, errcode: &str| {
            let body = json!({ "errcode": errcode, "error": "no" }).to_string();
            Response::builder().status(status).body(Bytes::from(body)).unwrap()
        };
        match mode {
            Some(Mode::Down) => {
                let reason = "it is down".to_owned();
                return Err(TransportError::Unreachable { server, reason });
            }
            Some(Mode::Error(status, errcode)) => return Ok(error(status, errcode)),
            Some(Mode::Masked(status)) => {
                let page = Bytes::from_static(b"<html>not here</html>");
                return Ok(Response::builder().status(status).body(page).unwrap());
            }
            Some(Mode::Verbose) => return Err(TransportError::TooLarge(server)),
            Some(Mode::Asks(seconds)) => {
                let mut response = error(500, "M_UNKNOWN");
                response.headers_mut().insert("retry-after", seconds.parse().unwrap());
                return Ok(response);
            }
            Some(Mode::Silent) => {
                sleep(limits.timeout).await;
                return Err(TransportError::TimedOut(server));
            }
            Some(Mode::Allergic(to)) if text.contains(to) => return Ok(error(400, "M_BAD_JSON")),
            _ => {}
        }
        let transaction_id = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let body = serde_json::from_str(&text).unwrap();
        self.arrived.lock().push(Arrived { server: server.clone(), transaction_id, body });
        if matches!(mode, Some(Mode::LosesAnswers)) {
            return Err(TransportError::TimedOut(server));
        }
        let answer: &[u8] =
            if matches!(mode, Some(Mode::Terse)) { b"{}" } else { b"{\"pdus\":{}}" };
        Ok(Response::new(Bytes::from_static(answer)))
    }
}

/// A transaction on its way.
struct Flight<'a> {
    in_flight: &'a Mutex<HashMap<OwnedServerName, usize>>,
    server: &'a ServerName,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.in_flight.lock().remove(self.server);
    }
}

/// The runtime's time, from some day on.
#[derive(Debug)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000 + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// What outlives a crash.
struct Ground {
    engine: Arc<dyn Engine>,
    clock: Arc<RuntimeClock>,
    key: Vec<u8>,
    network: Arc<Network>,
}

/// A server, with a room that it shares with `there.test`.
struct World {
    ground: Ground,
    store: Store,
    rooms: Rooms,
    e2ee: E2ee,
    destinations: Destinations,
    outbound: Outbound,
    room_id: OwnedRoomId,
}

fn keyspaces() -> Vec<&'static str> {
    let own = [crate::KEYSPACES, hearth_e2ee::KEYSPACES];
    [own.concat().as_slice(), hearth_rooms::KEYSPACES, hearth_users::KEYSPACES].concat()
}

fn alice() -> OwnedUserId {
    owned_user_id!("@alice:here.test")
}

fn there() -> &'static ServerName {
    server_name!("there.test")
}

impl World {
    async fn new() -> Self {
        let options = StoreOptions::for_tests(EngineKind::Memory, Path::new(""), &keyspaces());
        let ground = Ground {
            engine: Arc::new(MemoryEngine::new(options.all_keyspaces().len())),
            clock: Arc::new(RuntimeClock(Instant::now())),
            key: ServerIdentity::generate_key(),
            network: Arc::default(),
        };
        Self::over(ground, None).await
    }

    async fn over(ground: Ground, room_id: Option<OwnedRoomId>) -> Self {
        let options = StoreOptions::for_tests(EngineKind::Memory, Path::new(""), &keyspaces());
        let pace = Duration::from_millis(1);
        let store = Store::open_in_task(ground.engine.clone(), &options, pace).unwrap();
        let name = owned_server_name!("here.test");
        let identity = ServerIdentity::from_der(name, &ground.key, "1".to_owned()).unwrap();
        let identity = Arc::new(identity);
        let clock: Arc<dyn Clock> = ground.clock.clone();
        let rooms_config = RoomsConfig::default();
        let rooms = Rooms::open(store.clone(), identity.clone(), clock.clone(), rooms_config);
        let rooms = rooms.await.unwrap();
        let users =
            Users::open(store.clone(), identity.clone(), clock.clone(), UsersConfig::default());
        let users = users.await.unwrap();
        let e2ee = E2ee::open(E2eeParts {
            store: store.clone(),
            identity: identity.clone(),
            clock: clock.clone(),
            users: users.clone(),
            rooms: rooms.clone(),
            config: E2eeConfig::default(),
        });
        let e2ee = e2ee.await.unwrap();
        let room_id = if let Some(room_id) = room_id {
            room_id
        } else {
            let options = CreateRoomOptions::default();
            let room_id = rooms.create_room(&alice(), options).await.unwrap();
            share(&store, &room_id, there()).await;
            room_id
        };
        let config = FederationConfig { backoff_max_s: 3_600, ..FederationConfig::default() };
        let own_name = identity.server_name();
        let destinations =
            Destinations::open(store.clone(), own_name, clock.clone(), &config).await.unwrap();
        let transport: Arc<dyn Transport> = ground.network.clone();
        let client = Client::new(identity.clone(), transport, destinations.clone(), config.clone());
        let outbound = Outbound::open(OutboundParts {
            store: store.clone(),
            identity,
            clock,
            users,
            rooms: rooms.clone(),
            e2ee: e2ee.clone(),
            client,
            destinations: destinations.clone(),
            config,
        });
        let outbound = outbound.await.unwrap();
        outbound.start();
        Self { ground, store, rooms, e2ee, destinations, outbound, room_id }
    }

    /// Ends the process without a word, and starts another one.
    async fn crashed(self) -> Self {
        self.outbound.0.stop.cancel();
        self.restarted().await
    }

    async fn restarted(self) -> Self {
        let Self { ground, store, rooms, e2ee, outbound, room_id, .. } = self;
        outbound.0.tasks.close();
        outbound.0.tasks.wait().await;
        e2ee.close().await;
        rooms.close();
        rooms.ended().await;
        store.close().await.unwrap();
        Self::over(ground, Some(room_id)).await
    }

    async fn say(&self, text: &str) {
        let content = json!({ "msgtype": "m.text", "body": text }).to_string();
        let content = RawValue::from_string(content).unwrap();
        let draft = Draft::message(alice(), "m.room.message".into(), content);
        self.rooms.send(&self.room_id, draft, None).await.unwrap();
    }

    async fn say_all(&self, numbers: std::ops::Range<usize>) -> Vec<String> {
        let texts: Vec<_> = numbers.map(|number| format!("message {number}")).collect();
        for text in &texts {
            self.say(text).await;
        }
        texts
    }

    fn network(&self) -> &Network {
        &self.ground.network
    }
}

/// As if a user of that server had joined.
async fn share(store: &Store, room_id: &OwnedRoomId, server: &ServerName) {
    share_since(store, room_id, server, 0).await;
}

/// As if a user of that server had joined by this event.
async fn share_since(
    store: &Store,
    room_id: &OwnedRoomId,
    server: &ServerName,
    since: EventOrdinal,
) {
    let (server, row) = (server.to_owned(), ServerRow { joined: 1, since });
    let mut commit = Commit::new(room_id);
    commit.put(&ROOM_SERVERS, room_id, &server, &row);
    commit.effect_put(&SERVER_ROOMS, &server, room_id, &row);
    store.commit(commit).await.unwrap();
}

async fn after_s(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_out_at_once_and_the_rest_in_batches_one_at_a_time() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(10);
    let mut texts = world.say_all(0..1).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.network().attempts(there()), 1, "nobody waits for company");
    texts.extend(world.say_all(1..121).await);
    after_s(60).await;
    assert_eq!(world.network().texts(there()), texts);
    let arrived = world.network().arrived_at(there());
    let sizes: Vec<_> =
        arrived.iter().map(|one| one.body["pdus"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 50, 50, 20]);
    let ids: std::collections::BTreeSet<_> =
        arrived.iter().map(|one| one.transaction_id.clone()).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(arrived[0].body["origin"], "here.test");
    assert!(arrived[0].body["pdus"][0].get("unsigned").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_is_tried_once_a_step_and_then_gets_everything() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let mut texts = Vec::new();
    for round in 0..20 {
        texts.extend(world.say_all(round * 10..round * 10 + 10).await);
        after_s(30).await;
    }
    // Ten minutes hold steps of 10, 20, 40, 80, 160 and 320 seconds, each shorter by up to a quarter.
    let attempts = world.network().attempts(there());
    assert!((5..=8).contains(&attempts), "{attempts} attempts in ten minutes");
    let report = world.outbound.report().await.unwrap().remove(0);
    assert_eq!((report.server.as_ref(), report.rooms, report.waiting), (there(), 1, 200));
    assert!(!report.waiting_is_more);
    assert_eq!(report.failures, u32::try_from(attempts).unwrap());
    assert_eq!(report.last_error.as_deref(), Some("there.test cannot be reached: it is down"));
    assert_eq!(
        report.retry_at_ms,
        world.destinations.due_in(there()).map(|wait| world.ground.clock.now_ms() + wait)
    );
    world.network().set(there(), None);
    after_s(2_000).await;
    assert_eq!(world.network().texts(there()), texts);
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_is_sent_what_waits_at_once() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let texts = world.say_all(0..3).await;
    after_s(600).await;
    world.network().set(there(), None);
    world.destinations.heard_from(there());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loses_nothing() {
    let mut world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let mut texts = world.say_all(0..5).await;
    after_s(3).await;
    for round in 1..4 {
        world = world.crashed().await;
        texts.extend(world.say_all(round * 10..round * 10 + 5).await);
    }
    world.network().set(there(), None);
    world = world.crashed().await;
    after_s(600).await;
    assert_eq!(world.network().texts(there()), texts);
    // The backoff was not forgotten by the crashes either.
    assert!(world.network().attempts(there()) <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_sending_repeats_but_loses_nothing() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_millis(700);
    let texts = world.say_all(0..200).await;
    after_s(2).await;
    let before = world.network().texts(there()).len();
    assert!(before > 0 && before < 200);
    let world = world.crashed().await;
    after_s(30).await;
    let got: std::collections::BTreeSet<_> = world.network().texts(there()).into_iter().collect();
    assert_eq!(got, texts.into_iter().collect());
    let arrived = world.network().arrived_at(there());
    let ids: std::collections::BTreeSet<_> =
        arrived.iter().map(|one| one.transaction_id.clone()).collect();
    assert_eq!(ids.len(), arrived.len(), "no name is used twice, over restarts");
}

#[tokio::test(start_paused = true)]
async fn what_is_read_again_after_a_crash_is_not_for_who_came_since() {
    let late = server_name!("late.test");
    // With a cursor of its own, too: something else waits for it since before it came.
    for lags in [false, true] {
        let world = World::new().await;
        let mut texts = world.say_all(0..3).await;
        let newest = world.rooms.newest_events(&world.room_id).await.unwrap();
        share_since(&world.store, &world.room_id, late, newest[0].ordinal).await;
        if lags {
            let mut commit = Commit::new(&());
            let cursor = StreamPosition::default();
            commit.put(&OUTBOUND_CURSORS, &late.to_owned(), &(), &cursor);
            world.store.commit(commit).await.unwrap();
        }
        let world = world.crashed().await;
        let after = world.say_all(3..5).await;
        after_s(60).await;
        assert_eq!(world.network().texts(late), after, "{lags}");
        texts.extend(after);
        let arrived: std::collections::BTreeSet<_> =
            world.network().texts(there()).into_iter().collect();
        assert_eq!(arrived, texts.into_iter().collect(), "others miss nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn an_orderly_end_repeats_nothing() {
    let world = World::new().await;
    let texts = world.say_all(0..20).await;
    after_s(1).await;
    world.outbound.close().await;
    let world = world.restarted().await;
    after_s(60).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn cursors_of_idle_destinations_are_not_rows_and_do_not_move_by_themselves() {
    let world = World::new().await;
    world.say_all(0..20).await;
    // All who read the log have written how far they got: the slowest does so every half minute.
    after_s(60).await;
    let before = world.store.notifier().published();
    after_s(60).await;
    assert_eq!(world.store.notifier().published(), before, "nothing is written in idleness");
    let row = world.store.get(&OUTBOUND_CURSORS, &there().to_owned(), &()).await.unwrap();
    assert_eq!(row, None);
    world.network().set(there(), Some(Mode::Down));
    world.say("one more").await;
    after_s(5).await;
    let row = world.store.get(&OUTBOUND_CURSORS, &there().to_owned(), &()).await.unwrap();
    assert!(row.is_some(), "who lags does not hold the log");
}

#[tokio::test(start_paused = true)]
async fn who_was_long_away_gets_the_newest_events() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let texts = world.say_all(0..catch_up::MAX_REPLAYED + 50).await;
    world.network().set(there(), None);
    after_s(600).await;
    // What was offered before is offered again; it may have arrived then.
    assert_eq!(world.network().texts(there()), [texts[0].clone(), texts[texts.len() - 1].clone()]);
    world.say("and on").await;
    after_s(1).await;
    assert_eq!(world.network().texts(there()).last().unwrap(), "and on");
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn more_than_fits_into_memory_is_read_again() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(30);
    // Fewer than would count as a long absence, more than a queue holds.
    let texts = world.say_all(0..lanes::MAX_WAITING + 30).await;
    after_s(3_000).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_does_not_hold_up_the_others() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Allergic("message 7\"")));
    *world.network().latency.lock() = Duration::from_secs(1);
    let mut texts = world.say_all(0..30).await;
    after_s(600).await;
    texts.remove(7);
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_errors_are_waited_out() {
    for (status, errcode) in [(401, "M_UNAUTHORIZED"), (429, "M_LIMIT_EXCEEDED"), (500, "")] {
        let world = World::new().await;
        world.network().set(there(), Some(Mode::Error(status, errcode)));
        let texts = world.say_all(0..30).await;
        after_s(100).await;
        let attempts = world.network().attempts(there());
        assert!((2..=15).contains(&attempts), "{attempts} attempts at {status}");
        world.network().set(there(), None);
        after_s(600).await;
        assert_eq!(world.network().texts(there()), texts);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_hears_of_it() {
    let world = World::new().await;
    let elsewhere = server_name!("elsewhere.test");
    let banned = user_id!("@mallory:elsewhere.test");
    world.rooms.ban(&world.room_id, &alice(), banned, None).await.unwrap();
    world.say("not for them").await;
    after_s(1).await;
    let arrived = world.network().arrived_at(elsewhere);
    assert_eq!(arrived.len(), 1);
    assert_eq!(arrived[0].body["pdus"][0]["content"]["membership"], "ban");
    assert_eq!(world.network().texts(there()), ["not for them"]);
}

/// The contents of the EDUs of a type that the other server got.
fn edus(world: &World, kind: &str) -> Vec<Value> {
    edus_at(world, there(), kind)
}

fn edus_at(world: &World, server: &ServerName, kind: &str) -> Vec<Value> {
    let arrived = world.network().arrived_at(server);
    let edus = arrived.iter().flat_map(|one| one.body["edus"].as_array().into_iter().flatten());
    edus.filter(|edu| edu["edu_type"] == kind).map(|edu| edu["content"].clone()).collect()
}

async fn read_up_to(world: &World, place: u64) {
    let event = world.rooms.newest_events(&world.room_id).await.unwrap().pop().unwrap();
    let update = hearth_users::ReceiptUpdate {
        room_id: world.room_id.clone(),
        user_id: alice(),
        receipt_type: ReceiptType::Read,
        thread: ruma::events::receipt::ReceiptThread::Main,
        event_id: event.pdu.id().to_owned(),
        timeline_position: place,
        fan_out: true,
        ts_ms: Some(place),
    };
    world.outbound.0.users.set_receipt(update).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn receipts_go_out_the_newest_of_each_user() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(5);
    for place in 1..=20 {
        read_up_to(&world, place).await;
        sleep(Duration::from_millis(20)).await;
    }
    after_s(30).await;
    let receipts = edus(&world, "m.receipt");
    assert_eq!(receipts.len(), 2, "the first ones, and all that came meanwhile: {receipts:?}");
    let newest = &receipts[1][world.room_id.as_str()]["m.read"][alice().as_str()];
    assert_eq!(newest["data"], json!({ "ts": 20, "thread_id": "main" }));
    // Private ones and those of others stay.
    let update = |user: &str, receipt_type| hearth_users::ReceiptUpdate {
        room_id: world.room_id.clone(),
        user_id: user.try_into().unwrap(),
        receipt_type,
        thread: ruma::events::receipt::ReceiptThread::Unthreaded,
        event_id: "$e".try_into().unwrap(),
        timeline_position: 100,
        fan_out: true,
        ts_ms: None,
    };
    let users = &world.outbound.0.users;
    users.set_receipt(update("@alice:here.test", ReceiptType::ReadPrivate)).await.unwrap();
    users.set_receipt(update("@bob:there.test", ReceiptType::Read)).await.unwrap();
    after_s(30).await;
    assert_eq!(edus(&world, "m.receipt").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn receipts_outlast_an_outage_and_a_crash() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    read_up_to(&world, 1).await;
    after_s(5).await;
    read_up_to(&world, 2).await;
    let world = world.crashed().await;
    world.network().set(there(), None);
    after_s(100).await;
    let receipts = edus(&world, "m.receipt");
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let newest = &receipts[0][world.room_id.as_str()]["m.read"][alice().as_str()];
    assert_eq!(newest["data"]["ts"], 2);
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn typing_is_told_repeated_and_not_kept_for_who_is_away() {
    let world = World::new().await;
    let users = &world.outbound.0.users;
    let types = |typing| {
        let content = json!({ "room_id": world.room_id, "user_id": alice(), "typing": typing });
        move |told: &Value| *told == content
    };
    users.set_typing(&world.room_id, &alice(), Some(Duration::from_mins(2)));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(edus(&world, "m.typing").len(), 1);
    after_s(60).await;
    assert_eq!(edus(&world, "m.typing").len(), 2, "who types on is repeated");
    assert!(edus(&world, "m.typing").iter().all(types(true)));
    users.set_typing(&world.room_id, &alice(), None);
    after_s(60).await;
    assert_eq!(edus(&world, "m.typing").len(), 3);
    assert!(types(false)(&edus(&world, "m.typing")[2]));

    world.network().set(there(), Some(Mode::Down));
    users.set_typing(&world.room_id, &alice(), Some(Duration::from_secs(1)));
    after_s(60).await;
    let attempts = world.network().attempts(there());
    world.network().set(there(), None);
    after_s(600).await;
    assert_eq!(edus(&world, "m.typing").len(), 3);
    assert_eq!(world.network().attempts(there()), attempts, "there is nothing to be sent");
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_as_it_stands_when_it_is_sent() {
    let world = World::new().await;
    let users = &world.outbound.0.users;
    world.network().set(there(), Some(Mode::Down));
    for (state, status) in [
        (ruma::presence::PresenceState::Online, "here"),
        (ruma::presence::PresenceState::Unavailable, "not here"),
    ] {
        users.set_presence(&alice(), state, Some(status.to_owned())).await.unwrap();
        after_s(5).await;
    }
    world.network().set(there(), None);
    after_s(10).await;
    let told = edus(&world, "m.presence");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["push"].as_array().unwrap().len(), 1);
    assert_eq!(told[0]["push"][0]["presence"], "unavailable");
    assert_eq!(told[0]["push"][0]["status_msg"], "not here");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_typing_costs_few_transactions() {
    let world = World::new().await;
    let users = &world.outbound.0.users;
    for round in 0..200 {
        let timeout = (round % 2 == 0).then_some(Duration::from_secs(20));
        users.set_typing(&world.room_id, &alice(), timeout);
        sleep(Duration::from_millis(5)).await;
    }
    after_s(1).await;
    let attempts = world.network().attempts(there());
    assert!((2..=40).contains(&attempts), "{attempts} transactions in a second");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_answer_is_lost_is_repeated_under_its_id() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::LosesAnswers));
    let mut texts = world.say_all(0..3).await;
    after_s(1).await;
    texts.extend(world.say_all(3..6).await);
    after_s(30).await;
    world.network().set(there(), None);
    after_s(600).await;
    let arrived = world.network().arrived_at(there());
    let mut taken = std::collections::BTreeMap::new();
    for one in &arrived {
        let pdus = one.body["pdus"].clone();
        let before = taken.insert(one.transaction_id.clone(), pdus.clone());
        assert!(before.is_none_or(|before| before == pdus), "one ID, one content");
    }
    assert!(arrived.len() > taken.len(), "it was repeated");
    let pdus = taken.values().flat_map(|pdus| pdus.as_array().unwrap().clone());
    let got: Vec<_> = pdus.map(|pdu| pdu["content"]["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(got.len(), texts.len(), "each under one ID: {got:?}");
}
