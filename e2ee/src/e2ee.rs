//! [`E2ee`]: what all modules of this crate share.

use std::{fmt, sync::Arc};

use hearth_rooms::Rooms;
use hearth_storage::Store;
use hearth_types::{Clock, ServerIdentity, StreamPosition};
use hearth_users::Users;
use parking_lot::RwLock;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    E2eeConfig, E2eeError, RemoteKeys,
    claims::ClaimDesk,
    one_time_keys::CountsCache,
    remote_lists::{RemoteLists, follow},
    removal::Keeper,
    to_device::{QueueLengths, ReceivedCounts, sweep},
};

/// What the crate stands on.
#[derive(Debug)]
pub struct E2eeParts {
    /// The store.
    pub store: Store,
    /// This server's name and key.
    pub identity: Arc<ServerIdentity>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Accounts and their devices.
    pub users: Users,
    /// Who shares rooms with whom.
    pub rooms: Rooms,
    /// The section `[e2ee]`.
    pub config: E2eeConfig,
}

/// Everything about keys and messages to devices. Cheap to clone.
#[derive(Clone)]
pub struct E2ee {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) parts: E2eeParts,
    /// How other servers are reached, if they are.
    pub(crate) remote: RwLock<Option<Arc<dyn RemoteKeys>>>,
    pub(crate) counts: CountsCache,
    /// What was published when the server started.
    pub(crate) opened_at: StreamPosition,
    pub(crate) claims: ClaimDesk,
    pub(crate) remote_lists: RemoteLists,
    pub(crate) queue_lengths: QueueLengths,
    pub(crate) received: ReceivedCounts,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for E2ee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E2ee").finish_non_exhaustive()
    }
}

impl E2ee {
    /// Opens this over a store: plugs itself into the users' devices, finishes what a crash left of
    /// devices that went, and starts the tasks that follow rooms and clean up. Must be called inside a
    /// runtime.
    pub async fn open(parts: E2eeParts) -> Result<Self, E2eeError> {
        let opened_at = parts.store.notifier().published();
        let inner = Inner {
            parts,
            opened_at,
            remote: RwLock::new(None),
            counts: CountsCache::default(),
            claims: ClaimDesk::default(),
            remote_lists: RemoteLists::default(),
            queue_lengths: QueueLengths::default(),
            received: ReceivedCounts::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let e2ee = Self { inner: Arc::new(inner) };
        e2ee.users().set_device_keeper(Arc::new(Keeper::new(&e2ee)));
        e2ee.finish_removals().await?;
        let cursor = follow::Cursor::open(e2ee.store()).await?;
        let publications = e2ee.store().notifier().publications();
        e2ee.spawn(follow::run(Arc::downgrade(&e2ee.inner), publications, cursor));
        e2ee.spawn(sweep(Arc::downgrade(&e2ee.inner)));
        e2ee.finish_backup_deletions();
        Ok(e2ee)
    }

    /// Ends the tasks and lets go of the users, so that nothing holds the store any more.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.users().unset_device_keeper();
    }

    /// Does work behind what caused it. It is cut off at its next pause when the server stops: what must
    /// not be lost belongs into the store first.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.parts.store
    }

    pub(crate) fn identity(&self) -> &ServerIdentity {
        &self.inner.parts.identity
    }

    pub(crate) fn users(&self) -> &Users {
        &self.inner.parts.users
    }

    pub(crate) fn rooms(&self) -> &Rooms {
        &self.inner.parts.rooms
    }

    pub(crate) fn config(&self) -> &E2eeConfig {
        &self.inner.parts.config
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.inner.parts.clock.now_ms()
    }
}
