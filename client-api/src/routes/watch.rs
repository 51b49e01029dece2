//! Waiting for a topic to change.

use std::sync::Arc;

use hearth_storage::{Listener, Topic};
use hearth_types::StreamPosition;
use tokio::sync::Notify;

use crate::ClientApi;

/// Listens to one topic from its making until it is dropped.
pub(crate) struct Watch {
    app: ClientApi,
    topic: Topic,
    changed: Arc<Changed>,
    listener: Arc<dyn Listener>,
}

#[derive(Debug, Default)]
struct Changed(Notify);

impl Listener for Changed {
    fn changed(&self, _topic: &Topic, _position: StreamPosition) {
        self.0.notify_one();
    }
}

impl Watch {
    /// Listens to the room or user of this name.
    pub(crate) fn new(app: &ClientApi, name: &str) -> Self {
        let changed = Arc::new(Changed::default());
        let listener: Arc<dyn Listener> = Arc::clone(&changed) as Arc<dyn Listener>;
        let topic = Topic::new(name);
        app.rooms().store().notifier().subscribe(&topic, &listener);
        Self { app: app.clone(), topic, changed, listener }
    }

    /// Waits for a change since the last call, or since the start.
    pub(crate) async fn changed(&self) {
        self.changed.0.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.app.rooms().store().notifier().unsubscribe(&self.topic, &self.listener);
    }
}
