//! Devices that back their room keys up.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Device, Kind, World, ended};

/// Users who back up.
const USERS: usize = 2;
/// Rooms with sessions.
const ROOMS: usize = 3;
/// Sessions of one upload, at most; clients send a hundred or two.
const MAX_SESSIONS: usize = 250;
/// The first message that the session of every upload decrypts, in the first one; less in each.
const FIRST_INDEX: usize = 1_000_000;
/// An upload that was not answered is given up, and not repeated, with this probability.
const GIVEN_UP: f64 = 0.5;

/// Which upload a session came with, by room and session.
type Sessions = BTreeMap<(String, String), usize>;

/// A version as the server tells it.
#[derive(Debug, PartialEq, Eq)]
struct State {
    count: usize,
    etag: String,
}

impl State {
    fn of(answer: &Value) -> Self {
        let count = usize::try_from(answer["count"].as_u64().unwrap()).unwrap();
        Self { count, etag: answer["etag"].as_str().unwrap().to_owned() }
    }
}

/// Who backs up, and what came of it.
struct Backup {
    device: Device,
    version: String,
    dice: StdRng,
    /// Uploads so far.
    uploads: usize,
    /// What is there.
    sessions: Sessions,
    state: State,
    given_up: usize,
}

impl Backup {
    async fn new(device: Device, dice: StdRng) -> Self {
        let path = "/_matrix/client/v3/room_keys/version";
        let body = json!({
            "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": { "public_key": "abc" },
        });
        let answer = device.until_answered(Method::POST, path, Some(&body)).await;
        let version = answer["version"].as_str().unwrap().to_owned();
        let path = format!("{path}/{version}");
        let state = State::of(&device.until_answered(Method::GET, &path, None).await);
        Self { device, version, dice, uploads: 0, sessions: Sessions::new(), state, given_up: 0 }
    }

    /// New sessions in some rooms, and a better key for the one session that all uploads have.
    fn upload(&mut self) -> (Value, Sessions) {
        let number = self.uploads;
        self.uploads += 1;
        let mut sessions = Sessions::new();
        for session in 0..self.dice.random_range(1..=MAX_SESSIONS) {
            let room_id = format!("!room{}:localhost", self.dice.random_range(0..ROOMS));
            sessions.insert((room_id, format!("session {number} {session}")), number);
        }
        sessions.insert(("!room0:localhost".to_owned(), "of every upload".to_owned()), number);
        let mut rooms = json!({});
        for (room_id, session_id) in sessions.keys() {
            rooms[room_id]["sessions"][session_id] = json!({
                "first_message_index": FIRST_INDEX - number,
                "forwarded_count": 0,
                "is_verified": true,
                "session_data": { "upload": number },
            });
        }
        (json!({ "rooms": rooms }), sessions)
    }

    /// What the server has: its sessions, and what it tells of them.
    async fn read(&self) -> (Sessions, State) {
        let path = format!("/_matrix/client/v3/room_keys/keys?version={}", self.version);
        let keys = self.device.until_answered(Method::GET, &path, None).await;
        let path = format!("/_matrix/client/v3/room_keys/version/{}", self.version);
        let state = State::of(&self.device.until_answered(Method::GET, &path, None).await);
        let mut sessions = Sessions::new();
        for (room_id, room) in keys["rooms"].as_object().unwrap() {
            for (session_id, key) in room["sessions"].as_object().unwrap() {
                let number = usize::try_from(key["session_data"]["upload"].as_u64().unwrap());
                sessions.insert((room_id.clone(), session_id.clone()), number.unwrap());
            }
        }
        assert_eq!(state.count, sessions.len(), "the count is not that of the keys");
        (sessions, state)
    }

    /// The upload is there.
    fn stored(&mut self, upload: &Sessions, state: State) {
        self.sessions.extend(upload.clone());
        assert_ne!(state.etag, self.state.etag, "other keys under the same etag");
        assert_eq!(state.count, self.sessions.len());
        self.state = state;
    }

    /// The upload was not answered: it is there as a whole, or nothing of it is.
    async fn look(&mut self, upload: &Sessions) {
        let (sessions, state) = self.read().await;
        if sessions == self.sessions {
            assert_eq!(state, self.state);
            return;
        }
        let of_upload = sessions.values().filter(|number| **number + 1 == self.uploads).count();
        assert_eq!(of_upload, upload.len(), "an upload of {} by half", upload.len());
        self.stored(upload, state);
        assert_eq!(sessions, self.sessions);
    }

    async fn run(mut self) -> Self {
        let path = format!("/_matrix/client/v3/room_keys/keys?version={}", self.version);
        while !self.device.world.is_over() {
            let (body, upload) = self.upload();
            let mut answer = self.device.once(Method::PUT, &path, Some(&body)).await;
            if answer.is_none() {
                self.look(&upload).await;
                if self.dice.random_bool(GIVEN_UP) {
                    self.given_up += 1;
                    continue;
                }
                answer = Some(self.device.until_answered(Method::PUT, &path, Some(&body)).await);
            }
            let state = State::of(&answer.unwrap());
            if state != self.state {
                self.stored(&upload, state);
            }
            self.device.world.answered(Kind::Upload);
        }
        self
    }
}

/// All of them.
pub(super) struct Backups(Vec<JoinHandle<Backup>>);

impl Backups {
    pub(super) async fn start(world: &Arc<World>, dice: &mut StdRng) -> Self {
        let mut backups = Vec::new();
        for number in 0..USERS {
            let device = world.register(&format!("saver{number}")).await;
            backups.push(Backup::new(device, StdRng::seed_from_u64(dice.next_u64())).await);
        }
        Self(backups.into_iter().map(|backup| tokio::spawn(backup.run())).collect())
    }

    /// Each backup holds what was answered, and is counted as it is.
    pub(super) async fn check(self) {
        for backup in ended(self.0).await {
            let Backup { uploads, given_up, .. } = backup;
            let (sessions, state) = backup.read().await;
            println!("{state:?} after {uploads} uploads, {given_up} given up");
            assert_eq!(state, backup.state);
            assert_eq!(sessions, backup.sessions);
        }
    }
}
