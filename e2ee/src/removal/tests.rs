use std::sync::Arc;

use bytes::Bytes;
use hearth_storage::Positioned;
use hearth_users::NewSession;
use ruma::OneTimeKeyAlgorithm::SignedCurve25519;

use super::*;
use crate::{
    schema::{KeyRow, Timestamp},
    signer::identify,
    testing::{Bench, Olm},
};

async fn olm(bench: &Bench, username: &str) -> Olm {
    let (user_id, device_id) = bench.user_with_device(username).await;
    let olm = Olm::new(&user_id, &device_id);
    first_upload(bench, &olm).await;
    olm
}

async fn first_upload(bench: &Bench, olm: &Olm) {
    let first = olm.first_upload(["A", "B"]);
    bench.e2ee.upload_keys(&olm.user_id, &olm.device_id, None, first).await.unwrap();
}

/// A message in the device's queue, at the end.
async fn queue_message(bench: &Bench, olm: &Olm) {
    let mut commit = Commit::new(&());
    let place = (olm.device_id.clone(), commit.next_position());
    commit.effect_put(&TO_DEVICE, &olm.user_id, &place, &Bytes::from_static(b"{}"));
    bench.store.commit(commit).await.unwrap();
}

/// How many rows there are of a device, in all keyspaces.
async fn rows_of(bench: &Bench, olm: &Olm) -> usize {
    let (user_id, device_id) = (&olm.user_id, &olm.device_id);
    let e2ee = &bench.e2ee;
    let keys = usize::from(e2ee.device_keys(user_id, device_id).await.unwrap().is_some());
    keys + e2ee.store().page_all_under(&ONE_TIME_KEYS, user_id, device_id).await.unwrap().len()
        + e2ee.store().page_all_under(&CLAIMED_KEYS, user_id, device_id).await.unwrap().len()
        + e2ee.store().page_all_under(&FALLBACK_KEYS, user_id, device_id).await.unwrap().len()
        + e2ee.store().page_all_under(&TO_DEVICE, user_id, device_id).await.unwrap().len()
        + e2ee.store().page_all_under(&SENT_TRANSACTIONS, user_id, device_id).await.unwrap().len()
}

async fn sweeps(bench: &Bench, user_id: &UserId) -> usize {
    let rows = bench.store.page(&SWEEPS, &user_id.to_owned(), .., Direction::Forward, 100).await;
    rows.unwrap().len()
}

/// Waits for the second sweep, in no time. Before this, time must be real: whenever a test waits for the
/// store's thread, paused time would pass on to the sweep.
async fn swept_again(bench: &Bench, user_id: &UserId) {
    tokio::time::pause();
    let mut commits = bench.store.notifier().publications();
    while sweeps(bench, user_id).await > 0 {
        commits.changed().await.unwrap();
    }
}

async fn fill(bench: &Bench, olm: &Olm) {
    let claims = [(olm.device_id.clone(), SignedCurve25519)].into();
    bench.e2ee.claim_local_keys([(olm.user_id.clone(), claims)].into()).await.unwrap();
    queue_message(bench, olm).await;
    let mut commit = Commit::new(&olm.user_id);
    let place = (olm.device_id.clone(), "m.test".to_owned(), "one".into());
    commit.put(&SENT_TRANSACTIONS, &olm.user_id, &place, &Timestamp(1));
    bench.store.commit(commit).await.unwrap();
    assert_eq!(rows_of(bench, olm).await, 6);
}

#[tokio::test]
async fn a_device_that_goes_leaves_nothing() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let other = Olm::new(&alice.user_id, &bench.device(&alice.user_id).await);
    first_upload(&bench, &other).await;
    fill(&bench, &alice).await;
    let before = bench.store.notifier().published();
    let devices = [alice.device_id.clone()];
    bench.users.delete_devices(&alice.user_id, &devices).await.unwrap();
    assert_eq!(rows_of(&bench, &alice).await, 0);
    assert_eq!(rows_of(&bench, &other).await, 4, "other devices keep theirs");
    let changed = bench.e2ee.changed_lists(before, bench.store.notifier().published()).await;
    assert_eq!(changed.unwrap(), std::slice::from_ref(&alice.user_id));
    let counts = bench.e2ee.key_counts(&alice.user_id, &alice.device_id).await.unwrap();
    assert!(counts.one_time_keys.is_empty() && counts.unused_fallback_keys.is_empty());

    queue_message(&bench, &alice).await;
    assert_eq!((rows_of(&bench, &alice).await, sweeps(&bench, &alice.user_id).await), (1, 1));
    swept_again(&bench, &alice.user_id).await;
    assert_eq!(rows_of(&bench, &alice).await, 0);
}

#[tokio::test]
async fn who_logs_in_again_finds_nothing_old_and_keeps_what_is_new() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    fill(&bench, &alice).await;
    let devices = [alice.device_id.clone()];
    bench.users.delete_devices(&alice.user_id, &devices).await.unwrap();
    let session = NewSession { device_id: Some(alice.device_id.clone()), ..NewSession::default() };
    bench.users.create_session(&alice.user_id, session).await.unwrap();
    assert_eq!(rows_of(&bench, &alice).await, 0);
    let again = Olm::new(&alice.user_id, &alice.device_id);
    first_upload(&bench, &again).await;
    queue_message(&bench, &again).await;
    swept_again(&bench, &alice.user_id).await;
    assert_eq!(rows_of(&bench, &again).await, 5);
}

#[tokio::test]
async fn a_crash_in_between_is_made_up_for() {
    let bench = Bench::new().await;
    let (user_id, _) = bench.user_with_device("alice").await;
    let gone = Olm::new(&user_id, <&DeviceId>::from("GONE"));
    let mut commit = Commit::new(&user_id);
    let row = KeyRow { key_id: "A".to_owned(), json: "{}".to_owned() };
    let position = commit.next_position();
    for number in 0..900 {
        let place = (gone.device_id.clone(), "signed_curve25519".to_owned(), position, number);
        commit.put(&ONE_TIME_KEYS, &user_id, &place, &row);
    }
    commit.put(&SWEEPS, &user_id, &gone.device_id, &());
    bench.store.commit(commit).await.unwrap();
    assert_eq!(rows_of(&bench, &gone).await, 900);
    let bench = bench.reopen().await;
    assert_eq!((rows_of(&bench, &gone).await, sweeps(&bench, &user_id).await), (0, 0));
}

/// A crash when the devices of an account are about to go.
#[derive(Debug)]
struct Crash(Keeper);

#[async_trait]
impl DeviceKeeper for Crash {
    async fn changing(
        &self,
        user_id: &UserId,
        change: DeviceChange<'_>,
        commit: &mut Commit,
    ) -> Result<(), UsersError> {
        if matches!(change, DeviceChange::Removed(_)) {
            return Err(UsersError::Internal("crash".to_owned()));
        }
        self.0.changing(user_id, change, commit).await
    }

    async fn changed(&self, user_id: &UserId, change: DeviceChange<'_>) {
        self.0.changed(user_id, change).await;
    }
}

#[tokio::test]
async fn a_deactivation_that_a_crash_cuts_short_is_finished_at_the_start() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let owner = &alice.user_id;
    let (bob, _) = bench.user_with_device("bob").await;
    identify(&bench, owner).await;
    bench.users.set_device_keeper(Arc::new(Crash(Keeper::new(&bench.e2ee))));
    bench.users.deactivate(owner, true).await.unwrap_err();
    assert_eq!(rows_of(&bench, &alice).await, 4);
    let wanted = [(owner.clone(), Vec::new())].into();
    let shown = bench.e2ee.query_keys(&bob, wanted, Duration::ZERO).await.unwrap();
    assert!(shown.device_keys[owner].is_empty() && shown.master_keys.is_empty());
    let claims = [(alice.device_id.clone(), SignedCurve25519)].into();
    let claimed = bench.e2ee.claim_local_keys([(owner.clone(), claims)].into()).await;
    assert!(claimed.unwrap().is_empty());
    let bench = bench.reopen().await;
    assert_eq!(rows_of(&bench, &alice).await, 0);
    assert!(bench.users.devices(owner).await.unwrap().is_empty());
    let left = bench.store.page(&CROSS_SIGNING_KEYS, owner, .., Direction::Forward, 10).await;
    assert_eq!(left.unwrap(), []);
    assert!(bench.users.account(owner).await.unwrap().unwrap().is_erased);
}

#[tokio::test]
async fn a_new_name_is_told_if_others_know_the_device() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let silent = bench.device(&alice.user_id).await;
    let changed = async |device_id: &DeviceId| {
        let before = bench.store.notifier().published();
        let name = Some("new name".to_owned());
        bench.users.rename_device(&alice.user_id, device_id, name).await.unwrap();
        bench.e2ee.changed_lists(before, bench.store.notifier().published()).await.unwrap()
    };
    assert!(changed(&silent).await.is_empty());
    assert_eq!(changed(&alice.device_id).await, std::slice::from_ref(&alice.user_id));
}

#[tokio::test]
async fn a_deactivated_account_leaves_nothing() {
    let bench = Bench::new().await;
    let alice = olm(&bench, "alice").await;
    let owner = &alice.user_id;
    identify(&bench, owner).await;
    let mut commit = Commit::new(owner);
    let json = Bytes::from_static(b"{}");
    let signed = ("@bob:hearth.test".try_into().unwrap(), "ed25519:X".to_owned());
    let signature = Positioned { position: commit.next_position(), record: json };
    commit.put(&USER_SIGNATURES, owner, &signed, &signature);
    let dehydrated = crate::schema::DehydratedRow {
        device_id: "DEHYDRATED".to_owned(),
        device_data: "{}".to_owned(),
        display_name: None,
    };
    commit.put(&DEHYDRATED, owner, &(), &dehydrated);
    bench.store.commit(commit).await.unwrap();
    let dehydrated = Olm::new(owner, <&DeviceId>::from("DEHYDRATED"));
    first_upload(&bench, &dehydrated).await;
    assert_eq!(rows_of(&bench, &dehydrated).await, 4);
    bench.users.deactivate(owner, false).await.unwrap();
    assert_eq!(rows_of(&bench, &alice).await + rows_of(&bench, &dehydrated).await, 0);
    let left = bench.store.page(&CROSS_SIGNING_KEYS, owner, .., Direction::Forward, 10).await;
    assert_eq!(left.unwrap(), []);
    assert_eq!(bench.store.get(&USER_SIGNATURES, owner, &signed).await.unwrap(), None);
    assert!(!bench.e2ee.is_device(owner, &dehydrated.device_id).await.unwrap());
}
