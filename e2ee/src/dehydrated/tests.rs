use ruma::{device_id, owned_device_id};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    schema::{DEVICE_KEYS, FALLBACK_KEYS, ONE_TIME_KEYS},
    testing::{Bench, Olm},
};

fn upload(olm: &Olm) -> DehydratedUpload {
    DehydratedUpload {
        device_id: olm.device_id.clone(),
        display_name: Some("asleep".to_owned()),
        device_data: to_raw_value(&json!({ "algorithm": "m.x", "device_pickle": "p" })).unwrap(),
        keys: olm.first_upload(["A", "B"]),
    }
}

async fn rows(bench: &Bench, user_id: &OwnedUserId) -> (usize, usize, usize) {
    let forward = hearth_storage::Direction::Forward;
    let store = &bench.store;
    (
        store.page(&DEVICE_KEYS, user_id, .., forward, 100).await.unwrap().len(),
        store.page(&ONE_TIME_KEYS, user_id, .., forward, 100).await.unwrap().len(),
        store.page(&FALLBACK_KEYS, user_id, .., forward, 100).await.unwrap().len(),
    )
}

#[tokio::test]
async fn it_can_be_addressed_until_it_is_replaced_or_deleted() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let e2ee = &bench.e2ee;
    assert!(matches!(e2ee.dehydrated_device(&alice).await, Err(E2eeError::NotFound(_))));
    let one = Olm::new(&alice, device_id!("ONE"));
    e2ee.put_dehydrated_device(&alice, upload(&one)).await.unwrap();
    assert!(e2ee.is_device(&alice, &one.device_id).await.unwrap());
    let stored = e2ee.dehydrated_device(&alice).await.unwrap();
    assert_eq!(stored.device_id, one.device_id);
    assert_eq!(stored.device_data.get(), r#"{"algorithm":"m.x","device_pickle":"p"}"#);
    assert_eq!(rows(&bench, &alice).await, (1, 2, 1));
    let two = Olm::new(&alice, device_id!("TWO"));
    e2ee.put_dehydrated_device(&alice, upload(&two)).await.unwrap();
    assert!(!e2ee.is_device(&alice, &one.device_id).await.unwrap());
    assert_eq!(rows(&bench, &alice).await, (1, 2, 1), "the first one's keys went with it");
    assert_eq!(e2ee.delete_dehydrated_device(&alice).await.unwrap(), two.device_id);
    assert_eq!(rows(&bench, &alice).await, (0, 0, 0));
    assert!(matches!(e2ee.delete_dehydrated_device(&alice).await, Err(E2eeError::NotFound(_))));
}

#[tokio::test]
async fn the_same_id_is_another_device_with_other_keys() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    for _ in 0..2 {
        let olm = Olm::new(&alice, device_id!("SAME"));
        bench.e2ee.put_dehydrated_device(&alice, upload(&olm)).await.unwrap();
        assert_eq!(rows(&bench, &alice).await, (1, 2, 1));
    }
}

#[tokio::test]
async fn what_is_no_device_is_refused_and_the_one_before_stays() {
    let bench = Bench::new().await;
    let (alice, laptop) = bench.user_with_device("alice").await;
    let e2ee = &bench.e2ee;
    let good = Olm::new(&alice, device_id!("GOOD"));
    e2ee.put_dehydrated_device(&alice, upload(&good)).await.unwrap();
    let awake = e2ee.put_dehydrated_device(&alice, upload(&Olm::new(&alice, &laptop))).await;
    assert!(matches!(awake, Err(E2eeError::InvalidParam(_))), "{awake:?}");
    let mut foreign = upload(&good);
    foreign.device_id = owned_device_id!("OTHER");
    assert!(e2ee.put_dehydrated_device(&alice, foreign).await.is_err(), "keys of another device");
    let mut without = upload(&good);
    without.keys.device_keys = None;
    let without = e2ee.put_dehydrated_device(&alice, without).await;
    assert!(matches!(without, Err(E2eeError::MissingParam(_))), "{without:?}");
    let mut large = upload(&good);
    large.device_data = to_raw_value(&json!({ "x": "x".repeat(70_000) })).unwrap();
    let large = e2ee.put_dehydrated_device(&alice, large).await;
    assert!(matches!(large, Err(E2eeError::TooLarge(_))), "{large:?}");
    assert_eq!(e2ee.dehydrated_device(&alice).await.unwrap().device_id, good.device_id);
}

#[tokio::test]
async fn keys_that_others_contradict_leave_the_device_before() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let identity = crate::signer::identify(&bench, &alice).await;
    let e2ee = &bench.e2ee;
    let good = Olm::new(&alice, device_id!("GOOD"));
    e2ee.put_dehydrated_device(&alice, upload(&good)).await.unwrap();
    let before = bench.store.notifier().published();
    for device_id in [device_id!("GOOD"), device_id!("OTHER")] {
        let olm = Olm::new(&alice, device_id);
        let mut keys = olm.device_keys();
        let wrong = keys["signatures"][alice.as_str()][&format!("ed25519:{device_id}")].clone();
        keys["signatures"][alice.as_str()][identity.self_signing.key_id()] = wrong;
        let mut bad = upload(&olm);
        bad.keys.device_keys = Some(crate::testing::raw(&keys));
        let refused = e2ee.put_dehydrated_device(&alice, bad).await;
        assert!(matches!(refused, Err(E2eeError::InvalidSignature(_))), "{refused:?}");
        assert_eq!(e2ee.dehydrated_device(&alice).await.unwrap().device_id, good.device_id);
        assert_eq!(rows(&bench, &alice).await, (1, 2, 1));
    }
    assert_eq!(bench.store.notifier().published(), before, "nothing was written");
}

#[tokio::test]
async fn a_device_takes_the_place_of_another_at_once() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    for device_id in [device_id!("ONE"), device_id!("TWO")] {
        let olm = Olm::new(&alice, device_id);
        bench.e2ee.put_dehydrated_device(&alice, upload(&olm)).await.unwrap();
    }
    let log = bench.store.log_after(StreamPosition::ZERO, 100).await.unwrap();
    let lists = log.iter().filter(|one| one.entry.kind == crate::LogKind::DeviceList as u8);
    let told: Vec<_> = lists
        .map(|one| {
            let log: crate::DeviceListLog = serde_json::from_slice(&one.entry.payload).unwrap();
            (log.device_id.clone().unwrap().to_string(), log.previous(one.position))
        })
        .collect();
    let [(one, None), (gone, Some(_)), (two, Some(_))] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((one.as_str(), gone.as_str(), two.as_str()), ("ONE", "ONE", "TWO"));
}

#[tokio::test]
async fn nobody_logs_in_as_the_dehydrated_device() {
    let bench = Bench::new().await;
    let (alice, _) = bench.user_with_device("alice").await;
    let olm = Olm::new(&alice, device_id!("ASLEEP"));
    bench.e2ee.put_dehydrated_device(&alice, upload(&olm)).await.unwrap();
    let session = |device_id: &str| hearth_users::NewSession {
        device_id: Some(device_id.into()),
        ..hearth_users::NewSession::default()
    };
    let login = bench.users.create_session(&alice, session("ASLEEP")).await;
    assert!(matches!(login, Err(UsersError::InvalidDeviceId)));
    bench.users.create_session(&alice, session("AWAKE")).await.unwrap();
    assert_eq!(rows(&bench, &alice).await, (1, 2, 1));
}

#[tokio::test]
async fn tokens_and_devices_of_others_are_refused() {
    let bench = Bench::new().await;
    let (alice, laptop) = bench.user_with_device("alice").await;
    let olm = Olm::new(&alice, device_id!("GOOD"));
    bench.e2ee.put_dehydrated_device(&alice, upload(&olm)).await.unwrap();
    let other = bench.e2ee.dehydrated_events(&alice, &laptop, None).await;
    assert!(matches!(other, Err(E2eeError::Forbidden(_))), "{other:?}");
    for token in ["", "5", "d", "dx", "d-1", "d99999999999999999999"] {
        let bad = bench.e2ee.dehydrated_events(&alice, &olm.device_id, Some(token)).await;
        assert!(matches!(bad, Err(E2eeError::InvalidParam(_))), "{token}");
    }
    let first = bench.e2ee.dehydrated_events(&alice, &olm.device_id, None).await.unwrap();
    assert!(first.events.is_empty());
    let next = Some(first.next_batch.as_str());
    assert!(bench.e2ee.dehydrated_events(&alice, &olm.device_id, next).await.is_ok());
}
