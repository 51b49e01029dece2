//! What callers rely on, on every engine that has it.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use hearth_storage::{
    Commit, CommitError, Direction, Engine, EngineKind, Keyspace, Listener, LogEntry, Positioned,
    Store, StoreError, StoreOptions, Topic, engine::memory::MemoryEngine, postcard_record,
};
use hearth_types::StreamPosition;
use serde::{Deserialize, Serialize};

const ROWS: Keyspace<String, (u32, String), Row> = Keyspace::new("rows");
const TIMELINE: Keyspace<String, StreamPosition, Positioned<Row>> = Keyspace::new("timeline");
const KEYSPACES: &[&str] = &[ROWS.name(), TIMELINE.name()];
const DURABLE: [EngineKind; 2] = [EngineKind::Fjall, EngineKind::Sled];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    text: String,
}
postcard_record!(Row, version = 1);

fn row(text: &str) -> Row {
    Row { text: text.to_owned() }
}

fn home() -> String {
    "!home".to_owned()
}

async fn open(engine: EngineKind, path: &Path) -> Store {
    Store::open(StoreOptions::for_tests(engine, path, KEYSPACES)).await.unwrap()
}

/// Runs a test on each engine, in a folder of its own.
async fn on_each_engine(test: impl AsyncFn(Store)) {
    test(Store::memory_for_tests(KEYSPACES)).await;
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        test(open(engine, folder.path()).await).await;
    }
}

fn put(text: &str, number: u32) -> Commit {
    let mut commit = Commit::new(&home());
    commit.put(&ROWS, &home(), &(number, text.to_owned()), &row(text));
    commit
}

#[tokio::test]
async fn rows_are_read_back_in_the_order_of_their_keys() {
    on_each_engine(async |store| {
        let mut commit = Commit::new(&home());
        for (number, text) in [(2, "c"), (1, "b"), (1, "a"), (300, "d")] {
            commit.put(&ROWS, &home(), &(number, text.to_owned()), &row(text));
        }
        commit.effect_put(&ROWS, &"!home2".to_owned(), &(0, String::new()), &row("other"));
        store.commit(commit).await.unwrap();

        let texts = async |range: (u32, u32), direction, limit| {
            let range = (range.0, String::new())..(range.1, String::new());
            let rows = store.page(&ROWS, &home(), range, direction, limit).await.unwrap();
            rows.into_iter().map(|(_, row)| row.text).collect::<Vec<_>>()
        };
        assert_eq!(texts((0, 1000), Direction::Forward, 10).await, ["a", "b", "c", "d"]);
        assert_eq!(texts((0, 1000), Direction::Backward, 3).await, ["d", "c", "b"]);
        assert_eq!(texts((1, 2), Direction::Forward, 10).await, ["a", "b"]);
        assert_eq!(texts((2, 1), Direction::Forward, 10).await, [""; 0]);
        let all = store.page(&ROWS, &home(), .., Direction::Forward, 10).await.unwrap();
        assert_eq!(all.len(), 4, "a page never leaves its partition");
        let ones =
            store.page_prefix(&ROWS, &home(), &1_u32, Direction::Backward, 10).await.unwrap();
        assert_eq!(ones.into_iter().map(|(key, _)| key.1).collect::<Vec<_>>(), ["b", "a"]);
        let keys = [(1, "a".to_owned()), (9, "none".to_owned())];
        let many = store.get_many(&ROWS, &home(), &keys).await.unwrap();
        assert_eq!(many, [Some(row("a")), None]);
    })
    .await;
}

#[tokio::test]
async fn positions_are_filled_into_keys_and_values() {
    on_each_engine(async |store| {
        let mut commit = Commit::new(&home());
        let first = commit.next_position();
        let second = commit.next_position();
        for (position, text) in [(first, "first"), (second, "second")] {
            let record = Positioned { position, record: row(text) };
            commit.put(&TIMELINE, &home(), &position, &record);
        }
        let committed = store.commit(commit).await.unwrap();
        assert_eq!(committed.last, committed.first.next());
        assert_eq!(store.notifier().published(), committed.last);
        let page = store.page(&TIMELINE, &home(), .., Direction::Forward, 10).await.unwrap();
        let expected = [(committed.first, "first"), (committed.last, "second")]
            .map(|(position, text)| (position, Positioned { position, record: row(text) }));
        assert_eq!(page, expected);
    })
    .await;
}

#[tokio::test]
async fn a_commit_whose_precondition_fails_changes_nothing() {
    on_each_engine(async |store| {
        let taken = (1, "taken".to_owned());
        let before = store.commit(put("taken", 1)).await.unwrap();

        let mut commit = put("new", 2);
        commit.require_absent(&ROWS, &home(), &taken);
        let refused = store.commit(commit).await;
        assert!(matches!(refused, Err(CommitError::Precondition)), "{refused:?}");
        assert_eq!(store.get(&ROWS, &home(), &(2, "new".to_owned())).await.unwrap(), None);

        let mut commit = Commit::new(&home());
        commit.require(&ROWS, &home(), &taken, &row("something else"));
        assert!(matches!(store.commit(commit).await, Err(CommitError::Precondition)));

        let mut commit = Commit::new(&home());
        commit.require(&ROWS, &home(), &taken, &row("taken"));
        commit.delete(&ROWS, &home(), &taken);
        let after = store.commit(commit).await.unwrap();
        assert_eq!(after.first, before.last.next(), "refused commits take no positions");
        assert_eq!(store.get(&ROWS, &home(), &taken).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn commits_of_one_task_apply_in_order_and_see_each_other() {
    on_each_engine(async |store| {
        let mut tickets = Vec::new();
        for number in 0..500_u32 {
            let mut commit = Commit::new(&home());
            let counter = (0, "counter".to_owned());
            match number.checked_sub(1) {
                None => commit.require_absent(&ROWS, &home(), &counter),
                Some(last) => {
                    commit.require(&ROWS, &home(), &counter, &row(&last.to_string()));
                }
            }
            commit.put(&ROWS, &home(), &counter, &row(&number.to_string()));
            tickets.push(store.submit(commit).await.unwrap());
        }
        let mut last = StreamPosition::ZERO;
        for ticket in tickets {
            let committed = ticket.done().await.unwrap();
            assert!(committed.first > last);
            last = committed.last;
        }
        let counter = store.get(&ROWS, &home(), &(0, "counter".to_owned())).await.unwrap();
        assert_eq!(counter, Some(row("499")));
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_does_not_see_later_commits() {
    on_each_engine(async |store| {
        if store.engine() == EngineKind::Sled {
            return; // Its views are live: see `contract`.
        }
        store.commit(put("a", 1)).await.unwrap();
        let snapshot = store.snapshot();
        store.commit(put("b", 2)).await.unwrap();
        let mut commit = Commit::new(&home());
        commit.delete(&ROWS, &home(), &(1, "a".to_owned()));
        store.commit(commit).await.unwrap();
        let rows = snapshot.page(&ROWS, &home(), .., Direction::Forward, 10).unwrap();
        assert_eq!(rows, [((1, "a".to_owned()), row("a"))]);
        let rows = store
            .bulk(|snapshot| snapshot.page(&ROWS, &home(), .., Direction::Forward, 10))
            .await
            .unwrap();
        assert_eq!(rows, [((2, "b".to_owned()), row("b"))]);
    })
    .await;
}

#[tokio::test]
async fn mistakes_of_the_caller_are_refused() {
    on_each_engine(async |store| {
        let mut stranger = Commit::new(&home());
        stranger.put(&ROWS, &"!elsewhere".to_owned(), &(1, String::new()), &row(""));
        assert!(matches!(store.commit(stranger).await, Err(CommitError::Encoding(_))));

        let mut large = Commit::new(&home());
        for number in 0..1001 {
            large.put(&ROWS, &home(), &(number, String::new()), &row(""));
        }
        assert!(matches!(store.commit(large).await, Err(CommitError::TooLarge(_))));

        let large = put(&"x".repeat(2000), 1);
        assert!(matches!(store.commit(large).await, Err(CommitError::TooLarge(_))));

        let mut unknown = Commit::new(&());
        unknown.put(&Keyspace::<(), u32, Row>::new("unknown"), &(), &1, &row(""));
        assert!(matches!(store.commit(unknown).await, Err(CommitError::Encoding(_))));

        let mut stray = Commit::new(&home());
        let position = StreamPosition::pending(3);
        stray.put(&TIMELINE, &home(), &position, &Positioned { position, record: row("") });
        assert!(matches!(store.commit(stray).await, Err(CommitError::Encoding(_))));

        assert_eq!(
            store.notifier().published(),
            store.commit(put("a", 1)).await.unwrap().first.previous()
        );
    })
    .await;
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<(String, StreamPosition)>>);

impl Listener for Heard {
    fn changed(&self, topic: &Topic, position: StreamPosition) {
        self.0.lock().unwrap().push((topic.as_str().to_owned(), position));
    }
}

#[tokio::test]
async fn touched_topics_wake_their_listeners() {
    on_each_engine(async |store| {
        let heard = Arc::new(Heard::default());
        let listener: Arc<dyn Listener> = heard.clone();
        let (room, other) = (Topic::new("!room"), Topic::new("!other"));
        store.notifier().subscribe(&room, &listener);
        store.notifier().subscribe(&room, &listener);

        let mut commit = put("a", 1);
        commit.touch(room.clone());
        commit.touch(other.clone());
        let committed = store.commit(commit).await.unwrap();
        let heard_so_far = || std::mem::take(&mut *heard.0.lock().unwrap());
        assert_eq!(heard_so_far(), [("!room".to_owned(), committed.last)]);

        store.notifier().poke(&room);
        assert_eq!(heard_so_far(), [("!room".to_owned(), committed.last)]);

        store.notifier().unsubscribe(&room, &listener);
        let mut commit = put("a", 1);
        commit.touch(room.clone());
        let again = store.commit(commit).await.unwrap();
        assert_eq!(heard_so_far(), []);

        let notifier = store.notifier();
        assert!(notifier.changed_since(&room, committed.last));
        assert!(!notifier.changed_since(&room, again.last));
        assert!(!notifier.changed_since(&other, committed.last));
        assert!(notifier.changed_since(&other, committed.first.previous()));
        assert!(!notifier.changed_since(&Topic::new("!never"), StreamPosition::ZERO));
        assert_eq!(notifier.changed_among([&other, &room], committed.last), [1]);
    })
    .await;
}

fn logged(kind: u8, topic: &str, payload: &'static str) -> Commit {
    let mut commit = Commit::new(&home());
    let position = commit.next_position();
    let payload = Bytes::from_static(payload.as_bytes());
    commit.log(position, LogEntry { kind, topic: Topic::new(topic), payload });
    commit
}

#[tokio::test]
async fn the_log_is_read_from_a_cursor_on() {
    on_each_engine(async |store| {
        let first = store.commit(logged(1, "!a", "one")).await.unwrap();
        let mut commit = logged(2, "!b", "two");
        let position = StreamPosition::pending(0);
        let payload = Bytes::from_static(b"three");
        commit.log(position, LogEntry { kind: 3, topic: Topic::new("!c"), payload });
        commit.touch(Topic::new("!d"));
        let second = store.commit(commit).await.unwrap();
        let mut touch = Commit::new(&home());
        touch.touch(Topic::new("!e"));
        store.commit(touch).await.unwrap();

        let kinds = async |after, limit| {
            let records = store.log_after(after, limit).await.unwrap();
            records.iter().map(|record| (record.position, record.entry.kind)).collect::<Vec<_>>()
        };
        let (one, two) = (first.first, second.first);
        assert_eq!(kinds(StreamPosition::ZERO, 10).await, [(one, 1), (two, 2), (two, 3)]);
        assert_eq!(kinds(StreamPosition::ZERO, 2).await, [(one, 1), (two, 2), (two, 3)]);
        assert_eq!(kinds(StreamPosition::ZERO, 1).await, [(one, 1)]);
        assert_eq!(kinds(one, 1).await, [(two, 2), (two, 3)]);
        assert_eq!(kinds(two, 10).await, []);
        let records = store.log_after(one, 10).await.unwrap();
        assert_eq!(records[1].entry.topic.as_str(), "!c");
        assert_eq!(&records[1].entry.payload[..], b"three");

        assert_eq!(store.cursor("push").await.unwrap(), None);
        store.set_cursor("push", two).await.unwrap();
        assert_eq!(store.cursor("push").await.unwrap(), Some(two));
    })
    .await;
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        let store = open(engine, folder.path()).await;
        store.commit(put("old", 1)).await.unwrap();
        let mut commit = put("row", 1);
        let _ = commit.next_position();
        commit.touch(Topic::new("!touched"));
        let committed = store.commit(commit).await.unwrap();
        let lazy = store.commit(put("lazy", 2).lazy()).await.unwrap();
        store.set_cursor("push", committed.last).await.unwrap();
        let last = store.commit(logged(7, "!logged", "payload")).await.unwrap();
        store.close().await.unwrap();
        let refused = store.commit(put("late", 3)).await;
        assert!(matches!(refused, Err(CommitError::Unavailable(_))));
        drop(store);

        let store = open(engine, folder.path()).await;
        assert_eq!(
            store.get(&ROWS, &home(), &(1, "row".to_owned())).await.unwrap(),
            Some(row("row"))
        );
        assert_eq!(
            store.get(&ROWS, &home(), &(2, "lazy".to_owned())).await.unwrap(),
            Some(row("lazy"))
        );
        assert_eq!(store.cursor("push").await.unwrap(), Some(committed.last));
        let notifier = store.notifier();
        assert!(notifier.published() > last.last);
        assert!(notifier.changed_since(&Topic::new("!touched"), committed.first.previous()));
        assert!(!notifier.changed_since(&Topic::new("!touched"), lazy.last));
        assert!(notifier.changed_since(&Topic::new("!logged"), lazy.last));
        assert!(!notifier.changed_since(&Topic::new("!other"), StreamPosition::ZERO));
        let new = store.commit(put("new", 3)).await.unwrap();
        assert!(new.first > last.last);
        assert_eq!(store.log_after(lazy.last, 10).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn each_opening_goes_on_with_new_positions() {
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        let mut last = StreamPosition::ZERO;
        for round in 0..3 {
            let store = open(engine, folder.path()).await;
            let published = store.notifier().published();
            assert!(round == 0 || published > last, "also after an opening without any commit");
            last = published;
        }
    }
}

#[tokio::test]
async fn many_topics_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(EngineKind::Fjall, folder.path()).await;
    let topic = |number| Topic::new(&format!("@user{number}:hearth.test"));
    let mut commit = logged(1, "!room", "payload");
    for number in (0..3_000).chain(0..10) {
        commit.touch(topic(number));
    }
    let committed = store.commit(commit).await.unwrap();
    drop(store);
    let store = open(EngineKind::Fjall, folder.path()).await;
    for number in 0..3_000 {
        assert!(store.notifier().changed_since(&topic(number), StreamPosition::ZERO));
        assert!(!store.notifier().changed_since(&topic(number), committed.last));
    }
    assert_eq!(store.log_after(StreamPosition::ZERO, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_opens_only_for_its_owner() {
    for engine in DURABLE {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions::for_tests(engine, folder.path(), KEYSPACES);
        let store = Store::open(options.clone()).await.unwrap();
        let second = Store::open(options.clone()).await;
        assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
        drop(store);

        let foreign = StoreOptions { server_name: "other.test".to_owned(), ..options.clone() };
        let refused = Store::open(foreign).await;
        assert!(matches!(refused, Err(StoreError::Foreign { .. })), "{refused:?}");
        let other = if engine == EngineKind::Fjall { EngineKind::Sled } else { EngineKind::Fjall };
        let refused = Store::open(StoreOptions { engine: other, ..options.clone() }).await;
        assert!(matches!(refused, Err(StoreError::Foreign { .. })), "{refused:?}");
        Store::open(options).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_committer_that_is_a_task_needs_no_thread_and_no_wall_clock() {
    let options = StoreOptions::for_tests(EngineKind::Memory, Path::new(""), KEYSPACES);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(options.all_keyspaces().len()));
    let pace = Duration::from_hours(1);
    for round in 0..2 {
        let store = Store::open_in_task(Arc::clone(&engine), &options, pace).unwrap();
        let before = tokio::time::Instant::now();
        store.commit(put("there", round)).await.unwrap();
        assert_eq!(before.elapsed(), pace);
        for earlier in 0..=round {
            let key = (earlier, "there".to_owned());
            assert_eq!(store.get(&ROWS, &home(), &key).await.unwrap(), Some(row("there")));
        }
        store.close().await.unwrap();
        assert!(store.commit(put("too late", round)).await.is_err());
    }
}
