//! Devices that upload one-time keys, and others that claim them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_testkit::ClientKey;
use http::Method;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use super::{Device, Kind, PAUSE, World, ended, sleep};

/// Users whose devices' keys are claimed, and devices of each.
const OWNERS: usize = 2;
const DEVICES_OF_EACH: usize = 3;
const CLAIMERS: usize = 4;
/// A device that has fewer keys left uploads so many more.
const FEW_KEYS: u64 = 60;
const KEYS_PER_UPLOAD: usize = 20;
const ALGORITHM: &str = "signed_curve25519";
const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";

type Address = (OwnedUserId, OwnedDeviceId);
/// Keys by their IDs.
type Keys = BTreeMap<String, Value>;

/// A device that keeps the server supplied with its keys.
struct Owner {
    device: Device,
    key: ClientKey,
    /// All that the server has taken.
    uploaded: Keys,
}

impl Owner {
    async fn new(device: Device) -> Self {
        let key = ClientKey::new();
        let device_keys = key.device_keys(&device.user_id, &device.id);
        device
            .until_answered(Method::POST, UPLOAD, Some(&json!({ "device_keys": device_keys })))
            .await;
        let mut owner = Self { device, key, uploaded: Keys::new() };
        owner.upload().await;
        owner
    }

    fn address(&self) -> Address {
        (self.device.user_id.clone(), self.device.id.clone())
    }

    /// Uploads more keys, the same ones until it is answered. They are named in their order.
    async fn upload(&mut self) {
        let (user_id, device_id) = self.address();
        let mut keys = Keys::new();
        for number in self.uploaded.len()..self.uploaded.len() + KEYS_PER_UPLOAD {
            let mut key = json!({ "key": ClientKey::new().public_key() });
            self.key.sign_as(&mut key, &user_id, &format!("ed25519:{device_id}"));
            keys.insert(format!("{ALGORITHM}:{number:06}"), key);
        }
        let body = json!({ "one_time_keys": keys });
        self.device.until_answered(Method::POST, UPLOAD, Some(&body)).await;
        self.uploaded.extend(keys);
    }

    /// How many keys the server has left.
    async fn left(&self) -> u64 {
        let answer = self.device.until_answered(Method::POST, UPLOAD, Some(&json!({}))).await;
        answer["one_time_key_counts"][ALGORITHM].as_u64().unwrap()
    }

    async fn run(mut self) -> Self {
        while !self.device.world.is_over() {
            if self.left().await < FEW_KEYS {
                self.upload().await;
            } else {
                sleep(PAUSE).await;
            }
        }
        self
    }
}

/// Who claims keys, and what came of it.
struct Claimer {
    device: Device,
    addresses: Vec<Address>,
    dice: StdRng,
    /// The keys that were handed out, by device, in the order in which they came.
    got: BTreeMap<Address, Vec<(String, Value)>>,
    /// Claims of a device's keys that were not answered: each may have used one up.
    unanswered: BTreeMap<Address, usize>,
}

impl Claimer {
    fn new(device: Device, addresses: &[Address], seed: u64) -> Self {
        Self {
            device,
            addresses: addresses.to_vec(),
            dice: StdRng::seed_from_u64(seed),
            got: BTreeMap::new(),
            unanswered: BTreeMap::new(),
        }
    }

    /// Claims a key of each of these devices, without asking twice. Returns how many came.
    async fn claim(&mut self, of: &[Address]) -> usize {
        let mut asked = Map::new();
        for (user_id, device_id) in of {
            let devices = asked.entry(user_id.as_str()).or_insert_with(|| json!({}));
            devices[device_id.as_str()] = ALGORITHM.into();
        }
        let body = json!({ "one_time_keys": asked });
        let Some(answer) = self.device.once(Method::POST, CLAIM, Some(&body)).await else {
            for address in of {
                *self.unanswered.entry(address.clone()).or_default() += 1;
            }
            return 0;
        };
        let mut came = 0;
        for address in of {
            let keys = &answer["one_time_keys"][address.0.as_str()][address.1.as_str()];
            for (key_id, key) in keys.as_object().into_iter().flatten() {
                let got = self.got.entry(address.clone()).or_default();
                got.push((key_id.clone(), key.clone()));
                self.device.world.answered(Kind::Claim);
                came += 1;
            }
        }
        came
    }

    async fn run(mut self) -> Self {
        while !self.device.world.is_over() {
            let dice = &mut self.dice;
            let mut of = self.addresses.clone();
            of.retain(|_| dice.random());
            if self.claim(&of).await == 0 {
                sleep(PAUSE).await;
            }
        }
        self
    }
}

/// All of them.
pub(super) struct Claims {
    owners: Vec<JoinHandle<Owner>>,
    claimers: Vec<JoinHandle<Claimer>>,
}

impl Claims {
    pub(super) async fn start(world: &Arc<World>, dice: &mut StdRng) -> Self {
        let mut owners = Vec::new();
        for number in 0..OWNERS {
            let name = format!("owner{number}");
            owners.push(Owner::new(world.register(&name).await).await);
            for _ in 1..DEVICES_OF_EACH {
                owners.push(Owner::new(world.log_in(&name).await).await);
            }
        }
        let addresses: Vec<_> = owners.iter().map(Owner::address).collect();
        let mut claimers = Vec::new();
        for number in 0..CLAIMERS {
            let device = world.register(&format!("claimer{number}")).await;
            claimers.push(Claimer::new(device, &addresses, dice.next_u64()));
        }
        Self {
            owners: owners.into_iter().map(|owner| tokio::spawn(owner.run())).collect(),
            claimers: claimers.into_iter().map(|claimer| tokio::spawn(claimer.run())).collect(),
        }
    }

    /// Each key went to at most one claim, as it was uploaded and in the order of the uploads; those that
    /// no answer had were used up by claims without one, or are left for one last claim.
    pub(super) async fn check(self) {
        let (owners, mut claimers) = (ended(self.owners).await, ended(self.claimers).await);
        let mut left = BTreeMap::new();
        for owner in &owners {
            left.insert(owner.address(), owner.left().await);
        }
        let addresses = claimers[0].addresses.clone();
        while claimers[0].claim(&addresses).await > 0 {}
        for owner in &owners {
            let address = owner.address();
            let mut handed_out = BTreeSet::new();
            let mut unanswered = 0;
            for claimer in &claimers {
                let keys = claimer.got.get(&address).map_or(&[][..], Vec::as_slice);
                assert!(keys.is_sorted_by(|one, next| one.0 < next.0), "out of order: {keys:?}");
                for (key_id, key) in keys {
                    assert_eq!(Some(key), owner.uploaded.get(key_id), "not the key {key_id}");
                    assert!(
                        handed_out.insert(key_id),
                        "{key_id} of {address:?} was handed out twice"
                    );
                }
                unanswered += claimer.unanswered.get(&address).copied().unwrap_or_default();
            }
            let used_up = owner.uploaded.len() - handed_out.len();
            println!(
                "{address:?}: {} keys, {} left at the end, {used_up} lost to {unanswered} claims \
                 without an answer",
                owner.uploaded.len(),
                left[&address],
            );
            assert!(used_up <= unanswered, "{used_up} keys of {address:?} are gone");
            assert_eq!(owner.left().await, 0);
        }
    }
}
