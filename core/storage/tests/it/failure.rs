//! An engine that fails: nothing is acknowledged any more. And a queue that fills up.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use hearth_storage::{
    Commit, CommitError, Direction, Engine, EngineError, EngineKind, Keyspace, Store, StoreOptions,
    View,
    engine::{KeyRange, KeyspaceIndex, Visitor, Write, memory::MemoryEngine},
    migrate::MIGRATIONS,
};
use parking_lot::{Condvar, Mutex};

const ROWS: Keyspace<(), u32, Bytes> = Keyspace::new("rows");

/// Rows in memory; fails when it is told to, waits while its gate is held.
#[derive(Debug)]
struct Faulty {
    rows: MemoryEngine,
    broken: AtomicBool,
    /// Whether batches have to wait.
    held: Mutex<bool>,
    released: Condvar,
}

impl Faulty {
    fn hold(&self, hold: bool) {
        *self.held.lock() = hold;
        self.released.notify_all();
    }
}

impl Engine for Faulty {
    fn apply(&self, writes: Vec<Write>, durable: bool) -> Result<(), EngineError> {
        let mut held = self.held.lock();
        self.released.wait_while(&mut held, |held| *held);
        drop(held);
        if self.broken.load(Ordering::SeqCst) {
            return Err(EngineError("the disk is gone".to_owned()));
        }
        self.rows.apply(writes, durable)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.rows.sync()
    }

    fn view(&self) -> Box<dyn View + Send + Sync> {
        self.rows.view()
    }
}

impl View for Faulty {
    fn get(&self, keyspace: KeyspaceIndex, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.rows.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: KeyspaceIndex,
        range: KeyRange<'_>,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.rows.scan(keyspace, range, direction, visit)
    }
}

fn open() -> (Arc<Faulty>, Store) {
    let options =
        StoreOptions::for_tests(EngineKind::Memory, std::path::Path::new(""), &[ROWS.name()]);
    let rows = MemoryEngine::new(options.all_keyspaces().len());
    let engine = Arc::new(Faulty {
        rows,
        broken: AtomicBool::new(false),
        held: Mutex::new(false),
        released: Condvar::new(),
    });
    let store = Store::open_over(engine.clone(), &options, MIGRATIONS).unwrap();
    (engine, store)
}

fn put(number: u32) -> Commit {
    let mut commit = Commit::new(&());
    commit.put(&ROWS, &(), &number, &Bytes::from_static(b"row"));
    commit
}

#[tokio::test]
async fn a_failed_engine_closes_the_store() {
    let (engine, store) = open();
    let before = store.commit(put(1)).await.unwrap();
    engine.broken.store(true, Ordering::SeqCst);
    // Both may share one batch.
    let (first, second) = (store.submit(put(2)).await.unwrap(), store.submit(put(3)).await);
    assert!(matches!(first.done().await, Err(CommitError::Unavailable(_))));
    if let Ok(second) = second {
        assert!(matches!(second.done().await, Err(CommitError::Unavailable(_))));
    }
    assert_eq!(store.notifier().published(), before.last, "nothing was published");
    engine.broken.store(false, Ordering::SeqCst);
    let after = store.commit(put(4)).await;
    let reason = after.unwrap_err().to_string();
    assert!(reason.contains("the disk is gone"), "{reason}");
    assert_eq!(store.get(&ROWS, &(), &2).await.unwrap(), None);
    assert!(store.get(&ROWS, &(), &1).await.unwrap().is_some(), "reading goes on");
    assert!(store.close().await.is_err());
}

#[tokio::test]
async fn a_full_queue_lets_writers_wait_and_group_commit_takes_all() {
    let (engine, store) = open();
    engine.hold(true);
    let mut tickets = Vec::new();
    let full = loop {
        let submission = store.submit(put(tickets.len().try_into().unwrap()));
        // Without the runtime's own reasons to wait.
        let mut submission = Box::pin(tokio::task::unconstrained(submission));
        match poll_once(&mut submission).await {
            Some(ticket) => tickets.push(ticket.unwrap()),
            None => break submission,
        }
    };
    assert_eq!(tickets.len(), 4_096);
    engine.hold(false);
    let last = full.await.unwrap().done().await.unwrap();
    for ticket in tickets {
        assert!(ticket.done().await.unwrap().last < last.first);
    }
}

/// What the future has to say at once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        let poll = std::pin::Pin::new(&mut *future).poll(context);
        std::task::Poll::Ready(match poll {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn dropping_the_store_finishes_what_was_submitted() {
    let (engine, store) = open();
    engine.hold(true);
    let tickets = [store.submit(put(1)).await.unwrap(), store.submit(put(2)).await.unwrap()];
    engine.hold(false);
    drop(store);
    for ticket in tickets {
        ticket.done().await.unwrap();
    }
}
