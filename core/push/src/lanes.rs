//! Who has something to send, and whose turn it is. All in memory: the log and the pushers' progress bring it
//! back.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use hearth_rooms::schema::EventOrdinal;
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, push::Action};

use crate::registry::Entry;

/// Notifications that wait for one pusher: more than a busy moment brings. With more it is behind, and catches up.
const MAX_QUEUED: usize = 256;
/// Requests in flight to all gateways together.
const MAX_REQUESTS: usize = 256;
/// Requests in flight to one gateway: a slow one leaves room for others.
const MAX_PER_GATEWAY: usize = 64;

/// Something to push.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// When it happened.
    pub(crate) position: StreamPosition,
    pub(crate) what: What,
}

/// What there is to push.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// An event of a room that the user is in, or the user's invitation to one that this server is in.
    Event { room_id: OwnedRoomId, ordinal: EventOrdinal, actions: Arc<[Action]> },
    /// An invitation to a room that this server is not in.
    Invitation { room_id: OwnedRoomId, actions: Arc<[Action]> },
    /// The unread count may be another.
    Badge,
}

/// What a worker shall do for a pusher.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: Arc<Entry>,
    /// The gateway whose place the job has.
    pub(crate) gateway: String,
    /// The notification to send; `None`: catch up.
    pub(crate) item: Option<Item>,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done with it: the next one can come.
    Done,
    /// The pusher is behind until this time, in milliseconds.
    Behind { retry_ms: u64 },
}

/// What became of something that was to wait for a pusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Queued,
    /// It was delivered before, or the pusher catches up anyhow.
    Dropped,
    /// The queue is full.
    Full,
}

/// The lanes of pushers that have something to send, by their serial.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Everything up to here was distributed.
    routed: StreamPosition,
    by_serial: HashMap<u64, Lane>,
    ready: VecDeque<u64>,
    gateways: HashMap<String, Places>,
    /// Pushers that failed, by the time when they are due.
    due: BTreeSet<(u64, u64)>,
    workers: usize,
    closed: bool,
}

#[derive(Debug)]
struct Lane {
    entry: Arc<Entry>,
    queue: VecDeque<Item>,
    /// Catches up instead of sending what is queued.
    is_behind: bool,
    /// Is ready, waits for its gateway, or is at work.
    is_scheduled: bool,
}

/// One gateway's places.
#[derive(Debug, Default)]
struct Places {
    taken: usize,
    waiting: VecDeque<u64>,
}

impl Lanes {
    pub(crate) fn new(routed: StreamPosition) -> Self {
        Self { routed, ..Self::default() }
    }

    pub(crate) fn routed(&self) -> StreamPosition {
        self.routed
    }

    pub(crate) fn set_routed(&mut self, routed: StreamPosition) {
        self.routed = routed;
    }

    /// Everything up to here is delivered, or kept in a row.
    pub(crate) fn settled(&self) -> StreamPosition {
        let fronts = self.by_serial.values().filter(|lane| !lane.is_behind);
        let oldest = fronts.filter_map(|lane| lane.queue.front()).map(|item| item.position).min();
        oldest.map_or(self.routed, |oldest| oldest.previous().min(self.routed))
    }

    /// Queues something for a pusher.
    pub(crate) fn push(&mut self, entry: &Arc<Entry>, item: Item) -> Pushed {
        if entry.is_gone() || item.position <= entry.progress().delivered {
            return Pushed::Dropped;
        }
        let lane = self.by_serial.entry(entry.serial).or_insert_with(|| Lane::new(entry));
        // The same again comes after the log could not be read to the end.
        if lane.is_behind || lane.queue.back().is_some_and(|last| last.position >= item.position) {
            return Pushed::Dropped;
        }
        if let (Some(Item { what: What::Badge, .. }), What::Badge) = (lane.queue.back(), &item.what)
            && lane.queue.len() > 1
        {
            return Pushed::Dropped; // The one that waits will send the newest count.
        }
        if lane.queue.len() >= MAX_QUEUED {
            return Pushed::Full;
        }
        lane.queue.push_back(item);
        self.schedule(entry.serial);
        Pushed::Queued
    }

    /// A pusher that is behind, to be tried at this time; its row says so already.
    pub(crate) fn set_behind(&mut self, entry: &Arc<Entry>, retry_ms: u64) {
        let lane = self.by_serial.entry(entry.serial).or_insert_with(|| Lane::new(entry));
        lane.is_behind = true;
        lane.queue.clear();
        if !lane.is_scheduled {
            self.due.insert((retry_ms, entry.serial));
        }
    }

    /// Makes those ready that are due.
    pub(crate) fn wake_due(&mut self, now_ms: u64) {
        while let Some(&(retry_ms, serial)) = self.due.first()
            && retry_ms <= now_ms
        {
            self.due.pop_first();
            self.schedule(serial);
        }
    }

    /// Makes a pusher ready that waits for its time.
    pub(crate) fn wake(&mut self, serial: u64) {
        let before = self.due.len();
        self.due.retain(|(_, due)| *due != serial);
        if self.due.len() < before {
            self.schedule(serial);
        }
    }

    /// Forgets a pusher.
    pub(crate) fn forget(&mut self, serial: u64) {
        self.due.retain(|(_, due)| *due != serial);
        if let Some(lane) = self.by_serial.get_mut(&serial) {
            lane.queue.clear();
            if !lane.is_scheduled {
                self.by_serial.remove(&serial);
            }
        }
    }

    fn schedule(&mut self, serial: u64) {
        if let Some(lane) = self.by_serial.get_mut(&serial)
            && !lane.is_scheduled
        {
            lane.is_scheduled = true;
            self.ready.push_back(serial);
        }
    }

    /// Takes places for as many more workers as have something to do; how many. Those at work are busy.
    pub(crate) fn hire(&mut self) -> usize {
        let free = MAX_REQUESTS.saturating_sub(self.workers);
        let hired = if self.closed { 0 } else { self.ready.len().min(free) };
        self.workers += hired;
        hired
    }

    /// The next job; `None` ends the worker.
    pub(crate) fn next(&mut self) -> Option<Job> {
        while !self.closed
            && let Some(serial) = self.ready.pop_front()
        {
            let Some(lane) = self.by_serial.get_mut(&serial) else { continue };
            if lane.entry.is_gone() || (!lane.is_behind && lane.queue.is_empty()) {
                self.by_serial.remove(&serial);
                continue;
            }
            let gateway = host_of(&lane.entry.row().url);
            let places = self.gateways.entry(gateway.clone()).or_default();
            if places.taken >= MAX_PER_GATEWAY {
                places.waiting.push_back(serial);
                continue;
            }
            places.taken += 1;
            let item = if lane.is_behind { None } else { lane.queue.front().cloned() };
            return Some(Job { entry: Arc::clone(&lane.entry), gateway, item });
        }
        self.workers = self.workers.saturating_sub(1);
        None
    }

    /// A job is over.
    pub(crate) fn done(&mut self, job: &Job, outcome: Outcome) {
        self.leave(&job.gateway);
        let serial = job.entry.serial;
        let Some(lane) = self.by_serial.get_mut(&serial) else { return };
        lane.is_scheduled = false;
        if job.entry.is_gone() {
            self.by_serial.remove(&serial);
            return;
        }
        match outcome {
            Outcome::Behind { retry_ms } => {
                lane.is_behind = true;
                lane.queue.clear();
                self.due.insert((retry_ms, serial));
            }
            Outcome::Done => {
                // Unless the queue was full meanwhile, and given up.
                if !lane.is_behind
                    && let Some(item) = &job.item
                    && lane.queue.front().is_some_and(|front| front.position == item.position)
                {
                    lane.queue.pop_front();
                }
                if lane.is_behind || !lane.queue.is_empty() {
                    self.schedule(serial);
                } else {
                    self.by_serial.remove(&serial);
                }
            }
        }
    }

    fn leave(&mut self, gateway: &str) {
        let Some(places) = self.gateways.get_mut(gateway) else { return };
        places.taken = places.taken.saturating_sub(1);
        if let Some(serial) = places.waiting.pop_front() {
            self.ready.push_front(serial);
        } else if places.taken == 0 {
            self.gateways.remove(gateway);
        }
    }

    /// A pusher that is behind knows everything up to `until`. If that is all that was distributed, it keeps up
    /// from here on, and its row is to say so.
    pub(crate) fn catch_up(&mut self, entry: &Entry, until: StreamPosition) -> bool {
        if self.routed > until {
            return false;
        }
        if let Some(lane) = self.by_serial.get_mut(&entry.serial) {
            lane.is_behind = false;
        }
        true
    }

    /// No more jobs.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }
}

impl Lane {
    fn new(entry: &Arc<Entry>) -> Self {
        Self {
            entry: Arc::clone(entry),
            queue: VecDeque::new(),
            is_behind: false,
            is_scheduled: false,
        }
    }
}

/// What gateways are told apart by.
fn host_of(url: &str) -> String {
    let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(ToOwned::to_owned));
    host.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pushers::{ProgressRow, PusherRow},
        registry::Registry,
    };

    fn entries(count: usize, host: &str) -> Vec<Arc<Entry>> {
        let registry = Registry::default();
        let user_id = ruma::owned_user_id!("@a:hearth.test");
        for number in 0..count {
            let row = PusherRow {
                device_id: "D".into(),
                app_display_name: String::new(),
                device_display_name: String::new(),
                profile_tag: None,
                lang: String::new(),
                url: format!("https://{host}/_matrix/push/v1/notify"),
                format: None,
                data: "{}".to_owned(),
                set_ms: 0,
            };
            let key = ("app".to_owned(), number.to_string());
            registry.insert(user_id.clone(), key, row, ProgressRow::default());
        }
        registry.of_user(&user_id)
    }

    fn badge(position: u64) -> Item {
        Item { position: StreamPosition::new(position), what: What::Badge }
    }

    fn event(position: u64) -> Item {
        let what = What::Invitation {
            room_id: ruma::owned_room_id!("!r:hearth.test"),
            actions: Arc::from([]),
        };
        Item { position: StreamPosition::new(position), what }
    }

    #[test]
    fn one_at_a_time_in_order_and_the_log_is_held_for_the_oldest() {
        let pushers = entries(1, "a.example");
        let mut lanes = Lanes::new(StreamPosition::new(1));
        for position in [3, 5] {
            assert_eq!(lanes.push(&pushers[0], event(position)), Pushed::Queued);
        }
        lanes.set_routed(StreamPosition::new(9));
        assert_eq!(lanes.settled(), StreamPosition::new(2));
        assert_eq!(lanes.hire(), 1);
        let first = lanes.next().unwrap();
        assert_eq!(first.item.as_ref().unwrap().position, StreamPosition::new(3));
        assert!(lanes.next().is_none(), "the second waits for the first");
        lanes.done(&first, Outcome::Done);
        assert_eq!(lanes.settled(), StreamPosition::new(4));
        let second = lanes.next().unwrap();
        lanes.done(&second, Outcome::Done);
        assert_eq!(lanes.settled(), StreamPosition::new(9));
        assert!(lanes.by_serial.is_empty());
    }

    #[test]
    fn whoever_fails_lets_go_of_the_log_and_is_tried_when_due() {
        let pushers = entries(1, "a.example");
        let mut lanes = Lanes::new(StreamPosition::new(1));
        lanes.push(&pushers[0], event(3));
        lanes.set_routed(StreamPosition::new(9));
        let job = lanes.next().unwrap();
        lanes.done(&job, Outcome::Behind { retry_ms: 100 });
        assert_eq!(lanes.settled(), StreamPosition::new(9));
        assert_eq!(lanes.push(&pushers[0], event(10)), Pushed::Dropped);
        lanes.wake_due(99);
        assert!(lanes.next().is_none());
        lanes.wake_due(100);
        let job = lanes.next().unwrap();
        assert!(job.item.is_none(), "it catches up");
        assert!(!lanes.catch_up(&pushers[0], StreamPosition::new(8)));
        assert!(lanes.catch_up(&pushers[0], StreamPosition::new(9)));
        assert_eq!(lanes.push(&pushers[0], event(11)), Pushed::Queued);
        lanes.done(&job, Outcome::Done);
        assert_eq!(lanes.next().unwrap().item.unwrap().position, StreamPosition::new(11));
    }

    #[test]
    fn a_full_queue_is_given_up_while_one_is_under_way() {
        let pushers = entries(1, "a.example");
        let mut lanes = Lanes::new(StreamPosition::ZERO);
        lanes.push(&pushers[0], event(1));
        let job = lanes.next().unwrap();
        let mut position = 2;
        while lanes.push(&pushers[0], event(position)) == Pushed::Queued {
            position += 1;
        }
        assert_eq!(position, 1 + u64::try_from(MAX_QUEUED).unwrap());
        lanes.set_behind(&pushers[0], 0);
        assert!(lanes.next().is_none(), "one request at a time");
        lanes.done(&job, Outcome::Done);
        assert!(lanes.next().unwrap().item.is_none());
    }

    #[test]
    fn badges_do_not_pile_up() {
        let pushers = entries(1, "a.example");
        let mut lanes = Lanes::new(StreamPosition::ZERO);
        assert_eq!(lanes.push(&pushers[0], badge(1)), Pushed::Queued);
        assert_eq!(lanes.push(&pushers[0], badge(2)), Pushed::Queued, "the first may be under way");
        assert_eq!(lanes.push(&pushers[0], badge(3)), Pushed::Dropped);
    }

    #[test]
    fn a_slow_gateway_leaves_room_for_others() {
        let mut lanes = Lanes::new(StreamPosition::ZERO);
        let slow = entries(MAX_PER_GATEWAY + 1, "slow.example");
        for pusher in &slow {
            lanes.push(pusher, event(1));
        }
        let jobs: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
        assert_eq!(jobs.len(), MAX_PER_GATEWAY);
        lanes.done(&jobs[0], Outcome::Done);
        let last = lanes.next().unwrap();
        assert_eq!(last.entry.key, slow[MAX_PER_GATEWAY].key);
    }

    #[test]
    fn deleted_pushers_get_nothing() {
        let registry = Registry::default();
        let pushers = entries(1, "a.example");
        let mut lanes = Lanes::new(StreamPosition::ZERO);
        lanes.push(&pushers[0], event(1));
        registry.remove(&pushers[0]);
        lanes.forget(pushers[0].serial);
        assert!(lanes.next().is_none());
        assert_eq!(lanes.push(&pushers[0], event(2)), Pushed::Dropped);
    }
}
