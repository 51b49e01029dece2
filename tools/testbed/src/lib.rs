//! Test support: [`Services`], which are what stands below a server's surfaces, without HTTP. The whole server in
//! process is `hearth-testkit`, which takes longer to build than most crates whose tests need no more than this.
//!
//! Integration tests of every crate can use it. Unit tests cannot if this depends on their crate, as on `e2ee`: they
//! are built into a second copy of the crate, whose types are not those of the services.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support fails by panicking, that is its purpose"
)]

use std::{path::Path, sync::Arc};

use hearth_e2ee::{E2ee, E2eeConfig, E2eeParts};
use hearth_rooms::{Rooms, RoomsConfig};
use hearth_storage::{EngineKind, Store, StoreOptions};
use hearth_sync::{SyncConfig, SyncService};
use hearth_types::{Clock, ManualClock, ServerIdentity};
use hearth_users::{Users, UsersConfig};
use ruma::ServerName;

/// Where a clock of tests stands that nobody moves, in milliseconds since 1970.
pub const START_MS: u64 = 1_700_000_000_000;

/// A store with rooms, users and their keys over it, each with its default configuration (passwords are hashed
/// cheaply).
#[derive(Clone, Debug)]
pub struct Services {
    /// What all of them stand on.
    pub store: Store,
    /// Who the server is.
    pub identity: Arc<ServerIdentity>,
    /// The time that all of them go by.
    pub clock: Arc<dyn Clock>,
    /// Accounts and what belongs to them.
    pub users: Users,
    /// Rooms.
    pub rooms: Rooms,
    /// Keys, and messages to devices.
    pub e2ee: E2ee,
}

impl Services {
    /// Over a store in memory that has these keyspaces besides the services' own. The server has a new key, and its
    /// clock stands still.
    pub async fn in_memory(server_name: &ServerName, others: &[&'static str]) -> Self {
        Self::over(Store::memory_for_tests(&store_options(others).keyspaces), server_name).await
    }

    /// The same over a store that was opened with [`store_options`].
    pub async fn over(store: Store, server_name: &ServerName) -> Self {
        let key = ServerIdentity::generate_key();
        let identity = ServerIdentity::from_der(server_name.to_owned(), &key, "1".to_owned());
        let clock = Arc::new(ManualClock::new(START_MS));
        Self::open(store, identity.expect("a key"), clock).await
    }

    /// Over a store that was opened with [`store_options`], as a server that may have had it before.
    pub async fn open(store: Store, identity: ServerIdentity, clock: Arc<dyn Clock>) -> Self {
        let identity = Arc::new(identity);
        let config = UsersConfig::for_tests();
        let users =
            Users::open(store.clone(), Arc::clone(&identity), Arc::clone(&clock), config).await;
        let users = users.expect("users");
        let config = RoomsConfig::default();
        let rooms =
            Rooms::open(store.clone(), Arc::clone(&identity), Arc::clone(&clock), config).await;
        let rooms = rooms.expect("rooms");
        let e2ee = E2ee::open(E2eeParts {
            store: store.clone(),
            identity: Arc::clone(&identity),
            clock: Arc::clone(&clock),
            users: users.clone(),
            rooms: rooms.clone(),
            config: E2eeConfig::default(),
        });
        let e2ee = e2ee.await.expect("e2ee");
        Self { store, identity, clock, users, rooms, e2ee }
    }

    /// Opens sync over them.
    #[must_use]
    pub fn sync(&self, config: SyncConfig) -> SyncService {
        let Self { store, clock, users, rooms, e2ee, .. } = self.clone();
        SyncService::open(rooms, users, e2ee, store, clock, config).expect("sync")
    }
}

/// Options of a store in memory that has these keyspaces besides the services' own.
#[must_use]
pub fn store_options(others: &[&'static str]) -> StoreOptions {
    let keyspaces =
        [hearth_users::KEYSPACES, hearth_rooms::KEYSPACES, hearth_e2ee::KEYSPACES, others].concat();
    StoreOptions::for_tests(EngineKind::Memory, Path::new(""), &keyspaces)
}
