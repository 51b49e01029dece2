//! What the server is made of below its surfaces, opened in order and closed in order. The command
//! line opens the same parts when no server runs.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use hearth_delayed::{Delayed, DelayedParts};
use hearth_e2ee::{E2ee, E2eeError, E2eeParts};
use hearth_federation::{FederationError, keys, transport::Transport};
use hearth_media::{Blobs, Media, MediaError, MediaParts};
use hearth_push::{Push, PushError, PushParts};
use hearth_rooms::{RoomError, Rooms};
use hearth_storage::{Store, StoreError, StoreOptions};
use hearth_sync::{SyncError, SyncService};
use hearth_types::{Clock, ServerIdentity};
use hearth_users::{Users, UsersError};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    Config,
    keyfile::{self, KeyFileError},
};

/// How long to wait for tasks that still hold the closed store. They have nothing left to do but to end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The store and everything that stands on it.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) store: Store,
    pub(crate) users: Users,
    pub(crate) rooms: Rooms,
    pub(crate) e2ee: E2ee,
    pub(crate) media: Media,
    pub(crate) sync: SyncService,
    pub(crate) push: Push,
    pub(crate) delayed: Delayed,
}

/// What is not configuration but enters from outside.
#[derive(Clone)]
pub struct StartOptions {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether to make a new signing key for a store whose key is lost.
    pub replace_lost_key: bool,
    /// How other servers are reached, instead of over the network.
    pub transport: Option<Arc<dyn Transport>>,
    /// The runtime for work that no client waits for, instead of the one that starts the server.
    pub background: Option<Handle>,
}

impl fmt::Debug for StartOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartOptions")
            .field("clock", &self.clock)
            .field("replace_lost_key", &self.replace_lost_key)
            .finish_non_exhaustive()
    }
}

/// Why the parts of the server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder cannot be made.
    #[error("cannot make the data folder {}: {error}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The signing key cannot be read or made.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// There is a store, but not the key that its events are signed with.
    #[error(
        "{} is missing, but there is a store beside it: bring the key back from a backup, or go on \
         with a new key by `hearth --replace-lost-key`",
        .0.display()
    )]
    KeyLost(PathBuf),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The users cannot be opened.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The rooms cannot be opened.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// Keys and messages to devices cannot be opened.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
    /// The folder of what users upload cannot be opened.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Sync cannot be opened.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// Push cannot be opened.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Federation cannot be opened.
    #[error(transparent)]
    Federation(#[from] FederationError),
}

impl Config {
    fn key_path(&self) -> PathBuf {
        self.server.data_dir.join("signing.key")
    }

    fn store_path(&self) -> PathBuf {
        self.server.data_dir.join("store")
    }

    /// The folder of what users upload.
    fn media_path(&self) -> PathBuf {
        self.server.data_dir.join("media")
    }

    /// Where the bytes of content are: in a bucket if one is named, else in the folder.
    async fn open_blobs(&self) -> Result<Blobs, MediaError> {
        let (folder, bucket) = (self.media_path(), &self.media.bucket);
        if bucket.name.is_none() {
            return Blobs::open_folder(&folder).await;
        }
        Blobs::open_bucket(bucket, &folder, self.server.name.as_str()).await
    }

    /// The socket on which a running server takes commands.
    #[must_use]
    pub fn admin_socket_path(&self) -> PathBuf {
        self.server.data_dir.join("admin.sock")
    }
}

impl Parts {
    /// Makes what is missing (folder, key, store) and opens the rest.
    pub(crate) async fn open(config: &Config, options: &StartOptions) -> Result<Self, OpenError> {
        let data_dir = &config.server.data_dir;
        keyfile::make_private_dir(data_dir)
            .map_err(|error| OpenError::DataDir { path: data_dir.clone(), error })?;
        let identity = Arc::new(identity(config, options)?);
        let store = Store::open(StoreOptions {
            engine: config.store.engine,
            path: config.store_path(),
            keyspaces: [
                hearth_users::KEYSPACES,
                hearth_rooms::KEYSPACES,
                hearth_e2ee::KEYSPACES,
                hearth_media::KEYSPACES,
                hearth_push::KEYSPACES,
                hearth_delayed::KEYSPACES,
                hearth_federation::KEYSPACES,
            ]
            .concat(),
            server_name: config.server.name.to_string(),
        })
        .await?;
        keys::record_own_key(&store, &identity, options.clock.as_ref()).await?;
        let users = Users::open(
            store.clone(),
            Arc::clone(&identity),
            Arc::clone(&options.clock),
            config.users.clone(),
        )
        .await?;
        let rooms = Rooms::open(
            store.clone(),
            Arc::clone(&identity),
            Arc::clone(&options.clock),
            config.rooms.clone(),
        )
        .await?;
        let e2ee = E2ee::open(E2eeParts {
            store: store.clone(),
            identity: Arc::clone(&identity),
            clock: Arc::clone(&options.clock),
            users: users.clone(),
            rooms: rooms.clone(),
            config: config.e2ee.clone(),
        })
        .await?;
        let media = Media::open(MediaParts {
            store: store.clone(),
            blobs: config.open_blobs().await?,
            identity: Arc::clone(&identity),
            clock: Arc::clone(&options.clock),
            config: config.media.clone(),
        });
        let sync = SyncService::open(
            rooms.clone(),
            users.clone(),
            e2ee.clone(),
            store.clone(),
            Arc::clone(&options.clock),
            config.sync.clone(),
        )?;
        let push = Push::open(PushParts {
            store: store.clone(),
            clock: Arc::clone(&options.clock),
            users: users.clone(),
            rooms: rooms.clone(),
            sync: sync.clone(),
            config: config.push.clone(),
        })
        .await?;
        let delayed = Delayed::open(DelayedParts {
            store: store.clone(),
            clock: Arc::clone(&options.clock),
            config: config.delayed_events.clone(),
        });
        Ok(Self { identity, store, users, rooms, e2ee, media, sync, push, delayed })
    }

    /// Writes what is only in memory and closes the store, then waits for tasks that still hold it to
    /// end, so that it can be opened again. Nothing may be asked of the parts after it.
    pub(crate) async fn close(self) -> Result<(), OpenError> {
        self.delayed.close().await;
        self.push.close().await;
        self.e2ee.close().await;
        self.media.close().await;
        self.rooms.close();
        self.rooms.ended().await;
        self.users.flush().await?;
        self.store.close().await?;
        let released = self.store.released();
        drop(self);
        if timeout(RELEASE_TIMEOUT, released).await.is_err() {
            tracing::warn!("something still holds the closed store");
        }
        Ok(())
    }
}

fn identity(config: &Config, options: &StartOptions) -> Result<ServerIdentity, OpenError> {
    let (path, name) = (config.key_path(), &config.server.name);
    if let Some(identity) = keyfile::read(&path, name)? {
        return Ok(identity);
    }
    if config.store_path().exists() && !options.replace_lost_key {
        return Err(OpenError::KeyLost(path));
    }
    let identity = keyfile::create(&path, name)?;
    tracing::info!(path = %path.display(), "made a signing key");
    Ok(identity)
}
