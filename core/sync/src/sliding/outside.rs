//! What is told of rooms that the user is not in: invitations, knocks, and rooms that they left.

use std::sync::Arc;

use hearth_rooms::state::StateRoot;
use ruma::events::TimelineEventType;

use super::{
    connection::{SentRoom, Stage},
    pass::{Look, Told},
    request::SlidingForm,
    unread::Unread,
    view::InView,
};
use crate::{
    SyncError,
    body::{EventList, Object},
};

impl Look<'_> {
    /// An invitation or a knock: what the user is told of the room from outside.
    pub(crate) async fn asked_room(
        &self,
        room: &InView<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Told, SyncError> {
        let mut list = EventList::default();
        let rooms = &self.inner.rooms;
        for json in rooms.stripped_state_for(room.room_id, self.user_id, room.row).await? {
            list.push(json.get().as_bytes());
        }
        let mut object = Object::begin(out);
        // Another invitation says all anew.
        self.write_common(room, None, &mut object).await?;
        if self.dms.contains(room.room_id) {
            object.member("is_dm", &true);
        }
        self.write_stripped(&list, &mut object);
        object.end();
        Ok(self.told_outside(room, true))
    }

    /// A room that the user left or was put out of: what happened there until then. Who was never inside, or
    /// was told of that before, gets the event that keeps them out alone.
    pub(crate) async fn gone_room(
        &self,
        room: &InView<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Told, SyncError> {
        let sent = self.base.rooms.get(&room.topic);
        let details = &room.row.details;
        let rooms = &self.inner.rooms;
        let departure = if details.is_out_of_band() || details.forgotten {
            None
        } else {
            rooms.departure(room.room_id, self.user_id, room.row).await?
        };
        let inside = sent.filter(|sent| sent.stage == Stage::Joined);
        let news = departure.filter(|departure| {
            inside.map_or(sent.is_none(), |sent| sent.until < departure.position)
        });
        let Some(departure) = news else { return self.ended_room(room, sent, out).await };
        let mut parts = self.parts(room, inside, departure.position).await?;
        let now = self.sent_now(room, inside, &parts);
        let head = rooms.head(room.room_id).await?;
        let head = head.filter(|head| head.state.members == now.state.members);
        let own = rooms.event(room.room_id, details.event).await?;
        // Clients know by this event that they are out, wanted or not.
        parts.wanted.events.retain(|event| {
            *event.pdu.kind() != TimelineEventType::RoomMember
                || event.pdu.state_key() != own.pdu.state_key()
        });
        parts.wanted.events.push(own);
        let mut object = Object::begin(out);
        self.write_common(room, inside, &mut object).await?;
        let wanted = &parts.wanted;
        self.write_summary(room, inside, &now, head.as_deref(), wanted, &mut object).await?;
        self.write_parts(room, &mut parts, &mut object).await?;
        object.end();
        let (members, events) = (parts.wanted.members, parts.timeline.events);
        Ok(Told { written: true, sent: now, members, events, receipts: None })
    }

    /// The event that keeps the user out, alone.
    async fn ended_room(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        out: &mut Vec<u8>,
    ) -> Result<Told, SyncError> {
        let rooms = &self.inner.rooms;
        let mut list = EventList::default();
        if room.row.details.is_out_of_band() {
            let event = rooms.client_out_of_band(room.room_id, self.user_id).await?;
            if let Some(event) = event {
                list.push(event.get().as_bytes());
            }
        } else {
            let event = rooms.event(room.room_id, room.row.details.event).await?;
            let mut visibility = rooms.visibility(room.room_id, self.user_id).await?;
            self.write_events(room, &[event], false, &mut visibility, list.next()).await?;
        }
        if list.is_empty() {
            // Clients take a room without the user's membership for one that the user is in.
            return Ok(self.told_outside(room, false));
        }
        let mut object = Object::begin(out);
        self.write_common(room, sent, &mut object).await?;
        list.write(object.key("required_state"));
        list.write(object.key("timeline"));
        object.member("limited", &false);
        if self.form == SlidingForm::Accepted {
            self.write_stripped(&list, &mut object);
        }
        object.end();
        Ok(self.told_outside(room, true))
    }

    fn write_stripped(&self, list: &EventList, object: &mut Object<'_>) {
        let name = match self.form {
            SlidingForm::Deployed => "invite_state",
            SlidingForm::Accepted => "stripped_state",
        };
        list.write(object.key(name));
    }

    fn told_outside(&self, room: &InView<'_>, written: bool) -> Told {
        let sent = SentRoom {
            stage: room.stage,
            until: self.until,
            timeline_limit: 0,
            required: Arc::clone(&room.required),
            state: StateRoot::default(),
            is_dm: self.dms.contains(room.room_id),
            unread: Unread::default(),
            receipts: None,
            typing: 0,
            account_data: false,
        };
        Told { written, sent, members: Vec::new(), events: Vec::new(), receipts: None }
    }
}
