//! This crate over a store in memory, with a clock that tests move.

use std::{sync::Arc, time::Duration};

use hearth_rooms::{Rooms, RoomsConfig};
use hearth_storage::Store;
use hearth_types::{ManualClock, ServerIdentity};
use hearth_users::{NewAccount, NewSession, Users, UsersConfig};
use ruma::{OwnedDeviceId, OwnedUserId, UserId, owned_server_name};

use crate::{E2ee, E2eeConfig, E2eeParts};

pub(crate) struct Bench {
    pub(crate) e2ee: E2ee,
    pub(crate) users: Users,
    pub(crate) store: Store,
    pub(crate) clock: Arc<ManualClock>,
    identity: Arc<ServerIdentity>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let keyspaces =
            [hearth_users::KEYSPACES, hearth_rooms::KEYSPACES, crate::KEYSPACES].concat();
        Self::over(Store::memory_for_tests(&keyspaces)).await
    }

    pub(crate) async fn over(store: Store) -> Self {
        let key = ServerIdentity::generate_key();
        let name = owned_server_name!("hearth.test");
        let identity = ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap();
        let clock = Arc::new(ManualClock::new(1_000_000));
        Self::start(store, Arc::new(identity), clock).await
    }

    async fn start(store: Store, identity: Arc<ServerIdentity>, clock: Arc<ManualClock>) -> Self {
        let config = UsersConfig::for_tests();
        let users = Users::open(store.clone(), Arc::clone(&identity), clock.clone(), config).await;
        let users = users.unwrap();
        let config = RoomsConfig::default();
        let rooms = Rooms::open(store.clone(), Arc::clone(&identity), clock.clone(), config).await;
        let parts = E2eeParts {
            store: store.clone(),
            identity: Arc::clone(&identity),
            clock: clock.clone(),
            users: users.clone(),
            rooms: rooms.unwrap(),
            config: E2eeConfig::default(),
        };
        let e2ee = E2ee::open(parts).await.unwrap();
        Self { e2ee, users, store, clock, identity }
    }

    /// The same store under a new process, so to speak.
    pub(crate) async fn reopen(self) -> Self {
        self.e2ee.close().await;
        let Self { e2ee, users, store, clock, identity } = self;
        drop((e2ee, users));
        Self::start(store, identity, clock).await
    }

    /// A user with one device.
    pub(crate) async fn user_with_device(&self, username: &str) -> (OwnedUserId, OwnedDeviceId) {
        let account = NewAccount {
            username: username.to_owned(),
            password: Some("correct horse".to_owned()),
            ..NewAccount::default()
        };
        let user_id = self.users.create_account(account).await.unwrap();
        let device_id = self.device(&user_id).await;
        (user_id, device_id)
    }

    /// One more device.
    pub(crate) async fn device(&self, user_id: &UserId) -> OwnedDeviceId {
        self.users.create_session(user_id, NewSession::default()).await.unwrap().device_id
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}
