use std::{collections::BTreeSet, time::Duration};

use hearth_types::StreamPosition;
use ruma::{
    OwnedServerName,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    owned_user_id, server_name,
};
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::{
    signer::{Elsewhere, Identity, Signer, raw_device, raw_key},
    testing::Bench,
};

/// A server that knows one user of another one.
struct Scene {
    bench: Bench,
    elsewhere: Arc<Elsewhere>,
    bob: OwnedUserId,
    signer: Signer,
}

impl Scene {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let elsewhere = Elsewhere::plug(&bench);
        let bob = owned_user_id!("@bob:elsewhere.test");
        Self { bench, elsewhere, bob, signer: Signer::new() }
    }

    fn keys(&self, device_id: &str) -> Value {
        self.signer.device_keys(&self.bob, device_id.into())
    }

    fn tell(&self, stream_id: u32, devices: &[&str]) {
        let devices: Vec<_> = devices.iter().map(|id| self.keys(id)).collect();
        self.elsewhere.tell(&self.bob, stream_id, &devices);
    }

    async fn fetch(&self) -> Result<(), String> {
        self.bench.e2ee.fetch_list(&self.bob, Instant::now() + Duration::from_secs(10)).await
    }

    /// The devices that are kept, if nothing is missing.
    async fn kept(&self) -> Option<BTreeSet<String>> {
        let list = self.bench.e2ee.kept_list(&self.bob, true).await.unwrap();
        list.map(|list| list.devices.into_keys().map(|id| id.to_string()).collect())
    }

    fn update(&self, device_id: &str, stream_id: u32, prev_id: &[u32]) -> DeviceListUpdateContent {
        let mut update =
            DeviceListUpdateContent::new(self.bob.clone(), device_id.into(), stream_id.into());
        update.prev_id = prev_id.iter().map(|id| (*id).into()).collect();
        update.keys = Some(raw_device(&self.keys(device_id)));
        update
    }

    async fn receive(&self, update: DeviceListUpdateContent) {
        let origin = server_name!("elsewhere.test");
        self.bench.e2ee.receive_device_list_update(origin, update).await.unwrap();
    }

    async fn changes(&self, since: StreamPosition) -> usize {
        let until = self.published();
        let changed = self.bench.e2ee.changed_lists(since, until).await.unwrap();
        changed.iter().filter(|user_id| **user_id == self.bob).count()
    }

    fn published(&self) -> StreamPosition {
        self.bench.store.notifier().published()
    }

    fn asked(&self) -> usize {
        self.elsewhere.asked.lock().len()
    }
}

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test]
async fn updates_that_follow_are_applied() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    assert_eq!(scene.kept().await, None);
    scene.fetch().await.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&["A"])));
    let start = scene.published();
    scene.receive(scene.update("B", 7, &[5])).await;
    assert_eq!(scene.kept().await, Some(ids(&["A", "B"])));
    assert_eq!(scene.changes(start).await, 1);
    let start = scene.published();
    // Once more, and some that the list had when it was fetched.
    scene.receive(scene.update("B", 7, &[5])).await;
    scene.receive(scene.update("A", 5, &[4])).await;
    scene.receive(scene.update("A", 4, &[3])).await;
    for (stream_id, deleted) in [(2, None), (3, Some(true))] {
        let mut former = scene.update("C", stream_id, &[stream_id - 1]);
        (former.deleted, former.keys) = (deleted, None);
        scene.receive(former).await;
    }
    assert_eq!((scene.published(), scene.changes(start).await), (start, 0));
    let mut gone = scene.update("A", 8, &[7]);
    (gone.deleted, gone.keys) = (Some(true), None);
    scene.receive(gone).await;
    assert_eq!(scene.kept().await, Some(ids(&["B"])));
    let mut renamed = scene.update("B", 9, &[8]);
    renamed.device_display_name = Some("phone".to_owned());
    scene.receive(renamed).await;
    let list = scene.bench.e2ee.kept_list(&scene.bob, true).await.unwrap().unwrap();
    let device = &list.devices[ruma::device_id!("B")];
    assert_eq!(device.display_name.as_deref(), Some("phone"));
    let keys: Value = serde_json::from_str(device.keys.as_deref().unwrap()).unwrap();
    assert_eq!(keys, scene.keys("B"));
}

#[tokio::test]
async fn a_gap_ends_the_trust_in_a_list() {
    for (stream_id, prev_id) in [(9, &[8][..]), (9, &[5, 8]), (9, &[])] {
        let scene = Scene::new().await;
        scene.tell(5, &["A"]);
        scene.fetch().await.unwrap();
        let start = scene.published();
        scene.receive(scene.update("B", stream_id, prev_id)).await;
        assert_eq!(scene.kept().await, None, "{prev_id:?}");
        assert_eq!(scene.changes(start).await, 1);
        // Also what would follow the gap does not mend it.
        scene.receive(scene.update("C", 10, &[9])).await;
        assert_eq!(scene.kept().await, None);
        scene.tell(10, &["A", "B", "C"]);
        scene.fetch().await.unwrap();
        assert_eq!(scene.kept().await, Some(ids(&["A", "B", "C"])));
        scene.receive(scene.update("D", 11, &[10])).await;
        assert_eq!(scene.kept().await, Some(ids(&["A", "B", "C", "D"])));
    }
}

#[tokio::test]
async fn what_a_server_that_counts_anew_tells_is_not_taken_for_old() {
    for (stream_id, device_id, deleted) in
        [(4, "B", false), (5, "B", false), (6, "A", true), (7, "C", false)]
    {
        let scene = Scene::new().await;
        scene.tell(5, &["A"]);
        scene.fetch().await.unwrap();
        scene.receive(scene.update("C", 7, &[5])).await;
        // Its store was put back to where it was at 3.
        let start = scene.published();
        let mut update = scene.update(device_id, stream_id, &[3]);
        update.device_display_name = Some("new".to_owned());
        if deleted {
            (update.deleted, update.keys) = (Some(true), None);
        }
        scene.receive(update).await;
        assert_eq!(scene.kept().await, None, "{stream_id}");
        assert_eq!(scene.changes(start).await, 1);
        scene.tell(stream_id, &["B"]);
        scene.fetch().await.unwrap();
        assert_eq!(scene.kept().await, Some(ids(&["B"])));
        scene.receive(scene.update("D", stream_id + 1, &[stream_id])).await;
        assert_eq!(scene.kept().await, Some(ids(&["B", "D"])));
    }
}

#[tokio::test]
async fn who_left_leaves_no_change_even_if_no_list_was_kept() {
    let scene = Scene::new().await;
    scene.receive(scene.update("B", 6, &[5])).await;
    assert_eq!(scene.changes(StreamPosition::ZERO).await, 1);
    scene.bench.e2ee.distrust(&scene.bob).await.unwrap();
    assert_eq!(scene.changes(StreamPosition::ZERO).await, 0);
}

#[tokio::test]
async fn a_silent_server_holds_up_nobody_elses_lists() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    let silent = server_name!("silent.test");
    scene.elsewhere.silent.lock().insert(silent.to_owned());
    for number in 0..2 * FETCHES_AT_ONCE {
        let user_id = UserId::parse(format!("@u{number}:{silent}")).unwrap();
        assert!(scene.bench.e2ee.fetch_list(&user_id, Instant::now()).await.is_err());
    }
    while scene.asked() < FETCHES_AT_ONCE_FROM_ONE {
        tokio::task::yield_now().await;
    }
    scene.fetch().await.unwrap();
    assert_eq!(scene.asked(), FETCHES_AT_ONCE_FROM_ONE + 1);
}

#[tokio::test]
async fn one_servers_resyncs_and_fetches_leave_places_to_others() {
    let scene = Scene::new().await;
    let (lists, e2ee) = (&scene.bench.e2ee.inner.remote_lists, &scene.bench.e2ee);
    let eve = owned_user_id!("@eve:silent.test");
    let share = |shares: &Shares| shares.try_take(eve.server_name());
    let resyncs: Vec<_> = std::iter::from_fn(|| share(&lists.resyncs_of_each)).collect();
    let fetches: Vec<_> = std::iter::from_fn(|| share(&lists.fetches_of_each)).collect();
    assert_eq!((resyncs.len(), fetches.len()), (RESYNCS_OF_ONE, FETCHES_OF_ONE));
    e2ee.resync(&eve);
    assert!(!lists.resyncs.lock().contains_key(&eve));
    e2ee.resync(&scene.bob);
    assert!(lists.resyncs.lock().contains_key(&scene.bob));
    assert!(e2ee.fetch_list(&eve, Instant::now() + Duration::from_secs(10)).await.is_err());
    assert_eq!(scene.asked(), 0);
    scene.tell(5, &["A"]);
    scene.fetch().await.unwrap();
}

#[tokio::test]
async fn of_a_list_that_is_too_large_the_rest_is_not_kept() {
    let scene = Scene::new().await;
    let devices: Vec<_> = (0..200)
        .map(|number| {
            let device_id = format!("D{number}");
            let mut keys = scene.keys(&device_id);
            keys["more"] = "x".repeat(7_000).into();
            keys.as_object_mut().unwrap().remove("signatures");
            scene.signer.sign_as(&mut keys, &scene.bob, &format!("ed25519:{device_id}"));
            keys
        })
        .collect();
    scene.elsewhere.tell(&scene.bob, 5, &devices);
    scene.fetch().await.unwrap();
    let kept = scene.kept().await.unwrap().len();
    assert!((100..MAX_LIST_BYTES / 7_000).contains(&kept), "{kept}");
}

#[tokio::test]
async fn servers_that_count_nothing_have_their_lists_fetched_each_time() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    scene.fetch().await.unwrap();
    for device_id in ["B", "C"] {
        let start = scene.published();
        scene.receive(scene.update("placeholder", 1, &[])).await;
        assert_eq!(scene.kept().await, None, "there is a device that nobody here knows");
        assert_eq!(scene.changes(start).await, 1);
        scene.tell(5, &["A", device_id]);
        scene.fetch().await.unwrap();
        assert_eq!(scene.kept().await, Some(ids(&["A", device_id])));
    }
}

#[tokio::test]
async fn updates_that_come_in_another_order_are_not_lost() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    scene.fetch().await.unwrap();
    scene.receive(scene.update("C", 7, &[5])).await;
    assert_eq!(scene.kept().await, Some(ids(&["A", "C"])));
    scene.receive(scene.update("B", 6, &[5])).await;
    assert_eq!(scene.kept().await, None);
}

#[tokio::test]
async fn what_does_not_verify_is_not_applied() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    scene.fetch().await.unwrap();
    let mut forged = scene.update("B", 6, &[5]);
    forged.keys = Some(raw_device(&scene.keys("C")));
    scene.receive(forged).await;
    assert_eq!(scene.kept().await, None);
    scene.fetch().await.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&["A"])));
}

#[tokio::test]
async fn only_their_own_server_speaks_for_users() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    scene.fetch().await.unwrap();
    let start = scene.published();
    let origin = OwnedServerName::try_from("third.test").unwrap();
    let update = scene.update("B", 6, &[5]);
    scene.bench.e2ee.receive_device_list_update(&origin, update).await.unwrap();
    let mut update = SigningKeyUpdateContent::new(scene.bob.clone());
    update.master_key = Some(raw_key(&Identity::new().master_key(&scene.bob)));
    scene.bench.e2ee.receive_signing_key_update(&origin, update).await.unwrap();
    assert_eq!(scene.published(), start);
}

#[tokio::test]
async fn users_whose_list_is_not_kept_have_changes_all_the_same() {
    let scene = Scene::new().await;
    let start = scene.published();
    scene.receive(scene.update("B", 6, &[5])).await;
    assert_eq!((scene.kept().await, scene.changes(start).await), (None, 1));
    assert_eq!(scene.asked(), 0);
}

#[tokio::test]
async fn what_happens_during_a_fetch_has_it_repeated() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    let hold = scene.elsewhere.hold.lock().await;
    let fetch = scene.fetch();
    let meanwhile = async {
        while scene.asked() == 0 {
            tokio::task::yield_now().await;
        }
        scene.tell(6, &["A", "B"]);
        scene.receive(scene.update("B", 6, &[5])).await;
        drop(hold);
    };
    let (fetched, ()) = futures_util::future::join(fetch, meanwhile).await;
    fetched.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&["A", "B"])));
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn a_list_that_is_forgotten_while_it_is_fetched_is_not_kept() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    let hold = scene.elsewhere.hold.lock().await;
    let fetch = scene.fetch();
    let meanwhile = async {
        while scene.asked() == 0 {
            tokio::task::yield_now().await;
        }
        scene.bench.e2ee.forget_list(&scene.bob).await.unwrap();
        drop(hold);
    };
    let (fetched, ()) = futures_util::future::join(fetch, meanwhile).await;
    assert!(fetched.is_err());
    assert_eq!(scene.bench.e2ee.kept_list(&scene.bob, false).await.unwrap(), None);
    // When a room is shared again it is.
    scene.fetch().await.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&["A"])));
}

#[tokio::test]
async fn all_who_want_a_list_wait_for_one_fetch() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    let fetches = (0..10).map(|_| scene.fetch());
    for fetched in futures_util::future::join_all(fetches).await {
        fetched.unwrap();
    }
    assert_eq!(scene.asked(), 1);
    assert!(scene.bench.e2ee.inner.remote_lists.fetches.lock().is_empty());
    scene.elsewhere.lists.lock().clear();
    assert_eq!(scene.fetch().await, Err("nobody is there".to_owned()));
    assert_eq!(scene.kept().await, Some(ids(&["A"])), "a failure changes nothing");
}

#[tokio::test]
async fn long_lists_are_replaced_whole() {
    let scene = Scene::new().await;
    let many: Vec<String> = (0..MAX_REMOTE_DEVICES + 50).map(|n| format!("D{n:04}")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    scene.tell(5, &names);
    scene.fetch().await.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&names[..MAX_REMOTE_DEVICES])));
    let start = scene.published();
    scene.receive(scene.update("ONE-MORE", 6, &[5])).await;
    assert_eq!(scene.kept().await, None, "there is no place for it");
    scene.tell(7, &["D0003", "E"]);
    scene.fetch().await.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&["D0003", "E"])));
    assert_eq!(scene.changes(start).await, 1);
    let start = scene.published();
    scene.fetch().await.unwrap();
    assert_eq!(scene.changes(start).await, 0, "it is the same");
}

#[tokio::test]
async fn cross_signing_keys_follow_updates() {
    let scene = Scene::new().await;
    let bob = scene.bob.clone();
    let identity = Identity::new();
    scene.tell(5, &["A"]);
    scene.elsewhere.identify(&bob, &identity);
    scene.fetch().await.unwrap();
    let e2ee = &scene.bench.e2ee;
    let stored = async || {
        let list = e2ee.kept_list(&bob, true).await.unwrap()?;
        let value = |json: Option<Bytes>| json.map(|json| serde_json::from_slice(&json).unwrap());
        Some((value(list.master), value(list.self_signing)))
    };
    let (master, self_signing) = (identity.master_key(&bob), identity.self_signing_key(&bob));
    assert_eq!(stored().await, Some((Some(master.clone()), Some(self_signing))));
    let receive = async |master: Option<&Value>, self_signing: Option<&Value>| {
        let mut update = SigningKeyUpdateContent::new(bob.clone());
        update.master_key = master.map(raw_key);
        update.self_signing_key = self_signing.map(raw_key);
        let origin = server_name!("elsewhere.test");
        e2ee.receive_signing_key_update(origin, update).await.unwrap();
    };
    let mut other = Signer::new().cross_signing_key(&bob, "self_signing");
    identity.master.sign(&mut other, &bob);
    let start = scene.published();
    receive(None, Some(&other)).await;
    assert_eq!(scene.changes(start).await, 1);
    assert_eq!(stored().await, Some((Some(master), Some(other))));
    // What the former master key signed goes with it.
    let second = Identity::new();
    receive(Some(&second.master_key(&bob)), None).await;
    assert_eq!(stored().await, Some((Some(second.master_key(&bob)), None)));
    receive(None, Some(&identity.self_signing_key(&bob))).await;
    assert_eq!(stored().await, None, "it is not signed by the master key");
}

#[tokio::test]
async fn who_left_is_not_trusted() {
    let scene = Scene::new().await;
    scene.tell(5, &["A"]);
    scene.fetch().await.unwrap();
    scene.bench.e2ee.mark_stale(&scene.bob).await.unwrap();
    assert_eq!(scene.kept().await, None);
    scene.fetch().await.unwrap();
    assert_eq!(scene.kept().await, Some(ids(&["A"])));
    scene.receive(scene.update("B", 6, &[5])).await;
    assert_eq!(scene.changes(StreamPosition::ZERO).await, 1);
    scene.bench.e2ee.forget_list(&scene.bob).await.unwrap();
    assert_eq!(scene.changes(StreamPosition::ZERO).await, 0);
    assert_eq!(scene.bench.e2ee.list_version(&scene.bob).await.unwrap(), None);
    assert_eq!(scene.bench.e2ee.kept_list(&scene.bob, false).await.unwrap(), None);
    let rest = scene.bench.store.snapshot();
    assert_eq!(KeptList::read(&rest, &scene.bob).unwrap(), KeptList::default());
}
