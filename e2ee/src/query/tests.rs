use ruma::{
    api::federation::keys::get_keys, device_id, owned_server_name, owned_user_id, serde::Raw,
    user_id,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::{
    signer::{Elsewhere, Identity, Signer, device, identify, raw_device, raw_key, user},
    testing::Bench,
};

const TIMEOUT: Duration = Duration::from_secs(10);

fn all(user_ids: &[&UserId]) -> KeysWanted {
    user_ids.iter().map(|user_id| ((*user_id).to_owned(), Vec::new())).collect()
}

fn value<T>(raw: &Raw<T>) -> Value {
    serde_json::from_str(raw.json().get()).unwrap()
}

#[tokio::test]
async fn users_of_this_server_are_told_with_the_names_of_their_devices() {
    let bench = Bench::new().await;
    let (alice, bob) = (user(&bench, "alice").await, user(&bench, "bob").await);
    let signer = Signer::new();
    let first = device(&bench, &alice, &signer).await;
    let second = device(&bench, &alice, &Signer::new()).await;
    bench.users.rename_device(&alice, &first, Some("phone".to_owned())).await.unwrap();
    let identity = identify(&bench, &alice).await;
    let answer = bench.e2ee.query_keys(&bob, all(&[&alice, &bob]), TIMEOUT).await.unwrap();
    let mut expected = signer.device_keys(&alice, &first);
    expected["unsigned"] = json!({ "device_display_name": "phone" });
    assert_eq!(value(&answer.device_keys[&alice][&first]), expected);
    assert_eq!(answer.device_keys[&alice].len(), 2);
    assert!(answer.device_keys[&bob].is_empty());
    assert_eq!(value(&answer.master_keys[&alice]), identity.master_key(&alice));
    assert_eq!(value(&answer.self_signing_keys[&alice]), identity.self_signing_key(&alice));
    assert!(answer.user_signing_keys.is_empty(), "it is for Alice's eyes");
    let named = KeysWanted::from([(alice.clone(), vec![second.clone(), "UNKNOWN".into()])]);
    let answer = bench.e2ee.query_keys(&alice, named, TIMEOUT).await.unwrap();
    assert_eq!(answer.device_keys[&alice].keys().collect::<Vec<_>>(), [&second]);
    assert_eq!(value(&answer.user_signing_keys[&alice]), identity.user_signing_key(&alice));
    let answer = bench.e2ee.query_keys(&alice, all(&[&bob]), TIMEOUT).await.unwrap();
    assert!(answer.user_signing_keys.is_empty(), "nobody asked for it");
}

#[tokio::test]
async fn other_servers_are_told_what_everybody_may_see() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let signer = Signer::new();
    let device_id = device(&bench, &alice, &signer).await;
    bench.users.rename_device(&alice, &device_id, Some("phone".to_owned())).await.unwrap();
    let identity = identify(&bench, &alice).await;
    let nobody = user_id!("@nobody:hearth.test");
    let foreign = user_id!("@alice:elsewhere.test");
    let answer = bench.e2ee.keys_for_server(all(&[&alice, nobody, foreign])).await.unwrap();
    assert_eq!(answer.device_keys.keys().collect::<Vec<_>>(), [&alice]);
    assert_eq!(value(&answer.master_keys[&alice]), identity.master_key(&alice));
    assert_eq!(value(&answer.self_signing_keys[&alice]), identity.self_signing_key(&alice));
    let list = bench.e2ee.devices_for_server(&alice).await.unwrap().unwrap();
    let [(id, keys, name)] = list.devices.as_slice() else { panic!("{:?}", list.devices) };
    assert_eq!((id, name.as_deref()), (&device_id, Some("phone")));
    assert_eq!(value(keys), signer.device_keys(&alice, &device_id));
    assert_eq!(value(&list.master_key.unwrap()), identity.master_key(&alice));
    device(&bench, &alice, &Signer::new()).await;
    let later = bench.e2ee.devices_for_server(&alice).await.unwrap().unwrap();
    assert!(later.stream_id > list.stream_id);
    for unknown in [nobody, foreign] {
        assert!(bench.e2ee.devices_for_server(unknown).await.unwrap().is_none());
    }
    bench.users.deactivate(&alice, false).await.unwrap();
    assert!(bench.e2ee.devices_for_server(&alice).await.unwrap().is_none());
}

#[tokio::test]
async fn what_other_servers_tell_is_checked() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let (bob, carol) = (owned_user_id!("@bob:elsewhere.test"), user_id!("@carol:elsewhere.test"));
    let elsewhere = Elsewhere::plug(&bench);
    let signer = Signer::new();
    let good = device_id!("GOOD");
    let mut named = signer.device_keys(&bob, good);
    named["unsigned"] = json!({ "device_display_name": "phone", "more": 1 });
    Signer::new().sign(&mut named, carol);
    let of_another = signer.device_keys(carol, device_id!("A"));
    let of_another_device = signer.device_keys(&bob, good);
    let mut changed = signer.device_keys(&bob, device_id!("C"));
    changed["algorithms"] = json!(["none"]);
    let devices =
        [("GOOD", &named), ("A", &of_another), ("B", &of_another_device), ("C", &changed)]
            .map(|(id, keys)| (OwnedDeviceId::from(id), raw_device(keys)));
    let identity = Identity::new();
    let mut answer = get_keys::v1::Response::new(BTreeMap::from([
        (bob.clone(), BTreeMap::from(devices)),
        (alice.clone(), BTreeMap::new()),
    ]));
    answer.master_keys.insert(bob.clone(), raw_key(&identity.master_key(&bob)));
    let foreign = Identity::new().self_signing_key(&bob);
    answer.self_signing_keys.insert(bob.clone(), raw_key(&foreign));
    *elsewhere.keys.lock() = Some(answer.clone());
    let seen = bench.e2ee.query_keys(&alice, all(&[&bob, carol]), TIMEOUT).await.unwrap();
    let mut expected = signer.device_keys(&bob, good);
    expected["unsigned"] = json!({ "device_display_name": "phone" });
    assert_eq!(seen.device_keys[&bob].keys().collect::<Vec<_>>(), [good]);
    assert_eq!(value(&seen.device_keys[&bob][good]), expected);
    assert!(!seen.device_keys.contains_key(&alice), "that server has no say on her");
    assert_eq!(value(&seen.master_keys[&bob]), identity.master_key(&bob));
    assert!(seen.self_signing_keys.is_empty(), "another master key signed it");
    assert!(seen.failures.is_empty());
    answer.self_signing_keys.insert(bob.clone(), raw_key(&identity.self_signing_key(&bob)));
    *elsewhere.keys.lock() = Some(answer);
    let seen = bench.e2ee.query_keys(&alice, all(&[&bob]), TIMEOUT).await.unwrap();
    assert_eq!(value(&seen.self_signing_keys[&bob]), identity.self_signing_key(&bob));
}

#[tokio::test]
async fn servers_that_do_not_answer_are_named() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    device(&bench, &alice, &Signer::new()).await;
    let bob = user_id!("@bob:elsewhere.test");
    let failed = async || {
        let answer = bench.e2ee.query_keys(&alice, all(&[&alice, bob]), TIMEOUT).await.unwrap();
        assert_eq!(answer.device_keys.keys().collect::<Vec<_>>(), [&alice]);
        answer.failures[&owned_server_name!("elsewhere.test")].clone()
    };
    assert_eq!(failed().await, "this server does not federate");
    Elsewhere::plug(&bench);
    assert_eq!(failed().await, "nobody is there");
}

#[tokio::test]
async fn queries_have_a_bound() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let wanted: KeysWanted = (0..=MAX_USERS)
        .map(|number| (UserId::parse(format!("@u{number}:hearth.test")).unwrap(), Vec::new()))
        .collect();
    let answer = bench.e2ee.query_keys(&alice, wanted, TIMEOUT).await.unwrap();
    assert_eq!(answer.device_keys.len(), MAX_USERS);
    assert_eq!(answer.failures[bench.e2ee.identity().server_name()], TOO_MUCH);
}

/// An answer of another server with a device of each of so many of its users.
fn answer_of(elsewhere: &Elsewhere, users: usize) -> KeysWanted {
    let mut answer = get_keys::v1::Response::new(BTreeMap::new());
    for number in 0..users {
        let user_id = UserId::parse(format!("@u{number}:elsewhere.test")).unwrap();
        let keys = raw_device(&Signer::new().device_keys(&user_id, device_id!("A")));
        answer.device_keys.insert(user_id, BTreeMap::from([("A".into(), keys)]));
    }
    let wanted = answer.device_keys.keys().map(|user_id| (user_id.clone(), Vec::new())).collect();
    *elsewhere.keys.lock() = Some(answer);
    wanted
}

#[tokio::test]
async fn many_users_of_one_server_are_asked_for_some_at_a_time() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let elsewhere = Elsewhere::plug(&bench);
    let wanted = answer_of(&elsewhere, 600);
    let answer = bench.e2ee.query_keys(&alice, wanted, TIMEOUT).await.unwrap();
    assert!(answer.failures.is_empty());
    assert!(answer.device_keys.values().all(|devices| devices.len() == 1));
    assert_eq!(
        (answer.device_keys.len(), &**elsewhere.questions.lock()),
        (600, &[250, 250, 100][..])
    );
}

#[tokio::test]
async fn who_has_too_many_keys_for_an_answer_is_left_out_alone() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let elsewhere = Elsewhere::plug(&bench);
    let wanted = answer_of(&elsewhere, 10);
    *elsewhere.most_users.lock() = Some(3);
    let answer = bench.e2ee.query_keys(&alice, wanted.clone(), TIMEOUT).await.unwrap();
    assert_eq!((answer.device_keys.len(), answer.failures.len()), (10, 0));
    *elsewhere.most_users.lock() = Some(0);
    elsewhere.questions.lock().clear();
    let answer = bench.e2ee.query_keys(&alice, wanted, TIMEOUT).await.unwrap();
    assert_eq!(answer.failures[&owned_server_name!("elsewhere.test")], "too large");
    assert_eq!(elsewhere.questions.lock().iter().filter(|users| **users == 1).count(), 10);
}

#[tokio::test]
async fn who_cannot_have_a_list_in_time_asks_for_the_keys_in_time() {
    let bench = Bench::new().await;
    let elsewhere = Elsewhere::plug(&bench);
    let wanted = answer_of(&elsewhere, 3);
    let server = owned_server_name!("elsewhere.test");
    elsewhere.silent.lock().insert(server.clone());
    let deadline = Instant::now() + Duration::from_millis(600);
    let (none, budget) = (KeysWanted::new(), Budget::new());
    let found = bench.e2ee.fetched_or_asked(&server, wanted, none, &budget, deadline).await;
    let found = found.unwrap();
    assert_eq!((found.keys.len(), found.failure), (3, None));
}

#[tokio::test]
async fn what_an_answer_has_no_room_for_is_left_out_and_told_of() {
    let bench = Bench::new().await;
    let elsewhere = Elsewhere::plug(&bench);
    let wanted = answer_of(&elsewhere, 10);
    let server = owned_server_name!("elsewhere.test");
    let deadline = Instant::now() + TIMEOUT;
    let budget = Budget(AtomicUsize::new(2_000));
    let found = bench.e2ee.keys_of_server(&server, wanted.clone(), &budget, deadline).await;
    let found = found.unwrap();
    assert!((1..9).contains(&found.keys.len()), "{}", found.keys.len());
    assert_eq!(found.failure.as_deref(), Some(TOO_MUCH));
    assert!(budget.is_spent());
    elsewhere.questions.lock().clear();
    let found = bench.e2ee.keys_of_server(&server, wanted, &budget, deadline).await.unwrap();
    assert_eq!((found.keys.len(), elsewhere.questions.lock().len()), (0, 0));
}

#[tokio::test]
async fn another_server_is_told_of_all_whom_it_asks_for_or_of_none() {
    let bench = Bench::new().await;
    let (alice, bob) = (user(&bench, "alice").await, user(&bench, "bob").await);
    for user_id in [&alice, &bob] {
        device(&bench, user_id, &Signer::new()).await;
    }
    let budget = || Budget(AtomicUsize::new(700));
    let one = bench.e2ee.keys_within(all(&[&alice]), &budget()).await.unwrap();
    assert_eq!(one.device_keys.len(), 1);
    let both = bench.e2ee.keys_within(all(&[&alice, &bob]), &budget()).await;
    assert!(matches!(both, Err(E2eeError::TooLarge(_))), "{both:?}");
}
