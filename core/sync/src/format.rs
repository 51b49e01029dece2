//! Events of a section in the form that the client asked for.

use std::sync::Arc;

use hearth_rooms::{read::Visibility, schema::StoredEvent};
use ruma::RoomId;

use crate::{
    SyncError,
    body::{EventList, Object},
    pass::Pass,
};

impl Pass<'_> {
    /// Writes events for the client.
    #[expect(clippy::unused_async, reason = "what goes into unsigned will be read here")]
    pub(crate) async fn format(
        &self,
        _room_id: &RoomId,
        events: &[Arc<StoredEvent>],
        _limited: bool,
        _visibility: &mut Visibility,
    ) -> Result<EventList, SyncError> {
        let mut list = EventList::default();
        for event in events {
            if self.question.filter.federation_format {
                list.push(event.pdu.json());
                continue;
            }
            let mut object = Object::begin(list.next());
            object.raw("content", event.pdu.content().get().as_bytes());
            object.member("event_id", event.pdu.id().as_str());
            object.member("origin_server_ts", &event.pdu.origin_server_ts());
            object.member("sender", event.pdu.sender().as_str());
            if let Some(key) = event.pdu.state_key() {
                object.member("state_key", key);
            }
            object.member("type", &event.pdu.kind().to_string());
            object.end();
        }
        Ok(list)
    }

    /// What somebody who is not in the room is told about it.
    pub(crate) async fn add_stripped(
        &self,
        room_id: &RoomId,
        row: &hearth_rooms::schema::UserRoomRow,
        list: &mut EventList,
    ) -> Result<(), SyncError> {
        let keys = [
            ("m.room.create", ""),
            ("m.room.join_rules", ""),
            ("m.room.name", ""),
            ("m.room.member", row.details.sender.as_str()),
            ("m.room.member", self.question.user_id.as_str()),
        ];
        for (event_type, key) in keys {
            let root = row.details.state;
            if let Some(event) =
                self.inner.rooms.state_event(room_id, root, event_type, key).await?
            {
                let mut object = Object::begin(list.next());
                object.raw("content", event.pdu.content().get().as_bytes());
                object.member("sender", event.pdu.sender().as_str());
                object.member("state_key", key);
                object.member("type", event_type);
                object.end();
            }
        }
        Ok(())
    }
}
