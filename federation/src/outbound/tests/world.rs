//! A server with one room, simulated time, a network that is a table, and what outlives a crash.

use std::collections::HashMap;

use bytes::Bytes;
use hearth_rooms::{
    CreateRoomOptions, Draft,
    schema::{EventOrdinal, ROOM_SERVERS, SERVER_ROOMS, ServerRow},
};
use hearth_storage::{Commit, Engine, engine::memory::MemoryEngine};
use hearth_testbed::{START_MS, Services, store_options};
use http::{Request, Response};
use ruma::{OwnedRoomId, OwnedUserId, owned_server_name, owned_user_id, server_name};
use serde_json::{Value, json, value::RawValue};
use tokio::time::sleep;

use super::*;
use crate::transport::{Limits, Transport, TransportError};

/// A transaction that arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) server: OwnedServerName,
    pub(super) transaction_id: String,
    pub(super) body: Value,
}

/// How a server takes requests.
#[derive(Clone, Debug)]
pub(super) enum Mode {
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
pub(super) struct Network {
    pub(super) latency: Mutex<Duration>,
    pub(super) modes: Mutex<HashMap<OwnedServerName, Mode>>,
    pub(super) arrived: Mutex<Vec<Arrived>>,
    pub(super) attempts: Mutex<HashMap<OwnedServerName, usize>>,
    pub(super) in_flight: Mutex<HashMap<OwnedServerName, usize>>,
}

impl Network {
    pub(super) fn set(&self, server: &ServerName, mode: Option<Mode>) {
        let mut modes = self.modes.lock();
        match mode {
            Some(mode) => modes.insert(server.to_owned(), mode),
            None => modes.remove(server),
        };
    }

    pub(super) fn attempts(&self, server: &ServerName) -> usize {
        self.attempts.lock().get(server).copied().unwrap_or(0)
    }

    pub(super) fn arrived_at(&self, server: &ServerName) -> Vec<Arrived> {
        self.arrived.lock().iter().filter(|one| one.server == server).cloned().collect()
    }

    /// The texts of the messages that a server got, in order.
    pub(super) fn texts(&self, server: &ServerName) -> Vec<String> {
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
pub(super) struct Flight<'a> {
    pub(super) in_flight: &'a Mutex<HashMap<OwnedServerName, usize>>,
    pub(super) server: &'a ServerName,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.in_flight.lock().remove(self.server);
    }
}

/// The runtime's time, from some day on.
#[derive(Debug)]
pub(super) struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// What outlives a crash.
pub(super) struct Ground {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<RuntimeClock>,
    pub(super) key: Vec<u8>,
    pub(super) network: Arc<Network>,
}

/// A server, with a room that it shares with `there.test`.
pub(super) struct World {
    pub(super) ground: Ground,
    pub(super) store: Store,
    pub(super) rooms: Rooms,
    pub(super) e2ee: E2ee,
    pub(super) destinations: Destinations,
    pub(super) outbound: Outbound,
    pub(super) room_id: OwnedRoomId,
}

pub(super) fn alice() -> OwnedUserId {
    owned_user_id!("@alice:here.test")
}

pub(super) fn there() -> &'static ServerName {
    server_name!("there.test")
}

impl World {
    pub(super) async fn new() -> Self {
        let options = store_options(crate::KEYSPACES);
        let ground = Ground {
            engine: Arc::new(MemoryEngine::new(options.all_keyspaces().len())),
            clock: Arc::new(RuntimeClock(Instant::now())),
            key: ServerIdentity::generate_key(),
            network: Arc::default(),
        };
        Self::over(ground, None).await
    }

    pub(super) async fn over(ground: Ground, room_id: Option<OwnedRoomId>) -> Self {
        let options = store_options(crate::KEYSPACES);
        let pace = Duration::from_millis(1);
        let store = Store::open_in_task(ground.engine.clone(), &options, pace).unwrap();
        let name = owned_server_name!("here.test");
        let identity = ServerIdentity::from_der(name, &ground.key, "1".to_owned()).unwrap();
        let Services { store, identity, clock, users, rooms, e2ee } =
            Services::open(store, identity, ground.clock.clone()).await;
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
    pub(super) async fn crashed(self) -> Self {
        self.outbound.0.stop.cancel();
        self.restarted().await
    }

    pub(super) async fn restarted(self) -> Self {
        let Self { ground, store, rooms, e2ee, outbound, room_id, .. } = self;
        outbound.0.tasks.close();
        outbound.0.tasks.wait().await;
        e2ee.close().await;
        rooms.close();
        rooms.ended().await;
        store.close().await.unwrap();
        Self::over(ground, Some(room_id)).await
    }

    pub(super) async fn say(&self, text: &str) {
        let content = json!({ "msgtype": "m.text", "body": text }).to_string();
        let content = RawValue::from_string(content).unwrap();
        let draft = Draft::message(alice(), "m.room.message".into(), content);
        self.rooms.send(&self.room_id, draft, None).await.unwrap();
    }

    pub(super) async fn say_all(&self, numbers: std::ops::Range<usize>) -> Vec<String> {
        let texts: Vec<_> = numbers.map(|number| format!("message {number}")).collect();
        for text in &texts {
            self.say(text).await;
        }
        texts
    }

    pub(super) fn network(&self) -> &Network {
        &self.ground.network
    }
}

/// As if a user of that server had joined.
pub(super) async fn share(store: &Store, room_id: &OwnedRoomId, server: &ServerName) {
    share_since(store, room_id, server, 0).await;
}

/// As if a user of that server had joined by this event.
pub(super) async fn share_since(
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

pub(super) async fn after_s(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// The contents of the EDUs of a type that the other server got.
pub(super) fn edus(world: &World, kind: &str) -> Vec<Value> {
    edus_at(world, there(), kind)
}

pub(super) fn edus_at(world: &World, server: &ServerName, kind: &str) -> Vec<Value> {
    let arrived = world.network().arrived_at(server);
    let edus = arrived.iter().flat_map(|one| one.body["edus"].as_array().into_iter().flatten());
    edus.filter(|edu| edu["edu_type"] == kind).map(|edu| edu["content"].clone()).collect()
}
