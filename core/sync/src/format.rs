//! Events of a section in the form that the client asked for.

use std::sync::Arc;

use hearth_rooms::{format::ClientView, read::Visibility, schema::StoredEvent};
use ruma::RoomId;

use crate::{SyncError, body::EventList, pass::Pass};

impl Pass<'_> {
    /// Writes events for the client. Aggregations are bundled where the timeline is limited: elsewhere
    /// the client has seen, or sees, the children themselves (CS "Aggregations of child events").
    pub(crate) async fn format(
        &self,
        room_id: &RoomId,
        events: &[Arc<StoredEvent>],
        limited: bool,
        visibility: &mut Visibility,
    ) -> Result<EventList, SyncError> {
        self.newest_own.events(&self.question.user_id, events);
        let mut list = EventList::default();
        if self.question.filter.federation_format {
            for event in events {
                list.push(event.pdu.json());
            }
            return Ok(list);
        }
        let (user_id, device_id) = (&self.question.user_id, &self.question.device_id);
        let view = ClientView::sync(user_id, Some(device_id), limited).ignoring(&self.ignored);
        let rooms = &self.inner.rooms;
        for json in rooms.client_events_with(room_id, events, &view, visibility).await? {
            list.push(json.get().as_bytes());
        }
        Ok(list)
    }
}
