//! What is told of a room that the user is in, or was in.

use std::sync::Arc;

use hearth_rooms::{
    format::{ClientView, membership_name},
    read::{TimelineToken, Visibility},
    schema::{RoomHead, StoredEvent, TimelineIndex},
    state::StateRoot,
};
use hearth_types::StreamPosition;
use ruma::{RoomId, events::TimelineEventType};
use serde::Deserialize;

use super::{
    connection::{SentRoom, Stage},
    pass::{Look, Told},
    request::SlidingForm,
    state::Wanted,
    unread::Unread,
    view::InView,
};
use crate::{
    SyncError,
    body::{Array, Object},
    filter::SyncFilter,
    summary::heroes,
    timeline::{Timeline, TimelineQuestion},
};

/// The parts of a room that are its events.
pub(crate) struct Parts {
    pub(crate) visibility: Visibility,
    pub(crate) timeline: Timeline,
    pub(crate) wanted: Wanted,
    /// The timeline goes back behind what the client knows, since it wants more of it than before.
    pub(crate) expanded: bool,
    /// Between what the client knows and the timeline are events that were left out.
    pub(crate) left_out: bool,
    /// The same, and the client wants a timeline.
    pub(crate) gap: bool,
}

const NAME: TimelineEventType = TimelineEventType::RoomName;
const AVATAR: TimelineEventType = TimelineEventType::RoomAvatar;

/// What a member or a room calls itself.
#[derive(Default, Deserialize)]
struct Named {
    name: Option<String>,
    displayname: Option<String>,
    #[serde(alias = "url")]
    avatar_url: Option<String>,
}

fn named(event: Option<&Arc<StoredEvent>>) -> Named {
    event.and_then(|event| event.pdu.content_as().ok()).unwrap_or_default()
}

impl Look<'_> {
    /// A room that the user is in.
    pub(crate) async fn joined_room(
        &self,
        room: &InView<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Told, SyncError> {
        let sent = self.base.rooms.get(&room.topic).filter(|sent| sent.stage == Stage::Joined);
        let head = self.inner.rooms.head(room.room_id).await?;
        let large =
            head.as_ref().is_some_and(|head| self.inner.note_size(self.session, &room.topic, head));
        let mut parts = self.parts(room, sent, self.until).await?;
        let mut receipts = None;
        let unread = if sent.is_some() {
            self.unread(room).await?
        } else {
            // Read once, they say what is unread as well.
            receipts = if large { None } else { self.all_receipts(room).await? };
            self.first_unread(room, receipts.as_deref()).await?
        };
        let now = SentRoom { unread, ..self.sent_now(room, sent, &parts) };
        let is_news = sent.is_none_or(|sent| {
            // The accepted form says nothing of counts.
            let counts = self.form == SlidingForm::Deployed && sent.unread != now.unread;
            sent.state != now.state || counts || sent.is_dm != now.is_dm
        });
        let written = is_news || parts.has_news();
        if written {
            self.write_joined(room, sent, &mut parts, &now, head.as_deref(), out).await?;
        }
        let (members, events) = (parts.wanted.members, parts.timeline.events);
        let receipts = receipts.map(|all| self.receipts_of(&events, all));
        Ok(Told { written, sent: now, members, events, receipts })
    }

    /// Reads what changed of a room up to here, for a client that knows this of it.
    pub(crate) async fn parts(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        until: StreamPosition,
    ) -> Result<Parts, SyncError> {
        let rooms = &self.inner.rooms;
        let row = Some(room.row.clone());
        let mut visibility = rooms.visibility_with(room.room_id, self.user_id, row).await?;
        let since = sent.map(|sent| sent.until);
        let more = sent.is_some_and(|sent| room.timeline_limit > sent.timeline_limit);
        let limit = usize::try_from(room.timeline_limit).unwrap_or(usize::MAX);
        let question = TimelineQuestion {
            rooms,
            room_id: room.room_id,
            since: since.filter(|_| !more),
            until,
            filter: &SyncFilter::of_limit(limit),
            ignored: self.ignored,
        };
        let mut timeline = question.read(&mut visibility).await?;
        let start = timeline.start_position();
        let expanded = more && since.is_some_and(|since| start < since);
        let left_out = timeline.limited && since.is_none_or(|since| start > since);
        // Whoever wants no timeline misses none, as long as that is so.
        timeline.limited &= limit > 0;
        let gap = left_out && limit > 0;
        let wanted = self.wanted(room, sent, &timeline, gap).await?;
        Ok(Parts { visibility, timeline, wanted, expanded, left_out, gap })
    }

    /// What the client knows of a room when it has got these parts; counts aside.
    pub(crate) fn sent_now(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        parts: &Parts,
    ) -> SentRoom {
        let before = sent.filter(|_| !parts.left_out).map_or(0, |sent| sent.timeline_limit);
        SentRoom {
            stage: room.stage,
            until: self.until,
            timeline_limit: room.timeline_limit.max(before),
            required: Arc::clone(&room.required),
            state: parts.timeline.end_state,
            is_dm: self.dms.contains(room.room_id),
            unread: Unread::default(),
            // Of events that come with a raised limit, none were sent.
            receipts: sent.and_then(|sent| sent.receipts).filter(|_| !parts.expanded),
            typing: sent.map_or(0, |sent| sent.typing),
            account_data: sent.is_some_and(|sent| sent.account_data),
        }
    }

    async fn write_joined(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        parts: &mut Parts,
        now: &SentRoom,
        head: Option<&RoomHead>,
        out: &mut Vec<u8>,
    ) -> Result<(), SyncError> {
        let mut object = Object::begin(out);
        self.write_common(room, sent, &mut object).await?;
        self.write_summary(room, sent, now, head, &parts.wanted, &mut object).await?;
        if self.form == SlidingForm::Deployed {
            object.member("notification_count", &now.unread.notifications);
            object.member("highlight_count", &now.unread.highlights);
        }
        self.write_parts(room, parts, &mut object).await?;
        object.end();
        Ok(())
    }

    /// What a room that the user is or was in is shown by, as far as it differs from what the client knows;
    /// how many are in it, if the room's head is of that state.
    pub(crate) async fn write_summary(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        now: &SentRoom,
        head: Option<&RoomHead>,
        wanted: &Wanted,
        object: &mut Object<'_>,
    ) -> Result<(), SyncError> {
        if now.is_dm != sent.is_some_and(|sent| sent.is_dm) {
            object.member("is_dm", &now.is_dm);
        }
        let known = sent.map(|sent| sent.state);
        self.write_naming(room, known, now.state, wanted, object).await?;
        if let Some(head) = head
            && known.is_none_or(|known| known.members != now.state.members)
        {
            object.member("joined_count", &head.joined_members);
            object.member("invited_count", &head.invited_members);
        }
        Ok(())
    }

    /// What is told of every room: that it is new, what bumped it, and in which lists it is.
    pub(crate) async fn write_common(
        &self,
        room: &InView<'_>,
        sent: Option<&SentRoom>,
        object: &mut Object<'_>,
    ) -> Result<(), SyncError> {
        if sent.is_none() {
            object.member("initial", &true);
        }
        let bump = match room.stage {
            Stage::Joined => self.inner.last_bump(room.room_id, &room.topic).await?,
            Stage::Asked | Stage::Gone => Some(room.row.position),
        };
        object.member("bump_stamp", &bump.unwrap_or(room.row.joined_at).get());
        if self.form == SlidingForm::Accepted {
            object.member("membership", membership_name(room.row.details.membership));
            let names: Vec<&str> =
                room.lists.of(&self.rules.lists).map(|list| &*list.name).collect();
            if !names.is_empty() {
                object.member("lists", &names);
            }
        }
        Ok(())
    }

    /// What the room is called and shown by, as far as that differs from what the client knows.
    async fn write_naming(
        &self,
        room: &InView<'_>,
        known: Option<StateRoot>,
        now: StateRoot,
        wanted: &Wanted,
        object: &mut Object<'_>,
    ) -> Result<(), SyncError> {
        let room_id = room.room_id;
        // Of a room that is new to the client, all state that it wants is at hand.
        let at_hand = wanted.events.as_slice();
        let at_hand = |kind: &TimelineEventType| {
            let is_whole = known.is_none() && room.required.matches(&kind.to_string(), "");
            is_whole.then_some(at_hand)
        };
        let other_members = known.is_none_or(|known| known.members != now.members);
        let other_rest = known.is_none_or(|known| known.rest != now.rest);
        if !other_members && !other_rest {
            return Ok(());
        }
        let event = self.state_event(room_id, now, &NAME, at_hand(&NAME)).await?;
        let name = named(event.as_ref()).name.filter(|name| !name.is_empty());
        let mut renamed = known.is_none();
        if other_rest && self.differs(room_id, known, &NAME, event.as_deref()).await? {
            renamed = true;
            match &name {
                Some(name) => object.member("name", name),
                // The deployed form has no word for a name that was taken away.
                None if known.is_none() || self.form == SlidingForm::Deployed => {}
                None => object.member("name", &()),
            }
        }
        if other_rest {
            let event = self.state_event(room_id, now, &AVATAR, at_hand(&AVATAR)).await?;
            if self.differs(room_id, known, &AVATAR, event.as_deref()).await? {
                match named(event.as_ref()).avatar_url.filter(|url| !url.is_empty()) {
                    Some(url) => object.member("avatar", &url),
                    None if known.is_none() => {}
                    None => object.member("avatar", &()),
                }
            }
        }
        if name.is_none() && (renamed || other_members) {
            let heroes = heroes(&self.inner.rooms, room_id, self.user_id, now).await?;
            write_heroes(&heroes, object.key("heroes"));
        }
        Ok(())
    }

    /// The event of this type and an empty state key; `at_hand`: it is among these, if there is one.
    async fn state_event(
        &self,
        room_id: &RoomId,
        root: StateRoot,
        kind: &TimelineEventType,
        at_hand: Option<&[Arc<StoredEvent>]>,
    ) -> Result<Option<Arc<StoredEvent>>, SyncError> {
        let is_it = |event: &&Arc<StoredEvent>| {
            event.pdu.kind() == kind && event.pdu.state_key() == Some("")
        };
        match at_hand {
            Some(events) => Ok(events.iter().find(is_it).cloned()),
            None => Ok(self.inner.rooms.state_event(room_id, root, &kind.to_string(), "").await?),
        }
    }

    /// Is this event of this type and an empty state key another one than the client knows?
    async fn differs(
        &self,
        room_id: &RoomId,
        known: Option<StateRoot>,
        kind: &TimelineEventType,
        now: Option<&StoredEvent>,
    ) -> Result<bool, SyncError> {
        let before = match known {
            Some(known) => {
                let kind = kind.to_string();
                self.inner.rooms.state_ordinal(room_id, known, &kind, "").await?
            }
            None => None,
        };
        Ok(now.map(|event| event.ordinal) != before)
    }

    /// The timeline and the state.
    pub(crate) async fn write_parts(
        &self,
        room: &InView<'_>,
        parts: &mut Parts,
        object: &mut Object<'_>,
    ) -> Result<(), SyncError> {
        let Parts { visibility, timeline, wanted, expanded, .. } = parts;
        let mut state = Array::begin(object.key("required_state"));
        self.write_events(room, &wanted.events, false, visibility, state.next()).await?;
        if self.form == SlidingForm::Accepted {
            for (kind, key) in &wanted.deleted {
                let mut stub = Object::begin(state.next());
                stub.member("type", kind);
                stub.member("state_key", key);
                stub.end();
            }
        }
        state.end();
        // Bundled where the client cannot have seen the children, or asks for what it may not have.
        let bundled = timeline.limited || *expanded;
        let mut events = Array::begin(object.key("timeline"));
        self.write_events(room, &timeline.events, bundled, visibility, events.next()).await?;
        events.end();
        // Where nothing of much is shown, the way back begins at the end.
        let end = timeline.limited.then(|| TimelineToken::at_position(timeline.until));
        if let Some(start) = timeline.start.or(end) {
            object.member("prev_batch", &start.to_string());
        }
        object.member("limited", &timeline.limited);
        let live = timeline.events.iter().filter(|event| self.is_live(event)).count();
        object.member("num_live", &live);
        if *expanded {
            let name = match self.form {
                SlidingForm::Deployed => "unstable_expanded_timeline",
                SlidingForm::Accepted => "expanded_timeline",
            };
            object.member(name, &true);
        }
        Ok(())
    }

    /// Did this event happen since the connection's last response?
    fn is_live(&self, event: &StoredEvent) -> bool {
        self.base.position.is_some_and(|known| event.index > Some(TimelineIndex::Live(known)))
    }

    /// Writes events as this client is shown them: the first elements of an array.
    pub(crate) async fn write_events(
        &self,
        room: &InView<'_>,
        events: &[Arc<StoredEvent>],
        bundled: bool,
        visibility: &mut Visibility,
        out: &mut Vec<u8>,
    ) -> Result<(), SyncError> {
        self.shared.newest_own.events(self.user_id, events);
        let view = ClientView::sync(self.user_id, Some(self.device_id), bundled);
        let view = view.ignoring(self.ignored);
        let rooms = &self.inner.rooms;
        Ok(rooms.write_client_events(room.room_id, events, &view, visibility, out).await?)
    }
}

impl Parts {
    /// Is there anything in it?
    pub(crate) fn has_news(&self) -> bool {
        !self.timeline.events.is_empty()
            || self.gap
            || !self.wanted.events.is_empty()
            || !self.wanted.deleted.is_empty()
    }
}

fn write_heroes(heroes: &[Arc<StoredEvent>], out: &mut Vec<u8>) {
    let mut list = Array::begin(out);
    for event in heroes {
        let member = named(Some(event));
        let mut hero = Object::begin(list.next());
        hero.member("user_id", event.pdu.state_key().unwrap_or_default());
        if let Some(name) = &member.displayname {
            hero.member("displayname", name);
        }
        if let Some(url) = &member.avatar_url {
            hero.member("avatar_url", url);
        }
        hero.end();
    }
    list.end();
}
