use std::sync::{Arc, Mutex};

use ruma::{device_id, user_id};

use super::*;
use crate::{
    Account,
    testing::{Client, Desk, refusal},
};

#[test]
fn keys_count_only_if_their_device_has_signed_them() {
    let (alice, phone) = (user_id!("@alice:a.test"), device_id!("PHONE"));
    let account = Account::new(alice, phone);
    let keys = account.device_keys();
    let device = PeerDevice::from_keys(alice, phone, &keys).unwrap();
    assert_eq!(device.curve25519.to_base64(), account.curve25519());
    let refused = |keys: &Value| PeerDevice::from_keys(alice, phone, keys).unwrap_err();
    let mut altered = keys.clone();
    altered["algorithms"] = json!([]);
    refused(&altered);
    let mut exchanged = keys.clone();
    exchanged["keys"] = Account::new(alice, phone).device_keys()["keys"].clone();
    refused(&exchanged);
    let mut unsigned = keys.clone();
    unsigned["signatures"] = json!({});
    refused(&unsigned);
    refused(&Account::new(user_id!("@bob:a.test"), phone).device_keys());
    refused(&Account::new(alice, device_id!("TABLET")).device_keys());
}

fn bob() -> OwnedUserId {
    user_id!("@bob:b.test").to_owned()
}

async fn names(client: &mut Client) -> Vec<String> {
    let devices = client.device.devices_of(&client.line, &bob()).await.unwrap();
    devices.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn lists_are_asked_for_once_and_again_when_they_have_changed() {
    let desk = Arc::<Mutex<Desk>>::default();
    let asked = || desk.lock().unwrap().count("keys/query");
    let mut hers = Client::new(&desk, user_id!("@alice:a.test"), "HERS").await;
    let _his = Client::new(&desk, &bob(), "HIS").await;
    assert_eq!(names(&mut hers).await, ["HIS"]);
    let _other = Client::new(&desk, &bob(), "OTHER").await;
    assert_eq!((names(&mut hers).await, asked()), (vec!["HIS".to_owned()], 1));
    // Of whom it knows nothing, it need not ask.
    let changed = json!({ "device_lists": { "changed": ["@carol:b.test", "nobody"] } });
    hers.sync_with(changed).await;
    assert_eq!((names(&mut hers).await, asked()), (vec!["HIS".to_owned()], 1));
    let update = hers.sync_with(json!({ "device_lists": { "changed": [bob()] } })).await;
    assert_eq!((update.changed, update.left), (vec![bob()], vec![]));
    assert_eq!((names(&mut hers).await, asked()), (vec!["HIS".to_owned(), "OTHER".to_owned()], 2));
    desk.lock().unwrap().device_keys.get_mut(&bob()).unwrap().remove(device_id!("HIS"));
    let update = hers.sync_with(json!({ "device_lists": { "left": [bob()] } })).await;
    assert_eq!(update.left, [bob()]);
    assert_eq!((names(&mut hers).await, asked()), (vec!["OTHER".to_owned()], 3));
}

#[tokio::test]
async fn a_list_that_cannot_be_told_stays_outdated() {
    let desk = Arc::<Mutex<Desk>>::default();
    let mut hers = Client::new(&desk, user_id!("@alice:a.test"), "HERS").await;
    let _his = Client::new(&desk, &bob(), "HIS").await;
    assert_eq!(names(&mut hers).await, ["HIS"]);
    let _other = Client::new(&desk, &bob(), "OTHER").await;
    desk.lock().unwrap().silent.insert(bob());
    hers.sync_with(json!({ "device_lists": { "changed": [bob()] } })).await;
    assert_eq!(names(&mut hers).await, ["HIS"]);
    desk.lock().unwrap().silent.clear();
    assert_eq!(names(&mut hers).await, ["HIS", "OTHER"]);
}

#[tokio::test]
async fn a_device_keeps_its_keys() {
    let desk = Arc::<Mutex<Desk>>::default();
    let mut hers = Client::new(&desk, user_id!("@alice:a.test"), "HERS").await;
    let _his = Client::new(&desk, &bob(), "HIS").await;
    assert_eq!(names(&mut hers).await, ["HIS"]);
    // Somebody puts keys of their own in their place.
    let _forged = Client::new(&desk, &bob(), "HIS").await;
    hers.sync_with(json!({ "device_lists": { "changed": [bob()] } })).await;
    let refused = hers.device.devices_of(&hers.line, &bob()).await;
    assert_eq!(refusal(refused), "they are others than before");
}
