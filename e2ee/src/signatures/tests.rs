use ruma::{encryption::CrossSigningKey, serde::Raw};
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    CrossSigningUpload, QueriedKeys,
    signer::{Identity, Signer, device, identify, raw_key, user},
    testing::Bench,
};

/// Signed objects as they are uploaded.
fn signed(objects: Value) -> BTreeMap<OwnedUserId, SignedKeys> {
    serde_json::from_value(objects).unwrap()
}

async fn upload(bench: &Bench, user_id: &UserId, objects: Value) -> SignatureFailures {
    bench.e2ee.upload_signatures(user_id, signed(objects)).await.unwrap()
}

async fn query(bench: &Bench, asker: &UserId, user_id: &UserId) -> QueriedKeys {
    let wanted = BTreeMap::from([(user_id.to_owned(), Vec::new())]);
    bench.e2ee.query_keys(asker, wanted, Duration::from_secs(1)).await.unwrap()
}

fn codes(failures: &SignatureFailures) -> Vec<&'static str> {
    failures.values().flat_map(BTreeMap::values).map(|(code, _)| *code).collect()
}

fn value(key: &Raw<CrossSigningKey>) -> Value {
    serde_json::from_str(key.json().get()).unwrap()
}

#[tokio::test]
async fn a_self_signing_key_signs_its_users_devices_for_all_to_see() {
    let bench = Bench::new().await;
    let (alice, bob) = (user(&bench, "alice").await, user(&bench, "bob").await);
    let signer = Signer::new();
    let device_id = device(&bench, &alice, &signer).await;
    let keys = signer.device_keys(&alice, &device_id);
    let mut early = keys.clone();
    Signer::new().sign(&mut early, &alice);
    let failures =
        upload(&bench, &alice, json!({ alice.as_str(): { device_id.as_str(): early } })).await;
    assert_eq!(codes(&failures), ["M_NOT_FOUND"], "there is no self-signing key");
    let identity = identify(&bench, &alice).await;
    let before = bench.store.notifier().published();
    let mut changed = keys.clone();
    changed["algorithms"] = json!([]);
    identity.self_signing.sign(&mut changed, &alice);
    let mut forged = keys.clone();
    Signer::new().sign_as(&mut forged, &alice, &identity.self_signing.key_id());
    let mut by_another = keys.clone();
    identity.user_signing.sign(&mut by_another, &alice);
    for bad in [changed, forged, by_another] {
        let failures =
            upload(&bench, &alice, json!({ alice.as_str(): { device_id.as_str(): bad } })).await;
        assert_eq!(codes(&failures), ["M_INVALID_SIGNATURE"]);
    }
    assert_eq!(bench.store.notifier().published(), before, "nothing was stored");
    let mut good = keys.clone();
    identity.self_signing.sign(&mut good, &alice);
    let objects = json!({ alice.as_str(): { device_id.as_str(): &good, "UNKNOWN": keys } });
    let failures = upload(&bench, &alice, objects).await;
    assert_eq!(codes(&failures), ["M_NOT_FOUND"], "each for itself");
    let seen = query(&bench, &bob, &alice).await;
    let seen: Value =
        serde_json::from_str(seen.device_keys[&alice][&device_id].json().get()).unwrap();
    assert_eq!(seen["signatures"], good["signatures"]);
    let until = bench.store.notifier().published();
    assert_eq!(
        bench.e2ee.changed_lists(before, until).await.unwrap(),
        std::slice::from_ref(&alice)
    );
    // Again: nothing is new.
    assert!(
        upload(&bench, &alice, json!({ alice.as_str(): { device_id.as_str(): good } }))
            .await
            .is_empty()
    );
    assert_eq!(bench.store.notifier().published(), until);
}

#[tokio::test]
async fn devices_sign_their_users_master_key() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let signer = Signer::new();
    let device_id = device(&bench, &alice, &signer).await;
    let identity = identify(&bench, &alice).await;
    let id = identity.master.public_key();
    let unsigned = identity.master_key(&alice);
    let key_id = format!("ed25519:{device_id}");
    let mut forged = unsigned.clone();
    Signer::new().sign_as(&mut forged, &alice, &key_id);
    for bad in [&unsigned, &forged] {
        let failures = upload(&bench, &alice, json!({ alice.as_str(): { &id: bad } })).await;
        assert_eq!(codes(&failures), ["M_INVALID_SIGNATURE"], "{bad}");
    }
    let mut unknown = unsigned.clone();
    signer.sign_as(&mut unknown, &alice, "ed25519:UNKNOWN");
    let failures = upload(&bench, &alice, json!({ alice.as_str(): { &id: &unknown } })).await;
    assert_eq!(codes(&failures), ["M_INVALID_SIGNATURE"]);
    let second = Signer::new();
    let second_id = device(&bench, &alice, &second).await;
    second.sign_as(&mut unknown, &alice, &format!("ed25519:{second_id}"));
    let failures = upload(&bench, &alice, json!({ alice.as_str(): { &id: unknown } })).await;
    assert_eq!(codes(&failures), ["M_INVALID_SIGNATURE"]);
    let seen = query(&bench, &alice, &alice).await;
    let mut expected = unsigned.clone();
    second.sign_as(&mut expected, &alice, &format!("ed25519:{second_id}"));
    assert_eq!(value(&seen.master_keys[&alice]), expected, "the other one is good");
    let unsigned = expected;
    let mut good = unsigned;
    signer.sign_as(&mut good, &alice, &key_id);
    assert!(upload(&bench, &alice, json!({ alice.as_str(): { &id: &good } })).await.is_empty());
    let seen = query(&bench, &alice, &alice).await;
    assert_eq!(value(&seen.master_keys[&alice]), good);
}

#[tokio::test]
async fn what_a_user_signs_of_others_is_for_that_user_alone() {
    let bench = Bench::new().await;
    let (alice, bob) = (user(&bench, "alice").await, user(&bench, "bob").await);
    let (of_alice, of_bob) = (identify(&bench, &alice).await, identify(&bench, &bob).await);
    let before = bench.store.notifier().published();
    let master = of_bob.master_key(&bob);
    let id = of_bob.master.public_key();
    let mut forged = master.clone();
    Signer::new().sign_as(&mut forged, &alice, &of_alice.user_signing.key_id());
    let failures = upload(&bench, &alice, json!({ bob.as_str(): { &id: forged } })).await;
    assert_eq!(codes(&failures), ["M_INVALID_SIGNATURE"]);
    let mut good = master.clone();
    of_alice.user_signing.sign(&mut good, &alice);
    let other_id = of_bob.self_signing.public_key();
    let failures =
        upload(&bench, &alice, json!({ bob.as_str(): { &id: &good, other_id: &good } })).await;
    assert_eq!(codes(&failures), ["M_NOT_FOUND"]);
    assert_eq!(value(&query(&bench, &alice, &bob).await.master_keys[&bob]), good);
    assert_eq!(value(&query(&bench, &bob, &bob).await.master_keys[&bob]), master);
    let until = bench.store.notifier().published();
    let told = bench.e2ee.newly_signed(&alice, before, until).await.unwrap();
    assert_eq!(told, BTreeSet::from([bob.clone()]));
    assert!(bench.e2ee.newly_signed(&alice, until, until).await.unwrap().is_empty());
    assert!(bench.e2ee.newly_signed(&bob, before, until).await.unwrap().is_empty());
    assert!(bench.e2ee.changed_lists(before, until).await.unwrap().is_empty());
    // Another user-signing key: the old one's signatures are worth nothing.
    let other = Signer::new();
    let mut key = other.cross_signing_key(&alice, "user_signing");
    of_alice.master.sign(&mut key, &alice);
    let replaced = CrossSigningUpload {
        user_signing_key: Some(raw_key(&key)),
        ..CrossSigningUpload::default()
    };
    bench.e2ee.upload_cross_signing_keys(&alice, replaced, true).await.unwrap();
    assert_eq!(value(&query(&bench, &alice, &bob).await.master_keys[&bob]), master);
    assert!(bench.e2ee.user_signatures(&alice).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_signature_on_a_former_master_key_is_not_taken() {
    let bench = Bench::new().await;
    let (alice, bob) = (user(&bench, "alice").await, user(&bench, "bob").await);
    let of_alice = identify(&bench, &alice).await;
    let former = identify(&bench, &bob).await;
    let mut good = former.master_key(&bob);
    of_alice.user_signing.sign(&mut good, &alice);
    let objects = json!({ bob.as_str(): { former.master.public_key(): good } });
    assert!(upload(&bench, &alice, objects.clone()).await.is_empty());
    let new = Identity::new();
    bench.e2ee.upload_cross_signing_keys(&bob, new.upload(&bob), true).await.unwrap();
    assert_eq!(codes(&upload(&bench, &alice, objects).await), ["M_NOT_FOUND"]);
    let seen = query(&bench, &alice, &bob).await;
    assert_eq!(value(&seen.master_keys[&bob]), new.master_key(&bob));
}

#[tokio::test]
async fn a_new_signature_takes_the_place_of_that_on_a_former_master_key() {
    let bench = Bench::new().await;
    let (alice, bob) = (user(&bench, "alice").await, user(&bench, "bob").await);
    let of_alice = identify(&bench, &alice).await;
    for _ in 0..3 {
        let of_bob = Identity::new();
        bench.e2ee.upload_cross_signing_keys(&bob, of_bob.upload(&bob), true).await.unwrap();
        let mut good = of_bob.master_key(&bob);
        of_alice.user_signing.sign(&mut good, &alice);
        let objects = json!({ bob.as_str(): { of_bob.master.public_key(): &good } });
        assert!(upload(&bench, &alice, objects).await.is_empty());
        assert_eq!(value(&query(&bench, &alice, &bob).await.master_keys[&bob]), good);
        assert_eq!(bench.e2ee.user_signatures(&alice).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn whoever_has_signed_as_many_as_one_may_signs_those_again_and_their_own() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let (bob, carol) = (user(&bench, "bob").await, user(&bench, "carol").await);
    let of_alice = identify(&bench, &alice).await;
    let (of_bob, of_carol) = (identify(&bench, &bob).await, identify(&bench, &carol).await);
    let sign = |user_id: &UserId, identity: &Identity| {
        let mut key = identity.master_key(user_id);
        of_alice.user_signing.sign(&mut key, &alice);
        json!({ identity.master.public_key(): key })
    };
    let objects = json!({ bob.as_str(): sign(&bob, &of_bob) });
    assert!(upload(&bench, &alice, objects).await.is_empty());
    for chunk in 0..20 {
        let mut commit = Commit::new(&alice);
        let position = commit.next_position();
        for number in (0..500).skip(usize::from(chunk == 0)) {
            let subject = format!("@u{chunk}-{number}:hearth.test");
            let subject = (subject.try_into().unwrap(), "ed25519:K".to_owned());
            let row = Positioned { position, record: Bytes::from_static(b"{}") };
            commit.put(&USER_SIGNATURES, &alice, &subject, &row);
        }
        bench.store.commit(commit).await.unwrap();
    }
    let signer = Signer::new();
    let device_id = device(&bench, &alice, &signer).await;
    let mut own = signer.device_keys(&alice, &device_id);
    of_alice.self_signing.sign(&mut own, &alice);
    let objects = json!({
        alice.as_str(): { device_id.as_str(): &own },
        bob.as_str(): sign(&bob, &of_bob),
        carol.as_str(): sign(&carol, &of_carol),
    });
    let failures = upload(&bench, &alice, objects).await;
    assert_eq!(codes(&failures), ["M_TOO_LARGE"]);
    assert!(failures.contains_key(&carol));
    let stored = bench.e2ee.device_keys(&alice, &device_id).await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["signatures"], own["signatures"]);
}

#[tokio::test]
async fn a_device_keeps_no_signatures_by_former_keys() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let signer = Signer::new();
    let device_id = device(&bench, &alice, &signer).await;
    for _ in 0..3 {
        let identity = Identity::new();
        bench.e2ee.upload_cross_signing_keys(&alice, identity.upload(&alice), true).await.unwrap();
        let mut good = signer.device_keys(&alice, &device_id);
        identity.self_signing.sign(&mut good, &alice);
        let objects = json!({ alice.as_str(): { device_id.as_str(): &good } });
        assert!(upload(&bench, &alice, objects).await.is_empty());
        let stored = bench.e2ee.device_keys(&alice, &device_id).await.unwrap().unwrap();
        let stored: Value = serde_json::from_slice(&stored).unwrap();
        assert_eq!(stored["signatures"], good["signatures"]);
    }
}

#[tokio::test]
async fn a_deactivated_account_signs_nothing() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    identify(&bench, &alice).await;
    bench.users.deactivate(&alice, false).await.unwrap();
    let late = bench.e2ee.upload_signatures(&alice, BTreeMap::new()).await;
    assert!(matches!(late, Err(E2eeError::Users(UsersError::UnknownToken { .. }))), "{late:?}");
    let identity = Identity::new();
    let late = bench.e2ee.upload_cross_signing_keys(&alice, identity.upload(&alice), true).await;
    assert!(matches!(late, Err(E2eeError::Users(UsersError::UnknownToken { .. }))), "{late:?}");
}

#[tokio::test]
async fn uploads_have_a_bound() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let objects: BTreeMap<String, Box<RawValue>> = (0..=MAX_SIGNED_OBJECTS)
        .map(|number| (format!("D{number}"), RawValue::from_string("{}".to_owned()).unwrap()))
        .collect();
    let objects = signed(json!({ alice.as_str(): objects }));
    let refused = bench.e2ee.upload_signatures(&alice, objects).await;
    assert!(matches!(refused, Err(E2eeError::InvalidParam(_))), "{refused:?}");
    let failures =
        upload(&bench, &alice, json!({ alice.as_str(): { "DEVICE": "no object" } })).await;
    assert_eq!(codes(&failures), ["M_BAD_JSON"]);
}
