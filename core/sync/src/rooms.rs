//! The section of one room.

use std::sync::Arc;

use hearth_rooms::{
    read::{TimelineToken, UnreadCounts, UnreadTotals, Visibility},
    schema::{Membership, RoomHead, StoredEvent, TimelineIndex, UserRoomRow},
};
use hearth_storage::Topic;
use hearth_types::StreamPosition;
use hearth_users::{AccountDataEntry, ReceiptEntry};
use ruma::RoomId;

use crate::{
    SyncError,
    body::{EventList, Object},
    device_lists::RoomChange,
    hub::{JoinedRoom, Session},
    pass::Pass,
    service::Inner,
    state::StateQuestion,
    summary::{Summary, summary},
    timeline::{Timeline, TimelineQuestion},
};

/// The parts of a section that are events of the room.
struct Parts {
    visibility: Visibility,
    timeline: Timeline,
    state: Vec<Arc<StoredEvent>>,
    summary: Option<Summary>,
    /// Write the timeline and the state even if they are empty: in rooms that the user left, clients exist that refuse
    /// a section without them.
    complete: bool,
}

/// From where to where a section goes.
struct Range {
    since: Option<StreamPosition>,
    until: StreamPosition,
    /// The whole state is sent.
    full: bool,
    /// With summary.
    summary: bool,
}

impl Pass<'_> {
    /// The section of a room that the user is in; `None` if nothing in it changed.
    pub(crate) async fn joined_room(
        &self,
        room: &JoinedRoom,
        topic: &Topic,
        session: &Session,
        account_data: Vec<AccountDataEntry>,
    ) -> Result<Option<Vec<u8>>, SyncError> {
        let (room_id, row) = (&*room.room_id, &room.row);
        if row.joined_at > self.until.position {
            return Ok(None);
        }
        let head = self.inner.rooms.head(room_id).await?;
        let large = head.is_some_and(|head| self.inner.note_size(session, topic, &head));
        let since = self.known_since(room_id, row).await?;
        let range = Range {
            since,
            until: self.until.position,
            full: since.is_none() || self.question.full_state,
            summary: true,
        };
        let mut parts = self.parts(room_id, row, &range).await?;
        if self.since().is_some() {
            // Who was out in between was not told what changed meanwhile.
            let stayed = since.filter(|since| row.joined_at <= *since);
            let known = stayed.map(|_| parts.timeline.known_state);
            let end = parts.timeline.end_state;
            self.changes.lock().push(RoomChange { room_id: room_id.to_owned(), known, end });
        }
        let receipts = self.receipts(room_id, since, large).await?;
        let own_read = receipts.iter().any(|receipt| receipt.user_id == self.question.user_id);
        let mut ephemeral = EventList::default();
        self.add_typing(room_id, since.is_none(), &mut ephemeral);
        self.add_receipts(room_id, receipts, large, &mut ephemeral).await?;
        let account_data = self.room_account_data(room_id, since, account_data).await?;
        let changed = range.full
            || own_read
            || !parts.timeline.events.is_empty()
            || parts.timeline.limited
            || !parts.state.is_empty()
            || !ephemeral.is_empty()
            || !account_data.is_empty();
        if !changed {
            return Ok(None);
        }
        let unread =
            self.inner.unread(&self.question.user_id, room_id, row, self.until.position).await?;
        self.note_sent(room_id, &parts.timeline);
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        self.write_parts(room_id, row, &mut parts, &mut object).await?;
        object.events("ephemeral", &ephemeral);
        object.events("account_data", &account_data);
        self.write_unread(&unread, &mut object);
        object.end();
        Ok(Some(out))
    }

    /// Up to where the client knows this room as one that the user is in: its token, if they were in
    /// the room then (and perhaps out in between). `None`: the room comes as if nothing was known.
    async fn known_since(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<Option<StreamPosition>, SyncError> {
        let Some(since) = self.since() else { return Ok(None) };
        if self.question.news_only {
            return Ok(Some(since));
        }
        if row.details.membership == Membership::Join && row.joined_at <= since {
            return Ok(Some(since));
        }
        let (rooms, user_id) = (&self.inner.rooms, self.question.user_id.as_str());
        let root = rooms.state_at(room_id, TimelineToken::at_position(since)).await?;
        let member = rooms.state_event(room_id, root, "m.room.member", user_id).await?;
        let was_joined = member.is_some_and(|m| Membership::of(&m.pdu) == Some(Membership::Join));
        Ok(was_joined.then_some(since))
    }

    /// The section of a room that the user left, up to the leave.
    pub(crate) async fn left_room(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<Vec<u8>, SyncError> {
        if row.details.is_out_of_band() {
            return self.ended_out_of_band(room_id, row).await;
        }
        let user_id = &self.question.user_id;
        let departure = self.inner.rooms.departure(room_id, user_id, row).await?;
        let old_news = self.since().is_some_and(|since| row.position <= since);
        let departure = departure.filter(|departure| {
            let unknown = self.since().is_none_or(|since| since < departure.position);
            (unknown || old_news) && !row.details.forgotten
        });
        let range = if let Some(departure) = departure {
            let since = if old_news { None } else { self.known_since(room_id, row).await? };
            Range { since, until: departure.position, full: since.is_none(), summary: false }
        } else {
            // Who was never inside, or was not any more, gets the event that keeps them out alone.
            let since = Some(row.position.previous());
            Range { since, until: row.position, full: false, summary: false }
        };
        let mut parts = self.parts(room_id, row, &range).await?;
        parts.complete = true;
        if departure.is_some_and(|departure| departure.position < row.position)
            && self.question.filter.wants_timeline(room_id)
        {
            // A ban after the leave, say: of what was in between nothing is shown.
            let latest = self.inner.rooms.event(room_id, row.details.event).await?;
            parts.timeline.events.push(latest);
        }
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        self.write_parts(room_id, row, &mut parts, &mut object).await?;
        object.end();
        Ok(out)
    }

    /// The section of an invitation or a knock that has ended without this server being in the room:
    /// the event that ended it, alone.
    async fn ended_out_of_band(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
    ) -> Result<Vec<u8>, SyncError> {
        let mut list = EventList::default();
        let user_id = &self.question.user_id;
        if self.question.filter.wants_timeline(room_id)
            && let Some(event) = self.inner.rooms.client_out_of_band(room_id, user_id).await?
        {
            list.push(event.get().as_bytes());
        }
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        let mut timeline = Object::begin(object.key("timeline"));
        list.write(timeline.key("events"));
        timeline.member("limited", &false);
        let until = TimelineToken::at_position(row.position);
        timeline.member("prev_batch", &until.to_string());
        timeline.end();
        EventList::default().write_object(object.key("state"));
        object.end();
        Ok(out)
    }

    /// The section of an invitation or a knock.
    pub(crate) async fn stripped_room(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
        name: &str,
    ) -> Result<Vec<u8>, SyncError> {
        let mut list = EventList::default();
        let user_id = &self.question.user_id;
        for json in self.inner.rooms.stripped_state_for(room_id, user_id, row).await? {
            list.push(json.get().as_bytes());
        }
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        list.write_object(object.key(name));
        object.end();
        Ok(out)
    }

    async fn parts(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
        range: &Range,
    ) -> Result<Parts, SyncError> {
        let (rooms, user_id) = (&self.inner.rooms, &*self.question.user_id);
        let mut visibility = rooms.visibility_with(room_id, user_id, Some(row.clone())).await?;
        let question = TimelineQuestion {
            rooms,
            room_id,
            since: range.since,
            until: range.until,
            filter: &self.question.filter,
            ignored: &self.ignored,
        };
        let mut timeline = question.read(&mut visibility).await?;
        if !self.question.filter.wants_timeline(room_id) {
            timeline.events.clear();
            timeline.limited = false;
            timeline.start_state = timeline.end_state;
        }
        let summary = match rooms.head(room_id).await? {
            Some(head) if range.summary => {
                let known = (!range.full).then_some(timeline.known_state);
                summary(rooms, room_id, user_id, &head, known, timeline.end_state).await?
            }
            _ => None,
        };
        let state = if self.question.filter.wants_state(room_id) {
            let question = StateQuestion {
                rooms,
                room_id,
                user_id,
                filter: &self.question.filter,
                full: range.full,
                after: self.question.state_after.is_some(),
                heroes: summary.as_ref().map(Summary::heroes).unwrap_or_default(),
                since: range.since,
                until: self.until.position,
                device: &self.device,
            };
            question.read(&timeline).await?
        } else {
            Vec::new()
        };
        Ok(Parts { visibility, timeline, state, summary, complete: false })
    }

    /// Receipts that the section shows: all of a room that is new to the client, else what moved.
    async fn receipts(
        &self,
        room_id: &RoomId,
        since: Option<StreamPosition>,
        large: bool,
    ) -> Result<Vec<ReceiptEntry>, SyncError> {
        let (users, user_id, until) =
            (&self.inner.users, &self.question.user_id, self.until.position);
        Ok(match since {
            Some(since) => users.receipt_changes(room_id, user_id, since, until).await?,
            None if large => users.own_receipts(room_id, user_id).await?,
            None => users.receipts(room_id, user_id, until).await?,
        })
    }

    async fn room_account_data(
        &self,
        room_id: &RoomId,
        since: Option<StreamPosition>,
        changed: Vec<AccountDataEntry>,
    ) -> Result<EventList, SyncError> {
        let entries = match since {
            Some(_) => changed,
            None => self.inner.users.room_account_data(&self.question.user_id, room_id).await?,
        };
        let mut list = EventList::default();
        for entry in entries {
            if self.question.filter.wants_room_account_data(room_id, &entry.event_type) {
                list.push_event(&entry.event_type, entry.content.get().as_bytes());
            }
        }
        Ok(list)
    }

    /// Remembers what the device's next token will prove.
    fn note_sent(&self, room_id: &RoomId, timeline: &Timeline) {
        if self.inner.config.delivery_receipts {
            self.device.lock().deliveries.sent(
                room_id,
                &self.question.user_id,
                &timeline.events,
                self.until.position,
            );
        }
    }

    async fn write_parts(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
        parts: &mut Parts,
        object: &mut Object<'_>,
    ) -> Result<(), SyncError> {
        let limited = parts.timeline.limited;
        let visibility = &mut parts.visibility;
        let events = self.format(room_id, &parts.timeline.events, limited, visibility).await?;
        if !events.is_empty() || limited || parts.complete {
            let mut timeline = Object::begin(object.key("timeline"));
            events.write(timeline.key("events"));
            timeline.member("limited", &limited);
            let until = TimelineIndex::Live(self.until.position.min(row_end(row, self)));
            let start = parts.timeline.start.unwrap_or(TimelineToken::after(until));
            timeline.member("prev_batch", &start.to_string());
            timeline.end();
        }
        let state = self.format(room_id, &parts.state, false, visibility).await?;
        if let Some(name) = self.question.state_after {
            state.write_object(object.key(name));
        } else if parts.complete {
            state.write_object(object.key("state"));
        } else {
            object.events("state", &state);
        }
        if let Some(summary) = &parts.summary {
            summary.write(object.key("summary"));
        }
        Ok(())
    }

    fn write_unread(&self, unread: &UnreadTotals, object: &mut Object<'_>) {
        if self.question.filter.thread_counts {
            write_counts(unread.main, object.key("unread_notifications"));
            if !unread.threads.is_empty() {
                let mut threads = Object::begin(object.key("unread_thread_notifications"));
                for (root, counts) in &unread.threads {
                    write_counts(*counts, threads.key(root.as_str()));
                }
                threads.end();
            }
        } else {
            write_counts(unread.sum(), object.key("unread_notifications"));
        }
    }
}

impl Inner {
    /// Is the room large? Then wakes by it are gathered, if many are connected to it.
    pub(crate) fn note_size(&self, session: &Session, topic: &Topic, head: &RoomHead) -> bool {
        let large = head.joined_members > self.config.large_room_members;
        let crowded = || self.notifier().listeners(topic) > self.config.quiet_connected_users;
        session.set_quiet(topic, large && crowded());
        large
    }
}

/// The last position of the room that the user may be told of.
fn row_end(row: &UserRoomRow, pass: &Pass<'_>) -> StreamPosition {
    match row.details.membership {
        Membership::Join => pass.until.position,
        _ => row.position,
    }
}

fn write_counts(counts: UnreadCounts, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.member("notification_count", &counts.notifications);
    object.member("highlight_count", &counts.highlights);
    object.end();
}
