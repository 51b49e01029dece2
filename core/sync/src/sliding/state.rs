//! The state that is told of a room (`required_state`): the current one at first, then what changed of it,
//! whether the timeline shows the change or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hearth_rooms::{
    read::StatePart,
    schema::{EventOrdinal, StoredEvent},
    state::StateRoot,
};
use ruma::{OwnedUserId, RoomId, UserId, events::TimelineEventType};

use super::{connection::SentRoom, pass::Look, required::RequiredState, view::InView};
use crate::{SyncError, state::changes_between, timeline::Timeline};

const MEMBER: &str = "m.room.member";

/// State that is told.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// Types and state keys that are set no more.
    pub(crate) deleted: Vec<(String, String)>,
    /// Memberships among the events here and in the timeline.
    pub(crate) members: Vec<(OwnedUserId, EventOrdinal)>,
}

/// Events by ordinal, so that none is told twice.
type Found = BTreeMap<EventOrdinal, Arc<StoredEvent>>;

fn add(found: &mut Found, events: impl IntoIterator<Item = Arc<StoredEvent>>) {
    found.extend(events.into_iter().map(|event| (event.ordinal, event)));
}

fn is_wanted(required: &RequiredState, event: &StoredEvent) -> bool {
    let key = event.pdu.state_key();
    key.is_some_and(|key| required.matches(&event.pdu.kind().to_string(), key))
}

impl Look<'_> {
    /// The state that goes with this timeline; `gap`: the timeline leaves events out.
    pub(crate) async fn wanted(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        timeline: &Timeline,
        gap: bool,
    ) -> Result<Wanted, SyncError> {
        let (required, end) = (&room.required, timeline.end_state);
        let (mut found, mut wanted) = (Found::new(), Wanted::default());
        match sent {
            None => add(&mut found, self.whole(room.room_id, end, required).await?),
            Some(sent) => {
                self.changed(room, sent, timeline, gap, &mut found, &mut wanted.deleted).await?;
                if !Arc::ptr_eq(required, &sent.required) && required.exceeds(&sent.required) {
                    let whole = self.whole(room.room_id, end, required).await?;
                    let new = |event: &Arc<StoredEvent>| !is_wanted(&sent.required, event);
                    add(&mut found, whole.into_iter().filter(new));
                }
            }
        }
        if required.lazy_members() {
            self.add_members(room.room_id, timeline, sent.is_some(), &mut found).await?;
            let told = found.values().chain(&timeline.events);
            wanted.members = told.filter_map(member_of).collect();
        }
        wanted.events = found.into_values().collect();
        Ok(wanted)
    }

    /// All of a state that is wanted. Where each type and key is named, nothing else is read.
    async fn whole(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        required: &RequiredState,
    ) -> Result<Vec<Arc<StoredEvent>>, SyncError> {
        let rooms = &self.inner.rooms;
        let mut events = Vec::new();
        match required.exact() {
            Some(keys) => {
                for (kind, key) in keys {
                    events.extend(rooms.state_event(room_id, root, kind, key).await?);
                }
            }
            None => events = rooms.state_events(room_id, root, StatePart::Rest).await?,
        }
        if required.all_members() {
            events.extend(rooms.state_events(room_id, root, StatePart::Members).await?);
        } else {
            for key in required.named_members() {
                events.extend(rooms.state_event(room_id, root, MEMBER, key).await?);
            }
        }
        events.retain(|event| is_wanted(required, event));
        Ok(events)
    }

    /// What changed since the client was told of the room.
    async fn changed(
        &self,
        room: &InView<'_>,
        sent: &SentRoom,
        timeline: &Timeline,
        gap: bool,
        found: &mut Found,
        deleted: &mut Vec<(String, String)>,
    ) -> Result<(), SyncError> {
        let (known, end) = (sent.state, timeline.end_state);
        if known == end {
            return Ok(());
        }
        let (rooms, required) = (&self.inner.rooms, &room.required);
        let mut changes = rooms.state_changes(room.room_id, known, end, StatePart::Rest)?;
        if required.all_members() {
            changes.extend(rooms.state_changes(room.room_id, known, end, StatePart::Members)?);
        }
        let after: Vec<EventOrdinal> = changes.iter().filter_map(|change| change.after).collect();
        let events = rooms.events(room.room_id, &after).await?;
        add(found, events.into_iter().filter(|event| is_wanted(required, event)));
        let ended = changes.iter().filter(|change| change.after.is_none());
        let ended: Vec<EventOrdinal> = ended.filter_map(|change| change.before).collect();
        for event in rooms.events(room.room_id, &ended).await? {
            if is_wanted(required, &event) {
                let key = event.pdu.state_key().unwrap_or_default().to_owned();
                deleted.push((event.pdu.kind().to_string(), key));
            }
        }
        if required.all_members() || known.members == end.members {
            return Ok(());
        }
        if required.lazy_members() && !gap {
            // A client that misses nothing can keep its list of members by what it is told.
            let members = StateRoot { rest: end.rest, ..known };
            let range = ((members, sent.until), (end, timeline.until));
            let changes = changes_between(rooms, room.room_id, true, range).await?;
            let after: Vec<EventOrdinal> =
                changes.iter().filter_map(|change| change.after).collect();
            add(found, rooms.events(room.room_id, &after).await?);
        }
        for key in required.named_members() {
            let now = rooms.state_event(room.room_id, end, MEMBER, key).await?;
            let before = rooms.state_ordinal(room.room_id, known, MEMBER, key).await?;
            let newer = now.filter(|event| Some(event.ordinal) != before);
            add(found, newer.filter(|event| is_wanted(required, event)));
        }
        Ok(())
    }

    /// The memberships that a client needs to show the timeline and does not know (MSC4186, "Lazy loaded
    /// memberships"): of senders, and of those whom membership events speak of. `known`: the client has
    /// not let go of what it was told of the room.
    async fn add_members(
        &self,
        room_id: &RoomId,
        timeline: &Timeline,
        known: bool,
        found: &mut Found,
    ) -> Result<(), SyncError> {
        let rooms = &self.inner.rooms;
        let mut needed: BTreeSet<&UserId> = BTreeSet::new();
        for event in &timeline.events {
            needed.insert(event.pdu.sender());
            if *event.pdu.kind() == TimelineEventType::RoomMember {
                let target = event.pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok());
                needed.extend(target);
            }
        }
        let mut missing = Vec::new();
        for user_id in needed {
            let end = timeline.end_state;
            let member = rooms.state_ordinal(room_id, end, MEMBER, user_id.as_str()).await?;
            if let Some(ordinal) = member
                && !found.contains_key(&ordinal)
                && !(known && self.base.knows_member(room_id, user_id, ordinal))
            {
                missing.push(ordinal);
            }
        }
        add(found, rooms.events(room_id, &missing).await?);
        Ok(())
    }
}

/// Whose membership an event is.
fn member_of(event: &Arc<StoredEvent>) -> Option<(OwnedUserId, EventOrdinal)> {
    let key = event.pdu.state_key()?;
    let user_id = <&UserId>::try_from(key).ok()?;
    (*event.pdu.kind() == TimelineEventType::RoomMember)
        .then(|| (user_id.to_owned(), event.ordinal))
}
