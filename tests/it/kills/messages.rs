//! Devices that send numbered messages to devices, and those that receive them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_testkit::encode;
use http::Method;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use super::{Device, Kind, PAUSE, World, ended, sleep};

/// Users who receive, and devices of each.
const RECEIVERS: usize = 2;
const DEVICES_OF_EACH: usize = 2;
const SENDERS: usize = 4;
const EVENT_TYPE: &str = "org.example.numbered";
/// A message that was not answered is given up, and not repeated, with this probability.
const GIVEN_UP: f64 = 0.4;
/// A response to a sync gets lost on its way with this probability.
const LOST: f64 = 0.1;
const SYNC_MS: u64 = 1_000;

type Address = (OwnedUserId, OwnedDeviceId);

/// Who sends, and what came of it.
struct Sender {
    device: Device,
    /// Users and their devices.
    receivers: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    dice: StdRng,
    /// By number: to whom, and whether it was answered.
    sent: Vec<(BTreeSet<Address>, bool)>,
}

impl Sender {
    /// Contents for some devices of everybody, or for all of them; and whose they are.
    fn messages(&mut self) -> (Value, BTreeSet<Address>) {
        let content = json!({ "number": self.sent.len() });
        let (mut messages, mut addresses) = (Map::new(), BTreeSet::new());
        for (user_id, devices) in &self.receivers {
            let to_all = self.dice.random_bool(0.3);
            let mut contents = Map::new();
            for device_id in devices {
                if to_all || self.dice.random_bool(0.5) {
                    addresses.insert((user_id.clone(), device_id.clone()));
                    let to = if to_all { "*" } else { device_id.as_str() };
                    contents.insert(to.to_owned(), content.clone());
                }
            }
            messages.insert(user_id.to_string(), contents.into());
        }
        (messages.into(), addresses)
    }

    async fn run(mut self) -> Self {
        while !self.device.world.is_over() {
            let (messages, addresses) = self.messages();
            let number = self.sent.len();
            let path = format!("/_matrix/client/v3/sendToDevice/{EVENT_TYPE}/t{number}");
            let body = json!({ "messages": messages });
            let answered = loop {
                if self.device.once(Method::PUT, &path, Some(&body)).await.is_some() {
                    break true;
                }
                if self.dice.random_bool(GIVEN_UP) {
                    break false;
                }
            };
            self.sent.push((addresses, answered));
            if answered {
                self.device.world.answered(Kind::Message);
            }
        }
        self
    }
}

/// Who follows sync from token to token.
struct Receiver {
    device: Device,
    dice: StdRng,
    since: Option<String>,
    /// Sender and number, in the order in which they came.
    received: Vec<(String, usize)>,
}

impl Receiver {
    /// One sync. Returns whether a message came.
    async fn sync(&mut self, timeout_ms: u64, lost: f64) -> bool {
        let mut path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}");
        if let Some(since) = &self.since {
            path.extend(["&since=", &encode(since)]);
        }
        let Some(answer) = self.device.once(Method::GET, &path, None).await else { return false };
        if self.dice.random_bool(lost) {
            return false;
        }
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        for event in &events {
            assert_eq!(event["type"], EVENT_TYPE);
            let number = event["content"]["number"].as_u64().unwrap();
            let sender = event["sender"].as_str().unwrap().to_owned();
            self.received.push((sender, usize::try_from(number).unwrap()));
        }
        self.since = answer["next_batch"].as_str().map(ToOwned::to_owned);
        !events.is_empty()
    }

    async fn run(mut self) -> Self {
        while !self.device.world.is_over() {
            self.sync(SYNC_MS, LOST).await;
            if self.dice.random_bool(0.1) {
                sleep(PAUSE).await;
            }
        }
        self
    }
}

/// All of them.
pub(super) struct Messages {
    senders: Vec<JoinHandle<Sender>>,
    receivers: Vec<JoinHandle<Receiver>>,
}

impl Messages {
    pub(super) async fn start(world: &Arc<World>, dice: &mut StdRng) -> Self {
        let mut receivers = Vec::new();
        for number in 0..RECEIVERS {
            let name = format!("receiver{number}");
            receivers.push(world.register(&name).await);
            for _ in 1..DEVICES_OF_EACH {
                receivers.push(world.log_in(&name).await);
            }
        }
        let mut addresses = BTreeMap::<_, Vec<_>>::new();
        for Device { user_id, id, .. } in &receivers {
            addresses.entry(user_id.clone()).or_default().push(id.clone());
        }
        let mut senders = Vec::new();
        for number in 0..SENDERS {
            let device = world.register(&format!("sender{number}")).await;
            let dice = StdRng::seed_from_u64(dice.next_u64());
            senders.push(Sender { device, receivers: addresses.clone(), dice, sent: Vec::new() });
        }
        let receivers = receivers.into_iter().map(|device| {
            let dice = StdRng::seed_from_u64(dice.next_u64());
            Receiver { device, dice, since: None, received: Vec::new() }
        });
        Self {
            receivers: receivers.map(|receiver| tokio::spawn(receiver.run())).collect(),
            senders: senders.into_iter().map(|sender| tokio::spawn(sender.run())).collect(),
        }
    }

    /// Each device got what was sent to it and answered, once and in each sender's order, and of what was
    /// given up nothing twice.
    pub(super) async fn check(self) {
        let senders = ended(self.senders).await;
        for mut receiver in ended(self.receivers).await {
            while receiver.sync(0, 0.).await {}
            let address = (receiver.device.user_id.clone(), receiver.device.id.clone());
            for sender in &senders {
                let name = sender.device.user_id.as_str();
                let from = receiver.received.iter().filter(|(sender, _)| sender == name);
                let numbers: Vec<usize> = from.map(|(_, number)| *number).collect();
                assert!(
                    numbers.is_sorted_by(|one, next| one < next),
                    "{name} to {address:?}, twice or out of order: {numbers:?}"
                );
                let numbers: BTreeSet<usize> = numbers.into_iter().collect();
                let mut given_up = 0;
                for (number, (addresses, answered)) in sender.sent.iter().enumerate() {
                    let is_for_it = addresses.contains(&address);
                    let came = numbers.contains(&number);
                    assert!(is_for_it || !came, "{name}'s {number} was not for {address:?}");
                    assert!(
                        came || !(is_for_it && *answered),
                        "{name}'s {number} is lost for {address:?}"
                    );
                    given_up += usize::from(!answered);
                }
                println!(
                    "{name} to {address:?}: {} came; {given_up} of {} given up",
                    numbers.len(),
                    sender.sent.len()
                );
            }
        }
    }
}
