use hearth_storage::Positioned;
use hearth_users::{NewSession, UsersError};
use ruma::{DeviceId, OneTimeKeyAlgorithm::SignedCurve25519, serde::Raw};
use serde_json::{Map, Value, json};
use vodozemac::{Ed25519SecretKey, base64_encode};

use super::*;
use crate::{
    schema::{CLAIMED_KEYS, CROSS_SIGNING_KEYS},
    signer::identify,
    testing::{Bench, Olm, raw},
};

async fn olm(bench: &Bench, username: &str) -> Olm {
    let (user_id, device_id) = bench.user_with_device(username).await;
    Olm::new(&user_id, &device_id)
}

async fn upload(bench: &Bench, olm: &Olm, upload: KeyUpload) -> Result<Arc<KeyCounts>, E2eeError> {
    bench.e2ee.upload_keys(&olm.user_id, &olm.device_id, None, upload).await
}

fn is_gone<T>(result: &Result<T, E2eeError>) -> bool {
    matches!(result, Err(E2eeError::Users(UsersError::UnknownToken { .. })))
}

fn device_keys(object: &Map<String, Value>) -> KeyUpload {
    KeyUpload { device_keys: Some(raw(object)), ..KeyUpload::default() }
}

async fn stored(bench: &Bench, olm: &Olm) -> Value {
    let row = bench.e2ee.device_keys(&olm.user_id, &olm.device_id).await.unwrap().unwrap();
    serde_json::from_slice(&row).unwrap()
}

#[tokio::test]
async fn keys_are_stored_and_counted() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let before = bench.store.notifier().published();
    let mut first = alice.first_upload(["A", "B", "C"]);
    let mut with_unsigned = alice.device_keys();
    with_unsigned.insert("unsigned".to_owned(), json!({ "device_display_name": "mine" }));
    first.device_keys = Some(raw(&with_unsigned));
    let counts = upload(&bench, &alice, first.clone()).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 3)].into());
    assert_eq!(counts.unused_fallback_keys, [SignedCurve25519]);
    assert!(counts.changed > before);
    assert_eq!(stored(&bench, &alice).await, json!(alice.device_keys()));
    let now = bench.store.notifier().published();
    let lists = async || bench.e2ee.changed_lists(before, now).await.unwrap();
    assert_eq!(lists().await, std::slice::from_ref(&alice.user_id));

    let again = upload(&bench, &alice, first).await.unwrap();
    assert_eq!(again, counts, "a repeated upload changes nothing");
    assert_eq!(bench.store.notifier().published(), now);
    let more = KeyUpload { one_time_keys: alice.one_time_keys(["C", "D"]), ..KeyUpload::default() };
    let counts = upload(&bench, &alice, more).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 4)].into());
    assert!(bench.e2ee.changed_lists(now, counts.changed).await.unwrap().is_empty());

    let (user_id, device_id) = (alice.user_id.clone(), alice.device_id.clone());
    let bench = bench.lose_power().await;
    let counts = bench.e2ee.key_counts(&user_id, &device_id).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 4)].into());
    assert_eq!(counts.unused_fallback_keys, [SignedCurve25519]);
}

#[tokio::test]
async fn device_keys_of_others_or_of_no_shape_are_refused() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let other = Olm::new(&alice.user_id, <&DeviceId>::from("OTHER"));
    let device_id = alice.device_id.as_str();
    let change = |edit: &dyn Fn(&mut Map<String, Value>)| {
        let mut object = alice.unsigned_device_keys();
        edit(&mut object);
        device_keys(&alice.sign(object))
    };
    let set = |field: &'static str, value: Value| {
        change(&|object| drop(object.insert(field.to_owned(), value.clone())))
    };
    let keys = |keys: &[(String, String)]| {
        set("keys", json!(std::collections::BTreeMap::from_iter(keys.to_vec())))
    };
    let good = base64_encode([1; 32]);
    let curve = (format!("curve25519:{device_id}"), good.clone());
    let ed = (format!("ed25519:{device_id}"), alice.account.ed25519_key().to_base64());
    let invalid = [
        device_keys(&other.device_keys()),
        set("user_id", json!("@bob:hearth.test")),
        set("device_id", json!("OTHER")),
        keys(std::slice::from_ref(&ed)),
        keys(std::slice::from_ref(&curve)),
        keys(&[ed.clone(), (curve.0.clone(), "short".to_owned())]),
        keys(&[(ed.0.clone(), "short".to_owned()), curve.clone()]),
        keys(&[ed, curve, ("ed25519:OTHER".to_owned(), good)]),
    ];
    for (number, case) in invalid.into_iter().enumerate() {
        let result = upload(&bench, &alice, case).await;
        assert!(matches!(result, Err(E2eeError::InvalidParam(_))), "case {number}: {result:?}");
    }
    let malformed = set("algorithms", json!("m.olm.v1.curve25519-aes-sha2"));
    let result = upload(&bench, &alice, malformed).await;
    assert!(matches!(result, Err(E2eeError::BadJson(_))), "{result:?}");
    let large = set("more", json!("x".repeat(20_000)));
    let result = upload(&bench, &alice, large).await;
    assert!(matches!(result, Err(E2eeError::TooLarge(_))), "{result:?}");

    let mut forged = alice.device_keys();
    forged.insert("algorithms".to_owned(), json!([]));
    let mut unsigned = alice.unsigned_device_keys();
    unsigned.insert("signatures".to_owned(), json!({}));
    for case in [forged, unsigned] {
        let result = upload(&bench, &alice, device_keys(&case)).await;
        assert!(matches!(result, Err(E2eeError::InvalidSignature(_))), "{result:?}");
    }
    assert_eq!(bench.e2ee.device_keys(&alice.user_id, &alice.device_id).await.unwrap(), None);
}

#[tokio::test]
async fn a_device_keeps_its_identity_keys() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, device_keys(&alice.device_keys())).await.unwrap();
    let impostor = Olm::new(&alice.user_id, &alice.device_id);
    let result = upload(&bench, &impostor, device_keys(&impostor.device_keys())).await;
    assert!(matches!(result, Err(E2eeError::InvalidParam(_))), "{result:?}");
    let mut more = alice.unsigned_device_keys();
    more.insert("algorithms".to_owned(), json!(["m.megolm.v1.aes-sha2"]));
    let more = alice.sign(more);
    upload(&bench, &alice, device_keys(&more)).await.unwrap();
    assert_eq!(stored(&bench, &alice).await, json!(more), "other fields may change");
}

#[tokio::test]
async fn a_signature_of_the_self_signing_key_is_kept_if_it_verifies() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let key = Ed25519SecretKey::new();
    let public = key.public_key().to_base64();
    let key_id = format!("ed25519:{public}");
    let unsigned = Value::Object(alice.unsigned_device_keys());
    let canonical = ruma::canonical_json::to_canonical_value(unsigned).unwrap().to_string();
    let signature = key.sign(canonical.as_bytes()).to_base64();
    let with = |signature: &str| {
        let mut object = alice.device_keys();
        object["signatures"][alice.user_id.as_str()][&key_id] = json!(signature);
        object["signatures"]["@eve:hearth.test"] = json!({ "ed25519:X": "noise" });
        object
    };
    upload(&bench, &alice, device_keys(&with(&signature))).await.unwrap();
    assert_eq!(
        stored(&bench, &alice).await,
        json!(alice.device_keys()),
        "nobody knows the other keys yet"
    );
    let mut commit = Commit::new(&alice.user_id);
    let row = json!({
        "user_id": alice.user_id, "usage": ["self_signing"], "keys": { &key_id: public },
    });
    let row = row.to_string().into();
    commit.put(&CROSS_SIGNING_KEYS, &alice.user_id, &"self_signing".to_owned(), &row);
    bench.store.commit(commit).await.unwrap();
    let wrong = key.sign(b"something else").to_base64();
    let result = upload(&bench, &alice, device_keys(&with(&wrong))).await;
    assert!(matches!(result, Err(E2eeError::InvalidSignature(_))), "{result:?}");
    upload(&bench, &alice, device_keys(&with(&signature))).await.unwrap();
    let signatures = stored(&bench, &alice).await["signatures"].clone();
    assert_eq!(signatures[alice.user_id.as_str()][&key_id], signature);
    assert_eq!(signatures.as_object().unwrap().len(), 1, "those of others are not");
    let now = bench.store.notifier().published();
    upload(&bench, &alice, device_keys(&alice.device_keys())).await.unwrap();
    assert_eq!(stored(&bench, &alice).await["signatures"], signatures, "it stays");
    assert_eq!(bench.store.notifier().published(), now, "and nothing changes");
}

#[tokio::test]
async fn one_time_keys_that_do_not_verify_are_refused_with_the_whole_upload() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let with = |keys| KeyUpload { one_time_keys: keys, ..KeyUpload::default() };
    let early = upload(&bench, &alice, with(alice.one_time_keys(["A"]))).await;
    assert!(matches!(early, Err(E2eeError::InvalidParam(_))), "{early:?}");
    upload(&bench, &alice, device_keys(&alice.device_keys())).await.unwrap();

    let impostor = Olm::new(&alice.user_id, &alice.device_id);
    let mut mixed = alice.one_time_keys(["A", "B"]);
    mixed.extend(impostor.one_time_keys(["C"]));
    let result = upload(&bench, &alice, with(mixed)).await;
    assert!(matches!(result, Err(E2eeError::InvalidSignature(_))), "{result:?}");
    let fallback =
        KeyUpload { fallback_keys: impostor.one_time_key("F", true), ..KeyUpload::default() };
    let result = upload(&bench, &alice, fallback).await;
    assert!(matches!(result, Err(E2eeError::InvalidSignature(_))), "{result:?}");
    let single = |value: Value| {
        let id = "signed_curve25519:A".try_into().unwrap();
        with([(id, Raw::from_json(serde_json::value::to_raw_value(&value).unwrap()))].into())
    };
    for value in [json!("AAAA"), json!(1), json!({}), json!(null)] {
        let result = upload(&bench, &alice, single(value)).await;
        assert!(matches!(result, Err(E2eeError::BadJson(_))), "{result:?}");
    }
    let counts = bench.e2ee.key_counts(&alice.user_id, &alice.device_id).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 0)].into(), "nothing was stored");
}

#[tokio::test]
async fn an_id_stands_for_one_key() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, alice.first_upload(["A"])).await.unwrap();
    let object = Map::from_iter([("key".to_owned(), json!(base64_encode([9; 32])))]);
    let id = "signed_curve25519:A".try_into().unwrap();
    let other = KeyUpload {
        one_time_keys: [(id, raw(&alice.sign(object)))].into(),
        ..KeyUpload::default()
    };
    let Err(E2eeError::InvalidParam(text)) = upload(&bench, &alice, other).await else {
        panic!("it is another key");
    };
    // As the SDK of many clients reads it.
    let (old, new) = text.split_once("; new key: ").unwrap();
    let (start, old) = old.split_once("Old key: ").unwrap();
    assert_eq!(start, "One time key signed_curve25519:A already exists. ");
    let key = |json: &str| serde_json::from_str::<Value>(json).unwrap()["key"].clone();
    assert_ne!(key(old), key(new));
    assert_eq!(key(new), base64_encode([9; 32]));
}

#[tokio::test]
async fn an_upload_of_a_session_that_ended_meanwhile_leaves_nothing() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let device_id: OwnedDeviceId = "PHONE".into();
    let login = async || {
        let session = NewSession { device_id: Some(device_id.clone()), ..NewSession::default() };
        TokenHash::of(&bench.users.create_session(&alice, session).await.unwrap().access_token)
    };
    let (old, new) = (Olm::new(&alice, &device_id), Olm::new(&alice, &device_id));
    let late = login().await;
    bench.users.delete_devices(&alice, std::slice::from_ref(&device_id)).await.unwrap();
    let token = login().await;
    let upload = async |olm: &Olm, token| {
        bench.e2ee.upload_keys(&alice, &device_id, Some(token), olm.first_upload(["A"])).await
    };
    let result = upload(&old, late).await;
    assert!(is_gone(&result), "{result:?}");
    upload(&new, token).await.unwrap();
    assert_eq!(stored(&bench, &new).await, json!(new.device_keys()));
}

#[tokio::test]
async fn a_device_with_the_id_of_a_cross_signing_key_has_no_keys() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let identity = identify(&bench, &alice).await;
    let device_id: OwnedDeviceId = identity.master.public_key().into();
    let session = NewSession { device_id: Some(device_id.clone()), ..NewSession::default() };
    bench.users.create_session(&alice, session).await.unwrap();
    let olm = Olm::new(&alice, &device_id);
    let result = upload(&bench, &olm, device_keys(&olm.device_keys())).await;
    assert!(matches!(result, Err(E2eeError::Forbidden(_))), "{result:?}");
}

#[tokio::test]
async fn keys_of_algorithms_that_nobody_can_check_are_refused() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, device_keys(&alice.device_keys())).await.unwrap();
    let single = |id: &str, value: Value| KeyUpload {
        one_time_keys: [(
            id.try_into().unwrap(),
            Raw::from_json(serde_json::value::to_raw_value(&value).unwrap()),
        )]
        .into(),
        ..KeyUpload::default()
    };
    let key = base64_encode([1; 32]);
    let signed = json!(alice.sign(Map::from_iter([("key".to_owned(), json!(key))])));
    for (id, value) in
        [("other:A", json!(key)), ("signed_other:A", signed), ("curve25519:A", json!("anything"))]
    {
        let result = upload(&bench, &alice, single(id, value)).await;
        assert!(matches!(result, Err(E2eeError::InvalidParam(_))), "{id}: {result:?}");
    }
    let counts = upload(&bench, &alice, single("curve25519:A", json!(key))).await.unwrap();
    assert_eq!(counts.one_time_keys[&"curve25519".into()], 1);
}

#[tokio::test]
async fn a_repeated_upload_does_not_bring_back_claimed_keys() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let first = alice.first_upload(["A", "B"]);
    upload(&bench, &alice, first.clone()).await.unwrap();
    let wanted = [(alice.device_id.clone(), SignedCurve25519)].into();
    let claims = [(alice.user_id.clone(), wanted)].into();
    assert_eq!(bench.e2ee.claim_local_keys(claims).await.unwrap().len(), 1);
    let counts = upload(&bench, &alice, first).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 1)].into());
}

#[tokio::test]
async fn another_key_under_the_id_of_a_claimed_one_is_new() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, alice.first_upload(["A"])).await.unwrap();
    let claim = async || {
        let wanted = [(alice.device_id.clone(), SignedCurve25519)].into();
        let claims = [(alice.user_id.clone(), wanted)].into();
        let mut keys = bench.e2ee.claim_local_keys(claims).await.unwrap();
        let keys = keys.remove(&alice.user_id).and_then(|mut keys| keys.remove(&alice.device_id));
        let (id, key) = keys.and_then(|keys| keys.into_iter().next()).unwrap();
        let key = key.deserialize_as::<Value>().unwrap()["key"].as_str().unwrap().to_owned();
        (id.to_string(), key)
    };
    let first = claim().await;
    assert_eq!(first.0, "signed_curve25519:A");
    let other = base64_encode([9; 32]);
    let object = Map::from_iter([("key".to_owned(), json!(other))]);
    let id = "signed_curve25519:A".try_into().unwrap();
    let again = KeyUpload {
        one_time_keys: [(id, raw(&alice.sign(object)))].into(),
        ..KeyUpload::default()
    };
    let counts = upload(&bench, &alice, again.clone()).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 1)].into());
    assert_eq!(claim().await, ("signed_curve25519:A".to_owned(), other));
    let counts = upload(&bench, &alice, again).await.unwrap();
    assert_eq!(counts.one_time_keys, [(SignedCurve25519, 0)].into(), "it was claimed, too");
}

#[tokio::test]
async fn claimed_ids_are_forgotten_in_time() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, alice.first_upload([])).await.unwrap();
    for chunk in 0..7 {
        let mut commit = Commit::new(&alice.user_id);
        let position = commit.next_position();
        for number in 0..100 {
            let id = format!("signed_curve25519:{}", 9_000 - chunk * 100 - number);
            let place = (alice.device_id.clone(), id);
            let row = Positioned { position, record: bytes::Bytes::new() };
            commit.put(&CLAIMED_KEYS, &alice.user_id, &place, &row);
        }
        bench.store.commit(commit).await.unwrap();
    }
    let keys = KeyUpload { one_time_keys: alice.one_time_keys(["A"]), ..KeyUpload::default() };
    upload(&bench, &alice, keys).await.unwrap();
    let rows = bench.e2ee.store().page_all_under(&CLAIMED_KEYS, &alice.user_id, &alice.device_id);
    let rows = rows.await.unwrap();
    assert_eq!(rows.len(), 500);
    let oldest = |id: &str| rows.iter().any(|((_, known), _)| known.ends_with(id));
    assert!(!oldest(":9000") && !oldest(":8801") && oldest(":8800") && oldest(":8301"));
}

#[tokio::test]
async fn fallback_keys_replace_each_other() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, alice.first_upload([])).await.unwrap();
    let claim = async || {
        let wanted = [(alice.device_id.clone(), SignedCurve25519)].into();
        let claims = [(alice.user_id.clone(), wanted)].into();
        let mut keys = bench.e2ee.claim_local_keys(claims).await.unwrap();
        let mut keys = keys.remove(&alice.user_id).unwrap_or_default();
        let keys = keys.remove(&alice.device_id).unwrap_or_default();
        keys.into_keys().map(|id| id.to_string()).collect::<Vec<_>>()
    };
    let unused = async || {
        let counts = bench.e2ee.key_counts(&alice.user_id, &alice.device_id).await.unwrap();
        counts.unused_fallback_keys.len()
    };
    assert_eq!(unused().await, 1);
    assert_eq!(claim().await, ["signed_curve25519:fallback"]);
    assert_eq!(claim().await, ["signed_curve25519:fallback"]);
    assert_eq!(unused().await, 0);
    upload(&bench, &alice, alice.first_upload([])).await.unwrap();
    assert_eq!(unused().await, 0, "a repeated upload does not make it new");
    let next =
        KeyUpload { fallback_keys: alice.one_time_key("next", true), ..KeyUpload::default() };
    upload(&bench, &alice, next).await.unwrap();
    assert_eq!(unused().await, 1);
    assert_eq!(claim().await, ["signed_curve25519:next"]);
    let mut two = alice.one_time_key("third", true);
    two.extend(alice.one_time_key("fourth", true));
    let two = KeyUpload { fallback_keys: two, ..KeyUpload::default() };
    let result = upload(&bench, &alice, two).await;
    assert!(matches!(result, Err(E2eeError::InvalidParam(_))), "{result:?}");
}

#[tokio::test]
async fn too_many_keys_are_refused() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    upload(&bench, &alice, device_keys(&alice.device_keys())).await.unwrap();
    let many = async |from: usize, count: usize| {
        let ids: Vec<String> = (from..from + count).map(|number| number.to_string()).collect();
        let keys = alice.one_time_keys(ids.iter().map(String::as_str));
        upload(&bench, &alice, KeyUpload { one_time_keys: keys, ..KeyUpload::default() }).await
    };
    assert!(matches!(many(0, 301).await, Err(E2eeError::TooLarge(_))));
    for from in [0, 300, 600] {
        many(from, 300).await.unwrap();
    }
    assert!(matches!(many(900, 101).await, Err(E2eeError::TooLarge(_))));
    assert_eq!(many(900, 100).await.unwrap().one_time_keys[&SignedCurve25519], 1_000);
}

#[tokio::test]
async fn a_device_that_went_cannot_upload() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let devices = [alice.device_id.clone()];
    bench.users.delete_devices(&alice.user_id, &devices).await.unwrap();
    let result = upload(&bench, &alice, alice.first_upload(["A"])).await;
    assert!(is_gone(&result), "{result:?}");
    assert_eq!(bench.e2ee.device_keys(&alice.user_id, &alice.device_id).await.unwrap(), None);
}
