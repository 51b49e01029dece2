//! [`Push`]: what all modules of this crate share, and its life.

use std::{
    collections::HashMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use hearth_rooms::Rooms;
use hearth_storage::{Commit, Store};
use hearth_sync::SyncService;
use hearth_types::{Clock, StreamPosition};
use hearth_users::Users;
use parking_lot::{Mutex, RwLock};
use ruma::OwnedUserId;
use tokio::{
    runtime::Handle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Foreground, Gateway, PushConfig, PushError,
    audience::Audiences,
    badge::BadgeCache,
    book::{self, Book},
    deliver,
    keeper::Keeper,
    lanes::Lanes,
    names::NamesCache,
    pushers::{PROGRESS, PUSHERS, ProgressRow},
    registry::{Entry, Key, Registry},
    router,
    throttle::Throttle,
};

/// The consumer of the log whose cursor this crate keeps.
const CONSUMER: &str = "push";
/// How often pushers are looked for that are due, and the cursor is written.
const TICK: Duration = Duration::from_secs(1);
/// The cursor is written when it is so many positions further. After a crash what lies between is read again; what
/// was delivered of it is known from the pushers' rows.
const SAVE_EVERY: u64 = 256;
/// Rows that are deleted at a time.
const MAX_ORPHANS: usize = 256;
/// How long requests in flight may take to end when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the crate stands on.
#[derive(Debug)]
pub struct PushParts {
    /// The store.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Accounts, devices, push rules, receipts.
    pub users: Users,
    /// What happens.
    pub rooms: Rooms,
    /// What notifies, and what is unread.
    pub sync: SyncService,
    /// The section `[push]`.
    pub config: PushConfig,
}

/// Everything about push. Cheap to clone.
#[derive(Clone)]
pub struct Push {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Itself, for work that outlives its caller.
    pub(crate) this: Weak<Self>,
    pub(crate) parts: PushParts,
    pub(crate) registry: Registry,
    pub(crate) lanes: Mutex<Lanes>,
    pub(crate) audiences: Audiences,
    pub(crate) badges: BadgeCache,
    pub(crate) names: NamesCache,
    pub(crate) book: Book,
    gateway: RwLock<Option<Arc<dyn Gateway>>>,
    running: OnceLock<Running>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    workers: TaskTracker,
}

/// What is known once it is started.
struct Running {
    /// Where all of it runs.
    runtime: Handle,
    /// What was published then.
    since: StreamPosition,
    throttle: Arc<Throttle>,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push").finish_non_exhaustive()
    }
}

impl Push {
    /// Reads the pushers and plugs itself into the users' devices, with which pushers go. Sends nothing before
    /// it is [started](Self::start).
    pub async fn open(parts: PushParts) -> Result<Self, PushError> {
        let registry = Registry::default();
        load(&parts.store, &registry).await?;
        let inner = Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            parts,
            registry,
            lanes: Mutex::default(),
            audiences: Audiences::new(),
            badges: BadgeCache::new(),
            names: NamesCache::new(),
            book: Book::default(),
            gateway: RwLock::default(),
            running: OnceLock::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            workers: TaskTracker::new(),
        });
        let push = Self { inner };
        let keeper = Keeper(Arc::downgrade(&push.inner));
        push.inner.parts.users.add_device_keeper(Arc::new(keeper));
        Ok(push)
    }

    /// Begins to push, from where a former run stopped. The first run of all begins with what happens from now
    /// on. All of it runs on this runtime, which may have less of the processors than the others, and leaves
    /// the foreground's work alone, if there is one. The first call counts.
    pub async fn start(
        &self,
        gateway: Arc<dyn Gateway>,
        runtime: Handle,
        foreground: Option<Arc<dyn Foreground>>,
    ) -> Result<(), PushError> {
        let inner = &self.inner;
        let since = inner.parts.store.notifier().published();
        let throttle = Arc::new(Throttle::new(foreground));
        let observed = Arc::clone(&throttle);
        if inner.running.set(Running { runtime, since, throttle }).is_err() {
            return Ok(());
        }
        *inner.gateway.write() = Some(gateway);
        let store = &inner.parts.store;
        let cursor = if let Some(cursor) = store.cursor(CONSUMER).await? {
            cursor
        } else {
            let now = store.notifier().published();
            store.set_cursor(CONSUMER, now).await?;
            now
        };
        {
            let mut lanes = inner.lanes.lock();
            *lanes = Lanes::new(cursor);
            for entry in inner.registry.all() {
                let progress = entry.progress();
                if progress.is_behind {
                    lanes.set_behind(&entry, progress.retry_ms);
                }
            }
        }
        inner.spawn(router::run(Arc::clone(inner), Arc::clone(&observed)));
        // Not on that runtime: whoever deletes a pusher waits for this.
        book::open(inner);
        inner.spawn(tick(Arc::clone(inner)));
        inner.spawn(async move { observed.observe().await });
        Ok(())
    }

    /// The section `[push]`.
    #[must_use]
    pub fn config(&self) -> &PushConfig {
        &self.inner.parts.config
    }

    /// Stops pushing: what is in flight may end, what waits is sent by the next run.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.lanes.lock().close();
        if let Some(throttle) = inner.throttle() {
            throttle.close();
        }
        inner.workers.close();
        if timeout(CLOSE_TIMEOUT, inner.workers.wait()).await.is_err() {
            tracing::info!("a push gateway did not answer before the end: it is told again");
        }
        inner.stop.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
        inner.workers.wait().await;
        if let Err(error) = inner.save(1).await {
            tracing::warn!(%error, "push could not note how far it got");
        }
        let gateway = inner.gateway.write().take();
        drop(gateway);
    }
}

/// Reads all pushers.
async fn load(store: &Store, registry: &Registry) -> Result<(), PushError> {
    let read = store.bulk(|view| {
        let (mut pushers, mut progress) = (Vec::new(), HashMap::new());
        view.for_each(&PUSHERS, |user_id, key, row| {
            pushers.push((user_id, key, row));
            ControlFlow::Continue(())
        })?;
        view.for_each(&PROGRESS, |user_id, key, row: ProgressRow| {
            progress.insert((user_id, key), row);
            ControlFlow::Continue(())
        })?;
        Ok((pushers, progress))
    });
    let (pushers, mut progress) = read.await?;
    for (user_id, key, row) in pushers {
        let got = progress.remove(&(user_id.clone(), key.clone())).unwrap_or_default();
        registry.insert(user_id, key, row, got);
    }
    drop_orphans(store, progress.into_keys().collect()).await
}

/// Deletes the progress of pushers that are not there any more: a crash between a deletion and [`Inner::forget`] leaves some.
async fn drop_orphans(store: &Store, orphans: Vec<(OwnedUserId, Key)>) -> Result<(), PushError> {
    for some in orphans.chunks(MAX_ORPHANS) {
        let mut commit = Commit::new(&()).lazy();
        for (user_id, key) in some {
            commit.delete(&PROGRESS, user_id, key);
        }
        store.commit(commit).await?;
    }
    Ok(())
}

/// Tries those again that are due, and notes how far the others are.
async fn tick(inner: Arc<Inner>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        inner.lanes.lock().wake_due(inner.now_ms());
        inner.hire();
        if let Err(error) = inner.let_go().await {
            tracing::warn!(%error, "slow pushers could not be noted");
        }
        if let Err(error) = inner.save(SAVE_EVERY).await {
            tracing::warn!(%error, "push could not note how far it got");
        }
    }
}

impl Inner {
    /// Does work that is cut off at its next pause when the server stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let Some(Running { runtime, .. }) = self.running.get() else { return };
        let work = async move {
            stop.run_until_cancelled(work).await;
        };
        self.tasks.spawn_on(work, runtime);
    }

    /// Sees to it that somebody works for those who are ready.
    pub(crate) fn hire(self: &Arc<Self>) {
        let Some(Running { runtime, throttle, .. }) = self.running.get() else { return };
        let hired = self.lanes.lock().hire();
        for _ in 0..hired {
            let stop = self.stop.clone();
            let work = deliver::work(Arc::clone(self), Arc::clone(throttle));
            let work = async move {
                stop.run_until_cancelled(work).await;
            };
            self.workers.spawn_on(work, runtime);
        }
    }

    /// Writes the cursor if it is so many positions further.
    async fn save(&self, every: u64) -> Result<(), PushError> {
        let settled = self.lanes.lock().settled();
        let store = &self.parts.store;
        let Some(saved) = store.cursor(CONSUMER).await? else { return Ok(()) };
        if settled.get().saturating_sub(saved.get()) >= every {
            store.set_cursor(CONSUMER, settled).await?;
        }
        Ok(())
    }

    /// A pusher was deleted; its rows are gone. In its user's turn, so that nobody makes it anew meanwhile.
    pub(crate) async fn forget(&self, entry: &Arc<Entry>) -> Result<(), PushError> {
        self.registry.remove(entry);
        self.lanes.lock().forget(entry.serial);
        // Its progress may have been on the way to the store, and have come there after the deletion.
        Ok(self.book.delete(entry).await?)
    }

    /// A pusher that failed may be worth a try.
    pub(crate) fn retry_now(self: &Arc<Self>, entry: &Entry) {
        self.lanes.lock().wake(entry.serial);
        self.hire();
    }

    /// What was published when this run began.
    pub(crate) fn started(&self) -> Option<StreamPosition> {
        self.running.get().map(|running| running.since)
    }

    /// What push waits for its turns at.
    pub(crate) fn throttle(&self) -> Option<&Arc<Throttle>> {
        self.running.get().map(|running| &running.throttle)
    }

    pub(crate) fn gateway(&self) -> Option<Arc<dyn Gateway>> {
        self.gateway.read().clone()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.parts.clock.now_ms()
    }

    /// How long a pusher is left alone that failed so many times, in milliseconds; not the same for all, so
    /// that not all come at once to a gateway that is back.
    pub(crate) fn backoff_ms(&self, entry: &Entry, failures: u32) -> u64 {
        let step = self.parts.config.backoff_ms(failures);
        step.saturating_add(step / 1_024 * (entry.serial % 256))
    }
}
