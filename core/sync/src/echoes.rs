//! A device has the answer to what it sent or made before its sync shows it.
//!
//! Both follow from one commit, and would race. Clients match a sent event with the one that they show
//! already, and a new room with the one that they are making, by the ID in the answer; some (matrix-js-sdk
//! in a new thread, Hydrogen with a new room) go wrong when a sync shows it first.
//!
//! Who makes a response notes how new the newest thing in it is that its user did ([`NewestOwn`]). What
//! happened at a position was done by a request that had begun before: those of the device that had, and
//! have no answer yet, are waited for, while the response is as it is. Usually there is none of them left.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth_rooms::schema::{StoredEvent, TimelineIndex, UserRoomRow};
use hearth_types::StreamPosition;
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use tokio::{sync::watch, time::timeout};

/// How long a response waits at most: longer than almost every commit takes, and not long for who waits for
/// news of others while, say, a remote room is being joined.
const PATIENCE: Duration = Duration::from_millis(250);
/// Requests that are remembered at a time; those beyond are not waited for. As many as the server works on
/// by default.
const MAX_UNANSWERED: usize = 4_096;

/// The requests that send or make something and have no answer yet, by device.
#[derive(Debug, Default)]
pub(crate) struct Echoes(Mutex<InFlight>);

#[derive(Debug, Default)]
struct InFlight {
    /// How many requests there ever were.
    begun: u64,
    count: usize,
    devices: HashMap<Device, watch::Sender<Requests>>,
}

type Device = (OwnedUserId, OwnedDeviceId);
/// Requests of one device by what was published when they began, and a number that tells them apart.
type Requests = BTreeSet<Request>;
type Request = (StreamPosition, u64);

/// A request of a device that sends or makes something, until this is dropped: see
/// [`SyncService::unanswered`](crate::SyncService::unanswered).
#[derive(Debug)]
#[must_use = "dropping it says that the request is answered"]
pub struct Unanswered {
    echoes: Arc<Echoes>,
    /// `None`: there are too many to remember this one.
    place: Option<(Device, Request)>,
}

/// How new the newest thing in a response is that its user did.
#[derive(Debug, Default)]
pub(crate) struct NewestOwn(AtomicU64);

impl NewestOwn {
    /// These events are shown to this user.
    pub(crate) fn events(&self, user_id: &UserId, events: &[Arc<StoredEvent>]) {
        for event in events.iter().filter(|event| event.pdu.sender() == user_id) {
            if let Some(TimelineIndex::Live(position)) = event.index {
                self.0.fetch_max(position.get(), Ordering::Relaxed);
            }
        }
    }

    /// This room is shown to this user, whose membership may be their own doing.
    pub(crate) fn room(&self, user_id: &UserId, row: &UserRoomRow) {
        if row.details.sender == *user_id {
            self.0.fetch_max(row.position.get(), Ordering::Relaxed);
        }
    }

    pub(crate) fn position(&self) -> StreamPosition {
        StreamPosition::new(self.0.load(Ordering::Relaxed))
    }
}

impl Echoes {
    /// A request that begins when everything up to `published` is published.
    pub(crate) fn unanswered(
        self: &Arc<Self>,
        user_id: &UserId,
        device_id: &DeviceId,
        published: StreamPosition,
    ) -> Unanswered {
        let device = (user_id.to_owned(), device_id.to_owned());
        let place = self.0.lock().begin(&device, published).map(|request| (device, request));
        Unanswered { echoes: Arc::clone(self), place }
    }

    /// Waits until the device has the answers to its requests that may have done what happened at this
    /// position, for a moment at most. What it sends later is not waited for, so that who sends without
    /// pause has news all the same.
    pub(crate) async fn answered(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        position: StreamPosition,
    ) {
        let mut requests = {
            let in_flight = self.0.lock();
            let device = (user_id.to_owned(), device_id.to_owned());
            let Some(requests) = in_flight.devices.get(&device) else { return };
            requests.subscribe()
        };
        let later = |requests: &Requests| requests.first().is_none_or(|(at, _)| *at >= position);
        // Ended by time, or by an answer; the last one takes the device's entry with it.
        drop(timeout(PATIENCE, requests.wait_for(later)).await);
    }
}

impl InFlight {
    fn begin(&mut self, device: &Device, published: StreamPosition) -> Option<Request> {
        if self.count >= MAX_UNANSWERED {
            return None;
        }
        self.count += 1;
        self.begun += 1;
        let request = (published, self.begun);
        self.devices.entry(device.clone()).or_default().send_modify(|requests| {
            requests.insert(request);
        });
        Some(request)
    }

    fn end(&mut self, device: &Device, request: Request) {
        self.count = self.count.saturating_sub(1);
        let Some(requests) = self.devices.get(device) else { return };
        requests.send_modify(|requests| {
            requests.remove(&request);
        });
        if requests.borrow().is_empty() {
            self.devices.remove(device);
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some((device, request)) = &self.place {
            self.echoes.0.lock().end(device, *request);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use ruma::{device_id, user_id};
    use tokio::time::{Instant, sleep};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const BEFORE: StreamPosition = StreamPosition::new(7);
    const SHOWN: StreamPosition = StreamPosition::new(8);

    /// How long a response waits in which this device's user did something at `SHOWN`.
    async fn wait_of(echoes: &Echoes, user_id: &UserId, device_id: &DeviceId) -> Duration {
        let started = Instant::now();
        echoes.answered(user_id, device_id, SHOWN).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_may_have_done_it_are_waited_for_and_later_ones_are_not() {
        let echoes = Arc::new(Echoes::default());
        let (alice, phone) = (user_id!("@alice:a"), device_id!("PHONE"));
        let one = echoes.unanswered(alice, phone, BEFORE);
        let two = echoes.unanswered(alice, phone, BEFORE);
        let client = async {
            sleep(SHORT).await;
            drop(two);
            let later = echoes.unanswered(alice, phone, SHOWN);
            sleep(SHORT).await;
            drop(one);
            later
        };
        let (waited, later) = tokio::join!(wait_of(&echoes, alice, phone), client);
        assert_eq!(waited, 2 * SHORT);
        assert_eq!(wait_of(&echoes, alice, phone).await, Duration::ZERO);
        drop(later);
        let in_flight = echoes.0.lock();
        assert!(in_flight.devices.is_empty() && in_flight.count == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_another_device_or_for_long() {
        let echoes = Arc::new(Echoes::default());
        let (alice, phone) = (user_id!("@alice:a"), device_id!("PHONE"));
        let _slow = echoes.unanswered(alice, phone, BEFORE);
        assert_eq!(wait_of(&echoes, alice, device_id!("DESK")).await, Duration::ZERO);
        assert_eq!(wait_of(&echoes, user_id!("@bob:a"), phone).await, Duration::ZERO);
        assert_eq!(wait_of(&echoes, alice, phone).await, PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_bound_hold_nothing_up() {
        let echoes = Arc::new(Echoes::default());
        let (alice, bob, phone) = (user_id!("@alice:a"), user_id!("@bob:a"), device_id!("PHONE"));
        let mut many: Vec<_> =
            (0..MAX_UNANSWERED).map(|_| echoes.unanswered(alice, phone, BEFORE)).collect();
        let beyond = echoes.unanswered(bob, phone, BEFORE);
        assert!(echoes.answered(bob, phone, SHOWN).now_or_never().is_some());
        drop(beyond);
        assert_eq!(echoes.0.lock().count, MAX_UNANSWERED, "it had no place to give back");
        many.pop();
        let _within = echoes.unanswered(bob, phone, BEFORE);
        assert!(echoes.answered(bob, phone, SHOWN).now_or_never().is_none());
    }
}
