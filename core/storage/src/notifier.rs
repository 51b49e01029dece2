//! Who must look again. Carries positions, never data.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hearth_types::StreamPosition;
use parking_lot::RwLock;
use tokio::sync::watch;

/// Topics whose last position is held in memory; beyond that the oldest are forgotten, and answers
/// about times before them become "yes".
const MAX_TOPICS: usize = 1_000_000;
const LISTENER_SHARDS: usize = 64;

/// Something that can change: a room, a user. Compared by its text, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic of this name. Rooms and users use their identifiers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The topic's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Topics are found by their name, without an allocation.
impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Somebody who wants to know that a topic changed. Called on the committer's thread: must be quick,
/// must not block, and must not subscribe or unsubscribe from within the call.
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// The topic changed at this position, which is already published.
    fn changed(&self, topic: &Topic, position: StreamPosition);
}

/// A topic's listeners by their address.
type Listeners = HashMap<usize, Arc<dyn Listener>>;

/// The registry of listeners and of each topic's last position.
#[derive(Debug)]
pub struct Notifier {
    published: AtomicU64,
    /// The same for consumers of the log, who wait for whatever comes.
    publications: watch::Sender<StreamPosition>,
    topics: RwLock<Topics>,
    listeners: Box<[RwLock<HashMap<Topic, Listeners>>]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Topics {
    last: HashMap<Topic, StreamPosition>,
    /// A topic that is not in the map has not changed after this position.
    floor: StreamPosition,
}

impl Topics {
    fn changed_since(&self, topic: &Topic, since: StreamPosition) -> bool {
        match self.last.get(topic) {
            Some(last) => *last > since,
            None => since < self.floor,
        }
    }

    fn touch(&mut self, topic: &Topic, position: StreamPosition) {
        match self.last.get_mut(topic) {
            Some(last) => *last = (*last).max(position),
            None => {
                self.last.insert(topic.clone(), position);
            }
        }
    }

    /// Forgets the older half of the topics once there are too many.
    fn bound(&mut self, max: usize) {
        if self.last.len() <= max {
            return;
        }
        let mut positions: Vec<_> = self.last.values().copied().collect();
        let middle = positions.len() / 2;
        let (_, median, _) = positions.select_nth_unstable(middle);
        let median = *median;
        self.last.retain(|_, last| *last > median);
        self.floor = self.floor.max(median);
    }
}

fn address(listener: &Arc<dyn Listener>) -> usize {
    Arc::as_ptr(listener).cast::<()>().addr()
}

impl Notifier {
    pub(crate) fn new() -> Self {
        Self {
            published: AtomicU64::new(0),
            publications: watch::Sender::default(),
            topics: RwLock::default(),
            listeners: (0..LISTENER_SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Every commit up to here is applied, durable (unless lazy) and visible.
    #[must_use]
    pub fn published(&self) -> StreamPosition {
        StreamPosition::new(self.published.load(Ordering::Acquire))
    }

    /// Whatever is published, for consumers of the log: they look, then wait for a change of this.
    #[must_use]
    pub fn publications(&self) -> watch::Receiver<StreamPosition> {
        self.publications.subscribe()
    }

    /// Has the topic changed after this position? Answers from memory; "yes" when it cannot know,
    /// which is only so for positions older than the log kept at the store's opening.
    #[must_use]
    pub fn changed_since(&self, topic: &Topic, since: StreamPosition) -> bool {
        self.topics.read().changed_since(topic, since)
    }

    /// The places in the sequence of those topics that [changed](Self::changed_since) after this
    /// position; takes its lock once for all of them.
    #[must_use]
    pub fn changed_among<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a Topic>,
        since: StreamPosition,
    ) -> Vec<usize> {
        let known = self.topics.read();
        let changed = |(place, topic)| known.changed_since(topic, since).then_some(place);
        topics.into_iter().enumerate().filter_map(changed).collect()
    }

    /// Adds a listener to a topic; one listener is added to many topics. Adding twice counts once.
    pub fn subscribe(&self, topic: &Topic, listener: &Arc<dyn Listener>) {
        let mut shard = self.shard(topic).write();
        let listeners = match shard.get_mut(topic) {
            Some(listeners) => listeners,
            None => shard.entry(topic.clone()).or_default(),
        };
        listeners.insert(address(listener), listener.clone());
    }

    /// Takes a listener off a topic.
    pub fn unsubscribe(&self, topic: &Topic, listener: &Arc<dyn Listener>) {
        let mut shard = self.shard(topic).write();
        if let Some(listeners) = shard.get_mut(topic) {
            listeners.remove(&address(listener));
            if listeners.is_empty() {
                shard.remove(topic);
            }
        }
    }

    /// How many listeners a topic has.
    #[must_use]
    pub fn listeners(&self, topic: &Topic) -> usize {
        self.shard(topic).read().get(topic).map_or(0, HashMap::len)
    }

    /// Wakes a topic's listeners without any commit (typing, presence held in memory). They see the
    /// currently published position; the topic's last position stays.
    pub fn poke(&self, topic: &Topic) {
        self.wake(topic, self.published());
    }

    /// Moves topics' last positions. Done before the positions are published: whoever reads the
    /// published position and then asks about a topic must not miss a change up to there.
    pub(crate) fn touch<'a>(&self, changes: impl Iterator<Item = (&'a Topic, StreamPosition)>) {
        let mut topics = self.topics.write();
        for (topic, position) in changes {
            topics.touch(topic, position);
        }
        topics.bound(MAX_TOPICS);
    }

    /// Topics that were never touched have not changed after this position.
    pub(crate) fn set_floor(&self, floor: StreamPosition) {
        self.topics.write().floor = floor;
    }

    pub(crate) fn publish(&self, position: StreamPosition) {
        self.published.store(position.get(), Ordering::Release);
        self.publications.send_replace(position);
    }

    pub(crate) fn wake(&self, topic: &Topic, position: StreamPosition) {
        let shard = self.shard(topic).read();
        if let Some(listeners) = shard.get(topic) {
            for listener in listeners.values() {
                listener.changed(topic, position);
            }
        }
    }

    fn shard(&self, topic: &Topic) -> &RwLock<HashMap<Topic, Listeners>> {
        #[expect(clippy::cast_possible_truncation, reason = "any part of a hash is a hash")]
        let index = self.hasher.hash_one(topic.as_str()) as usize % LISTENER_SHARDS;
        #[expect(clippy::indexing_slicing, reason = "the index is a remainder of the length")]
        &self.listeners[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_topics_count_as_changed() {
        let mut topics = Topics::default();
        let topic = |number: u64| Topic::new(&number.to_string());
        for number in 1..=9 {
            topics.touch(&topic(number), StreamPosition::new(number));
        }
        topics.bound(9);
        assert_eq!(topics.last.len(), 9);
        topics.bound(8);
        assert_eq!(topics.last.len(), 4, "the newer half stays");
        assert_eq!(topics.floor, StreamPosition::new(5));
        assert!(topics.changed_since(&topic(2), StreamPosition::new(4)), "cannot know");
        assert!(!topics.changed_since(&topic(2), StreamPosition::new(5)));
        assert!(topics.changed_since(&topic(8), StreamPosition::new(7)));
        assert!(!topics.changed_since(&topic(8), StreamPosition::new(8)));
    }
}
