//! [`Users`]: what all modules of this crate share.

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use hearth_storage::{OwnerLocks, Store, Topic};
use hearth_types::{Clock, ServerIdentity};
use parking_lot::{Mutex, RwLock};
use ruma::{OwnedUserId, UserId};
use tokio::time::MissedTickBehavior;
use tracing::Instrument as _;

use crate::{
    DeviceKeeper, EphemeralWatcher, RemoteProfiles, UsersConfig, UsersError,
    devices::SeenTable,
    directory::DirectoryIndex,
    filters::FilterCache,
    guesses::Guesses,
    ignored::IgnoredCache,
    openid::OpenIdSweep,
    passwords::PasswordHasher,
    presence::PresenceTable,
    push_rules::PushRulesCache,
    receipts::ReceiptLine,
    registration::RegistrationDesk,
    reports::ReportDesk,
    sessions::{LoginTokens, SessionCache},
    tokens::random_bytes,
    typing::TypingTable,
    uia::UiaSessions,
};

/// How often timers are moved.
const TICK: Duration = Duration::from_secs(1);

/// Everything about this server's users. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    pub(crate) inner: Arc<Inner>,
}

/// Shows nothing: session IDs and tokens are inside.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) identity: Arc<ServerIdentity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: UsersConfig,
    pub(crate) boot_id: u32,
    pub(crate) passwords: PasswordHasher,
    pub(crate) sessions: SessionCache,
    pub(crate) login_tokens: Mutex<LoginTokens>,
    pub(crate) seen: Mutex<SeenTable>,
    pub(crate) uia: Mutex<UiaSessions>,
    pub(crate) guesses: Mutex<Guesses>,
    pub(crate) registration: RegistrationDesk,
    pub(crate) reports: ReportDesk,
    pub(crate) push_rules: PushRulesCache,
    pub(crate) ignored: IgnoredCache,
    pub(crate) filters: FilterCache,
    pub(crate) openid: OpenIdSweep,
    pub(crate) directory: RwLock<DirectoryIndex>,
    pub(crate) presence: PresenceTable,
    pub(crate) typing: Mutex<TypingTable>,
    pub(crate) receipts: ReceiptLine,
    /// How other servers are asked for profiles, if they are.
    pub(crate) remote: RwLock<Option<Arc<dyn RemoteProfiles>>>,
    /// Who tells other servers of typing and presence, if anybody does.
    pub(crate) watcher: RwLock<Option<Arc<dyn EphemeralWatcher>>>,
    /// Who keeps what belongs to devices, if anybody does.
    pub(crate) keeper: RwLock<Option<Arc<dyn DeviceKeeper>>>,
    /// Those who do beside it.
    pub(crate) further_keepers: RwLock<Vec<Arc<dyn DeviceKeeper>>>,
    locks: OwnerLocks,
}

impl Users {
    /// Opens the users of a store: builds the user directory and starts the tasks that write receipts
    /// and move timers, which end when the last clone is dropped. Must be called inside a runtime.
    pub async fn open(
        store: Store,
        identity: Arc<ServerIdentity>,
        clock: Arc<dyn Clock>,
        config: UsersConfig,
    ) -> Result<Self, UsersError> {
        let directory = DirectoryIndex::load(&store).await?;
        let inner = Inner {
            boot_id: u32::from_be_bytes(random_bytes()?),
            passwords: PasswordHasher::new(&config.argon2)?,
            sessions: SessionCache::new(),
            login_tokens: Mutex::new(LoginTokens::new()),
            seen: Mutex::new(HashMap::new()),
            uia: Mutex::new(UiaSessions::new()),
            guesses: Mutex::new(Guesses::new()),
            registration: RegistrationDesk::load(&store).await?,
            reports: ReportDesk::default(),
            push_rules: PushRulesCache::new(),
            ignored: IgnoredCache::new(),
            filters: FilterCache::new(),
            openid: OpenIdSweep::default(),
            directory: RwLock::new(directory),
            presence: PresenceTable::new(clock.now_ms()),
            typing: Mutex::new(TypingTable::default()),
            receipts: ReceiptLine::start(store.clone(), Arc::clone(&clock)),
            remote: RwLock::new(None),
            watcher: RwLock::new(None),
            keeper: RwLock::new(None),
            further_keepers: RwLock::default(),
            locks: OwnerLocks::new(),
            store,
            identity,
            clock,
            config,
        };
        let users = Self { inner: Arc::new(inner) };
        users.start_ticking();
        users.start_presence_wakes();
        Ok(users)
    }

    /// The configuration that this was opened with.
    #[must_use]
    pub fn config(&self) -> &UsersConfig {
        &self.inner.config
    }

    /// Moves everything that time moves: typing and presence age, sessions of user-interactive
    /// authentication and nonces expire, the devices' last-seen times are written. A task does this
    /// every second; tests with a clock of their own call it.
    pub async fn tick(&self) {
        self.move_timers();
        self.write_late().await;
    }

    fn move_timers(&self) {
        self.expire_typing();
        self.age_presence();
        self.inner.uia.lock().expire(self.now_ms());
        self.inner.guesses.lock().expire(self.now_ms());
        self.inner.login_tokens.lock().expire(self.now_ms());
        self.inner.registration.expire(self.now_ms());
    }

    /// Writes what may be written late.
    async fn write_late(&self) {
        let written = async {
            self.write_seen(false).await?;
            self.write_presence(false).await?;
            self.sweep_openid_tokens().await
        };
        if let Err(error) = written.await {
            tracing::warn!(%error, "what users keep in memory could not be written");
        }
    }

    /// Writes what is only in memory (last-seen times, presence) for an orderly shutdown.
    pub async fn flush(&self) -> Result<(), UsersError> {
        self.write_seen(true).await?;
        self.write_presence(true).await
    }

    /// Two tasks, so that a busy disk does not hold up the timers.
    fn start_ticking(&self) {
        self.repeat(|users| async move { users.move_timers() });
        self.repeat(|users| async move { users.write_late().await });
    }

    /// Does something every second until the last clone is dropped.
    fn repeat<Fut>(&self, work: impl Fn(Self) -> Fut + Send + 'static)
    where
        Fut: Future<Output = ()> + Send,
    {
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                work(Self { inner }).await;
            }
        });
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn poke(&self, topic: &str) {
        self.inner.store.notifier().poke(&Topic::new(topic));
    }

    /// Runs a change of what belongs to this user as the only one, in a task of its own: a caller that
    /// goes away does not interrupt it between the store and what memory holds of it. For crates that
    /// keep other rows of users. Whoever holds a turn must not ask for one again, nor call what does.
    pub async fn in_turn<T, E, Fut>(
        &self,
        user_id: &UserId,
        work: impl FnOnce() -> Fut + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<UsersError> + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        let users = self.clone();
        let user_id = user_id.to_owned();
        let task = async move {
            let inner = Arc::clone(&users.inner);
            let _turn = inner.locks.lock(user_id.as_str()).await;
            work().await
        };
        tokio::spawn(task.in_current_span()).await.map_err(|error| {
            E::from(UsersError::Internal(format!("a task did not finish: {error}")))
        })?
    }

    /// Runs a change of this user's rows as the only one, in a task of its own: a caller that goes
    /// away does not interrupt it between the store and what memory holds of it.
    pub(crate) async fn exclusive<T, F, Fut>(
        &self,
        user_id: &UserId,
        work: F,
    ) -> Result<T, UsersError>
    where
        T: Send + 'static,
        F: FnOnce(Self, OwnedUserId) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, UsersError>> + Send + 'static,
    {
        let users = self.clone();
        let user_id = user_id.to_owned();
        detached(async move {
            let inner = Arc::clone(&users.inner);
            let _turn = inner.locks.lock(user_id.as_str()).await;
            work(users, user_id.clone()).await
        })
        .await
    }
}

/// Runs a future to its end even if the caller goes away.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, UsersError>> + Send + 'static,
) -> Result<T, UsersError> {
    tokio::spawn(work.in_current_span())
        .await
        .map_err(|error| UsersError::Internal(format!("a task did not finish: {error}")))?
}

#[cfg(test)]
pub(crate) mod testing {
    //! Users over a store in memory, with a clock that tests move.

    use hearth_types::ManualClock;
    use ruma::owned_server_name;

    use super::*;
    use crate::NewAccount;

    pub(crate) struct Bench {
        pub(crate) users: Users,
        pub(crate) clock: Arc<ManualClock>,
        pub(crate) store: Store,
        identity: Arc<ServerIdentity>,
    }

    impl Bench {
        pub(crate) async fn new() -> Self {
            Self::with(UsersConfig::for_tests()).await
        }

        pub(crate) async fn with(config: UsersConfig) -> Self {
            let store = Store::memory_for_tests(crate::KEYSPACES);
            let key = ServerIdentity::generate_key();
            let identity = Arc::new(
                ServerIdentity::from_der(owned_server_name!("hearth.test"), &key, "1".to_owned())
                    .unwrap(),
            );
            let clock = Arc::new(ManualClock::new(1_000_000));
            let users = Users::open(store.clone(), Arc::clone(&identity), clock.clone(), config)
                .await
                .unwrap();
            Self { users, clock, store, identity }
        }

        /// The same store under a new process, so to speak.
        pub(crate) async fn reopen(self) -> Self {
            let Self { users, clock, store, identity } = self;
            let config = users.config().clone();
            drop(users);
            let users = Users::open(store.clone(), Arc::clone(&identity), clock.clone(), config)
                .await
                .unwrap();
            Self { users, clock, store, identity }
        }

        pub(crate) async fn user(&self, username: &str) -> OwnedUserId {
            let account = NewAccount {
                username: username.to_owned(),
                password: Some("correct horse".to_owned()),
                ..NewAccount::default()
            };
            self.users.create_account(account).await.unwrap()
        }

        pub(crate) fn advance_s(&self, seconds: u64) {
            self.clock.advance(Duration::from_secs(seconds));
        }
    }
}
