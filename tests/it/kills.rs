//! kill -9 in the middle of claims, messages to devices and backup uploads: no key is handed out twice, no
//! message is lost or doubled, no backup is half written.
//!
//! Clients of all three kinds keep the real binary busy while it is killed at random moments and started
//! again on the same folder. What was not answered they repeat or give up as real clients do, and each
//! keeps its own record, with which everything is compared at the end. `HEARTH_SEED` repeats a run's random
//! choices (not its interleaving), `HEARTH_KILLS` changes the number of kills.
#![expect(clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

mod backups;
mod claims;
mod messages;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_testkit::{Client, TestUser};
use http::{HeaderMap, Method, StatusCode};
use parking_lot::RwLock;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedDeviceId, OwnedUserId};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, block_in_place},
    time::{sleep, timeout},
};

use self::{backups::Backups, claims::Claims, messages::Messages};
use crate::command::{Home, Server};

/// Kills of one run unless `HEARTH_KILLS` says otherwise.
const KILLS: u64 = 6;
/// A kill comes at least so many answers of each kind after the last start: keys claimed, messages sent,
/// uploads to backups.
const ANSWERED_BETWEEN_KILLS: [u64; 3] = [40, 40, 3];
/// Then after a while of at most this, in milliseconds.
const KILLED_WITHIN_MS: u64 = 300;
/// The longest that progress may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between attempts at a server that does not answer.
const PAUSE: Duration = Duration::from_millis(10);

/// What a client does, for [`World::answered`].
#[derive(Clone, Copy)]
enum Kind {
    Claim,
    Message,
    Upload,
}

/// The server as its clients know it.
struct World {
    /// Speaks to it, wherever it has listened since its last start.
    server: RwLock<Client>,
    /// Counts its ends and its starts: odd while it is down.
    runs: AtomicU64,
    answered: [AtomicU64; 3],
    over: AtomicBool,
}

/// A device of a user.
struct Device {
    world: Arc<World>,
    user_id: OwnedUserId,
    id: OwnedDeviceId,
    token: String,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn client(&self) -> Client {
        self.server.read().clone()
    }

    fn run(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    /// Waits until the server is up; in which run.
    async fn when_up(&self) -> u64 {
        loop {
            let run = self.run();
            if run.is_multiple_of(2) {
                return run;
            }
            sleep(PAUSE).await;
        }
    }

    fn answered(&self, kind: Kind) {
        self.answered[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until enough was answered since it was called.
    async fn progress(&self) {
        let count = || self.answered.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = count();
        let is_enough = || {
            let goals = before.iter().zip(ANSWERED_BETWEEN_KILLS).map(|(count, more)| count + more);
            count().into_iter().zip(goals).all(|(count, goal)| count >= goal)
        };
        let waiting = async {
            while !is_enough() {
                sleep(PAUSE).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "no progress: {before:?} to {:?}", count());
    }

    /// A new user on a device of their own.
    async fn register(self: &Arc<Self>, name: &str) -> Device {
        let (client, path) = (self.client(), "/_matrix/client/v3/register");
        let mut body = json!({ "username": name, "password": TestUser::password_of(name) });
        let (_, challenge) = client.post(path, body.clone()).await;
        body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
        Device::new(self, &client.post_ok(path, body).await)
    }

    /// Another device of a user.
    async fn log_in(self: &Arc<Self>, name: &str) -> Device {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": TestUser::password_of(name),
        });
        let client = self.client();
        let answer = client.post_ok("/_matrix/client/v3/login", body).await;
        Device::new(self, &answer)
    }
}

impl Device {
    fn new(world: &Arc<World>, answer: &Value) -> Self {
        let text = |field: &str| answer[field].as_str().unwrap();
        Self {
            world: Arc::clone(world),
            user_id: text("user_id").try_into().unwrap(),
            id: text("device_id").into(),
            token: text("access_token").to_owned(),
        }
    }

    /// One attempt at something that must succeed. `None` if the server was killed over it: it may have
    /// happened or not.
    async fn once(&self, method: Method, path: &str, body: Option<&Value>) -> Option<Value> {
        let run = self.world.when_up().await;
        let client = self.world.client().with_token(&self.token);
        let bytes = body.map(|body| Bytes::from(body.to_string()));
        match client.try_send(method.clone(), path, HeaderMap::new(), bytes).await {
            Ok(response) => {
                let answer = response.json();
                assert_eq!(response.status, StatusCode::OK, "{method} {path}: {answer}");
                Some(answer)
            }
            Err(error) => {
                assert_ne!(
                    self.world.run(),
                    run,
                    "{method} {path} of a server that is up: {error}"
                );
                None
            }
        }
    }

    /// Attempts at something that may be repeated, until there is an answer.
    async fn until_answered(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        loop {
            if let Some(answer) = self.once(method.clone(), path, body).await {
                return answer;
            }
        }
    }
}

/// A running server on its folder.
struct Victim {
    home: Home,
    server: Option<Server>,
    world: Arc<World>,
}

impl Victim {
    fn start(home: Home) -> Self {
        home.write(
            "hearth.toml",
            "[users]\nopen_registration = true\n[http.rate_limits]\nenabled = false\n",
        );
        let server = home.serve();
        let world = Arc::new(World {
            server: RwLock::new(Client::new(&server.base())),
            runs: AtomicU64::new(0),
            answered: Default::default(),
            over: AtomicBool::new(false),
        });
        Self { home, server: Some(server), world }
    }

    /// Kills it on the spot and starts it again.
    fn kill(&mut self) {
        self.world.runs.fetch_add(1, Ordering::SeqCst);
        self.server.take().unwrap().kill();
        let server = self.home.serve();
        *self.world.server.write() = Client::new(&server.base());
        self.server = Some(server);
        self.world.runs.fetch_add(1, Ordering::SeqCst);
    }
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The results of tasks that have come to their end.
async fn ended<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(timeout(PATIENCE, task).await.unwrap().unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_hand_no_key_out_twice_lose_no_message_and_leave_no_backup_by_half() {
    let seed = setting("HEARTH_SEED").unwrap_or_else(|| u64::from(rand::rng().next_u32()));
    println!("HEARTH_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut victim = Victim::start(Home::new());
    let world = Arc::clone(&victim.world);
    let claims = Claims::start(&world, &mut dice).await;
    let messages = Messages::start(&world, &mut dice).await;
    let backups = Backups::start(&world, &mut dice).await;
    for _ in 0..setting("HEARTH_KILLS").unwrap_or(KILLS) {
        world.progress().await;
        sleep(Duration::from_millis(dice.random_range(0..KILLED_WITHIN_MS))).await;
        block_in_place(|| victim.kill());
    }
    world.progress().await;
    world.over.store(true, Ordering::Relaxed);
    claims.check().await;
    messages.check().await;
    backups.check().await;
    victim.server.unwrap().stop(Signal::TERM);
}
