//! [`Media`]: what all modules of this crate share.

use std::{fmt, sync::Arc};

use hearth_storage::{Commit, CommitError, OwnerLocks, Store};
use hearth_types::{Clock, ServerIdentity};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{
    Blobs, MediaConfig, MediaError, RemoteMedia,
    blobs::Whole,
    cache::{self, Cache},
    content::MAX_WAITING,
    fetch::Fetches,
    hash::ContentHash,
    places::Places,
    preview::Previews,
    schema::REFERENCES,
    sweep,
    thumbnail::{MAX_MAKING, MAX_WANTING},
    upload::UPLOADS,
};

/// What the crate stands on.
#[derive(Debug)]
pub struct MediaParts {
    /// The store.
    pub store: Store,
    /// Where bytes are kept.
    pub blobs: Blobs,
    /// This server's name.
    pub identity: Arc<ServerIdentity>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The section `[media]`.
    pub config: MediaConfig,
}

/// Everything about content. Cheap to clone.
#[derive(Clone)]
pub struct Media {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    parts: MediaParts,
    pub(crate) places: Places,
    /// Whoever changes a user's rows holds the user's lock. Taken before that of a hash.
    pub(crate) users: OwnerLocks,
    /// Whoever adds or removes references to bytes, or the bytes, holds the lock of their hash.
    contents: OwnerLocks,
    /// Moves whenever somebody has uploaded something: for those who wait for it.
    pub(crate) arrivals: watch::Sender<()>,
    /// Places for those who wait.
    pub(crate) waiting: Semaphore,
    /// How other servers are asked, if they are.
    pub(crate) remote: RwLock<Option<Arc<dyn RemoteMedia>>>,
    pub(crate) fetches: Fetches,
    /// Whoever makes a thumbnail holds the lock of its URI, so that it is made once.
    pub(crate) makers: OwnerLocks,
    /// Places for those who make one.
    pub(crate) making: Arc<Semaphore>,
    /// Places for those who want one made.
    pub(crate) wanting: Semaphore,
    pub(crate) cache: Cache,
    pub(crate) previews: Previews,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Media").finish_non_exhaustive()
    }
}

impl Media {
    /// Opens this over a store and a place for bytes, and starts to remove what a crash left over. Must be called
    /// inside a runtime.
    #[must_use]
    pub fn open(parts: MediaParts) -> Self {
        let media = Self {
            inner: Arc::new(Inner {
                parts,
                places: Places::new(UPLOADS),
                users: OwnerLocks::new(),
                contents: OwnerLocks::new(),
                arrivals: watch::Sender::new(()),
                waiting: Semaphore::new(MAX_WAITING),
                remote: RwLock::new(None),
                fetches: Fetches::default(),
                makers: OwnerLocks::new(),
                making: Arc::new(Semaphore::new(MAX_MAKING)),
                wanting: Semaphore::new(MAX_WANTING),
                cache: Cache::default(),
                previews: Previews::new(),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        };
        media.spawn(sweep::run(Arc::downgrade(&media.inner)));
        media.spawn(cache::run(Arc::downgrade(&media.inner)));
        media
    }

    /// Ends what runs behind requests, so that nothing holds the store any more.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// The configuration that this was opened with.
    #[must_use]
    pub fn config(&self) -> &MediaConfig {
        &self.inner.parts.config
    }

    /// Gives whole bytes their place and commits what refers to them, in this order. If the commit is refused they are
    /// removed, unless others refer to them. If the store fails they stay: what refers to them may be on the disk, and
    /// the next start finds out.
    pub(crate) async fn keep(&self, whole: Whole, commit: Commit) -> Result<(), MediaError> {
        let _turn = self.inner.contents.lock(&whole.hash.to_string()).await;
        let replaced = match self.blobs().publish(&whole).await {
            Ok(replaced) => replaced,
            Err(error) => {
                self.blobs().discard(&whole).await;
                if self.blobs().is_bucket() {
                    self.remove_unreferenced(whole.hash).await?;
                }
                return Err(error);
            }
        };
        let committed = self.store().commit(commit).await;
        if committed.as_ref().is_err_and(|error| !matches!(error, CommitError::Unavailable(_))) {
            self.remove_unreferenced(whole.hash).await?;
        }
        replaced.free();
        committed?;
        Ok(())
    }

    /// Removes whole bytes that are not needed after all. From a bucket they are removed behind whatever is answered
    /// now: how long that takes would tell whether somebody else has them. What is not removed then is swept by the next
    /// start.
    pub(crate) async fn discard(&self, whole: &Whole) {
        self.blobs().discard(whole).await;
        if !self.blobs().is_bucket() {
            return;
        }
        let (media, hash) = (self.clone(), whole.hash);
        self.spawn(async move {
            if let Err(error) = media.release(hash).await {
                tracing::warn!(%error, "cannot remove content that is not needed");
            }
        });
    }

    /// Removes bytes that nobody refers to, now that nobody else may begin to; says whether they were such.
    pub(crate) async fn release(&self, hash: ContentHash) -> Result<bool, MediaError> {
        let _turn = self.inner.contents.lock(&hash.to_string()).await;
        self.remove_unreferenced(hash).await
    }

    async fn remove_unreferenced(&self, hash: ContentHash) -> Result<bool, MediaError> {
        let unreferenced = !self.is_referenced(hash).await?;
        if unreferenced {
            self.blobs().remove(hash).await;
        }
        Ok(unreferenced)
    }

    /// Does any item have these bytes?
    pub(crate) async fn is_referenced(&self, hash: ContentHash) -> Result<bool, MediaError> {
        let forward = hearth_storage::Direction::Forward;
        Ok(!self.store().page(&REFERENCES, &hash, .., forward, 1).await?.is_empty())
    }

    /// Runs work to its end even if the caller goes away.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, MediaError>> + Send + 'static,
    ) -> Result<T, MediaError> {
        let task = self.inner.tasks.spawn(work.in_current_span());
        let ended = task.await;
        ended.map_err(|error| MediaError::Internal(format!("a task did not finish: {error}")))?
    }

    /// Does work behind what caused it, cut off at its next pause when the server stops.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    pub(crate) fn over(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.parts.store
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.inner.parts.blobs
    }

    pub(crate) fn identity(&self) -> &ServerIdentity {
        &self.inner.parts.identity
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.inner.parts.clock.now_ms()
    }
}
