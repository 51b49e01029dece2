//! Gathering what goes into `unsigned` for a page of events.

use std::{collections::HashSet, sync::Arc};

use ruma::{DeviceId, OwnedUserId, RoomId, TransactionId, UserId};
use serde_json::value::RawValue;

use super::{Unsigned, client_event, membership_name, stripped_event, write_client_event};
use crate::{
    DELAY_ID_PREFIX, ReadError, RoomError, Rooms, read::Visibility, schema::StoredEvent,
    state::StateRoot,
};

/// For whom events are shown, and how.
#[derive(Clone, Copy, Debug)]
pub struct ClientView<'a> {
    /// The reader.
    pub user_id: &'a UserId,
    /// The reader's device: it alone is told the transactions that it sent.
    pub device_id: Option<&'a DeviceId>,
    /// Users whose events count in no aggregation.
    pub ignored: Option<&'a HashSet<OwnedUserId>>,
    /// Name the room in each event. Sync responses name it once.
    pub with_room_id: bool,
    /// Bundle aggregations (CS "Aggregations of child events" lists where).
    pub bundle: bool,
}

impl<'a> ClientView<'a> {
    /// Events as most endpoints show them: with the room and bundled aggregations.
    #[must_use]
    pub fn full(user_id: &'a UserId, device_id: Option<&'a DeviceId>) -> Self {
        Self { user_id, device_id, ignored: None, with_room_id: true, bundle: true }
    }

    /// Events as `/sync` shows them: without the room, aggregations only in limited timelines.
    #[must_use]
    pub fn sync(user_id: &'a UserId, device_id: Option<&'a DeviceId>, limited: bool) -> Self {
        Self { user_id, device_id, ignored: None, with_room_id: false, bundle: limited }
    }

    /// The same, blind to some users' part in aggregations.
    #[must_use]
    pub fn ignoring(self, ignored: &'a HashSet<OwnedUserId>) -> Self {
        Self { ignored: Some(ignored), ..self }
    }

    /// Is this somebody whom the reader ignores?
    #[must_use]
    pub fn ignores(&self, user_id: &UserId) -> bool {
        self.ignored.is_some_and(|ignored| ignored.contains(user_id))
    }
}

/// State that a person who is not in the room is told about it, beside their own membership and its
/// sender's (CS "Stripped state").
pub(crate) const STRIPPED_TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.canonical_alias",
    "m.room.encryption",
];

impl Rooms {
    /// Events of one room in client form, in their order. The caller has made sure that the reader may
    /// see them.
    pub async fn client_events(
        &self,
        room_id: &RoomId,
        events: &[Arc<StoredEvent>],
        view: &ClientView<'_>,
    ) -> Result<Vec<Box<RawValue>>, ReadError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut visibility = self.visibility(room_id, view.user_id).await?;
        self.client_events_with(room_id, events, view, &mut visibility).await
    }

    /// The same for a caller who has judged these events already: the judge remembers much of what is
    /// needed.
    pub async fn client_events_with(
        &self,
        room_id: &RoomId,
        events: &[Arc<StoredEvent>],
        view: &ClientView<'_>,
        visibility: &mut Visibility,
    ) -> Result<Vec<Box<RawValue>>, ReadError> {
        let mut gatherer = Gatherer::new(self, room_id, view, visibility);
        let mut shown = Vec::with_capacity(events.len());
        for event in events {
            let relations = if view.bundle { gatherer.relations(event).await? } else { None };
            shown.push(gatherer.show(event, relations).await?);
        }
        Ok(shown)
    }

    /// The same events as elements of a JSON array, written behind what stands in `out` already.
    pub async fn write_client_events(
        &self,
        room_id: &RoomId,
        events: &[Arc<StoredEvent>],
        view: &ClientView<'_>,
        visibility: &mut Visibility,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let mut gatherer = Gatherer::new(self, room_id, view, visibility);
        for (number, event) in events.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            let relations = if view.bundle { gatherer.relations(event).await? } else { None };
            gatherer.write(event, relations, out).await?;
        }
        Ok(())
    }

    /// What somebody who is not in the room is told about it: the usual parts of this state, their own
    /// membership event and that of its sender (the inviter).
    pub async fn stripped_state(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        user_id: &UserId,
    ) -> Result<Vec<Box<RawValue>>, ReadError> {
        let mut stripped = Vec::with_capacity(STRIPPED_TYPES.len() + 2);
        for event_type in STRIPPED_TYPES {
            if let Some(event) = self.state_event(room_id, root, event_type, "").await? {
                stripped.push(stripped_event(&event)?);
            }
        }
        let member = |user_id| self.state_event(room_id, root, "m.room.member", user_id);
        if let Some(own) = member(user_id.as_str()).await? {
            if own.pdu.sender() != user_id
                && let Some(inviter) = member(own.pdu.sender().as_str()).await?
            {
                stripped.push(stripped_event(&inviter)?);
            }
            stripped.push(stripped_event(&own)?);
        }
        Ok(stripped)
    }
}

/// Shows events of one room to one reader.
pub(crate) struct Gatherer<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) room_id: &'a RoomId,
    pub(crate) view: &'a ClientView<'a>,
    pub(crate) visibility: &'a mut Visibility,
    now_ms: u64,
}

impl<'a> Gatherer<'a> {
    pub(crate) fn new(
        rooms: &'a Rooms,
        room_id: &'a RoomId,
        view: &'a ClientView<'a>,
        visibility: &'a mut Visibility,
    ) -> Self {
        Self { rooms, room_id, view, visibility, now_ms: rooms.clock().now_ms() }
    }

    /// One event with these aggregations.
    pub(crate) async fn show(
        &mut self,
        event: &StoredEvent,
        relations: Option<super::Relations>,
    ) -> Result<Box<RawValue>, ReadError> {
        let room_id = self.shown_room();
        self.shape(event, relations, |unsigned| client_event(event, room_id, unsigned)).await
    }

    async fn write(
        &mut self,
        event: &StoredEvent,
        relations: Option<super::Relations>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let room_id = self.shown_room();
        let write = |unsigned: &Unsigned<'_>| write_client_event(event, room_id, unsigned, out);
        self.shape(event, relations, write).await
    }

    /// Gathers what an event is told with.
    async fn shape<T>(
        &mut self,
        event: &StoredEvent,
        relations: Option<super::Relations>,
        shape: impl FnOnce(&Unsigned<'_>) -> Result<T, RoomError>,
    ) -> Result<T, ReadError> {
        let header = &event.header;
        let membership = self.visibility.membership_after(event).await?;
        let replaced = match header.replaces_state {
            Some(ordinal) => Some(self.rooms.event(self.room_id, ordinal).await?),
            None => None,
        };
        let replaced = match replaced {
            Some(replaced) if self.visibility.can_see(&replaced).await? => Some(replaced),
            _ => None,
        };
        let redacted_because = match header.redacted_by {
            Some(ordinal) => {
                let redaction = self.rooms.event(self.room_id, ordinal).await?;
                let unsigned = Unsigned { age: self.age(&redaction), ..Unsigned::default() };
                Some(client_event(&redaction, self.shown_room(), &unsigned)?)
            }
            None => None,
        };
        let is_own = event.pdu.sender() == self.view.user_id;
        let transaction = header.transaction.as_ref().filter(|_| is_own);
        let is_delayed = |id: &TransactionId| id.as_str().starts_with(DELAY_ID_PREFIX);
        let delay_id = transaction.map(|(_, id)| &**id).filter(|id| is_delayed(id));
        let transaction = transaction
            .filter(|(device_id, _)| self.view.device_id == Some(device_id) && delay_id.is_none());
        let unsigned = Unsigned {
            age: self.age(event),
            // Who never had any to do with the room is as good as gone (CS "UnsignedData").
            membership: Some(membership.map_or("leave", membership_name)),
            prev_content: replaced.as_ref().map(|replaced| replaced.pdu.content()),
            replaces_state: replaced.as_ref().map(|replaced| replaced.pdu.id()),
            redacted_because,
            transaction_id: transaction.map(|(_, transaction_id)| &**transaction_id),
            delay_id,
            relations,
        };
        shape(&unsigned)
    }

    fn shown_room(&self) -> Option<&'a RoomId> {
        self.view.with_room_id.then_some(self.room_id)
    }

    fn age(&self, event: &StoredEvent) -> u64 {
        self.now_ms.saturating_sub(event.pdu.origin_server_ts().0.into())
    }
}
