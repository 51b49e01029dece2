use ruma::user_id;
use serde_json::{Value, json};

use super::*;
use crate::{
    schema::DEVICE_LISTS,
    signer::{Identity, Signer, device, identify, raw_key, user},
    testing::Bench,
};

/// The public parts of what is stored.
async fn stored(bench: &Bench, user_id: &UserId) -> [Option<String>; 3] {
    let keys = Keys::stored(&bench.e2ee, user_id).await.unwrap();
    keys.each().map(|(_, key)| key.map(|key| key.public_key.clone()))
}

fn public(identity: &Identity) -> [Option<String>; 3] {
    [&identity.master, &identity.self_signing, &identity.user_signing]
        .map(|key| Some(key.public_key()))
}

async fn upload(
    bench: &Bench,
    user_id: &UserId,
    upload: CrossSigningUpload,
) -> Result<CrossSigningOutcome, E2eeError> {
    bench.e2ee.upload_cross_signing_keys(user_id, upload, false).await
}

#[tokio::test]
async fn keys_are_replaced_only_by_who_has_proven_who_they_are() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let first = identify(&bench, &alice).await;
    assert_eq!(stored(&bench, &alice).await, public(&first));
    let listed = bench.store.get(&DEVICE_LISTS, &alice, &()).await.unwrap();
    assert!(listed.is_some());
    // The answer was lost: the same again.
    let again = upload(&bench, &alice, first.upload(&alice)).await.unwrap();
    assert_eq!(again, CrossSigningOutcome::Stored);
    assert_eq!(bench.store.get(&DEVICE_LISTS, &alice, &()).await.unwrap(), listed);
    let second = Identity::new();
    let refused = upload(&bench, &alice, second.upload(&alice)).await.unwrap();
    assert_eq!(refused, CrossSigningOutcome::MustConfirm);
    let mut other_self_signing = first.self_signing_key(&alice);
    other_self_signing = {
        let signer = Signer::new();
        let mut key = signer.cross_signing_key(&alice, "self_signing");
        first.master.sign(&mut key, &alice);
        assert_ne!(key, other_self_signing);
        key
    };
    let part = CrossSigningUpload {
        self_signing_key: Some(raw_key(&other_self_signing)),
        ..CrossSigningUpload::default()
    };
    let refused = upload(&bench, &alice, part).await.unwrap();
    assert_eq!(refused, CrossSigningOutcome::MustConfirm);
    assert_eq!(stored(&bench, &alice).await, public(&first));
    let e2ee = &bench.e2ee;
    let taken = e2ee.upload_cross_signing_keys(&alice, second.upload(&alice), true).await.unwrap();
    assert_eq!(taken, CrossSigningOutcome::Stored);
    assert_eq!(stored(&bench, &alice).await, public(&second));
    assert_ne!(bench.store.get(&DEVICE_LISTS, &alice, &()).await.unwrap(), listed);
}

#[tokio::test]
async fn keys_are_signed_by_the_master_key() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let (identity, other) = (Identity::new(), Identity::new());
    let part = CrossSigningUpload {
        self_signing_key: Some(raw_key(&identity.self_signing_key(&alice))),
        ..CrossSigningUpload::default()
    };
    let refused = upload(&bench, &alice, part.clone()).await;
    assert!(matches!(refused, Err(E2eeError::MissingParam(_))), "{refused:?}");
    let empty = upload(&bench, &alice, CrossSigningUpload::default()).await;
    assert!(matches!(empty, Err(E2eeError::MissingParam(_))), "{empty:?}");
    for wrong in [
        CrossSigningUpload {
            self_signing_key: part.self_signing_key.clone(),
            ..other.upload(&alice)
        },
        CrossSigningUpload {
            user_signing_key: Some(raw_key(
                &identity.user_signing.cross_signing_key(&alice, "user_signing"),
            )),
            ..identity.upload(&alice)
        },
    ] {
        let refused = upload(&bench, &alice, wrong).await;
        assert!(matches!(refused, Err(E2eeError::InvalidSignature(_))), "{refused:?}");
    }
    assert_eq!(stored(&bench, &alice).await, [None, None, None]);
    let master = CrossSigningUpload {
        master_key: Some(raw_key(&identity.master_key(&alice))),
        ..CrossSigningUpload::default()
    };
    upload(&bench, &alice, master).await.unwrap();
    // By the one that was uploaded before.
    let taken = bench.e2ee.upload_cross_signing_keys(&alice, part, true).await.unwrap();
    assert_eq!(taken, CrossSigningOutcome::Stored);
    let [master, self_signing, user_signing] = public(&identity);
    assert_eq!(stored(&bench, &alice).await, [master, self_signing, None]);
    assert!(user_signing.is_some());
}

#[tokio::test]
async fn a_new_master_key_takes_the_place_of_all_keys() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    identify(&bench, &alice).await;
    let second = Identity::new();
    let master = CrossSigningUpload {
        master_key: Some(raw_key(&second.master_key(&alice))),
        ..CrossSigningUpload::default()
    };
    bench.e2ee.upload_cross_signing_keys(&alice, master, true).await.unwrap();
    assert_eq!(stored(&bench, &alice).await, [Some(second.master.public_key()), None, None]);
}

#[tokio::test]
async fn signatures_on_a_master_key_are_verified() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let signer = Signer::new();
    let device_id = device(&bench, &alice, &signer).await;
    let key_id = format!("ed25519:{device_id}");
    let identity = Identity::new();
    let mut key = identity.master_key(&alice);
    Signer::new().sign_as(&mut key, &alice, "ed25519:UNKNOWN");
    Signer::new().sign(&mut key, user_id!("@bob:hearth.test"));
    let only_master = |key: &Value| CrossSigningUpload {
        master_key: Some(raw_key(key)),
        ..CrossSigningUpload::default()
    };
    let mut forged = key.clone();
    Signer::new().sign_as(&mut forged, &alice, &key_id);
    let refused = upload(&bench, &alice, only_master(&forged)).await;
    assert!(matches!(refused, Err(E2eeError::InvalidSignature(_))), "{refused:?}");
    signer.sign_as(&mut key, &alice, &key_id);
    identity.master.sign(&mut key, &alice);
    upload(&bench, &alice, only_master(&key)).await.unwrap();
    let stored = bench.e2ee.signing_key(&alice, &KeyUsage::Master).await.unwrap().unwrap();
    let signatures = &key["signatures"][alice.as_str()];
    let own = [key_id, identity.master.key_id()];
    let expected: serde_json::Map<_, _> =
        own.into_iter().map(|id| (id.clone(), signatures[&id].clone())).collect();
    assert_eq!(stored.object["signatures"], json!({ alice.as_str(): expected }));
}

#[tokio::test]
async fn a_key_that_is_no_news_keeps_its_signatures() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let identity = Identity::new();
    let mut signed = identity.master_key(&alice);
    identity.master.sign(&mut signed, &alice);
    let master = |key: &Value| CrossSigningUpload {
        master_key: Some(raw_key(key)),
        ..CrossSigningUpload::default()
    };
    upload(&bench, &alice, master(&signed)).await.unwrap();
    let unsigned = CrossSigningUpload { user_signing_key: None, ..identity.upload(&alice) };
    bench.e2ee.upload_cross_signing_keys(&alice, unsigned, true).await.unwrap();
    let stored = bench.e2ee.signing_key(&alice, &KeyUsage::Master).await.unwrap().unwrap();
    assert_eq!(Value::from(stored.object), signed);
}

#[tokio::test]
async fn a_key_cannot_have_the_id_of_a_device() {
    let bench = Bench::new().await;
    let alice = user(&bench, "alice").await;
    let identity = Identity::new();
    let session = hearth_users::NewSession {
        device_id: Some(identity.self_signing.public_key().into()),
        ..hearth_users::NewSession::default()
    };
    bench.users.create_session(&alice, session).await.unwrap();
    let refused = upload(&bench, &alice, identity.upload(&alice)).await;
    assert!(matches!(refused, Err(E2eeError::Forbidden(_))), "{refused:?}");
}
