//! Who has something to send, and whose turn it is. All in memory: the log and the pushers' progress bring it
//! back.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use hearth_types::StreamPosition;

use crate::{
    lane::{Item, Lane, MAX_QUEUED, MAX_QUEUED_IF_LIMITED, Pushed, Work},
    registry::Entry,
};

/// Requests in flight to all gateways together.
const MAX_REQUESTS: usize = 256;
/// Requests in flight to one gateway: a slow one leaves room for others.
pub const MAX_PER_GATEWAY: usize = 64;

/// What a worker shall do for a pusher.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: Arc<Entry>,
    /// The gateway whose place the job has.
    pub(crate) gateway: Arc<str>,
    pub(crate) work: Work,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Done with it: the next one can come.
    Done,
    /// This was missed up to a position, oldest first; it is sent in turn with what other pushers send.
    Missed { items: VecDeque<Item>, until: StreamPosition },
    /// The pusher is behind until this time, in milliseconds.
    Behind { retry_ms: u64 },
}

/// The lanes of pushers that have something to send, by their serial.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Everything up to here was distributed.
    routed: StreamPosition,
    by_serial: HashMap<u64, Lane>,
    ready: VecDeque<u64>,
    gateways: HashMap<Arc<str>, Places>,
    /// Pushers that failed, by the time when they are due.
    due: BTreeSet<(u64, u64)>,
    workers: usize,
    /// Those of them who have a job; the others will ask for one.
    at_work: usize,
    /// Less is sent than could be.
    is_limited: bool,
    closed: bool,
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
        let oldest = self.by_serial.values().filter_map(Lane::held).min();
        oldest.map_or(self.routed, |oldest| oldest.min(self.routed))
    }

    /// While less is sent than could be, fewer notifications wait for each pusher: what waits is judged for nothing if the
    /// pusher falls behind in the end.
    pub(crate) fn set_limited(&mut self, is_limited: bool) {
        self.is_limited = is_limited;
    }

    /// Queues something for a pusher.
    pub(crate) fn push(&mut self, entry: &Arc<Entry>, item: Item) -> Pushed {
        if entry.is_gone() || item.position <= entry.progress().delivered {
            return Pushed::Dropped;
        }
        let most = if self.is_limited { MAX_QUEUED_IF_LIMITED } else { MAX_QUEUED };
        let lane = self.by_serial.entry(entry.serial).or_insert_with(|| Lane::new(entry));
        let pushed = lane.push(item, most);
        if pushed == Pushed::Queued {
            self.schedule(entry.serial);
        }
        pushed
    }

    /// Would any of these pushers get something that happened at this position? If not, nobody's rules need be asked.
    pub(crate) fn any_takes(&self, entries: &[Arc<Entry>], position: StreamPosition) -> bool {
        entries.iter().any(|entry| {
            let lane = self.by_serial.get(&entry.serial);
            position > entry.progress().delivered && lane.is_none_or(Lane::takes)
        })
    }

    /// A pusher that is behind, to be tried at this time; its row says so already.
    pub(crate) fn set_behind(&mut self, entry: &Arc<Entry>, retry_ms: u64) {
        let lane = self.by_serial.entry(entry.serial).or_insert_with(|| Lane::new(entry));
        lane.fall_behind();
        if !lane.is_scheduled {
            self.due.insert((retry_ms, entry.serial));
        }
    }

    /// Those who catch up let go of the log from before a position; those who keep up and need it are to fall
    /// behind.
    pub(crate) fn let_go_before(&mut self, position: StreamPosition) -> Vec<Arc<Entry>> {
        let mut slow = Vec::new();
        for lane in self.by_serial.values_mut() {
            lane.let_go_before(position);
            if lane.keeps_up_from_before(position) {
                slow.push(Arc::clone(&lane.entry));
            }
        }
        slow
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
            lane.clear();
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

    /// Takes places for as many more workers as have something to do; how many.
    pub(crate) fn hire(&mut self) -> usize {
        let free = MAX_REQUESTS.saturating_sub(self.workers);
        let asking = self.workers.saturating_sub(self.at_work);
        let hired = if self.closed { 0 } else { self.ready.len().saturating_sub(asking).min(free) };
        self.workers += hired;
        hired
    }

    /// The next job; `None` ends the worker.
    pub(crate) fn next(&mut self) -> Option<Job> {
        while !self.closed
            && let Some(serial) = self.ready.pop_front()
        {
            let Some(lane) = self.by_serial.get_mut(&serial) else { continue };
            if lane.entry.is_gone() || lane.is_idle() {
                self.by_serial.remove(&serial);
                continue;
            }
            let gateway = Arc::clone(&lane.entry.target().host);
            let places = self.gateways.entry(Arc::clone(&gateway)).or_default();
            if places.taken >= MAX_PER_GATEWAY {
                places.waiting.push_back(serial);
                continue;
            }
            let Some(work) = lane.next(self.routed) else { continue };
            places.taken += 1;
            self.at_work += 1;
            return Some(Job { entry: Arc::clone(&lane.entry), gateway, work });
        }
        self.workers = self.workers.saturating_sub(1);
        None
    }

    /// A job is over. The pusher goes to the end of those who are ready.
    pub(crate) fn done(&mut self, job: &Job, outcome: Outcome) {
        self.at_work = self.at_work.saturating_sub(1);
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
                lane.fall_behind();
                self.due.insert((retry_ms, serial));
                return;
            }
            Outcome::Missed { items, until } => lane.refill(items, until),
            Outcome::Done => {
                if let Work::Send { item, .. } = &job.work {
                    lane.sent(item.position);
                }
            }
        }
        if lane.is_idle() {
            self.by_serial.remove(&serial);
        } else {
            self.schedule(serial);
        }
    }

    /// A pusher that was behind has got what it missed: does it keep up from here on? Then its row is to say so.
    pub(crate) fn keep_up(&mut self, entry: &Entry) -> bool {
        self.by_serial.get_mut(&entry.serial).is_some_and(Lane::keep_up)
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

    /// No more jobs.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }
}

#[cfg(test)]
mod tests;
