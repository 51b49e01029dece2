//! Messages to the device that syncs.

use hearth_types::StreamPosition;

use crate::{SyncError, body::EventList, hub::Session, pass::Question, service::Inner};

/// Messages of one response.
pub(crate) struct Messages {
    pub(crate) events: EventList,
    /// These are all up to here.
    pub(crate) until: StreamPosition,
}

/// The next messages that the device does not have yet.
pub(crate) async fn read(
    inner: &Inner,
    session: &Session,
    question: &Question,
    until: StreamPosition,
) -> Result<Messages, SyncError> {
    let since = question.since.map_or(StreamPosition::ZERO, |since| since.to_device);
    // Unless the last response did not have all, only what touched the topic since can have come.
    let complete = question.since.is_some_and(|token| token.to_device == token.position);
    if complete && !inner.notifier().changed_since(session.e2ee_topic(), since) {
        return Ok(Messages { events: EventList::default(), until });
    }
    let page = inner.e2ee.to_device(&question.user_id, &question.device_id, since, until).await?;
    let mut events = EventList::default();
    for event in &page.events {
        events.push(event);
    }
    Ok(Messages { events, until: page.until })
}
