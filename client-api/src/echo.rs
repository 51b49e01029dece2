//! A device learns of what it sent or made by the answer to that request, before its sync shows it.
//!
//! Both follow from the same commit and race. Clients match a sent event with the one in their timeline, and
//! a new room with the one they are making, by the ID in the answer; some (matrix-js-sdk in new threads,
//! Hydrogen with new rooms) are confused when a sync shows it first.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How long a sync waits at most for answers to what its device is sending.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long an answer takes from its handler to the wire.
const HANDOVER: Duration = Duration::from_millis(1);

/// The requests that send or make something and have no answer yet, by device. As many as there are requests.
#[derive(Debug, Default)]
pub(crate) struct Echoes(Mutex<Sending>);

#[derive(Debug, Default)]
struct Sending {
    last: u64,
    devices: HashMap<Key, watch::Sender<BTreeSet<u64>>>,
}

type Key = (OwnedUserId, OwnedDeviceId);

/// A request that sends or makes something, until it is dropped.
#[derive(Debug)]
pub(crate) struct Unanswered<'a> {
    echoes: &'a Echoes,
    key: Key,
    number: u64,
}

impl Echoes {
    /// A request of this device that sends or makes something; to be held until it is answered.
    pub(crate) fn unanswered(&self, user_id: &UserId, device_id: &DeviceId) -> Unanswered<'_> {
        let key = (user_id.to_owned(), device_id.to_owned());
        let mut sending = self.0.lock();
        sending.last += 1;
        let number = sending.last;
        let numbers = sending.devices.entry(key.clone()).or_default();
        numbers.send_modify(|numbers| {
            numbers.insert(number);
        });
        Unanswered { echoes: self, key, number }
    }

    /// Waits until the device has the answers to what it is sending now, for a moment at most: what it sends
    /// later is not waited for, and an answer that takes long is a sync's business no more.
    pub(crate) async fn answered(&self, user_id: &UserId, device_id: &DeviceId) {
        let (last, mut numbers) = {
            let sending = self.0.lock();
            let key = (user_id.to_owned(), device_id.to_owned());
            let Some(numbers) = sending.devices.get(&key) else { return };
            (sending.last, numbers.subscribe())
        };
        let earlier = numbers.wait_for(|numbers| numbers.first().is_none_or(|first| *first > last));
        // Ended by time, by the last answer, or because the device's entry went with it.
        drop(timeout(PATIENCE, earlier).await);
        sleep(HANDOVER).await;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let mut sending = self.echoes.0.lock();
        let Some(numbers) = sending.devices.get(&self.key) else { return };
        numbers.send_modify(|numbers| {
            numbers.remove(&self.number);
        });
        if numbers.borrow().is_empty() {
            sending.devices.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sync_waits_for_the_answers_that_are_due() {
        let echoes = Echoes::default();
        let (alice, phone) = (user_id!("@alice:a"), device_id!("PHONE"));
        let started = Instant::now();
        let first = echoes.unanswered(alice, phone);
        let answer = async {
            sleep(Duration::from_millis(20)).await;
            let later = echoes.unanswered(alice, phone);
            drop(first);
            later
        };
        let ((), later) = tokio::join!(echoes.answered(alice, phone), answer);
        assert_eq!(started.elapsed(), Duration::from_millis(20) + HANDOVER);
        drop(later);
        assert!(echoes.0.lock().devices.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sync_waits_for_no_other_device_and_not_for_long() {
        let echoes = Echoes::default();
        let (alice, phone) = (user_id!("@alice:a"), device_id!("PHONE"));
        let slow = echoes.unanswered(alice, phone);
        let started = Instant::now();
        echoes.answered(alice, device_id!("DESK")).await;
        echoes.answered(user_id!("@bob:a"), phone).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        echoes.answered(alice, phone).await;
        assert_eq!(started.elapsed(), PATIENCE + HANDOVER);
        drop(slow);
    }
}
