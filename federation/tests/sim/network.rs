//! A network between servers of one process: delay, loss, reordering, partitions.
//!
//! What happens to a message depends on the seed, the two servers and how many messages went between
//! them before: never on which task runs first.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_federation::transport::{Limits, Transport, TransportError};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{OwnedServerName, ServerName};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use crate::engine::Life;

/// How long a client waits for a connection that nobody takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Of a thousand requests, and of a thousand answers, so many are lost.
    pub(crate) lost_per_mille: u32,
    /// The longest way in milliseconds; the ways of two messages are drawn apart, so that they overtake
    /// each other.
    pub(crate) max_delay_ms: u64,
}

/// All servers that can be reached.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    seed: u64,
    start: Instant,
    weather: Weather,
    servers: BTreeMap<OwnedServerName, (Router, Life)>,
    cuts: BTreeSet<(OwnedServerName, OwnedServerName)>,
    sent: BTreeMap<(OwnedServerName, OwnedServerName), u64>,
    trace: DefaultHasher,
    messages: u64,
}

/// What happens to one request.
struct Fate {
    there: Duration,
    back: Duration,
    lost_there: bool,
    lost_back: bool,
}

impl Network {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            start: Instant::now(),
            weather,
            servers: BTreeMap::new(),
            cuts: BTreeSet::new(),
            sent: BTreeMap::new(),
            trace: DefaultHasher::new(),
            messages: 0,
        })))
    }

    pub(crate) fn plug_in(&self, server: &ServerName, router: Router, life: Life) {
        self.0.lock().servers.insert(server.to_owned(), (router, life));
    }

    pub(crate) fn pull_out(&self, server: &ServerName) {
        self.0.lock().servers.remove(server);
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    /// Cuts the way between two servers, both ways.
    pub(crate) fn cut(&self, one: &ServerName, other: &ServerName) {
        self.0.lock().cuts.insert(pair(one, other));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().cuts.clear();
    }

    /// A digest of all that was sent, when and to whom, and how many messages that were.
    pub(crate) fn trace(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.trace.finish(), state.messages)
    }

    fn fate(&self, from: &ServerName, to: &ServerName) -> Fate {
        let mut state = self.0.lock();
        let (seed, weather) = (state.seed, state.weather);
        let count = state.sent.entry((from.to_owned(), to.to_owned())).or_default();
        *count += 1;
        let mut hasher = DefaultHasher::new();
        (seed, from.as_str(), to.as_str(), *count).hash(&mut hasher);
        let mut rng = StdRng::seed_from_u64(hasher.finish());
        let mut way = || Duration::from_millis(rng.random_range(1..=weather.max_delay_ms));
        let (there, back) = (way(), way());
        let mut lost = || rng.random_range(0..1_000) < weather.lost_per_mille;
        Fate { there, back, lost_there: lost(), lost_back: lost() }
    }

    /// The server, if the way to it is open.
    fn reach(&self, from: &ServerName, to: &ServerName) -> Option<(Router, Life)> {
        let state = self.0.lock();
        if state.cuts.contains(&pair(from, to)) {
            return None;
        }
        state.servers.get(to).cloned()
    }

    fn note(&self, from: &ServerName, to: &ServerName, request: &http::Request<Bytes>) {
        let mut state = self.0.lock();
        let at = state.start.elapsed().as_millis();
        let path = request.uri().path().to_owned();
        (at, from.as_str(), to.as_str(), &path, request.body()).hash(&mut state.trace);
        state.messages += 1;
        if std::env::var_os("HEARTH_SIM_TRACE").is_some() {
            eprintln!("{at:>9} {from} → {to} {} {path}", request.method());
        }
    }
}

fn pair(one: &ServerName, other: &ServerName) -> (OwnedServerName, OwnedServerName) {
    let (one, other) = if one <= other { (one, other) } else { (other, one) };
    (one.to_owned(), other.to_owned())
}

/// One incarnation's way into the network.
pub(crate) struct SimTransport {
    pub(crate) network: Network,
    pub(crate) origin: OwnedServerName,
    pub(crate) life: Life,
}

#[async_trait]
impl Transport for SimTransport {
    async fn send(
        &self,
        destination: &ServerName,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> Result<http::Response<Bytes>, TransportError> {
        let server = || destination.to_owned();
        let unreachable = |reason: &str| TransportError::Unreachable {
            server: server(),
            reason: reason.to_owned(),
        };
        let fate = self.network.fate(&self.origin, destination);
        sleep(fate.there).await;
        let reached = self.network.reach(&self.origin, destination);
        let (Some((router, life)), true, false) = (reached, self.life.goes_on(), fate.lost_there)
        else {
            sleep(CONNECT_TIMEOUT).await;
            return Err(unreachable("nobody took the connection"));
        };
        self.network.note(&self.origin, destination, &request);
        let answer = timeout(limits.timeout, router.oneshot(request.map(Body::from)));
        let Ok(Ok(answer)) = answer.await else {
            return Err(TransportError::TimedOut(server()));
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limits.max_bytes).collect().await;
        let body = body.map_err(|_| TransportError::TooLarge(server()))?.to_bytes();
        sleep(fate.back).await;
        let still_there = self.network.reach(&self.origin, destination).is_some();
        if fate.lost_back || !still_there || !life.goes_on() || !self.life.goes_on() {
            return Err(unreachable("the connection broke"));
        }
        Ok(http::Response::from_parts(head, body))
    }
}
