//! What happens at the edges of time: crashes, refusals, actions while an event is being sent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use hearth_storage::Store;
use hearth_types::ManualClock;
use parking_lot::Mutex;
use ruma::{OwnedEventId, owned_device_id, owned_event_id, owned_room_id, owned_user_id};
use tokio::sync::Notify;

use crate::{
    Action, Delayed, DelayedConfig, DelayedError, DelayedParts, Due, KEYSPACES, ListRequest,
    NewDelayed, Refusal, Sender, Since, Status, Unsent, finalise::MAX_FINALISED,
};

/// A room that answers as it is told, and otherwise takes everything.
#[derive(Default)]
struct Room {
    answers: Mutex<VecDeque<Refusal>>,
    sent: Mutex<Vec<String>>,
    came: Notify,
    /// Holds back the answers, if it is there.
    gate: Option<Notify>,
}

#[async_trait]
impl Sender for Room {
    async fn send(&self, due: Due) -> Result<OwnedEventId, Refusal> {
        self.sent.lock().push(due.delay_id);
        self.came.notify_one();
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
        match self.answers.lock().pop_front() {
            Some(refusal) => Err(refusal),
            None => Ok(owned_event_id!("$sent")),
        }
    }
}

struct World {
    store: Store,
    clock: Arc<ManualClock>,
    delayed: Delayed,
}

impl World {
    fn new() -> Self {
        Self::over(Store::memory_for_tests(KEYSPACES), Arc::new(ManualClock::new(1_000_000)))
    }

    fn over(store: Store, clock: Arc<ManualClock>) -> Self {
        let delayed = Delayed::open(DelayedParts {
            store: store.clone(),
            clock: clock.clone(),
            config: DelayedConfig::default(),
        });
        Self { store, clock, delayed }
    }

    /// What a process finds that is started after this one was killed.
    fn after_a_crash(&self) -> Self {
        Self::over(self.store.clone(), Arc::clone(&self.clock))
    }

    async fn schedule(&self, delay_ms: u64) -> String {
        let event = Unsent {
            user_id: owned_user_id!("@alice:example.org"),
            device_id: owned_device_id!("PHONE"),
            room_id: owned_room_id!("!room:example.org"),
            event_type: "m.room.message".to_owned(),
            state_key: None,
            content: serde_json::from_str("{}").unwrap(),
        };
        let new = NewDelayed { event, delay_ms, transaction_id: None };
        self.delayed.schedule(new).await.unwrap()
    }

    async fn count(&self, status: Status) -> usize {
        let (status, since) = (Some(status), Since::At(0));
        let request = ListRequest { status, since, ..ListRequest::default() };
        let user_id = owned_user_id!("@alice:example.org");
        self.delayed.list(&user_id, &request).await.unwrap().events.len()
    }

    /// The error with which an event ended, once it has.
    async fn error_of(&self, delay_id: &str) -> Option<(String, String)> {
        loop {
            let found = self.delayed.inner.find(delay_id).await.unwrap().unwrap();
            if found.row.finalised.is_some() {
                let user_id = owned_user_id!("@alice:example.org");
                return self.delayed.get(&user_id, delay_id).await.unwrap().error;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn refusal(status: u16, errcode: &str) -> Refusal {
    Refusal {
        status,
        errcode: errcode.to_owned(),
        message: "no".to_owned(),
        retry_after: None,
        is_orphaned: false,
    }
}

#[tokio::test]
async fn what_fell_due_while_nothing_ran_is_sent_at_once_and_known_again_after_a_crash() {
    let world = World::new();
    let delay_id = world.schedule(10_000).await;
    world.clock.advance(Duration::from_hours(1));
    // The room has the event, and the process ends before it can write that down.
    let room = Arc::new(Room { gate: Some(Notify::new()), ..Room::default() });
    world.delayed.start(room.clone());
    room.came.notified().await;
    let next = world.after_a_crash();
    let room_then = Arc::new(Room::default());
    next.delayed.start(room_then.clone());
    assert_eq!(next.error_of(&delay_id).await, None);
    assert_eq!(*room.sent.lock(), std::slice::from_ref(&delay_id));
    assert_eq!(*room_then.sent.lock(), [delay_id], "the room knows it by the same ID");
    next.delayed.close().await;
}

#[tokio::test]
async fn nothing_is_sent_before_its_time() {
    let world = World::new();
    let room = Arc::new(Room::default());
    world.delayed.start(room.clone());
    let late = world.schedule(10_000).await;
    let soon = world.schedule(1).await;
    world.clock.advance(Duration::from_millis(9_999));
    // Wakes the clock, which looks at what is due now.
    world.delayed.inner.changed.notify_one();
    assert_eq!(world.error_of(&soon).await, None);
    assert_eq!(*room.sent.lock(), [soon]);
    world.clock.advance(Duration::from_millis(1));
    world.delayed.inner.changed.notify_one();
    assert_eq!(world.error_of(&late).await, None);
    world.delayed.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_and_what_may_not_is_recorded() {
    let world = World::new();
    let room = Arc::new(Room::default());
    room.answers.lock().extend([refusal(429, "M_LIMIT_EXCEEDED"), refusal(403, "M_FORBIDDEN")]);
    let delay_id = world.schedule(1).await;
    world.clock.advance(Duration::from_secs(1));
    world.delayed.start(room.clone());
    room.came.notified().await;
    while world.count(Status::Finalised).await == 0 {
        world.clock.advance(Duration::from_secs(1));
        world.delayed.inner.changed.notify_one();
        tokio::task::yield_now().await;
    }
    let error = world.error_of(&delay_id).await;
    assert_eq!(error, Some(("M_FORBIDDEN".to_owned(), "no".to_owned())));
    assert_eq!(room.sent.lock().len(), 2);
    world.delayed.close().await;
}

#[tokio::test]
async fn who_cancels_what_is_being_sent_learns_that_it_was() {
    let world = World::new();
    let room = Arc::new(Room { gate: Some(Notify::new()), ..Room::default() });
    let delay_id = world.schedule(1).await;
    world.clock.advance(Duration::from_secs(1));
    world.delayed.start(room.clone());
    room.came.notified().await;
    let cancel = {
        let (delayed, delay_id) = (world.delayed.clone(), delay_id.clone());
        tokio::spawn(async move { delayed.manage(&delay_id, Action::Cancel).await })
    };
    room.gate.as_ref().unwrap().notify_one();
    let answer = cancel.await.unwrap();
    assert!(matches!(answer, Err(DelayedError::Finalised(_))), "{answer:?}");
    assert_eq!(room.sent.lock().len(), 1);
    world.delayed.close().await;
}

#[tokio::test]
async fn only_so_many_finalised_events_are_remembered_and_none_for_long() {
    let world = World::new();
    for _ in 0..MAX_FINALISED + 3 {
        let delay_id = world.schedule(10_000).await;
        world.delayed.manage(&delay_id, Action::Cancel).await.unwrap();
        world.clock.advance(Duration::from_millis(1));
    }
    let user_id = owned_user_id!("@alice:example.org");
    assert_eq!(world.delayed.inner.of_user(&user_id).await.unwrap().len(), MAX_FINALISED);
    let scheduled = world.schedule(10_000).await;
    world.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(world.delayed.inner.sweep().await.unwrap(), MAX_FINALISED);
    let left = world.delayed.inner.of_user(&user_id).await.unwrap();
    assert_eq!(left.iter().map(|found| &found.delay_id).collect::<Vec<_>>(), [&scheduled]);
}
