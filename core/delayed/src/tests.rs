//! What happens at the edges of time: crashes, refusals, actions while an event is being sent.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hearth_storage::Store;
use hearth_types::ManualClock;
use parking_lot::Mutex;
use ruma::{
    OwnedEventId, OwnedUserId, UserId, owned_device_id, owned_event_id, owned_room_id,
    owned_user_id,
};
use tokio::sync::Notify;

use crate::{
    Action, Delayed, DelayedConfig, DelayedError, DelayedParts, Due, Fate, KEYSPACES, ListRequest,
    NewDelayed, Refusal, Sender, Since, Status, Unsent, finalise::MIN_FINALISED,
};

/// A room that answers as it is told, and otherwise takes everything.
#[derive(Default)]
struct Room {
    answers: Mutex<VecDeque<Refusal>>,
    sent: Mutex<Vec<String>>,
    came: Notify,
    /// Holds back the answers, if it is there: to one user only, if one is named.
    gate: Option<Notify>,
    held_back: Option<OwnedUserId>,
    /// What the rooms keep when the server is killed.
    kept: Arc<Mutex<HashSet<String>>>,
    /// How many events a user may still send, if there is a limit.
    left: Option<Mutex<usize>>,
    charged: AtomicUsize,
}

#[async_trait]
impl Sender for Room {
    async fn sent(&self, due: &Due) -> Result<Option<OwnedEventId>, Refusal> {
        Ok(self.kept.lock().contains(&due.delay_id).then(|| owned_event_id!("$sent")))
    }

    async fn check_account(&self, _: &UserId) -> Result<(), Refusal> {
        Ok(())
    }

    fn charge(&self, _: &UserId) -> Result<(), Refusal> {
        if let Some(left) = &self.left {
            let mut left = left.lock();
            let over = || Refusal { fate: Fate::Refused, ..refusal(429, "M_LIMIT_EXCEEDED") };
            *left = left.checked_sub(1).ok_or_else(over)?;
        }
        self.charged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn send(&self, due: Due) -> Result<OwnedEventId, Refusal> {
        let is_held_back = self.held_back.as_ref().is_none_or(|held| *held == due.event.user_id);
        self.sent.lock().push(due.delay_id.clone());
        self.came.notify_one();
        if let Some(refusal) = self.answers.lock().pop_front() {
            return Err(refusal);
        }
        self.kept.lock().insert(due.delay_id);
        if let Some(gate) = self.gate.as_ref().filter(|_| is_held_back) {
            gate.notified().await;
        }
        Ok(owned_event_id!("$sent"))
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
        Self::configured(store, clock, DelayedConfig::default())
    }

    fn configured(store: Store, clock: Arc<ManualClock>, config: DelayedConfig) -> Self {
        let delayed =
            Delayed::open(DelayedParts { store: store.clone(), clock: clock.clone(), config });
        Self { store, clock, delayed }
    }

    /// What a process finds that is started after this one was killed.
    fn after_a_crash(&self) -> Self {
        Self::over(self.store.clone(), Arc::clone(&self.clock))
    }

    async fn schedule(&self, delay_ms: u64) -> String {
        self.schedule_for(owned_user_id!("@alice:example.org"), delay_ms).await
    }

    async fn schedule_for(&self, user_id: OwnedUserId, delay_ms: u64) -> String {
        let event = Unsent {
            user_id,
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
                return self.delayed.get(&found.user_id, delay_id).await.unwrap().error;
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
        fate: if status == 429 || status >= 500 { Fate::Later } else { Fate::Refused },
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
    assert_eq!(*room.sent.lock(), std::slice::from_ref(&delay_id));
    let next = world.after_a_crash();
    // Its user may not send anything more now.
    let left = Some(Mutex::new(0));
    let room_then = Arc::new(Room { kept: Arc::clone(&room.kept), left, ..Room::default() });
    next.delayed.start(room_then.clone());
    assert_eq!(next.error_of(&delay_id).await, None);
    assert_eq!(*room_then.sent.lock(), [] as [&str; 0], "the room has it by this ID");
    next.delayed.close().await;
}

#[tokio::test]
async fn what_is_over_the_users_limit_is_told_and_not_tried_again() {
    let world = World::new();
    let mut scheduled = Vec::new();
    for delay_ms in 1..=5 {
        scheduled.push(world.schedule(delay_ms).await);
    }
    world.clock.advance(Duration::from_secs(1));
    let room = Arc::new(Room { left: Some(Mutex::new(3)), ..Room::default() });
    world.delayed.start(room.clone());
    for (number, delay_id) in scheduled.iter().enumerate() {
        let error = world.error_of(delay_id).await.map(|(errcode, _)| errcode);
        assert_eq!(error.as_deref(), (number >= 3).then_some("M_LIMIT_EXCEEDED"));
    }
    assert_eq!(*room.sent.lock(), scheduled[..3], "the earliest, in their order");
    // By hand it is refused as any event is, and may be sent later.
    let delay_id = world.schedule(60_000).await;
    let answer = world.delayed.manage(&delay_id, Action::Send).await;
    assert!(matches!(answer, Err(DelayedError::Refused(_))), "{answer:?}");
    *room.left.as_ref().unwrap().lock() = 1;
    world.delayed.manage(&delay_id, Action::Send).await.unwrap();
    assert_eq!(room.charged.load(Ordering::Relaxed), 4);
    world.delayed.close().await;
}

#[tokio::test]
async fn a_users_events_are_sent_one_after_the_other_and_nobody_elses_wait_for_them() {
    let world = World::new();
    let alice = owned_user_id!("@alice:example.org");
    let second = world.schedule(20).await;
    let first = world.schedule(10).await;
    let other = world.schedule_for(owned_user_id!("@bob:example.org"), 30).await;
    world.clock.advance(Duration::from_secs(1));
    let (gate, held_back) = (Some(Notify::new()), Some(alice));
    let room = Arc::new(Room { gate, held_back, ..Room::default() });
    world.delayed.start(room.clone());
    assert_eq!(world.error_of(&other).await, None);
    assert_eq!(*room.sent.lock(), [&*first, &*other], "the second waits for the first");
    room.gate.as_ref().unwrap().notify_one();
    assert_eq!(world.error_of(&first).await, None);
    room.gate.as_ref().unwrap().notify_one();
    assert_eq!(world.error_of(&second).await, None);
    world.delayed.close().await;
}

#[tokio::test]
async fn if_all_that_is_scheduled_ends_at_once_each_end_is_remembered() {
    let (store, clock) =
        (Store::memory_for_tests(KEYSPACES), Arc::new(ManualClock::new(1_000_000)));
    let max_scheduled = MIN_FINALISED + 5;
    let config = DelayedConfig { max_scheduled, ..DelayedConfig::default() };
    let world = World::configured(store, clock, config);
    let mut scheduled = Vec::new();
    for _ in 0..max_scheduled {
        scheduled.push(world.schedule(1).await);
    }
    world.clock.advance(Duration::from_secs(1));
    let room = Arc::new(Room { left: Some(Mutex::new(0)), ..Room::default() });
    world.delayed.start(room);
    for delay_id in scheduled {
        assert!(world.error_of(&delay_id).await.is_some());
    }
    world.delayed.close().await;
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
    assert_eq!(room.charged.load(Ordering::Relaxed), 1, "a busy room costs its user nothing");
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
    for _ in 0..MIN_FINALISED + 3 {
        let delay_id = world.schedule(10_000).await;
        world.delayed.manage(&delay_id, Action::Cancel).await.unwrap();
        world.clock.advance(Duration::from_millis(1));
    }
    let user_id = owned_user_id!("@alice:example.org");
    assert_eq!(world.delayed.inner.of_user(&user_id).await.unwrap().len(), MIN_FINALISED);
    let scheduled = world.schedule(10_000).await;
    world.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(world.delayed.inner.sweep().await.unwrap(), MIN_FINALISED);
    let left = world.delayed.inner.of_user(&user_id).await.unwrap();
    assert_eq!(left.iter().map(|found| &found.delay_id).collect::<Vec<_>>(), [&scheduled]);
}
