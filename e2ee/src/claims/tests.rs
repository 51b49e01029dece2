use std::{collections::BTreeSet, sync::Mutex};

use async_trait::async_trait;
use ruma::{
    OneTimeKeyAlgorithm::SignedCurve25519,
    ServerName, UserId,
    api::federation::{device::get_devices, keys::get_keys},
    owned_user_id,
};

use super::*;
use crate::{
    KeyUpload, RemoteKeysError,
    testing::{Bench, Olm, UploadedKeys},
};

fn claim_of(olm: &Olm) -> Claims {
    let devices = [(olm.device_id.clone(), SignedCurve25519)].into();
    [(olm.user_id.clone(), devices)].into()
}

/// The IDs of handed-out keys behind the algorithm, in no order that means anything.
fn ids(handed_out: &HandedOut) -> Vec<String> {
    let devices = handed_out.values().flat_map(BTreeMap::values);
    let keys = devices.flat_map(BTreeMap::keys);
    keys.map(|id| id.as_str().trim_start_matches("signed_curve25519:").to_owned()).collect()
}

async fn claim(bench: &Bench, olm: &Olm) -> Vec<String> {
    ids(&bench.e2ee.claim_local_keys(claim_of(olm)).await.unwrap())
}

async fn upload(bench: &Bench, olm: &Olm, one_time_keys: UploadedKeys) {
    let upload = KeyUpload { one_time_keys, ..KeyUpload::default() };
    bench.e2ee.upload_keys(&olm.user_id, &olm.device_id, None, upload).await.unwrap();
}

async fn olm(bench: &Bench, username: &str, ids: &[&str]) -> Olm {
    let (user_id, device_id) = bench.user_with_device(username).await;
    let olm = Olm::new(&user_id, &device_id);
    let first = olm.first_upload(ids.iter().copied());
    bench.e2ee.upload_keys(&user_id, &device_id, None, first).await.unwrap();
    olm
}

#[tokio::test]
async fn keys_go_in_the_order_of_the_uploads_then_the_fallback_key() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice", &["Z"]).await;
    upload(&bench, &alice, alice.one_time_keys(["Y"])).await;
    upload(&bench, &alice, alice.one_time_keys(["X"])).await;
    let counts = async || {
        let counts = bench.e2ee.key_counts(&alice.user_id, &alice.device_id).await.unwrap();
        (counts.one_time_keys[&SignedCurve25519], counts.unused_fallback_keys.len())
    };
    for (expected, left) in [("Z", (2, 1)), ("Y", (1, 1)), ("X", (0, 1)), ("fallback", (0, 0))] {
        assert_eq!(claim(&bench, &alice).await, [expected]);
        assert_eq!(counts().await, left);
    }
    assert_eq!(claim(&bench, &alice).await, ["fallback"]);
    upload(&bench, &alice, alice.one_time_keys(["W"])).await;
    assert_eq!(claim(&bench, &alice).await, ["W"]);
}

#[tokio::test]
async fn who_sees_that_a_claim_is_published_sees_what_is_left() {
    let bench = Bench::new().await;
    let names: Vec<_> = (0..200).map(|number| format!("K{number:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let alice = olm(&bench, "alice", &names).await;
    let published = bench.store.notifier().publications();
    let (e2ee, user_id, device_id) =
        (bench.e2ee.clone(), alice.user_id.clone(), alice.device_id.clone());
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let looking = tokio::spawn(async move {
        let mut seen = Vec::new();
        while stopped.try_recv().is_err() {
            let until = *published.borrow();
            seen.push((until, e2ee.key_counts(&user_id, &device_id).await.unwrap()));
            tokio::task::yield_now().await;
        }
        seen
    });
    let mut left = Vec::new();
    for _ in &names {
        claim(&bench, &alice).await;
        left.push(bench.e2ee.key_counts(&alice.user_id, &alice.device_id).await.unwrap());
    }
    stop.send(()).unwrap();
    for (until, counts) in looking.await.unwrap() {
        let newest = left.iter().rev().find(|left| left.changed <= until);
        assert!(newest.is_none_or(|newest| counts.changed >= newest.changed), "{until}");
    }
}

#[tokio::test]
async fn what_was_handed_out_is_gone_after_the_power_was_lost() {
    let mut bench = Bench::new().await;
    let alice = olm(&bench, "alice", &["A", "B"]).await;
    for key in ["A", "B"] {
        assert_eq!(claim(&bench, &alice).await, [key]);
        bench = bench.lose_power().await;
    }
    assert_eq!(claim(&bench, &alice).await, ["fallback"]);
}

#[tokio::test]
async fn what_is_not_there_is_left_out() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice", &["A"]).await;
    let (bob, bobs_device) = bench.user_with_device("bob").await;
    let mut claims = claim_of(&alice);
    let devices = claims.get_mut(&alice.user_id).unwrap();
    devices.insert("UNKNOWN".into(), SignedCurve25519);
    devices.insert("X".repeat(2_000).into(), SignedCurve25519);
    claims.insert(bob, [(bobs_device, SignedCurve25519)].into());
    claims.insert(owned_user_id!("@nobody:hearth.test"), [("X".into(), SignedCurve25519)].into());
    claims.insert(owned_user_id!("@eve:elsewhere.test"), [("X".into(), SignedCurve25519)].into());
    let handed_out = bench.e2ee.claim_local_keys(claims).await.unwrap();
    assert_eq!(handed_out.len(), 1);
    assert_eq!(ids(&handed_out), ["A"]);
    let other = [(alice.device_id.clone(), "signed_other".into())].into();
    let claims = [(alice.user_id.clone(), other)].into();
    assert!(bench.e2ee.claim_local_keys(claims).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_claims_never_share_a_key() {
    let bench = Bench::new().await;
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let alice = olm(&bench, "alice", &names).await;
    let before = bench.store.notifier().published().get();
    let claims = (0..250).map(|_| claim(&bench, &alice));
    let claimed = futures_util::future::join_all(claims).await.concat();
    assert_eq!(claimed.len(), 250);
    assert_eq!(claimed.iter().filter(|id| *id == "fallback").count(), 50);
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>().len(), 201);
    let commits = bench.store.notifier().published().get() - before;
    assert!(commits < 50, "claims that wait share commits: {commits}");
}

#[tokio::test]
async fn a_claim_of_many_devices_is_served() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice", &["A"]).await;
    let mut claims = claim_of(&alice);
    let devices = claims.get_mut(&alice.user_id).unwrap();
    devices.extend((0..1_000).map(|number| (format!("{number}").into(), SignedCurve25519)));
    assert_eq!(ids(&bench.e2ee.claim_local_keys(claims).await.unwrap()), ["A"]);
}

#[tokio::test]
async fn whoever_goes_does_not_hold_up_the_others() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice", &["A", "B", "C"]).await;
    {
        let mut gone = Box::pin(claim(&bench, &alice));
        assert!(futures_util::poll!(&mut gone).is_pending());
    }
    let got = claim(&bench, &alice).await;
    assert!(got == ["A"] || got == ["B"], "{got:?}");
}

/// Answers whatever a test wants.
struct Elsewhere {
    answer: HandedOut,
    asked: Mutex<Vec<(OwnedServerName, Claims)>>,
}

#[async_trait]
impl RemoteKeys for Elsewhere {
    async fn query(
        &self,
        _: &ServerName,
        _: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        _: Duration,
    ) -> Result<get_keys::v1::Response, RemoteKeysError> {
        Err(RemoteKeysError::Failed("not asked for".to_owned()))
    }

    async fn claim(
        &self,
        server: &ServerName,
        keys: Claims,
        _: Duration,
    ) -> Result<claim_keys::v1::Response, RemoteKeysError> {
        self.asked.lock().unwrap().push((server.to_owned(), keys));
        if server.as_str().starts_with("silent") {
            return std::future::pending().await;
        }
        if server == "down.test" {
            return Err(RemoteKeysError::Failed("cannot be reached".to_owned()));
        }
        Ok(claim_keys::v1::Response::new(self.answer.clone()))
    }

    async fn devices(
        &self,
        _: &UserId,
        _: Duration,
    ) -> Result<get_devices::v1::Response, RemoteKeysError> {
        Err(RemoteKeysError::Failed("not asked for".to_owned()))
    }
}

#[tokio::test]
async fn other_servers_give_what_was_asked_for_and_nothing_else() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice", &["A"]).await;
    let bob = Olm::new(&owned_user_id!("@bob:up.test"), <&ruma::DeviceId>::from("BOB"));
    let carol = Olm::new(&owned_user_id!("@carol:down.test"), <&ruma::DeviceId>::from("CAROL"));
    let mut claims = claim_of(&alice);
    claims.extend(claim_of(&bob));
    claims.extend(claim_of(&carol));
    let timeout = Duration::from_secs(1);
    let alone = bench.e2ee.claim_keys(claim_of(&bob), timeout).await.unwrap();
    assert!(alone.one_time_keys.is_empty());
    assert_eq!(alone.failures.len(), 1, "without federation");

    let mut keys = bob.one_time_keys(["B", "C"]);
    let (_, key) = keys.pop_last().unwrap();
    keys.insert("signed_other:D".try_into().unwrap(), key.clone());
    let unasked = BTreeMap::from([("signed_curve25519:E".try_into().unwrap(), key)]);
    let of_bob = BTreeMap::from([
        (bob.device_id.clone(), keys),
        (OwnedDeviceId::from("OTHER"), unasked.clone()),
    ]);
    let of_alice = BTreeMap::from([(alice.device_id.clone(), unasked)]);
    let answer = [(bob.user_id.clone(), of_bob), (alice.user_id.clone(), of_alice)].into();
    let elsewhere = Arc::new(Elsewhere { answer, asked: Mutex::default() });
    bench.e2ee.set_remote(elsewhere.clone());
    let claimed = bench.e2ee.claim_keys(claims, timeout).await.unwrap();
    assert_eq!(ids(&claimed.one_time_keys), ["A", "B"]);
    let failed: Vec<_> = claimed.failures.keys().map(|server| server.as_str()).collect();
    assert_eq!(failed, ["down.test"]);
    let mut asked = elsewhere.asked.lock().unwrap().clone();
    asked.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(asked[0], ("down.test".try_into().unwrap(), claim_of(&carol)));
    assert_eq!(asked[1], ("up.test".try_into().unwrap(), claim_of(&bob)));
}

fn elsewhere(bench: &Bench, answer: HandedOut) -> Arc<Elsewhere> {
    let elsewhere = Arc::new(Elsewhere { answer, asked: Mutex::default() });
    bench.e2ee.set_remote(elsewhere.clone());
    elsewhere
}

#[tokio::test]
async fn silent_servers_hold_up_no_key_of_others() {
    let bench = Bench::new().await;
    let bob = Olm::new(&owned_user_id!("@bob:up.test"), <&ruma::DeviceId>::from("BOB"));
    let of_bob = BTreeMap::from([(bob.device_id.clone(), bob.one_time_keys(["A"]))]);
    elsewhere(&bench, [(bob.user_id.clone(), of_bob)].into());
    let mut claims = claim_of(&bob);
    for number in 0..100 {
        let user_id = UserId::parse(format!("@eve:silent{number}.test")).unwrap();
        claims.extend(claim_of(&Olm::new(&user_id, <&ruma::DeviceId>::from("EVE"))));
    }
    let (start, timeout) = (Instant::now(), Duration::from_millis(500));
    let claimed = bench.e2ee.claim_keys(claims, timeout).await.unwrap();
    assert!(start.elapsed() < 4 * timeout, "{:?}", start.elapsed());
    assert_eq!(ids(&claimed.one_time_keys), ["A"]);
    assert_eq!(claimed.failures.len(), 100);
}

#[tokio::test]
async fn many_devices_are_claimed_some_at_a_time() {
    let bench = Bench::new().await;
    let bob = Olm::new(&owned_user_id!("@bob:up.test"), <&ruma::DeviceId>::from("BOB"));
    let mut claims = claim_of(&bob);
    let devices = claims.get_mut(&bob.user_id).unwrap();
    devices.extend((0..999).map(|number| (format!("{number}").into(), SignedCurve25519)));
    let of_bob = claims[&bob.user_id].keys().map(|id| (id.clone(), bob.one_time_keys(["A"])));
    let answer = [(bob.user_id.clone(), of_bob.collect())].into();
    let elsewhere = elsewhere(&bench, answer);
    let claimed = bench.e2ee.claim_keys(claims, Duration::from_secs(10)).await.unwrap();
    assert_eq!(ids(&claimed.one_time_keys).len(), 1_000);
    let asked = elsewhere.asked.lock().unwrap();
    let sizes: Vec<_> = asked.iter().map(|(_, claims)| claims[&bob.user_id].len()).collect();
    assert_eq!(sizes, [DEVICES_PER_REQUEST, DEVICES_PER_REQUEST, 200]);
}

#[tokio::test]
async fn keys_larger_than_keys_are_are_not_handed_on() {
    let bench = Bench::new().await;
    let bob = Olm::new(&owned_user_id!("@bob:up.test"), <&ruma::DeviceId>::from("BOB"));
    for (more, handed_on) in [(10, 1), (MAX_KEY_BYTES, 0)] {
        let key = vodozemac::base64_encode([7; 32]);
        let mut object = serde_json::Map::from_iter([("key".to_owned(), key.into())]);
        object.insert("more".to_owned(), "x".repeat(more).into());
        let key = crate::testing::raw(&bob.sign(object));
        let keys = BTreeMap::from([("signed_curve25519:A".try_into().unwrap(), key)]);
        let of_bob = BTreeMap::from([(bob.device_id.clone(), keys)]);
        elsewhere(&bench, [(bob.user_id.clone(), of_bob)].into());
        let claimed = bench.e2ee.claim_keys(claim_of(&bob), Duration::from_secs(10)).await.unwrap();
        assert_eq!(claimed.one_time_keys.len(), handed_on);
    }
}

mod interleavings {
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use proptest::test_runner::Config;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// Uploads keys: fresh ones, or the last ones once more.
        Upload {
            count: usize,
            again: bool,
        },
        /// As many claims at the same time.
        Claim(usize),
        LosePower,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_usize..6, any::<bool>()).prop_map(|(count, again)| Step::Upload { count, again }),
            (1_usize..8).prop_map(Step::Claim),
            Just(Step::LosePower),
        ]
    }

    async fn run(steps: Vec<Step>) {
        let mut bench = Bench::new().await;
        let alice = olm(&bench, "alice", &[]).await;
        let (mut made, mut last) = (0, UploadedKeys::new());
        let (mut waiting, mut seen) = (Vec::<BTreeSet<String>>::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Upload { count, again } => {
                    if !again {
                        let names: Vec<_> =
                            (made..made + count).map(|number| format!("K{number}")).collect();
                        made += count;
                        last = alice.one_time_keys(names.iter().map(String::as_str));
                        waiting.push(names.into_iter().collect());
                    }
                    upload(&bench, &alice, last.clone()).await;
                }
                Step::Claim(count) => {
                    let claims = (0..count).map(|_| claim(&bench, &alice));
                    for id in futures_util::future::join_all(claims).await.concat() {
                        waiting.retain(|keys| !keys.is_empty());
                        if id == "fallback" {
                            assert!(waiting.is_empty(), "there were others");
                        } else {
                            assert!(seen.insert(id.clone()), "{id} twice");
                            let oldest = waiting.first_mut().expect("no key was left");
                            assert!(oldest.remove(&id), "{id} before {oldest:?}");
                        }
                    }
                }
                Step::LosePower => bench = bench.lose_power().await,
            }
            let left: usize = waiting.iter().map(BTreeSet::len).sum();
            let counts = bench.e2ee.key_counts(&alice.user_id, &alice.device_id).await.unwrap();
            assert_eq!(counts.one_time_keys[&SignedCurve25519], left as u64);
        }
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(24) })]

        #[test]
        fn each_key_is_handed_out_once_and_the_oldest_first(
            steps in proptest::collection::vec(step(), 1..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(run(steps));
        }
    }
}
