//! Encrypted conversations over kills of the real binary: what was sent to a device and acknowledged is
//! delivered once and in order, whoever is killed on the way, and can be read.

use std::{fs, sync::Arc};

use hearth_testkit::{Client, Correspondent, TestUser};
use ruma::RoomId;
use tokio::task::spawn_blocking;

use crate::{
    command::{Home, Server, block_on},
    federation::{configure, free_port},
};

/// How often something is killed at another moment.
const ROUNDS: usize = 4;

/// A server that comes back at the same addresses.
struct Place {
    home: Arc<Home>,
    client: Client,
    running: Option<Server>,
}

impl Place {
    /// Its server is started by the caller, after its files are written.
    fn new(federates: bool) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let home = Home::new()
            .with("HEARTH_LISTEN__ADDRESSES", &address)
            .with("HEARTH_USERS__OPEN_REGISTRATION", "true")
            .with("HEARTH_HTTP__RATE_LIMITS__ENABLED", "false")
            .with("HEARTH_FEDERATION__ENABLED", &federates.to_string())
            .with("HEARTH_FEDERATION__BACKOFF_MIN_S", "1")
            .with("HEARTH_FEDERATION__BACKOFF_MAX_S", "1");
        if federates {
            configure(&home, free_port());
        }
        let client = Client::new(&format!("http://{address}"));
        Self { home: Arc::new(home), client, running: None }
    }

    async fn one() -> Self {
        let mut place = Self::new(false);
        place.start().await;
        place
    }

    /// Two that federate, and trust each other's certificates.
    async fn two() -> (Self, Self) {
        let (mut one, mut two) = (Self::new(true), Self::new(true));
        let authorities =
            [&one, &two].map(|place| fs::read_to_string(place.home.path("ca.pem")).unwrap());
        for place in [&mut one, &mut two] {
            place.home.write("ca.pem", &authorities.concat());
            place.start().await;
        }
        (one, two)
    }

    /// Starts it elsewhere, so that clients notice meanwhile that their connections are gone.
    async fn start(&mut self) {
        let home = Arc::clone(&self.home);
        self.running = Some(spawn_blocking(move || home.serve()).await.unwrap());
    }

    async fn kill(&mut self) {
        let server = self.running.take().unwrap();
        spawn_blocking(move || server.kill()).await.unwrap();
    }

    async fn register(&self, localpart: &str) -> Correspondent {
        Correspondent::start(TestUser::register(&self.client, localpart).await).await
    }
}

/// Sends a new room key as somebody does who got no answer at first, and says something with it.
async fn say_anew(alice: &mut Correspondent, room_id: &RoomId, text: &str) {
    let key = alice.share_anew(room_id).await;
    alice.post(&key).await;
    alice.post(&key).await;
    alice.say_on(room_id, text).await;
}

/// Waits until somebody has read these texts. The room key of each has come once, in the order in which
/// they were said, and nothing more comes.
async fn reads_all(bob: &mut Correspondent, texts: &[String]) {
    let mut sessions = Vec::new();
    for text in texts {
        sessions.push(bob.reads(text).await.event.pointer("/content/session_id").cloned());
    }
    for _ in 0..2 {
        let came: Vec<_> = bob.letters.iter().map(|letter| letter.said.clone()).collect();
        let came: Vec<_> =
            came.iter().flatten().map(|said| said.1.get("session_id").cloned()).collect();
        assert_eq!(came, sessions, "{:?}", bob.letters);
        assert_eq!(came.len(), bob.letters.len(), "{:?}", bob.letters);
        bob.sync().await;
    }
}

#[test]
fn a_room_key_sent_before_a_kill_comes_once_after_it() {
    block_on(async {
        let mut place = Place::one().await;
        let (mut alice, mut bob) = (place.register("alice").await, place.register("bob").await);
        let room_id = alice.meet(&[&bob]).await;
        let mut texts = Vec::new();
        for round in 0..ROUNDS {
            let key = alice.share_anew(&room_id).await;
            alice.post(&key).await;
            place.kill().await;
            place.start().await;
            // She may not have had the answer.
            alice.post(&key).await;
            texts.push(format!("said after kill {round}"));
            alice.say_on(&room_id, texts.last().unwrap()).await;
        }
        reads_all(&mut bob, &texts).await;
        assert_eq!(bob.texts(), texts);
        // What a sync brought comes again until the next one shows that it arrived, over a kill too.
        let since = bob.since().unwrap().to_owned();
        say_anew(&mut alice, &room_id, "said at last").await;
        let first = bob.user.sync(Some(&since), "").await;
        place.kill().await;
        place.start().await;
        let second = bob.user.sync(Some(&since), "").await;
        assert_eq!(first["to_device"]["events"].as_array().map(Vec::len), Some(1), "{first}");
        assert_eq!(first["to_device"], second["to_device"]);
        texts.push("said at last".to_owned());
        reads_all(&mut bob, &texts).await;
    });
}

#[test]
fn room_keys_wait_for_a_killed_server_at_a_killed_server() {
    block_on(async {
        let (mut hers, mut his) = Place::two().await;
        let (mut alice, mut bob) = (hers.register("alice").await, his.register("bob").await);
        let room_id = alice.meet(&[&bob]).await;
        let mut texts = vec!["before".to_owned()];
        alice.say(&room_id, "before").await;
        bob.reads("before").await;
        his.kill().await;
        for round in 0..ROUNDS {
            texts.push(format!("said to nobody, {round}"));
            say_anew(&mut alice, &room_id, texts.last().unwrap()).await;
        }
        hers.kill().await;
        hers.start().await;
        his.start().await;
        // Whoever speaks is there again, and her server tries at once.
        bob.say(&room_id, "back").await;
        alice.reads("back").await;
        reads_all(&mut bob, &texts).await;
    });
}

#[test]
fn room_keys_come_once_whichever_server_is_killed_while_they_are_on_their_way() {
    block_on(async {
        let (mut hers, mut his) = Place::two().await;
        let (mut alice, mut bob) = (hers.register("alice").await, his.register("bob").await);
        let room_id = alice.meet(&[&bob]).await;
        let mut texts = Vec::new();
        for round in 0..ROUNDS {
            texts.push(format!("said before kill {round}"));
            say_anew(&mut alice, &room_id, texts.last().unwrap()).await;
            let killed = if round % 2 == 0 { &mut hers } else { &mut his };
            killed.kill().await;
            killed.start().await;
            bob.say(&room_id, "there").await;
        }
        reads_all(&mut bob, &texts).await;
    });
}
