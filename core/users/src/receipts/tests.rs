use std::collections::BTreeMap;

use hearth_storage::Topic;
use proptest::{prelude::*, test_runner::TestCaseError};
use ruma::{EventId, event_id, owned_event_id, room_id};

use super::*;
use crate::{LogKind, ReceiptLog, users::testing::Bench};

fn room() -> &'static RoomId {
    room_id!("!room:hearth.test")
}

fn user(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:hearth.test")).unwrap()
}

fn update(name: &str, receipt_type: ReceiptType, at: u64) -> ReceiptUpdate {
    ReceiptUpdate {
        room_id: room().to_owned(),
        user_id: user(name),
        receipt_type,
        thread: ReceiptThread::Unthreaded,
        event_id: EventId::parse(format!("$e{at}")).unwrap(),
        timeline_position: at,
        fan_out: true,
        ts_ms: None,
    }
}

fn read(name: &str, at: u64) -> ReceiptUpdate {
    update(name, ReceiptType::Read, at)
}

fn in_thread(name: &str, thread: ReceiptThread, at: u64) -> ReceiptUpdate {
    ReceiptUpdate { thread, ..read(name, at) }
}

#[tokio::test]
async fn receipts_never_move_backwards() {
    let bench = Bench::new().await;
    let users = &bench.users;
    let first = users.set_receipt(read("a", 5)).await.unwrap();
    assert!(first.is_some());
    assert_eq!(users.set_receipt(read("a", 4)).await.unwrap(), None);
    assert_eq!(users.set_receipt(read("a", 5)).await.unwrap(), None);
    assert!(users.set_receipt(read("a", 6)).await.unwrap() > first);
    let all = users.receipts(room(), &user("b"), StreamPosition::MAX).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].event_id.as_str(), all[0].timeline_position), ("$e6", 6));
    assert_eq!(all[0].ts_ms, 1_000_000);
}

#[tokio::test]
async fn private_receipts_are_for_their_user_alone() {
    let bench = Bench::new().await;
    let users = &bench.users;
    let before = bench.store.notifier().published();
    users.set_receipt(update("a", ReceiptType::ReadPrivate, 5)).await.unwrap();
    let (mine, theirs) = (user("a"), user("b"));
    let changed = async |viewer: &UserId| {
        let until = bench.store.notifier().published();
        users.receipt_changes(room(), viewer, before, until).await.unwrap().len()
    };
    assert_eq!((changed(&mine).await, changed(&theirs).await), (1, 0));
    let all = users.receipts(room(), &theirs, StreamPosition::MAX).await.unwrap();
    assert!(all.is_empty());
    let notifier = bench.store.notifier();
    assert!(!notifier.changed_since(&Topic::new(room().as_str()), before));
    assert!(notifier.changed_since(&Topic::new(mine.as_str()), before));
    let log = bench.store.log_after(before, 10).await.unwrap();
    assert_eq!(log[0].entry.kind, LogKind::PrivateReceipt as u8);
}

#[tokio::test]
async fn public_receipts_wake_the_room_unless_it_is_too_large() {
    let bench = Bench::new().await;
    let (users, notifier) = (&bench.users, bench.store.notifier());
    let before = notifier.published();
    let quiet = ReceiptUpdate { fan_out: false, ..read("a", 1) };
    users.set_receipt(quiet).await.unwrap();
    assert!(!notifier.changed_since(&Topic::new(room().as_str()), before));
    assert!(notifier.changed_since(&Topic::new(user("a").as_str()), before));
    users.set_receipt(read("a", 2)).await.unwrap();
    assert!(notifier.changed_since(&Topic::new(room().as_str()), before));
    let log = bench.store.log_after(before, 10).await.unwrap();
    assert_eq!(log.len(), 2);
    let logged: ReceiptLog = serde_json::from_slice(&log[1].entry.payload).unwrap();
    assert_eq!((logged.event_id, logged.user_id), (owned_event_id!("$e2"), user("a")));
}

#[tokio::test]
async fn read_positions_take_the_further_of_public_and_private() {
    let bench = Bench::new().await;
    let users = &bench.users;
    let root = || ReceiptThread::Thread(owned_event_id!("$root"));
    for update in [
        read("a", 3),
        update("a", ReceiptType::ReadPrivate, 5),
        in_thread("a", ReceiptThread::Main, 8),
        in_thread("a", root(), 4),
        ReceiptUpdate { receipt_type: ReceiptType::ReadPrivate, ..in_thread("a", root(), 2) },
        update("a", ReceiptType::from("org.example.delivered"), 50),
        read("ab", 99),
    ] {
        assert!(users.set_receipt(update).await.unwrap().is_some());
    }
    let found = users.read_positions(&user("a"), room()).await.unwrap();
    assert_eq!((found.unthreaded, found.main), (Some(5), Some(8)));
    assert_eq!(found.threads, BTreeMap::from([(owned_event_id!("$root"), 4)]));
    assert_eq!(found.main_timeline(), Some(8));
    assert_eq!(found.thread(event_id!("$root")), Some(5));
    assert_eq!(found.thread(event_id!("$other")), Some(5));
    let nobody = users.read_positions(&user("z"), room()).await.unwrap();
    assert_eq!(nobody, ReadPositions::default());
}

#[tokio::test]
async fn many_threads_are_all_found() {
    let bench = Bench::new().await;
    for number in 0..150 {
        let root = EventId::parse(format!("$root{number}")).unwrap();
        let update = in_thread("a", ReceiptThread::Thread(root), number);
        bench.users.set_receipt(update).await.unwrap();
    }
    bench.users.set_receipt(read("ab", 1)).await.unwrap();
    let own = bench.users.own_receipts(room(), &user("a")).await.unwrap();
    assert_eq!(own.len(), 150);
    assert!(own.iter().all(|entry| entry.user_id == user("a")));
    let found = bench.users.read_positions(&user("a"), room()).await.unwrap();
    assert_eq!(found.threads.len(), 150);
}

#[tokio::test]
async fn a_storm_is_gathered_into_few_commits_and_the_furthest_wins() {
    let bench = Bench::new().await;
    let before = bench.store.notifier().published();
    let all: Vec<_> = (0..600_u64)
        .map(|number| {
            let users = bench.users.clone();
            let update = read(&format!("u{}", number % 3), number / 3);
            tokio::spawn(async move { users.set_receipt(update).await.unwrap() })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
    let found = bench.users.receipts(room(), &user("x"), StreamPosition::MAX).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|entry| entry.timeline_position == 199));
    // Far fewer rows were written than receipts came: each batch writes a receipt once.
    let written = bench.store.notifier().published().get() - before.get();
    assert!(written < 300, "{written} positions for 600 receipts");
}

#[tokio::test]
async fn after_a_restart_the_store_answers() {
    let bench = Bench::new().await;
    let before = bench.store.notifier().published();
    bench.users.set_receipt(read("a", 1)).await.unwrap();
    let between = bench.store.notifier().published();
    bench.users.set_receipt(read("b", 2)).await.unwrap();
    let bench = bench.reopen().await;
    let changed = async |since| {
        let until = bench.store.notifier().published();
        let found = bench.users.receipt_changes(room(), &user("x"), since, until).await.unwrap();
        found.into_iter().map(|entry| entry.user_id.localpart().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(changed(before).await, ["a", "b"]);
    assert_eq!(changed(between).await, ["b"]);
    assert_eq!(changed(bench.store.notifier().published()).await, Vec::<String>::new());
    assert_eq!(bench.users.set_receipt(read("a", 1)).await.unwrap(), None);
}

#[tokio::test]
async fn the_longest_identifiers_fit() {
    let bench = Bench::new().await;
    let long = |sigil: &str, end: &str| {
        format!("{sigil}{}{end}", "x".repeat(255 - sigil.len() - end.len()))
    };
    let update = ReceiptUpdate {
        room_id: RoomId::parse(long("!", ":b")).unwrap(),
        user_id: UserId::parse(long("@", ":b")).unwrap(),
        receipt_type: ReceiptType::from("x".repeat(64)),
        thread: ReceiptThread::Thread(EventId::parse(long("$", "")).unwrap()),
        event_id: EventId::parse(long("$", "")).unwrap(),
        timeline_position: 1,
        fan_out: true,
        ts_ms: None,
    };
    assert!(bench.users.set_receipt(update).await.unwrap().is_some());
}

#[tokio::test]
async fn strange_types_and_threads_are_refused() {
    let bench = Bench::new().await;
    for receipt_type in [String::new(), "x y".to_owned(), "é".to_owned(), "x".repeat(65)] {
        let update = update("a", ReceiptType::from(receipt_type), 1);
        let result = bench.users.set_receipt(update).await;
        assert!(matches!(result, Err(UsersError::InvalidName(_))));
    }
    for thread in [String::new(), "x".repeat(256), "\0".to_owned()] {
        let thread = ReceiptThread::try_from(Some(thread)).unwrap();
        let result = bench.users.set_receipt(in_thread("a", thread, 1)).await;
        assert!(matches!(result, Err(UsersError::InvalidName(_))));
    }
}

/// Readers who follow along while receipts are set at the same time end with the same picture as one
/// who reads everything at the end.
#[tokio::test]
async fn a_reader_that_follows_misses_nothing() {
    let bench = Bench::new().await;
    let viewer = user("viewer");
    let mut since = bench.store.notifier().published();
    let setting = {
        let users = bench.users.clone();
        tokio::spawn(async move {
            for at in 0..200 {
                users.set_receipt(read(&format!("u{}", at % 7), at)).await.unwrap();
            }
        })
    };
    let mut seen = BTreeMap::new();
    loop {
        let finished = setting.is_finished();
        let until = bench.store.notifier().published();
        let found = bench.users.receipt_changes(room(), &viewer, since, until).await.unwrap();
        for entry in found {
            assert!(entry.position > since && entry.position <= until);
            seen.insert(entry.user_id.clone(), entry.timeline_position);
        }
        since = until;
        if finished {
            break;
        }
        tokio::task::yield_now().await;
    }
    setting.await.unwrap();
    let all = bench.users.receipts(room(), &viewer, StreamPosition::MAX).await.unwrap();
    let expected: BTreeMap<_, _> =
        all.into_iter().map(|entry| (entry.user_id, entry.timeline_position)).collect();
    assert_eq!(seen, expected);
    assert_eq!(expected.len(), 7);
}

/// A step: who, where (0 unthreaded, 1 main, 2 a thread), private or not, how far; and whether the
/// reader looks afterwards.
type Step = (u8, u8, bool, u64, bool);

async fn replay(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let bench = Bench::new().await;
    let viewer = user("u0");
    let mut model: BTreeMap<(u8, u8, bool), u64> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    let mut since = bench.store.notifier().published();
    for (who, thread, private, at, look) in steps {
        let receipt_type = if private { ReceiptType::ReadPrivate } else { ReceiptType::Read };
        let place = match thread {
            0 => ReceiptThread::Unthreaded,
            1 => ReceiptThread::Main,
            _ => ReceiptThread::Thread(owned_event_id!("$root")),
        };
        let update =
            ReceiptUpdate { thread: place, ..update(&format!("u{who}"), receipt_type, at) };
        let moved = bench.users.set_receipt(update).await.unwrap().is_some();
        let key = (who, thread, private);
        let forward = model.get(&key).is_none_or(|stand| *stand < at);
        prop_assert_eq!(moved, forward);
        if forward {
            model.insert(key, at);
        }
        if look {
            let until = bench.store.notifier().published();
            let found = bench.users.receipt_changes(room(), &viewer, since, until).await.unwrap();
            for entry in found {
                let thread = entry.thread.as_str().map(ToOwned::to_owned);
                let key = (entry.user_id, entry.receipt_type.as_str().to_owned(), thread);
                seen.insert(key, entry.timeline_position);
            }
            since = until;
            let visible = model.iter().filter(|((who, _, private), _)| !private || *who == 0);
            prop_assert_eq!(seen.len(), visible.clone().count());
            let (mut one, mut two): (Vec<_>, Vec<_>) =
                (seen.values().copied().collect(), visible.map(|(_, at)| *at).collect());
            one.sort_unstable();
            two.sort_unstable();
            prop_assert_eq!(one, two);
        }
    }
    for who in 0..3 {
        let read = bench.users.read_positions(&user(&format!("u{who}")), room()).await.unwrap();
        let furthest = |thread| {
            let of = |private| model.get(&(who, thread, private)).copied();
            of(false).max(of(true))
        };
        prop_assert_eq!(read.unthreaded, furthest(0));
        prop_assert_eq!(read.main, furthest(1));
        prop_assert_eq!(read.threads.get(event_id!("$root")).copied(), furthest(2));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn receipts_follow_a_plain_map(
        steps in prop::collection::vec((0..3u8, 0..3u8, any::<bool>(), 0..20u64, any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(replay(steps))?;
    }
}
