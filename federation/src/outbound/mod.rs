//! What other servers are sent: events and EDUs, by transactions.
//!
//! One task reads the log and routes what concerns other servers to their queues in memory (`router`,
//! `lanes`); each destination with something to send has a task of its own, with at most one
//! transaction in flight (`sender`). A destination that could not be reached reads the log again from
//! where it stopped; one that was long away gets its rooms' newest events and fetches the rest itself
//! (`catch_up`). Typing, receipts and presence go along, the newest of each (`edus`, `ephemeral`), and so
//! do messages to devices (`messages`) and what changed of this server's devices (`lists`). How
//! far everybody got is persisted once a second (`cursors`): after a crash a little is sent twice, which
//! does no harm, and nothing is left out.

mod catch_up;
mod cursors;
mod edus;
mod ephemeral;
mod lanes;
mod latecomers;
mod lists;
mod messages;
mod report;
mod router;
mod sender;

use std::{fmt, sync::Arc, time::Duration};

use hearth_e2ee::E2ee;
use hearth_rooms::{RoomError, Rooms};
use hearth_storage::{Store, StoreError};
use hearth_types::{Clock, ServerIdentity};
use hearth_users::Users;
use parking_lot::Mutex;
use ruma::{OwnedServerName, RoomId, ServerName};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::cursors::OUTBOUND_CURSORS;
pub use self::report::DestinationReport;
use self::{ephemeral::Pending, lanes::Lanes, sender::TransactionIds};
use crate::{
    FederationConfig, FederationError,
    client::Client,
    destinations::{DestinationWatcher, Destinations},
};

/// How often those who rest are looked at, and cursors are persisted.
const TICK: Duration = Duration::from_secs(1);
/// How often is looked for messages to devices whose destinations were left out: that reads all of them.
const LOOK_FOR_MESSAGES: Duration = Duration::from_mins(10);

/// The sender. Cheap to clone.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    store: Store,
    identity: Arc<ServerIdentity>,
    clock: Arc<dyn Clock>,
    users: Users,
    rooms: Rooms,
    e2ee: E2ee,
    client: Client,
    destinations: Destinations,
    config: FederationConfig,
    lanes: Mutex<Lanes>,
    /// Who persists the cursors does so alone: an older state must not be written over a newer one.
    saving: AsyncMutex<()>,
    /// Typing and presence that are still to be put into lanes.
    pending: Pending,
    transaction_ids: TransactionIds,
    /// Places for destinations that are being sent to, each with a transaction in memory.
    places: Semaphore,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

/// What the sender stands on.
pub(crate) struct OutboundParts {
    pub(crate) store: Store,
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) users: Users,
    pub(crate) rooms: Rooms,
    pub(crate) e2ee: E2ee,
    pub(crate) client: Client,
    pub(crate) destinations: Destinations,
    pub(crate) config: FederationConfig,
}

impl Outbound {
    /// A sender over these parts that goes on where the last run stopped; it does nothing before
    /// [`Self::start`].
    pub(crate) async fn open(parts: OutboundParts) -> Result<Self, FederationError> {
        let OutboundParts {
            store,
            identity,
            clock,
            users,
            rooms,
            e2ee,
            client,
            destinations,
            config,
        } = parts;
        let mut lanes = cursors::load(&store).await?;
        for server in e2ee.outgoing_servers().await? {
            lanes.push_messages(&server);
        }
        let lanes = Mutex::new(lanes);
        Ok(Self(Arc::new(Inner {
            lanes,
            saving: AsyncMutex::new(()),
            pending: Pending::default(),
            transaction_ids: TransactionIds::new(store.notifier().published()),
            places: Semaphore::new(places(config.max_requests)),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            store,
            identity,
            clock,
            users,
            rooms,
            e2ee,
            client,
            destinations,
            config,
        })))
    }

    /// Lets go of the log that was kept for other servers while this one federated: without anybody who
    /// reads on, it would grow for ever.
    pub async fn forget(store: &Store) -> Result<(), FederationError> {
        cursors::forget(store).await
    }

    /// Starts the tasks.
    pub fn start(&self) {
        let watcher = Watcher(Arc::downgrade(&self.0));
        self.0.destinations.set_watcher(Arc::new(watcher));
        let ephemeral = ephemeral::Watcher(Arc::downgrade(&self.0));
        self.0.users.set_ephemeral_watcher(Arc::new(ephemeral));
        self.spawn(router::run(Arc::clone(&self.0)));
        self.spawn(ephemeral::run(Arc::clone(&self.0)));
        self.spawn(tick(Arc::clone(&self.0)));
    }

    /// Stops them; waits until they have, and persists how far they got.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        drop(self.0.save().await);
    }

    /// A user of that server joined a room by way of this one: it is told who is present there.
    pub(crate) fn greet(&self, server: &ServerName, room_id: &RoomId) {
        let (inner, server, room_id) = (Arc::clone(&self.0), server.to_owned(), room_id.to_owned());
        self.spawn(async move { inner.greet(&server, &room_id).await });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(work);
    }
}

impl Inner {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// Starts the tasks of destinations that were marked as busy.
    fn start_senders(self: &Arc<Self>, servers: impl IntoIterator<Item = OwnedServerName>) {
        for server in servers {
            self.spawn(sender::run(Arc::clone(self), server));
        }
    }

    /// Makes lanes for messages to devices whose destinations were left out, if there are places now.
    async fn look_for_messages(&self) {
        if !self.lanes.lock().take_messages_left_out() {
            return;
        }
        match self.e2ee.outgoing_servers().await {
            Ok(servers) => {
                let mut lanes = self.lanes.lock();
                for server in &servers {
                    lanes.push_messages(server);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "messages to devices wait for longer");
                self.lanes.lock().messages_left_out();
            }
        }
    }

    /// Persists how far everybody got. If it is cut off or fails, memory takes nothing for written.
    async fn save(&self) -> Result<(), FederationError> {
        let _turn = self.saving.lock().await;
        let checkpoint = self.lanes.lock().checkpoint();
        let saved = cursors::save(&self.store, &checkpoint).await;
        let mut lanes = self.lanes.lock();
        match &saved {
            Ok(()) => lanes.persisted(&checkpoint),
            Err(error) => {
                lanes.not_persisted();
                tracing::warn!(%error, "how far other servers got could not be written");
            }
        }
        saved
    }
}

/// Requests that may be transactions: a quarter of all places is kept for what somebody waits for, so that
/// servers that do not answer cannot take them all.
fn places(max_requests: usize) -> usize {
    (max_requests - max_requests / 4).clamp(1, Semaphore::MAX_PERMITS)
}

/// Will the same question fail again, because of damaged rows? The store's own failures are waited out.
fn is_lasting(error: &RoomError) -> bool {
    !matches!(error, RoomError::Internal(source) if source.is::<StoreError>())
}

/// Wakes those who rest, and persists how far everybody got.
async fn tick(inner: Arc<Inner>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        interval.tick().await;
        inner.lanes.lock().let_in();
        if looked.elapsed() >= LOOK_FOR_MESSAGES {
            looked = Instant::now();
            inner.look_for_messages().await;
        }
        let due = inner.lanes.lock().start_due(Instant::now());
        inner.start_senders(due);
        let changed = inner.lanes.lock().take_changed();
        if changed {
            drop(inner.save().await);
        }
    }
}

/// Hears from the destinations' table.
struct Watcher(std::sync::Weak<Inner>);

impl DestinationWatcher for Watcher {
    fn worth_trying(&self, server: &ServerName) {
        let Some(inner) = self.0.upgrade() else { return };
        let started = inner.lanes.lock().start(server, Instant::now());
        if started {
            inner.start_senders([server.to_owned()]);
        }
    }
}

#[cfg(test)]
mod tests;
