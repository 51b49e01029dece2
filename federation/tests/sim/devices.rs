//! What devices do while the network is bad: they send numbers to devices of other servers, come, are
//! renamed and go, and servers follow each other's lists.

use std::collections::{BTreeMap, BTreeSet};

use hearth_e2ee::{CrossSigningUpload, E2ee, KeyUpload, KeysWanted, ToDeviceMessage};
use hearth_types::StreamPosition;
use hearth_users::NewSession;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::{OwnedDeviceId, OwnedUserId, canonical_json::try_from_json_map, serde::Raw};
use serde_json::{Value, json};
use tokio::time::Duration;
use vodozemac::Ed25519SecretKey;

use crate::{
    network::Network,
    server::{SimServer, USERS},
};

/// How long a server waits for another one's list.
const QUERY_TIME: Duration = Duration::from_secs(20);
/// The device that each user has all the time.
const MAIN_DEVICE: &str = "MAIN";
const EVENT_TYPE: &str = "m.sim";

/// What devices did, and what they must find at the end.
pub(crate) struct Devices {
    rng: StdRng,
    /// Whom each user's messages were for, by number.
    sent: BTreeMap<OwnedUserId, Vec<BTreeSet<OwnedUserId>>>,
    /// Devices of anchors beside the main one, with how many there ever were.
    more: BTreeMap<OwnedUserId, (usize, Vec<OwnedDeviceId>)>,
}

impl Devices {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0x0064_6576_6963_6573);
        Self { rng, sent: BTreeMap::new(), more: BTreeMap::new() }
    }

    /// Logs every user in on their main device.
    pub(crate) async fn start(&self, servers: &[SimServer]) -> Result<(), String> {
        for server in servers {
            for number in 0..USERS {
                log_in(server, &server.user(number), &MAIN_DEVICE.into()).await?;
            }
        }
        Ok(())
    }

    /// One device of one server does something.
    pub(crate) async fn act(&mut self, servers: &[SimServer]) -> Result<(), String> {
        let server = &servers[self.rng.random_range(0..servers.len())];
        let other = &servers[self.rng.random_range(0..servers.len())];
        if !server.is_running() {
            return Ok(());
        }
        match self.rng.random_range(0..8) {
            0..4 => self.send(server, servers).await,
            4 => self.change(server).await,
            5 => self.sign(server).await,
            _ if other.name == server.name => Ok(()),
            // A crash in the middle of it is nothing special: nothing is asked of the answer.
            _ => {
                let (e2ee, me, whom) =
                    (server.e2ee().unwrap().clone(), server.user(0), other.user(0));
                tokio::spawn(async move { query(&e2ee, &me, &whom).await });
                Ok(())
            }
        }
    }

    /// Sends the next number to users of any servers, to one device or to all.
    async fn send(&mut self, server: &SimServer, servers: &[SimServer]) -> Result<(), String> {
        let sender = server.user(self.rng.random_range(0..USERS));
        let mut receivers = BTreeSet::new();
        for _ in 0..self.rng.random_range(1..=3) {
            let to = self.rng.random_range(0..servers.len());
            receivers.insert(servers[to].user(self.rng.random_range(0..USERS)));
        }
        let device = if self.rng.random() { "*" } else { MAIN_DEVICE };
        let sent = self.sent.entry(sender.clone()).or_default();
        let number = sent.len();
        let messages: serde_json::Map<_, _> = receivers
            .iter()
            .map(|user_id| (user_id.to_string(), json!({ device: { "n": number } })))
            .collect();
        let message = ToDeviceMessage {
            sender: sender.clone(),
            device_id: MAIN_DEVICE.into(),
            transaction_id: format!("t{number}").into(),
            event_type: EVENT_TYPE.to_owned(),
            messages: serde_json::from_value(messages.into()).unwrap(),
        };
        let answer = server.e2ee().unwrap().send_to_device(message).await;
        answer.map_err(|error| format!("{sender} cannot send to devices: {error}"))?;
        sent.push(receivers);
        Ok(())
    }

    /// A device of the anchor comes, is renamed, or goes.
    async fn change(&mut self, server: &SimServer) -> Result<(), String> {
        let user_id = server.user(0);
        let users = server.users().unwrap();
        let (count, devices) = self.more.entry(user_id.clone()).or_default();
        let kind = if devices.is_empty() { 0 } else { self.rng.random_range(0..3) };
        let done = match kind {
            0 => {
                *count += 1;
                let device_id = OwnedDeviceId::from(format!("D{count}"));
                devices.push(device_id.clone());
                return log_in(server, &user_id, &device_id).await;
            }
            1 => {
                let device_id = &devices[self.rng.random_range(0..devices.len())];
                let name = format!("name {}", self.rng.random_range(0..1_000));
                users.rename_device(&user_id, device_id, Some(name)).await
            }
            _ => {
                let device_id = devices.remove(self.rng.random_range(0..devices.len()));
                users.delete_devices(&user_id, &[device_id]).await.map(drop)
            }
        };
        done.map_err(|error| format!("{user_id} cannot change devices: {error}"))
    }

    /// The anchor has other cross-signing keys.
    async fn sign(&mut self, server: &SimServer) -> Result<(), String> {
        let user_id = server.user(0);
        let key = Ed25519SecretKey::from_slice(&self.rng.random());
        let public = key.public_key().to_base64();
        let master = json!({
            "user_id": user_id,
            "usage": ["master"],
            "keys": { format!("ed25519:{public}"): public },
        });
        let master_key = Some(Raw::from_json_string(master.to_string()).unwrap());
        let keys = CrossSigningUpload { master_key, ..CrossSigningUpload::default() };
        let done = server.e2ee().unwrap().upload_cross_signing_keys(&user_id, keys, true).await;
        done.map(drop).map_err(|error| format!("{user_id} cannot change its keys: {error}"))
    }

    /// Each message must have arrived once and in its sender's order. How many have.
    pub(crate) async fn all_arrived(&self, servers: &[SimServer]) -> Result<usize, String> {
        let mut count = 0;
        for server in servers {
            for number in 0..USERS {
                count += self.arrived(server, &server.user(number)).await?;
            }
        }
        Ok(count)
    }

    /// Each server must know the lists of the anchors with whom it has shared a room all the time. How many
    /// it knew without asking, for it had followed them.
    pub(crate) async fn lists_agree(
        &self,
        servers: &[SimServer],
        shared: &BTreeSet<(usize, usize)>,
        network: &Network,
    ) -> Result<usize, String> {
        let mut known = 0;
        for (one, other) in shared {
            let (follower, owner) = (&servers[*one], &servers[*other]);
            let whom = owner.user(0);
            let before = network.trace().1;
            let seen = query(follower.e2ee().unwrap(), &follower.user(0), &whom).await;
            known += usize::from(network.trace().1 == before);
            let own = query(owner.e2ee().unwrap(), &owner.user(0), &whom).await;
            if seen != own {
                return Err(format!(
                    "{} knows {whom} as {seen:?}, and {} as {own:?}",
                    follower.name, owner.name
                ));
            }
        }
        Ok(known)
    }

    /// The messages of a user's main device against what was sent.
    async fn arrived(&self, server: &SimServer, user_id: &OwnedUserId) -> Result<usize, String> {
        let e2ee = server.e2ee().unwrap();
        let until = server.published().unwrap();
        let (mut after, mut arrived) =
            (StreamPosition::ZERO, BTreeMap::<String, Vec<usize>>::new());
        while after < until {
            let page = e2ee.to_device(user_id, MAIN_DEVICE.into(), after, until).await;
            let page = page.map_err(|error| error.to_string())?;
            for event in page.events {
                let event: Value = serde_json::from_slice(&event).unwrap();
                let number = usize::try_from(event["content"]["n"].as_u64().unwrap()).unwrap();
                let sender = event["sender"].as_str().unwrap().to_owned();
                arrived.entry(sender).or_default().push(number);
            }
            after = page.until;
        }
        let mut count = 0;
        for (sender, sent) in &self.sent {
            let numbers = (0..sent.len()).filter(|number| sent[*number].contains(user_id));
            let expected: Vec<_> = numbers.collect();
            let found = arrived.remove(sender.as_str()).unwrap_or_default();
            if found != expected {
                return Err(format!("{sender} sent {expected:?} to {user_id}, who got {found:?}"));
            }
            count += found.len();
        }
        Ok(count)
    }
}

/// Logs a user in on a device, which uploads its keys.
async fn log_in(
    server: &SimServer,
    user_id: &OwnedUserId,
    device_id: &OwnedDeviceId,
) -> Result<(), String> {
    let session = NewSession { device_id: Some(device_id.clone()), ..NewSession::default() };
    let users = server.users().unwrap();
    users.create_session(user_id, session).await.map_err(|error| error.to_string())?;
    // The same in every run.
    let mut seed = [0; 32];
    for (byte, other) in seed.iter_mut().zip(format!("{device_id}{user_id}").bytes()) {
        *byte = other;
    }
    let key = Ed25519SecretKey::from_slice(&seed);
    let public = key.public_key().to_base64();
    let mut keys = json!({
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            format!("curve25519:{device_id}"): public,
            format!("ed25519:{device_id}"): public,
        },
    });
    let canonical = try_from_json_map(keys.as_object().unwrap().clone()).unwrap();
    let signature = key.sign(&serde_json::to_vec(&canonical).unwrap()).to_base64();
    keys["signatures"] = json!({ user_id: { format!("ed25519:{device_id}"): signature } });
    let device_keys = Some(Raw::from_json_string(keys.to_string()).unwrap());
    let upload = KeyUpload { device_keys, ..KeyUpload::default() };
    let done = server.e2ee().unwrap().upload_keys(user_id, device_id, None, upload).await;
    done.map(drop).map_err(|error| format!("{user_id} cannot upload keys: {error}"))
}

/// What a server's user is told of another user: device keys with names, and the master key.
async fn query(e2ee: &E2ee, me: &OwnedUserId, whom: &OwnedUserId) -> Option<Value> {
    let wanted = KeysWanted::from([(whom.clone(), Vec::new())]);
    let answer = e2ee.query_keys(me, wanted, QUERY_TIME).await.ok()?;
    let devices = answer.device_keys.get(whom)?;
    Some(json!({ "devices": devices, "master": answer.master_keys.get(whom) }))
}
