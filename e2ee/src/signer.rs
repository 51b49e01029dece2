//! What tests of keys need: key pairs that sign, users who have some, another server that tells some.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hearth_storage::Commit;
use hearth_users::{NewAccount, NewSession};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName,
    OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde_json::{Value, json};
use vodozemac::Ed25519SecretKey;

use crate::{
    CrossSigningOutcome, CrossSigningUpload, RemoteKeys, RemoteKeysError, schema::DEVICE_KEYS,
    testing::Bench,
};

/// The key of a device, or a cross-signing key.
pub(crate) struct Signer(Ed25519SecretKey);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(Ed25519SecretKey::new())
    }

    pub(crate) fn public_key(&self) -> String {
        self.0.public_key().to_base64()
    }

    /// Its ID as a cross-signing key.
    pub(crate) fn key_id(&self) -> String {
        format!("ed25519:{}", self.public_key())
    }

    /// Signs an object in a user's name, under this key ID.
    pub(crate) fn sign_as(&self, object: &mut Value, user_id: &UserId, key_id: &str) {
        let mut covered = object.clone();
        for field in ["signatures", "unsigned"] {
            covered.as_object_mut().unwrap().remove(field);
        }
        let canonical: CanonicalJsonObject = serde_json::from_value(covered).unwrap();
        let signature = self.0.sign(&serde_json::to_vec(&canonical).unwrap()).to_base64();
        object["signatures"][user_id.as_str()][key_id] = signature.into();
    }

    /// Signs an object as a cross-signing key does.
    pub(crate) fn sign(&self, object: &mut Value, user_id: &UserId) {
        self.sign_as(object, user_id, &self.key_id());
    }

    /// This key as a user's cross-signing key, unsigned.
    pub(crate) fn cross_signing_key(&self, user_id: &UserId, usage: &str) -> Value {
        json!({
            "user_id": user_id,
            "usage": [usage],
            "keys": { self.key_id(): self.public_key() },
        })
    }

    /// The keys of a device that signs with this one.
    pub(crate) fn device_keys(&self, user_id: &UserId, device_id: &DeviceId) -> Value {
        let mut keys = json!({
            "user_id": user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                format!("curve25519:{device_id}"): self.public_key(),
                format!("ed25519:{device_id}"): self.public_key(),
            },
        });
        self.sign_as(&mut keys, user_id, &format!("ed25519:{device_id}"));
        keys
    }
}

/// A user's three cross-signing keys.
pub(crate) struct Identity {
    pub(crate) master: Signer,
    pub(crate) self_signing: Signer,
    pub(crate) user_signing: Signer,
}

impl Identity {
    pub(crate) fn new() -> Self {
        Self { master: Signer::new(), self_signing: Signer::new(), user_signing: Signer::new() }
    }

    pub(crate) fn master_key(&self, user_id: &UserId) -> Value {
        self.master.cross_signing_key(user_id, "master")
    }

    pub(crate) fn self_signing_key(&self, user_id: &UserId) -> Value {
        let mut key = self.self_signing.cross_signing_key(user_id, "self_signing");
        self.master.sign(&mut key, user_id);
        key
    }

    pub(crate) fn user_signing_key(&self, user_id: &UserId) -> Value {
        let mut key = self.user_signing.cross_signing_key(user_id, "user_signing");
        self.master.sign(&mut key, user_id);
        key
    }
}

impl Identity {
    pub(crate) fn upload(&self, user_id: &UserId) -> CrossSigningUpload {
        CrossSigningUpload {
            master_key: Some(raw_key(&self.master_key(user_id))),
            self_signing_key: Some(raw_key(&self.self_signing_key(user_id))),
            user_signing_key: Some(raw_key(&self.user_signing_key(user_id))),
        }
    }
}

/// JSON as a cross-signing key that came from somewhere.
pub(crate) fn raw_key(key: &Value) -> Raw<CrossSigningKey> {
    Raw::from_json_string(key.to_string()).unwrap()
}

/// JSON as device keys that came from somewhere.
pub(crate) fn raw_device(keys: &Value) -> Raw<DeviceKeys> {
    Raw::from_json_string(keys.to_string()).unwrap()
}

/// A user of this server.
pub(crate) async fn user(bench: &Bench, username: &str) -> OwnedUserId {
    let account = NewAccount {
        username: username.to_owned(),
        password: Some("correct horse".to_owned()),
        ..NewAccount::default()
    };
    bench.users.create_account(account).await.unwrap()
}

/// A device of this user that signs with this key.
pub(crate) async fn device(bench: &Bench, user_id: &UserId, signer: &Signer) -> OwnedDeviceId {
    let session = bench.users.create_session(user_id, NewSession::default()).await.unwrap();
    let keys = signer.device_keys(user_id, &session.device_id).to_string();
    let mut commit = Commit::new(&user_id.to_owned());
    let device_id = session.device_id;
    commit.put(&DEVICE_KEYS, &user_id.to_owned(), &device_id, &Bytes::from(keys));
    bench.e2ee.note_list_change(&mut commit, user_id, Some(&device_id)).await.unwrap();
    bench.store.commit(commit).await.unwrap();
    device_id
}

/// Uploads a user's first cross-signing keys.
pub(crate) async fn identify(bench: &Bench, user_id: &UserId) -> Identity {
    let identity = Identity::new();
    let uploaded = bench.e2ee.upload_cross_signing_keys(user_id, identity.upload(user_id), false);
    assert_eq!(uploaded.await.unwrap(), CrossSigningOutcome::Stored);
    identity
}

/// A server that answers as it is told. What nobody told it of fails.
#[derive(Default)]
pub(crate) struct Elsewhere {
    pub(crate) lists: Mutex<BTreeMap<OwnedUserId, get_devices::v1::Response>>,
    pub(crate) keys: Mutex<Option<get_keys::v1::Response>>,
    /// The users whose lists were asked for.
    pub(crate) asked: Mutex<Vec<OwnedUserId>>,
    /// Servers that never answer questions for lists.
    pub(crate) silent: Mutex<BTreeSet<OwnedServerName>>,
    /// How many users each question for keys named.
    pub(crate) questions: Mutex<Vec<usize>>,
    /// The answer is too large for questions that name more users than this.
    pub(crate) most_users: Mutex<Option<usize>>,
    /// Answers to questions for lists wait while this is held.
    pub(crate) hold: tokio::sync::Mutex<()>,
}

impl Elsewhere {
    /// Plugs it in.
    pub(crate) fn plug(bench: &Bench) -> Arc<Self> {
        let elsewhere = Arc::new(Self::default());
        bench.e2ee.set_remote(Arc::clone(&elsewhere) as Arc<dyn RemoteKeys>);
        elsewhere
    }

    /// From now on a user's list is this.
    pub(crate) fn tell(&self, user_id: &UserId, stream_id: u32, devices: &[Value]) {
        let mut answer = get_devices::v1::Response::new(user_id.to_owned(), stream_id.into());
        for keys in devices {
            let device_id = keys["device_id"].as_str().unwrap().into();
            let device = get_devices::v1::UserDevice::new(device_id, raw_device(keys));
            answer.devices.push(device);
        }
        self.lists.lock().insert(user_id.to_owned(), answer);
    }

    /// From now on the list that is told has these cross-signing keys.
    pub(crate) fn identify(&self, user_id: &UserId, identity: &Identity) {
        let mut lists = self.lists.lock();
        let answer = lists.get_mut(user_id).unwrap();
        answer.master_key = Some(raw_key(&identity.master_key(user_id)));
        answer.self_signing_key = Some(raw_key(&identity.self_signing_key(user_id)));
    }
}

#[async_trait]
impl RemoteKeys for Elsewhere {
    async fn query(
        &self,
        _: &ServerName,
        users: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        _: Duration,
    ) -> Result<get_keys::v1::Response, RemoteKeysError> {
        self.questions.lock().push(users.len());
        if self.most_users.lock().is_some_and(|most| users.len() > most) {
            return Err(RemoteKeysError::TooLarge("too large".to_owned()));
        }
        let answer = self.keys.lock().clone();
        answer.ok_or_else(|| RemoteKeysError::Failed("nobody is there".to_owned()))
    }

    async fn claim(
        &self,
        _: &ServerName,
        _: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>,
        _: Duration,
    ) -> Result<claim_keys::v1::Response, RemoteKeysError> {
        Err(RemoteKeysError::Failed("nobody is there".to_owned()))
    }

    async fn devices(
        &self,
        user_id: &UserId,
        _: Duration,
    ) -> Result<get_devices::v1::Response, RemoteKeysError> {
        self.asked.lock().push(user_id.to_owned());
        if self.silent.lock().contains(user_id.server_name()) {
            return std::future::pending().await;
        }
        // As the list is when the question arrives.
        let answer = self.lists.lock().get(user_id).cloned();
        drop(self.hold.lock().await);
        answer.ok_or_else(|| RemoteKeysError::Failed("nobody is there".to_owned()))
    }
}
