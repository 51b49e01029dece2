//! What all participants share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_testkit::{TestServer, TestUser};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A user of the soak.
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) login: TestUser,
    /// Changes whom it ignores: what it is shown of messages is not counted.
    pub(crate) ignores: bool,
}

/// A room that somebody made and the watcher joined.
#[derive(Debug)]
pub(crate) struct RoomInfo {
    pub(crate) id: String,
    pub(crate) creator: usize,
    /// Acknowledged messages that are in no thread: event, sender.
    pub(crate) messages: Mutex<Vec<(String, usize)>>,
}

/// The time of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Acting,
    Finishing,
    Quiet,
}

/// What all participants share.
pub(crate) struct World {
    pub(crate) users: Vec<User>,
    pub(crate) watcher: TestUser,
    pub(crate) rooms: Mutex<Vec<Arc<RoomInfo>>>,
    /// Acknowledged events: room, event, the text that only it has.
    pub(crate) acknowledged: Mutex<Vec<(String, String, Option<String>)>>,
    phase: watch::Sender<Phase>,
    up: watch::Sender<bool>,
    runs: AtomicU64,
    failures: Mutex<Vec<String>>,
    pub(crate) base: String,
    pub(crate) syncs: AtomicU64,
    pub(crate) filled: AtomicU64,
    pub(crate) excused: AtomicU64,
    pub(crate) updates: AtomicU64,
}

impl World {
    pub(crate) async fn new(server: &TestServer, users: usize) -> Self {
        let watcher = server.register("watcher").await;
        let mut known = Vec::new();
        for number in 0..users {
            let login = server.register(&format!("u{number}")).await;
            let id = login.user_id.to_string();
            known.push(User { id, login, ignores: number == 0 });
        }
        Self {
            users: known,
            watcher,
            rooms: Mutex::default(),
            acknowledged: Mutex::default(),
            phase: watch::Sender::new(Phase::Acting),
            up: watch::Sender::new(true),
            runs: AtomicU64::new(0),
            failures: Mutex::default(),
            base: server.client().base().to_owned(),
            syncs: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            updates: AtomicU64::new(0),
        }
    }

    pub(crate) fn fail(&self, fault: String) {
        self.failures.lock().push(fault);
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.up.send_replace(up);
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Counts stops and starts.
    pub(crate) fn run(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) async fn wait_until_up(&self) {
        self.up.subscribe().wait_for(|up| *up).await.expect("the world lasts");
    }

    pub(crate) fn finish_acting(&self) {
        self.phase.send_replace(Phase::Finishing);
    }

    pub(crate) fn fall_quiet(&self) {
        self.phase.send_replace(Phase::Quiet);
    }

    pub(crate) fn is_acting(&self) -> bool {
        *self.phase.borrow() == Phase::Acting
    }

    pub(crate) fn is_quiet(&self) -> bool {
        *self.phase.borrow() == Phase::Quiet
    }

    /// Waits until nobody does anything any more.
    pub(crate) async fn quiet(&self) {
        let mut phase = self.phase.subscribe();
        phase.wait_for(|phase| *phase == Phase::Quiet).await.expect("the world lasts");
    }

    pub(crate) fn stats(&self) -> String {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        format!(
            "{} rooms, {} acknowledged events, {} syncs, {} updates by WebSocket, {} gaps filled, {} excused",
            self.rooms.lock().len(),
            self.acknowledged.lock().len(),
            count(&self.syncs),
            count(&self.updates),
            count(&self.filled),
            count(&self.excused),
        )
    }
}
