//! This crate over a store in memory, with a clock that tests move, and devices with keys.
//!
//! `hearth-testbed` cannot open it: that stands on this crate, which would be there a second time with other types.

mod disk;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hearth_rooms::{Rooms, RoomsConfig};
use hearth_storage::{EngineKind, Store, StoreOptions, migrate::MIGRATIONS};
use hearth_types::{ManualClock, ServerIdentity};
use hearth_users::{NewAccount, NewSession, Users, UsersConfig};
use ruma::{
    OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UserId, canonical_json::try_from_json_map,
    encryption::OneTimeKey, owned_server_name, serde::Raw,
};
use serde_json::{Map, Value, json};
use vodozemac::{base64_encode, olm::Account};

use self::disk::Disk;
use crate::{E2ee, E2eeConfig, E2eeParts, KeyUpload};

pub(crate) struct Bench {
    pub(crate) e2ee: E2ee,
    pub(crate) users: Users,
    pub(crate) store: Store,
    pub(crate) clock: Arc<ManualClock>,
    identity: Arc<ServerIdentity>,
    disk: Arc<Disk>,
}

fn options() -> StoreOptions {
    let keyspaces = [hearth_users::KEYSPACES, hearth_rooms::KEYSPACES, crate::KEYSPACES].concat();
    StoreOptions::for_tests(EngineKind::Memory, Path::new(""), &keyspaces)
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let key = ServerIdentity::generate_key();
        let name = owned_server_name!("hearth.test");
        let identity = ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap();
        let clock = Arc::new(ManualClock::new(1_000_000));
        let disk = Disk::new(options().all_keyspaces().len());
        Self::power_on(disk, Arc::new(identity), clock).await
    }

    async fn power_on(disk: Disk, identity: Arc<ServerIdentity>, clock: Arc<ManualClock>) -> Self {
        let disk = Arc::new(disk);
        let store = Store::open_over(disk.clone(), &options(), MIGRATIONS).unwrap();
        Self::start(store, disk, identity, clock).await
    }

    async fn start(
        store: Store,
        disk: Arc<Disk>,
        identity: Arc<ServerIdentity>,
        clock: Arc<ManualClock>,
    ) -> Self {
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
        Self { e2ee, users, store, clock, identity, disk }
    }

    /// The same store under a new process, so to speak.
    pub(crate) async fn reopen(self) -> Self {
        self.e2ee.close().await;
        let Self { e2ee, users, store, clock, identity, disk } = self;
        drop((e2ee, users));
        Self::start(store, disk, identity, clock).await
    }

    /// What is left when the power is lost now, under a new process.
    pub(crate) async fn lose_power(self) -> Self {
        let left = self.disk.after_power_loss();
        self.e2ee.close().await;
        Self::power_on(left, self.identity, self.clock).await
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

/// One-time or fallback keys as they are uploaded.
pub(crate) type UploadedKeys = BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>;

/// A device that encrypts.
pub(crate) struct Olm {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) account: Account,
}

impl Olm {
    pub(crate) fn new(user_id: &UserId, device_id: &ruma::DeviceId) -> Self {
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        Self { user_id, device_id, account: Account::new() }
    }

    /// Its device keys, not signed.
    pub(crate) fn unsigned_device_keys(&self) -> Map<String, Value> {
        let keys = self.account.identity_keys();
        let (user_id, device_id) = (&self.user_id, &self.device_id);
        let object = json!({
            "user_id": user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("ed25519:{device_id}"): keys.ed25519.to_base64(),
                format!("curve25519:{device_id}"): keys.curve25519.to_base64(),
            },
        });
        serde_json::from_value(object).unwrap()
    }

    /// Its device keys.
    pub(crate) fn device_keys(&self) -> Map<String, Value> {
        self.sign(self.unsigned_device_keys())
    }

    /// The object with this device's signature.
    pub(crate) fn sign(&self, mut object: Map<String, Value>) -> Map<String, Value> {
        let message = serde_json::to_string(&try_from_json_map(object.clone()).unwrap()).unwrap();
        let signature = self.account.sign(message.as_bytes()).to_base64();
        let key_id = format!("ed25519:{}", self.device_id);
        object.insert("signatures".to_owned(), json!({ &self.user_id: { key_id: signature } }));
        object
    }

    /// A signed one-time key with this ID.
    pub(crate) fn one_time_key(&self, id: &str, fallback: bool) -> UploadedKeys {
        // Any 32 bytes are a public key; these differ from ID to ID.
        let mut bytes = [7; 32];
        for (byte, other) in bytes.iter_mut().zip(id.bytes()) {
            *byte = other;
        }
        let mut object = Map::from_iter([("key".to_owned(), json!(base64_encode(bytes)))]);
        if fallback {
            object.insert("fallback".to_owned(), json!(true));
        }
        let id = format!("signed_curve25519:{id}").try_into().unwrap();
        BTreeMap::from([(id, raw(&self.sign(object)))])
    }

    /// Signed one-time keys with these IDs.
    pub(crate) fn one_time_keys<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> UploadedKeys {
        ids.into_iter().flat_map(|id| self.one_time_key(id, false)).collect()
    }

    /// What a device uploads first: device keys, one-time keys with these IDs, a fallback key `fallback`.
    pub(crate) fn first_upload<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> KeyUpload {
        KeyUpload {
            device_keys: Some(raw(&self.device_keys())),
            one_time_keys: self.one_time_keys(ids),
            fallback_keys: self.one_time_key("fallback", true),
        }
    }
}

/// JSON as it comes in requests.
pub(crate) fn raw<T>(object: &Map<String, Value>) -> Raw<T> {
    Raw::from_json(serde_json::value::to_raw_value(object).unwrap())
}
