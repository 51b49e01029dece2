use std::{
    collections::HashMap,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use hearth_storage::{EngineKind, StoreOptions, engine::memory::MemoryEngine};
use hearth_types::ManualClock;
use http::{Request, Response};
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, owned_server_name, server_name, signatures::sign_json};
use serde_json::{Value, json};

use super::{
    entry::{MAX_VALIDITY_MS, verify_signed_by},
    *,
};
use crate::transport::{Limits, TransportError};

const NOW_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// A network in which servers answer every request with what the test puts there.
#[derive(Default)]
struct Network {
    answers: Mutex<HashMap<OwnedServerName, Value>>,
    /// What is under way at once waits for this long.
    delay: Mutex<Duration>,
    requests: AtomicUsize,
}

#[async_trait]
impl Transport for Network {
    async fn send(
        &self,
        destination: &ServerName,
        _: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock();
        let unreachable = || TransportError::TimedOut(destination.to_owned());
        let answered = tokio::time::timeout(limits.timeout, tokio::time::sleep(delay)).await;
        answered.map_err(|_| unreachable())?;
        let answers = self.answers.lock();
        let answer = answers.get(destination).ok_or_else(unreachable)?;
        Ok(Response::new(Bytes::from(answer.to_string())))
    }
}

impl Network {
    fn put(&self, server: &ServerIdentity, answer: Value) {
        self.answers.lock().insert(server.server_name().to_owned(), answer);
    }

    fn asked(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

struct Bench {
    ring: KeyRing,
    network: Arc<Network>,
    clock: Arc<ManualClock>,
    store: Store,
}

fn identity(name: &str, version: &str) -> Arc<ServerIdentity> {
    let name = OwnedServerName::try_from(name).unwrap();
    let key = ServerIdentity::generate_key();
    Arc::new(ServerIdentity::from_der(name, &key, version.to_owned()).unwrap())
}

/// A store without a thread: simulated time must not run on while one works.
fn store_in_task() -> Store {
    let options = StoreOptions::for_tests(EngineKind::Memory, Path::new(""), crate::KEYSPACES);
    let engine = Arc::new(MemoryEngine::new(options.all_keyspaces().len()));
    Store::open_in_task(engine, &options, Duration::from_millis(1)).unwrap()
}

async fn bench_with(config: FederationConfig) -> Bench {
    let store = store_in_task();
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let network = Arc::new(Network::default());
    let us = identity("us.example", "us");
    let ring = open(&store, &clock, &network, us, config).await;
    Bench { ring, network, clock, store }
}

async fn bench() -> Bench {
    bench_with(FederationConfig::default()).await
}

async fn open(
    store: &Store,
    clock: &Arc<ManualClock>,
    network: &Arc<Network>,
    us: Arc<ServerIdentity>,
    config: FederationConfig,
) -> KeyRing {
    let clock: Arc<dyn Clock> = clock.clone();
    let destinations =
        Destinations::open(store.clone(), us.server_name(), Arc::clone(&clock), &config)
            .await
            .unwrap();
    let tasks = Tasks::default();
    KeyRing::open(store.clone(), us, clock, network.clone(), destinations, config, tasks)
        .await
        .unwrap()
}

fn key_of(server: &ServerIdentity) -> Value {
    let key = ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(
        server.key_pair().public_key().to_vec(),
    );
    json!({ "key": key.encode() })
}

fn key_id(server: &ServerIdentity) -> OwnedServerSigningKeyId {
    let id = format!("ed25519:{}", server.key_pair().version());
    OwnedServerSigningKeyId::try_from(id).unwrap()
}

/// What a server publishes.
#[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
fn published(server: &ServerIdentity, valid_until_ms: u64, old: Value) -> Value {
    let answer = json!({
        "server_name": server.server_name(),
        "verify_keys": { key_id(server).as_str(): key_of(server) },
        "old_verify_keys": old,
        "valid_until_ts": valid_until_ms,
    });
    signed(server, answer)
}

fn signed(signer: &ServerIdentity, answer: Value) -> Value {
    let mut object: CanonicalJsonObject = serde_json::from_value(answer).unwrap();
    sign_json(signer.server_name().as_str(), signer.key_pair(), &mut object).unwrap();
    serde_json::to_value(object).unwrap()
}

fn wanted(server: &ServerIdentity, at_ms: u64) -> WantedKeys {
    let at = MilliSecondsSinceUnixEpoch(at_ms.try_into().unwrap());
    let keys = BTreeMap::from([(key_id(server), at)]);
    WantedKeys::from([(server.server_name().to_owned(), keys)])
}

impl Bench {
    async fn has(&self, server: &ServerIdentity, at_ms: u64) -> bool {
        let keys = self.ring.keys(&wanted(server, at_ms)).await;
        let found = keys.get(server.server_name().as_str());
        found.and_then(|keys| keys.get(key_id(server).as_str())).is_some_and(|key| {
            assert_eq!(key.as_bytes(), server.key_pair().public_key());
            true
        })
    }

    async fn spoke(&self, server: &ServerIdentity) -> bool {
        let wanted = wanted(server, self.clock.now_ms());
        let known = self.ring.look_up(&wanted, Purpose::Stranger).await;
        let valid = known.valid_at(wanted.keys(), self.clock.now());
        !valid[server.server_name().as_str()].is_empty()
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_once_and_kept() {
    let bench = bench().await;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    assert!(bench.has(&them, NOW_MS).await);
    assert!(bench.has(&them, NOW_MS - DAY_MS).await);
    assert_eq!(bench.network.asked(), 1);
    // Another run of the server finds them in the store.
    let again = open(
        &bench.store,
        &bench.clock,
        &bench.network,
        identity("us.example", "us"),
        FederationConfig::default(),
    )
    .await;
    assert_eq!(again.keys(&wanted(&them, NOW_MS)).await.len(), 1);
    assert_eq!(bench.network.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_for_seven_days_at_most() {
    let bench = bench().await;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + 365 * DAY_MS, json!({})));
    assert!(bench.has(&them, NOW_MS + MAX_VALIDITY_MS).await);
    assert!(!bench.has(&them, NOW_MS + MAX_VALIDITY_MS + 1).await);
    assert_eq!(bench.network.asked(), 1, "asked again though it had just answered");
    bench.clock.advance(Duration::from_millis(DAY_MS));
    assert!(bench.has(&them, NOW_MS + MAX_VALIDITY_MS + 1).await);
    assert_eq!(bench.network.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_key_counts_until_it_was_replaced() {
    let bench = bench().await;
    let (before, after) = (identity("them.example", "1"), identity("them.example", "2"));
    let mut old = json!({ "ed25519:1": key_of(&before) });
    old["ed25519:1"]["expired_ts"] = json!(NOW_MS - DAY_MS);
    bench.network.put(&after, published(&after, NOW_MS + DAY_MS, old));
    assert!(bench.has(&before, NOW_MS - DAY_MS).await);
    assert!(!bench.has(&before, NOW_MS - DAY_MS + 1).await);
    assert!(bench.has(&after, NOW_MS).await);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_published_any_more_counts_for_what_it_signed_before() {
    let bench = bench().await;
    let (before, after) = (identity("them.example", "1"), identity("them.example", "2"));
    bench.network.put(&before, published(&before, NOW_MS + DAY_MS, json!({})));
    assert!(bench.has(&before, NOW_MS).await);
    bench.network.put(&after, published(&after, NOW_MS + 2 * DAY_MS, json!({})));
    bench.clock.advance(Duration::from_hours(1));
    assert!(bench.has(&after, NOW_MS).await);
    assert!(bench.has(&before, NOW_MS).await);
    assert!(!bench.has(&before, NOW_MS + DAY_MS).await);
}

#[tokio::test(start_paused = true)]
async fn forged_answers_are_not_believed() {
    let bench = bench().await;
    let (them, other) = (identity("them.example", "1"), identity("other.example", "1"));
    let mut unsigned = published(&them, NOW_MS + DAY_MS, json!({}));
    unsigned.as_object_mut().unwrap().remove("signatures");
    let mut changed = published(&them, NOW_MS + DAY_MS, json!({}));
    changed["valid_until_ts"] = json!(NOW_MS + 2 * DAY_MS);
    let by_other = signed(&other, unsigned.clone());
    let of_other = published(&other, NOW_MS + DAY_MS, json!({}));
    for answer in [unsigned, changed, by_other, of_other, json!([]), json!({})] {
        bench.network.put(&them, answer.clone());
        let asked = bench.network.asked();
        assert!(!bench.has(&them, NOW_MS).await, "{answer}");
        assert_eq!(bench.network.asked(), asked + 1);
        bench.clock.advance(Duration::from_hours(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_not_asked_again_at_once() {
    let bench = bench().await;
    let them = identity("them.example", "1");
    for _ in 0..10 {
        assert!(!bench.spoke(&them).await);
    }
    assert_eq!(bench.network.asked(), 1);
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    bench.clock.advance(Duration::from_mins(2));
    assert!(bench.spoke(&them).await);
}

#[tokio::test(start_paused = true)]
async fn strangers_that_name_unknown_keys_do_not_make_us_ask_again() {
    let bench = bench().await;
    let (them, unknown) = (identity("them.example", "1"), identity("them.example", "9"));
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    for _ in 0..10 {
        assert!(!bench.has(&unknown, NOW_MS).await);
    }
    assert_eq!(bench.network.asked(), 1);
    assert!(bench.has(&them, NOW_MS).await);
}

#[tokio::test(start_paused = true)]
async fn many_who_want_one_servers_keys_ask_once() {
    let bench = bench().await;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    *bench.network.delay.lock() = Duration::from_secs(2);
    let all = (0..50).map(|_| bench.has(&them, NOW_MS));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(|has| *has));
    assert_eq!(bench.network.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_ends_though_servers_hang() {
    let bench = bench().await;
    *bench.network.delay.lock() = Duration::from_hours(1);
    let wanted: WantedKeys = (0..200)
        .flat_map(|number| wanted(&identity(&format!("s{number}.example"), "1"), NOW_MS))
        .collect();
    let started = tokio::time::Instant::now();
    assert!(bench.ring.keys(&wanted).await.is_empty());
    assert!(started.elapsed() < Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn what_a_server_tells_itself_is_newer_though_it_counts_for_less_long() {
    let bench = bench().await;
    let (before, after) = (identity("them.example", "1"), identity("them.example", "2"));
    bench.network.put(&before, published(&before, NOW_MS + 7 * DAY_MS, json!({})));
    assert!(bench.has(&before, NOW_MS).await);
    bench.clock.advance(Duration::from_hours(1));
    let now_ms = bench.clock.now_ms();
    bench.network.put(&after, published(&after, now_ms + DAY_MS, json!({})));
    assert!(bench.has(&after, now_ms).await);
    assert!(bench.has(&before, NOW_MS).await, "it counts for what it signed before");
    assert!(!bench.has(&before, now_ms + 1).await);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_found_slowly_tells_its_keys_all_the_same() {
    let bench = bench().await;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    *bench.network.delay.lock() = Duration::from_secs(16);
    assert!(bench.spoke(&them).await);
}

#[tokio::test(start_paused = true)]
async fn who_asks_the_notary_for_servers_that_hang_keeps_nobody_out() {
    let bench = bench().await;
    *bench.network.delay.lock() = Duration::from_hours(1);
    let ask = |name: OwnedServerName| {
        let ring = bench.ring.clone();
        tokio::spawn(async move { ring.vouch(&name, NOW_MS).await })
    };
    for number in 0..5_000 {
        drop(ask(format!("tarpit{number}.example").try_into().unwrap()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = bench.network.asked();
    assert!((1..=4).contains(&asked), "{asked} at once");
    *bench.network.delay.lock() = Duration::ZERO;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    let started = tokio::time::Instant::now();
    // Though somebody asks the notary for the same keys, behind all the others.
    drop(ask(them.server_name().to_owned()));
    assert!(bench.spoke(&them).await);
    assert!(bench.has(&them, NOW_MS).await);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn servers_that_may_not_be_spoken_to_are_not_asked() {
    let config =
        FederationConfig { deny: vec!["them.example".to_owned()], ..FederationConfig::default() };
    let bench = bench_with(config).await;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    assert!(!bench.has(&them, NOW_MS).await);
    assert_eq!(bench.network.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_notary_helps_where_the_server_itself_is_gone() {
    let config = FederationConfig {
        notaries: vec![owned_server_name!("notary.example")],
        ..FederationConfig::default()
    };
    let bench = bench_with(config).await;
    let (them, notary) = (identity("gone.example", "1"), identity("notary.example", "n"));
    let liar = identity("notary.example", "n");
    let answer = published(&them, NOW_MS - DAY_MS, json!({}));
    let vouch = |by: &ServerIdentity| {
        // One answer to both requests: its own keys and those that it vouches for.
        let mut told = published(&notary, NOW_MS + DAY_MS, json!({}));
        told["server_keys"] = json!([signed(by, answer.clone())]);
        told.as_object_mut().unwrap().remove("signatures");
        signed(&notary, told)
    };
    bench.network.put(&notary, vouch(&liar));
    assert!(!bench.has(&them, NOW_MS - DAY_MS).await);
    bench.network.put(&notary, vouch(&notary));
    assert!(bench.has(&them, NOW_MS - DAY_MS).await);
    assert!(!bench.has(&them, NOW_MS).await, "a key of a server that is gone has ended");
}

#[tokio::test]
async fn our_own_keys_need_no_network_and_remember_those_before() {
    let store = Store::memory_for_tests(crate::KEYSPACES);
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let network = Arc::new(Network::default());
    let config = FederationConfig::default;
    let (first, second) = (identity("us.example", "a"), identity("us.example", "b"));
    drop(open(&store, &clock, &network, Arc::clone(&first), config()).await);
    clock.advance(Duration::from_millis(DAY_MS));
    let ring = open(&store, &clock, &network, Arc::clone(&second), config()).await;

    let answer = serde_json::to_value(ring.own_answer().unwrap()).unwrap();
    assert_eq!(answer["verify_keys"], json!({ "ed25519:b": key_of(&second) }));
    assert_eq!(answer["old_verify_keys"]["ed25519:a"]["expired_ts"], NOW_MS + DAY_MS);
    let object = serde_json::from_value(answer).unwrap();
    let read = ServerKeys::read(server_name!("us.example"), &object, clock.now_ms()).unwrap();
    assert!(read.has("ed25519:b", clock.now_ms()));
    assert!(read.has("ed25519:a", NOW_MS) && !read.has("ed25519:a", clock.now_ms() + 1));

    let keys = ring.keys(&wanted(&first, NOW_MS)).await;
    assert_eq!(keys["us.example"]["ed25519:a"].as_bytes(), first.key_pair().public_key());
    assert!(ring.keys(&wanted(&second, NOW_MS)).await["us.example"].contains_key("ed25519:b"));
    // Going back to a key makes it current again.
    let ring = open(&store, &clock, &network, first, config()).await;
    let answer = serde_json::to_value(ring.own_answer().unwrap()).unwrap();
    assert!(answer["old_verify_keys"].get("ed25519:a").is_none());
    assert!(answer["old_verify_keys"].get("ed25519:b").is_some());
    assert_eq!(network.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_notary_adds_its_signature_and_fetches_afresh_when_asked_to() {
    let bench = bench().await;
    let them = identity("them.example", "1");
    bench.network.put(&them, published(&them, NOW_MS + DAY_MS, json!({})));
    let vouched = bench.ring.vouch(them.server_name(), NOW_MS).await.unwrap();
    let signatures = vouched["signatures"].as_object().unwrap();
    assert!(signatures.contains_key("us.example") && signatures.contains_key("them.example"));
    let ours =
        PublicKeyMap::from([("us.example".to_owned(), bench.ring.0.own_known.valid_at(NOW_MS))]);
    let keys = ours["us.example"].clone();
    verify_signed_by(server_name!("us.example"), keys, &vouched).unwrap();

    assert!(bench.ring.vouch(them.server_name(), NOW_MS + DAY_MS).await.is_some());
    assert_eq!(bench.network.asked(), 1);
    bench.clock.advance(Duration::from_hours(1));
    bench.network.put(&them, published(&them, NOW_MS + 2 * DAY_MS, json!({})));
    let fresh = bench.ring.vouch(them.server_name(), NOW_MS + 2 * DAY_MS).await.unwrap();
    assert_eq!(
        fresh["valid_until_ts"].as_integer().map(i64::from),
        i64::try_from(NOW_MS + 2 * DAY_MS).ok()
    );
    assert_eq!(bench.network.asked(), 2);
    assert!(bench.ring.vouch(server_name!("nobody.example"), NOW_MS).await.is_none());
}
