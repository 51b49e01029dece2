//! [`Delayed`]: what all modules of this crate share, and its life.

use std::{collections::HashSet, fmt, ops::Bound, sync::Arc};

use hearth_storage::{Direction, OwnerLocks, Store};
use hearth_types::Clock;
use parking_lot::{Mutex, RwLock};
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    DelayedConfig, DelayedError, Sender, due,
    schema::{EVENTS, Found, OWNERS},
};

/// Users whose events are sent at a time: rooms take events one after the other, and one may wait for a policy
/// server.
const MAX_SENDING: usize = 64;
/// Rows that are read at a time.
pub(crate) const PAGE: usize = 100;

/// What the crate stands on.
#[derive(Debug)]
pub struct DelayedParts {
    /// The store.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The section `[delayed_events]`.
    pub config: DelayedConfig,
}

/// Everything about delayed events. Cheap to clone.
#[derive(Clone)]
pub struct Delayed {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) parts: DelayedParts,
    /// Turns of events, by their ID: one at a time sends, cancels or restarts one. Taken before a user's lock.
    pub(crate) turns: OwnerLocks,
    /// One at a time schedules or finalises a user's events.
    pub(crate) users: OwnerLocks,
    /// Whose events the clock has begun to send.
    pub(crate) sending: Mutex<HashSet<OwnedUserId>>,
    pub(crate) places: Arc<Semaphore>,
    /// What is due first may be another.
    pub(crate) changed: Notify,
    pub(crate) sender: RwLock<Option<Arc<dyn Sender>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl fmt::Debug for Delayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delayed").finish_non_exhaustive()
    }
}

impl Delayed {
    /// Delayed events, none of which is sent before [`Self::start`].
    #[must_use]
    pub fn open(parts: DelayedParts) -> Self {
        let inner = Arc::new(Inner {
            parts,
            turns: OwnerLocks::new(),
            users: OwnerLocks::new(),
            sending: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_SENDING)),
            changed: Notify::new(),
            sender: RwLock::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        Self { inner }
    }

    /// Begins to send what is due, what fell due while no server ran at once.
    pub fn start(&self, sender: Arc<dyn Sender>) {
        *self.inner.sender.write() = Some(sender);
        self.inner.spawn(due::follow(Arc::clone(&self.inner)));
        self.inner.spawn(due::sweep_regularly(Arc::clone(&self.inner)));
    }

    /// The section `[delayed_events]`.
    #[must_use]
    pub fn config(&self) -> &DelayedConfig {
        &self.inner.parts.config
    }

    /// Stops sending. What is being sent is finished.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.stop.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
        let sender = inner.sender.write().take();
        drop(sender);
    }
}

impl Inner {
    /// Does work that is cut off at its next pause when the server stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// Does work to its end, even if whoever asked for it goes away.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, DelayedError>> + Send + 'static,
    ) -> Result<T, DelayedError> {
        let ended = self.tasks.spawn(work.in_current_span()).await;
        ended.map_err(|error| DelayedError::Internal(format!("a task did not finish: {error}")))?
    }

    pub(crate) fn store(&self) -> &Store {
        &self.parts.store
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.parts.clock.now_ms()
    }

    /// The event of this ID.
    pub(crate) async fn find(&self, delay_id: &str) -> Result<Option<Found>, DelayedError> {
        let delay_id = delay_id.to_owned();
        let Some(owner) = self.store().get(&OWNERS, &delay_id, &()).await? else {
            return Ok(None);
        };
        let row = self.store().get(&EVENTS, &owner.0, &delay_id).await?;
        Ok(row.map(|row| Found { user_id: owner.0, delay_id, row }))
    }

    /// All events of a user, in no useful order.
    pub(crate) async fn of_user(&self, user_id: &UserId) -> Result<Vec<Found>, DelayedError> {
        let user_id: OwnedUserId = user_id.to_owned();
        let mut all = Vec::new();
        let mut from = Bound::Unbounded;
        loop {
            let range = (from, Bound::Unbounded);
            let page =
                self.store().page(&EVENTS, &user_id, range, Direction::Forward, PAGE).await?;
            let is_last = page.len() < PAGE;
            let Some((last, _)) = page.last() else { return Ok(all) };
            from = Bound::Excluded(last.clone());
            all.extend(page.into_iter().map(|(delay_id, row)| Found {
                user_id: user_id.clone(),
                delay_id,
                row,
            }));
            if is_last {
                return Ok(all);
            }
        }
    }
}
