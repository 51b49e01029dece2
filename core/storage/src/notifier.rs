//! Who must look again. Carries positions, never data.

use std::{fmt, sync::Arc};

use hearth_types::StreamPosition;

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

/// Somebody who wants to know that a topic changed. Called on the committer's thread: must be quick
/// and must not block.
pub trait Listener: fmt::Debug + Send + Sync + 'static {
    /// The topic changed at this position, which is already published.
    fn changed(&self, topic: &Topic, position: StreamPosition);
}

/// The registry of listeners and of each topic's last position.
#[derive(Debug)]
pub struct Notifier {
    // Filled in by the owner of this file.
}

impl Notifier {
    /// Every commit up to here is applied, durable (unless lazy) and visible.
    #[must_use]
    pub fn published(&self) -> StreamPosition {
        todo!()
    }

    /// Has the topic changed after this position? Answers from memory; "yes" when it cannot know,
    /// which is only so for positions older than the log kept at the store's opening.
    #[must_use]
    pub fn changed_since(&self, topic: &Topic, since: StreamPosition) -> bool {
        todo!()
    }

    /// Adds a listener to a topic; one listener is added to many topics. Adding twice counts once.
    pub fn subscribe(&self, topic: &Topic, listener: &Arc<dyn Listener>) {
        todo!()
    }

    /// Takes a listener off a topic.
    pub fn unsubscribe(&self, topic: &Topic, listener: &Arc<dyn Listener>) {
        todo!()
    }

    /// Wakes a topic's listeners without any commit (typing, presence held in memory). They see the
    /// currently published position; the topic's last position stays.
    pub fn poke(&self, topic: &Topic) {
        todo!()
    }
}
