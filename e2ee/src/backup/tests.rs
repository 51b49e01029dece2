use proptest::prelude::*;
use ruma::{OwnedUserId, RoomId, room_id};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    E2ee,
    schema::{BACKUP_KEYS, BACKUP_VERSIONS},
    testing::Bench,
};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn raw(value: &serde_json::Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

fn key(first_message_index: u64, forwarded_count: u64, is_verified: bool) -> BackedUpKey {
    let session_data = raw(&json!({ "ciphertext": first_message_index }));
    BackedUpKey { first_message_index, forwarded_count, is_verified, session_data }
}

/// Keys of one room.
fn keys<'a>(sessions: impl IntoIterator<Item = (&'a str, BackedUpKey)>) -> BackupKeys {
    let sessions = sessions.into_iter().map(|(id, key)| (id.to_owned(), key)).collect();
    BackupKeys::from([(room_id!("!r:x").to_owned(), sessions)])
}

async fn created(e2ee: &E2ee, user_id: &OwnedUserId) -> String {
    let auth_data = raw(&json!({ "public_key": "abc" }));
    e2ee.create_backup(user_id, ALGORITHM.to_owned(), auth_data).await.unwrap()
}

/// All keys of a version, or of a room in it.
async fn held(
    e2ee: &E2ee,
    user_id: &OwnedUserId,
    version: &str,
    room_id: Option<&RoomId>,
) -> Result<Vec<(OwnedRoomId, String, BackedUpKey)>, E2eeError> {
    let (mut held, mut after) = (Vec::new(), None);
    loop {
        let page = e2ee.backup_page(user_id, version, room_id, after).await?;
        held.extend(page.keys);
        if page.is_last {
            return Ok(held);
        }
        after = held.last().map(|(room_id, session_id, _)| (room_id.clone(), session_id.clone()));
    }
}

async fn row(bench: &Bench, user_id: &OwnedUserId, number: u64) -> Option<BackupVersionRow> {
    bench.store.get(&BACKUP_VERSIONS, user_id, &number).await.unwrap()
}

/// Waits until nothing is left of a deleted version but, perhaps, its number.
async fn emptied(bench: &Bench, user_id: &OwnedUserId, number: u64) {
    let is_empty = async || {
        let row = row(bench, user_id, number).await;
        row.is_none_or(|row| row == BackupVersionRow { deleted: true, ..Default::default() })
    };
    while !is_empty().await {
        tokio::task::yield_now().await;
    }
    let forward = hearth_storage::Direction::Forward;
    let left = bench.store.page_prefix(&BACKUP_KEYS, user_id, &number, forward, 1).await.unwrap();
    assert!(left.is_empty());
}

#[tokio::test]
async fn versions_are_made_replaced_and_deleted() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    assert!(matches!(e2ee.backup(&alice, None).await, Err(E2eeError::NotFound(_))));
    let one = created(e2ee, &alice).await;
    let two = created(e2ee, &alice).await;
    assert_eq!((one.as_str(), two.as_str()), ("1", "2"));
    let current = e2ee.backup(&alice, None).await.unwrap();
    assert_eq!((current.version.as_str(), current.state.count), ("2", 0));
    let auth_data = raw(&json!({ "public_key": "def" }));
    let other = e2ee.update_backup(&alice, &two, "m.other", auth_data.clone()).await;
    assert!(matches!(other, Err(E2eeError::InvalidParam(_))));
    e2ee.update_backup(&alice, &two, ALGORITHM, auth_data).await.unwrap();
    let changed = e2ee.backup(&alice, Some("2")).await.unwrap();
    assert_eq!(changed.auth_data.get(), r#"{"public_key":"def"}"#);
    e2ee.delete_backup(&alice, &two).await.unwrap();
    assert_eq!(e2ee.backup(&alice, None).await.unwrap().version, "1");
    for version in ["2", "3", "0", "01", "+1", "x", ""] {
        let gone = e2ee.backup(&alice, Some(version)).await;
        assert!(matches!(gone, Err(E2eeError::NotFound(_))), "{version}");
    }
    assert_eq!(created(e2ee, &alice).await, "3", "no number is used twice");
}

#[tokio::test]
async fn keys_are_counted_and_the_better_one_stays() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let version = created(e2ee, &alice).await;
    let add = async |sessions| e2ee.add_backup_keys(&alice, &version, sessions).await.unwrap();
    let first = add(keys([("a", key(5, 1, false)), ("b", key(0, 0, true))])).await;
    assert_eq!(first.count, 2);
    let worse = add(keys([("a", key(6, 0, false)), ("b", key(0, 0, false))])).await;
    assert_eq!(worse, first, "nothing changed");
    let better = add(keys([("a", key(4, 9, false)), ("c", key(1, 1, false))])).await;
    assert_eq!(better.count, 3);
    assert_ne!(better.etag, first.etag);
    let held = held(e2ee, &alice, &version, None).await.unwrap();
    let indices: Vec<_> = held
        .iter()
        .map(|(_, id, key)| (id.as_str(), key.first_message_index, key.is_verified))
        .collect();
    assert_eq!(indices, [("a", 4, false), ("b", 0, true), ("c", 1, false)]);
}

#[tokio::test]
async fn only_the_current_version_takes_keys() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let none = e2ee.add_backup_keys(&alice, "1", keys([])).await;
    assert!(matches!(none, Err(E2eeError::NotFound(_))));
    created(e2ee, &alice).await;
    created(e2ee, &alice).await;
    let old = e2ee.add_backup_keys(&alice, "1", keys([("a", key(0, 0, true))])).await;
    assert!(
        matches!(&old, Err(E2eeError::WrongBackupVersion { current }) if current == "2"),
        "{old:?}"
    );
    // What is in an older one can still be read.
    assert!(held(e2ee, &alice, "1", None).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_are_read_and_deleted_by_room_and_session() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let version = created(e2ee, &alice).await;
    let (one, two) = (room_id!("!a:x"), room_id!("!b:x"));
    let mut all = BackupKeys::new();
    for room_id in [one, two] {
        // More than one page and many commits.
        let sessions = (0..1_250).map(|number| (format!("s{number}"), key(number, 0, true)));
        all.insert(room_id.to_owned(), sessions.collect());
    }
    let state = e2ee.add_backup_keys(&alice, &version, all).await.unwrap();
    assert_eq!(state.count, 2_500);
    let count = async |room_id| held(e2ee, &alice, &version, room_id).await.unwrap().len();
    assert_eq!(count(None).await, 2_500);
    assert_eq!(count(Some(two)).await, 1_250);
    let key = async |session_id| e2ee.backup_key(&alice, &version, one, session_id).await;
    assert_eq!(key("s7").await.unwrap().first_message_index, 7);
    assert!(matches!(key("s9999").await, Err(E2eeError::NotFound(_))));
    let state = e2ee.delete_backup_keys(&alice, &version, Some(one), Some("s7")).await.unwrap();
    assert_eq!(state.count, 2_499);
    let state = e2ee.delete_backup_keys(&alice, &version, Some(two), None).await.unwrap();
    assert_eq!(state.count, 1_249);
    let state = e2ee.delete_backup_keys(&alice, &version, None, None).await.unwrap();
    assert_eq!((state.count, count(None).await), (0, 0));
    assert_eq!(row(&bench, &alice, 1).await.unwrap().bytes, 0);
}

#[tokio::test]
async fn what_clients_upload_at_once_is_one_commit() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let version = created(e2ee, &alice).await;
    let many = |from: u64| {
        let sessions =
            (from..from + 400).map(|number| (format!("s{number}"), key(number, 0, true)));
        BackupKeys::from([(room_id!("!a:x").to_owned(), sessions.collect())])
    };
    for (from, count) in [(0, 400), (300, 700)] {
        let before = bench.store.notifier().published();
        let state = e2ee.add_backup_keys(&alice, &version, many(from)).await.unwrap();
        assert_eq!(state.count, count);
        let commits = bench.store.notifier().published().get() - before.get();
        assert_eq!(commits, 1, "a crash leaves it there as a whole or not at all");
    }
}

#[tokio::test]
async fn a_deletion_that_a_crash_cut_short_is_finished() {
    let bench = Bench::new().await;
    let alice = bench.user_with_device("alice").await.0;
    let version = created(&bench.e2ee, &alice).await;
    bench.e2ee.add_backup_keys(&alice, &version, keys([("a", key(0, 0, true))])).await.unwrap();
    let mut row = row(&bench, &alice, 1).await.unwrap();
    row.deleted = true;
    put(&bench, &alice, &row).await;
    let bench = bench.reopen().await;
    emptied(&bench, &alice, 1).await;
}

/// Writes the row of the first version.
async fn put(bench: &Bench, user_id: &OwnedUserId, row: &BackupVersionRow) {
    let mut commit = hearth_storage::Commit::new(user_id);
    commit.put(&BACKUP_VERSIONS, user_id, &1, row);
    bench.store.commit(commit).await.unwrap();
}

#[tokio::test]
async fn a_deleted_version_is_emptied_behind_and_leaves_its_number_at_most() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let one = created(e2ee, &alice).await;
    let names: Vec<_> = (0..1_000).map(|n| format!("s{n}")).collect();
    let many = names.iter().map(|name| (name.as_str(), key(0, 0, true)));
    e2ee.add_backup_keys(&alice, &one, keys(many)).await.unwrap();
    let two = created(e2ee, &alice).await;
    e2ee.delete_backup(&alice, &one).await.unwrap();
    assert!(matches!(e2ee.backup(&alice, Some(&one)).await, Err(E2eeError::NotFound(_))));
    emptied(&bench, &alice, 1).await;
    assert_eq!(row(&bench, &alice, 1).await, None);
    e2ee.delete_backup(&alice, &two).await.unwrap();
    emptied(&bench, &alice, 2).await;
    assert!(row(&bench, &alice, 2).await.is_some(), "it is the newest");
    assert_eq!(created(e2ee, &alice).await, "3");
    assert_eq!(row(&bench, &alice, 2).await, None);
}

#[tokio::test]
async fn there_are_few_versions() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    for _ in 0..20 {
        created(e2ee, &alice).await;
    }
    let auth_data = raw(&json!({ "public_key": "abc" }));
    let more = e2ee.create_backup(&alice, ALGORITHM.to_owned(), auth_data).await;
    assert!(matches!(more, Err(E2eeError::TooLarge(_))), "{more:?}");
    e2ee.delete_backup(&alice, "7").await.unwrap();
    assert_eq!(created(e2ee, &alice).await, "21");
}

#[tokio::test]
async fn what_has_no_place_changes_nothing() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let version = created(e2ee, &alice).await;
    let names: Vec<_> = (0..150).map(|n| format!("s{n}")).collect();
    let many = || keys(names.iter().map(|name| (name.as_str(), key(0, 0, true))));
    for (count, bytes) in [(200_000 - 149, 0), (0, (256 << 20) - 1_000)] {
        let full = BackupVersionRow { count, bytes, ..row(&bench, &alice, 1).await.unwrap() };
        put(&bench, &alice, &full).await;
        let added = e2ee.add_backup_keys(&alice, &version, many()).await;
        assert!(matches!(added, Err(E2eeError::TooLarge(_))), "{added:?}");
        assert_eq!(row(&bench, &alice, 1).await, Some(full));
        assert!(held(e2ee, &alice, &version, None).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn bytes_are_counted_as_keys_come_are_replaced_and_go() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let version = created(e2ee, &alice).await;
    let sized = |index, bytes: usize| {
        // With quotes and braces.
        let session_data = raw(&json!({ "x": "x".repeat(bytes - 8) }));
        BackedUpKey { session_data, ..key(index, 0, true) }
    };
    let add = async |sessions| {
        e2ee.add_backup_keys(&alice, &version, sessions).await.unwrap();
        row(&bench, &alice, 1).await.unwrap().bytes
    };
    assert_eq!(add(keys([("a", sized(5, 700)), ("b", sized(5, 100))])).await, 800);
    assert_eq!(add(keys([("a", sized(6, 900))])).await, 800, "it is no better");
    assert_eq!(add(keys([("a", sized(4, 600))])).await, 700);
    e2ee.delete_backup_keys(&alice, &version, Some(room_id!("!r:x")), Some("b")).await.unwrap();
    assert_eq!(row(&bench, &alice, 1).await.unwrap().bytes, 600);
}

#[test]
fn rows_from_before_bytes_were_counted_can_be_read() {
    let former = bytes::Bytes::from_static(b"\x01\x01a\x02{}\x03\x04\x00");
    let row = <BackupVersionRow as hearth_storage::Record>::decode(&former).unwrap();
    let expected = BackupVersionRow {
        algorithm: "a".to_owned(),
        auth_data: "{}".to_owned(),
        etag: 3,
        count: 4,
        bytes: 0,
        deleted: false,
    };
    assert_eq!(row, expected);
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused() {
    let bench = Bench::new().await;
    let (alice, e2ee) = (bench.user_with_device("alice").await.0, &bench.e2ee);
    let large = raw(&json!({ "x": "x".repeat(70_000) }));
    let too_large = e2ee.create_backup(&alice, ALGORITHM.to_owned(), large).await;
    assert!(matches!(too_large, Err(E2eeError::TooLarge(_))));
    let no_object = e2ee.create_backup(&alice, ALGORITHM.to_owned(), raw(&json!([]))).await;
    assert!(matches!(no_object, Err(E2eeError::BadJson(_))));
    let version = created(e2ee, &alice).await;
    let large = raw(&json!({ "x": "x".repeat(9_000) }));
    let large = BackedUpKey { session_data: large, ..key(0, 0, true) };
    let too_large = e2ee.add_backup_keys(&alice, &version, keys([("a", large)])).await;
    assert!(matches!(too_large, Err(E2eeError::TooLarge(_))));
    let long = "s".repeat(256);
    let too_long = e2ee.add_backup_keys(&alice, &version, keys([(&*long, key(0, 0, true))])).await;
    assert!(matches!(too_long, Err(E2eeError::InvalidParam(_))));
    assert_eq!(e2ee.backup(&alice, None).await.unwrap().state.count, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// In whatever order keys of one session come, the same one stays, but for equal ones.
    #[test]
    fn the_order_of_uploads_does_not_matter(
        mut sorts in proptest::collection::vec((0..3u64, 0..3u64, any::<bool>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kept = |sorts: &[(u64, u64, bool)]| runtime.block_on(async {
            let bench = Bench::new().await;
            let alice = bench.user_with_device("alice").await.0;
            let version = created(&bench.e2ee, &alice).await;
            for (index, forwarded, verified) in sorts {
                let added = keys([("a", key(*index, *forwarded, *verified))]);
                bench.e2ee.add_backup_keys(&alice, &version, added).await.unwrap();
            }
            let held = held(&bench.e2ee, &alice, &version, None).await.unwrap();
            let key = &held[0].2;
            (key.is_verified, key.first_message_index, key.forwarded_count)
        });
        let forwards = kept(&sorts);
        sorts.reverse();
        prop_assert_eq!(forwards, kept(&sorts));
    }
}
