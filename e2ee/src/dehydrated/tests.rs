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
