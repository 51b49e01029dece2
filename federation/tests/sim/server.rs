//! One simulated server: the real store, rooms and federation on simulated time and network.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use hearth_e2ee::E2ee;
use hearth_federation::{Federation, FederationConfig, FederationParts};
use hearth_http::{Http, HttpConfig, Shutdown};
use hearth_media::{Blobs, Media, MediaConfig, MediaParts};
use hearth_rooms::Rooms;
use hearth_storage::{Engine as _, Store, StoreOptions, engine::memory::MemoryEngine};
use hearth_testbed::{START_MS, Services, store_options};
use hearth_types::{Clock, ServerIdentity, StreamPosition};
use hearth_users::{NewAccount, Users};
use ruma::{OwnedServerName, OwnedUserId, UserId};
use tokio::time::{Instant, timeout};

use crate::{
    engine::{Life, MortalEngine},
    network::{Network, SimTransport},
};

/// Users who have an account on each server.
pub(crate) const USERS: usize = 3;
/// What a batch of commits takes.
const COMMIT_TIME: Duration = Duration::from_millis(2);

/// The runtime's time as the time of day. The simulation begins on 2023-11-14.
#[derive(Debug)]
pub(crate) struct SimClock(pub(crate) Instant);

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// A server, running or not. What is on its disk survives.
pub(crate) struct SimServer {
    pub(crate) name: OwnedServerName,
    number: u8,
    clock: Arc<SimClock>,
    network: Network,
    disk: Arc<MemoryEngine>,
    running: Option<Incarnation>,
}

struct Incarnation {
    life: Life,
    store: Store,
    users: Users,
    rooms: Rooms,
    e2ee: E2ee,
    media: Media,
    federation: Federation,
}

fn options(name: &OwnedServerName) -> StoreOptions {
    let others = [hearth_media::KEYSPACES, hearth_federation::KEYSPACES].concat();
    StoreOptions { server_name: name.to_string(), ..store_options(&others) }
}

/// An Ed25519 key in PKCS#8 (RFC 8410), the same in every run.
pub(crate) fn key_of(number: u8) -> Vec<u8> {
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
    let mut key = [head.as_slice(), &[0x04, 0x22, 0x04, 0x20]].concat();
    key.extend([number + 1; 32]);
    key
}

impl SimServer {
    pub(crate) async fn new(number: u8, clock: Arc<SimClock>, network: Network) -> Self {
        let name = OwnedServerName::try_from(format!("s{number}.sim")).unwrap();
        let disk = Arc::new(MemoryEngine::new(options(&name).all_keyspaces().len()));
        let mut server = Self { name, number, clock, network, disk, running: None };
        server.start().await;
        for number in 0..USERS {
            let username = server.user(number).localpart().to_owned();
            let account = NewAccount { username, ..NewAccount::default() };
            server.users().unwrap().create_account(account).await.unwrap();
        }
        server
    }

    pub(crate) async fn start(&mut self) {
        let life = Life::new();
        let options = options(&self.name);
        let keyspaces = options.all_keyspaces().len();
        let engine = MortalEngine::new(Arc::clone(&self.disk), keyspaces, life.clone());
        let store = Store::open_in_task(Arc::new(engine), &options, COMMIT_TIME).unwrap();
        let key = key_of(self.number);
        let identity = ServerIdentity::from_der(self.name.clone(), &key, "sim".to_owned()).unwrap();
        let Services { store, identity, clock, users, rooms, e2ee } =
            Services::open(store, identity, self.clock.clone()).await;
        let media = Media::open(MediaParts {
            store: store.clone(),
            blobs: Blobs::in_memory(),
            identity: Arc::clone(&identity),
            clock: Arc::clone(&clock),
            config: MediaConfig::default(),
        });
        let transport = SimTransport {
            network: self.network.clone(),
            origin: self.name.clone(),
            life: life.clone(),
        };
        let config =
            FederationConfig { backoff_min_s: 1, backoff_max_s: 60, ..FederationConfig::default() };
        let federation = Federation::open(FederationParts {
            store: store.clone(),
            identity,
            clock: Arc::clone(&clock),
            users: users.clone(),
            rooms: rooms.clone(),
            e2ee: e2ee.clone(),
            media: media.clone(),
            transport: Arc::new(transport),
            config,
        });
        let federation = federation.await.unwrap();
        federation.start();
        let http = Http::new(HttpConfig::default(), clock, Shutdown::new()).unwrap();
        let router = hearth_http::finish(federation.router(http));
        self.network.plug_in(&self.name, router, life.clone());
        self.running = Some(Incarnation { life, store, users, rooms, e2ee, media, federation });
    }

    /// Ends the server at this moment: nothing more is written or sent, and nobody is told.
    pub(crate) async fn crash(&mut self) {
        let Some(Incarnation { life, rooms, e2ee, media, federation, .. }) = self.running.take()
        else {
            return;
        };
        life.end();
        self.network.pull_out(&self.name);
        // The tasks of the dead incarnation have nothing left to write to: they only end.
        rooms.close();
        let ended = async {
            federation.close().await;
            e2ee.close().await;
            media.close().await;
            rooms.ended().await;
        };
        timeout(Duration::from_mins(10), ended).await.expect("a crashed server's tasks end");
    }

    /// What is on the disk, but for these keyspaces: keyspace, key, value.
    pub(crate) fn rows(&self, but: &[&str]) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        let names = options(&self.name).all_keyspaces();
        let mut rows = Vec::new();
        let exported = self.disk.export(names.len(), &mut |keyspace, key, value| {
            if !but.contains(&names[keyspace]) {
                rows.push((names[keyspace], key.to_vec(), value.to_vec()));
            }
            ControlFlow::Continue(())
        });
        exported.expect("memory does not fail");
        rows
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn rooms(&self) -> Option<&Rooms> {
        self.running.as_ref().map(|running| &running.rooms)
    }

    pub(crate) fn users(&self) -> Option<&Users> {
        self.running.as_ref().map(|running| &running.users)
    }

    pub(crate) fn e2ee(&self) -> Option<&E2ee> {
        self.running.as_ref().map(|running| &running.e2ee)
    }

    /// The last position that readers may see.
    pub(crate) fn published(&self) -> Option<StreamPosition> {
        self.running.as_ref().map(|running| running.store.notifier().published())
    }

    /// One of the server's users; the first is its anchor, who never leaves.
    pub(crate) fn user(&self, number: usize) -> OwnedUserId {
        let localpart = if number == 0 { "anchor".to_owned() } else { format!("guest{number}") };
        UserId::parse(format!("@{localpart}:{}", self.name)).unwrap()
    }
}
