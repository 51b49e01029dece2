//! Which events another server may see whole (CS "Room History Visibility", as it applies to servers):
//! those that any of its users may. Others it gets redacted, so that the graph stays whole.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use hearth_storage::{Direction, Snapshot};
use ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    canonical_json::redact_in_place, events::TimelineEventType, room_version_rules::RedactionRules,
};

use super::cache::{CachedDeparture, CachedKeys, members_of};
use crate::{
    Rooms,
    error::RoomError,
    read::{ByRoot, HistoryVisibility, VisibilityInStates},
    schema::{
        self, EventOrdinal, MemberRow, Membership, RoomHead, Standing, StateKeyRow, StoredEvent,
        TimelineIndex,
    },
    state::{NodeId, get},
};

/// Users of one server whose memberships are looked at to find one who may see an event.
const MAX_USERS: usize = 1_000;
/// Changes of one user's membership that are gone back over to find when they left.
const MAX_CHANGES: usize = 100;
/// Rows read at a time while a server's users are listed.
const PAGE: usize = 1_000;

/// How a server's users stand at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Presence {
    joined: bool,
    invited: bool,
}

/// Judges events of one room for one server.
pub(super) struct ServerVisibility {
    rooms: Rooms,
    room_id: OwnedRoomId,
    server: OwnedServerName,
    redaction: RedactionRules,
    joined_now: bool,
    /// While the room's state is partial: from this event on a server that is in it by what the answer
    /// to the join says counts as joined, whatever the states here know of its users.
    named_since: Option<EventOrdinal>,
    /// The last place that the server was in the room for.
    inside_until: Option<TimelineIndex>,
    history: VisibilityInStates,
    /// Numbers of the state keys of the server's users: listed when first needed. The one that gave
    /// the last answer comes first.
    member_keys: Option<Vec<u32>>,
    by_members: ByRoot<Presence>,
}

impl Rooms {
    /// A judge of this room's events for a server that has or had joined members.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownRoom`] if the room is not here; [`RoomError::Forbidden`] if the server was
    /// never in it, or its access list keeps it out.
    pub(super) async fn server_visibility(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<ServerVisibility, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        self.require_admitted(room_id, server).await?;
        let row = self.server_row(room_id, server).await?;
        let named_since = self.named_since(room_id, server).await?;
        if row.is_none() && named_since.is_none() {
            return Err(RoomError::Forbidden("your server is not in this room".to_owned()));
        }
        let rules = head
            .version
            .rules()
            .ok_or_else(|| RoomError::UnsupportedVersion(head.version.to_string()))?;
        let joined_now = named_since.is_some() || row.is_some_and(|row| row.joined > 0);
        let inside_until = if joined_now {
            Some(TimelineIndex::END)
        } else {
            self.server_departure(room_id, server, &head).await?
        };
        Ok(ServerVisibility {
            rooms: self.clone(),
            room_id: room_id.to_owned(),
            server: server.to_owned(),
            redaction: rules.redaction,
            joined_now,
            named_since,
            inside_until,
            history: VisibilityInStates::of(self, room_id).await?,
            member_keys: None,
            by_members: ByRoot::default(),
        })
    }

    /// Where the last of a server's users left: from memory until the room's members change, since it
    /// takes a walk through all of them.
    async fn server_departure(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        head: &RoomHead,
    ) -> Result<Option<TimelineIndex>, RoomError> {
        let (members, key) = (members_of(head), (room_id.to_owned(), server.to_owned()));
        if let Some(cached) = self.served().departures.get(&key)
            && cached.members == members
            && (cached.place.is_some() || cached.next_event == head.next_event)
        {
            return Ok(cached.place);
        }
        // The rows are at least as new as the head. If they are newer, they are read again with the
        // next head.
        let rows = self.members_of_server(room_id, server).await?;
        let mut place = None;
        for (_, row) in rows {
            place = place.max(self.member_departure(room_id, row.event).await?);
        }
        let next_event = head.next_event;
        self.served().departures.insert(key, CachedDeparture { members, next_event, place });
        Ok(place)
    }

    /// The place of the event that ended a user's last stay, going back from their newest membership.
    async fn member_departure(
        &self,
        room_id: &RoomId,
        newest: EventOrdinal,
    ) -> Result<Option<TimelineIndex>, RoomError> {
        let mut event = self.event(room_id, newest).await?;
        for _ in 0..MAX_CHANGES {
            let Some(replaced) = event.header.replaces_state else { return Ok(None) };
            let earlier = self.event(room_id, replaced).await?;
            if Membership::of(&earlier.pdu) == Some(Membership::Join) {
                return Ok(event.index);
            }
            event = earlier;
        }
        Ok(None)
    }

    /// The membership rows of a server's users, at most [`MAX_USERS`].
    async fn members_of_server(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Vec<(OwnedUserId, MemberRow)>, RoomError> {
        let (room_id, server) = (room_id.to_owned(), server.to_owned());
        let read = move |snapshot: &Snapshot| {
            let mut found = Vec::new();
            let mut from = Bound::Unbounded;
            loop {
                let range = (from, Bound::Unbounded);
                let rows =
                    snapshot.page(&schema::MEMBERS, &room_id, range, Direction::Forward, PAGE)?;
                let last = rows.last().map(|(user_id, _)| user_id.clone());
                let last_page = rows.len() < PAGE;
                found.extend(rows.into_iter().filter(|(user, _)| user.server_name() == server));
                found.truncate(MAX_USERS);
                match last {
                    Some(last) if !last_page && found.len() < MAX_USERS => {
                        from = Bound::Excluded(last);
                    }
                    _ => return Ok(found),
                }
            }
        };
        Ok(self.store().bulk(read).await?)
    }

    /// The numbers of the state keys of a server's users: from memory until there are
    /// others.
    async fn member_keys(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Arc<[u32]>, RoomError> {
        let head = self.head(room_id).await?.ok_or(RoomError::UnknownRoom)?;
        let (members, next_key) = (members_of(&head), head.next_member_key);
        let key = (room_id.to_owned(), server.to_owned());
        if let Some(cached) = self.served().member_keys.get(&key)
            && (cached.members, cached.next_key) == (members, next_key)
        {
            return Ok(cached.keys);
        }
        let keys: Arc<[u32]> = self.member_keys_of_server(room_id, server).await?.into();
        let cached = CachedKeys { members, next_key, keys: Arc::clone(&keys) };
        self.served().member_keys.insert(key, cached);
        Ok(keys)
    }

    /// The same, read; at most [`MAX_USERS`].
    async fn member_keys_of_server(
        &self,
        room_id: &RoomId,
        server: &ServerName,
    ) -> Result<Vec<u32>, RoomError> {
        let (room_id, server) = (room_id.to_owned(), server.to_owned());
        let read = move |snapshot: &Snapshot| {
            let key = |user_id: String| ("m.room.member".to_owned(), user_id);
            let mut found: Vec<u32> = Vec::new();
            let mut from = Bound::Included(key(String::new()));
            let end = key("\u{10ffff}".to_owned());
            loop {
                let range = (from, Bound::Included(end.clone()));
                let rows: Vec<((String, String), StateKeyRow)> = snapshot.page(
                    &schema::STATE_KEYS,
                    &room_id,
                    range,
                    Direction::Forward,
                    PAGE,
                )?;
                let last = rows.last().map(|(key, _)| key.clone());
                let last_page = rows.len() < PAGE;
                let of_server = rows.into_iter().filter(|((_, user), _)| is_of(user, &server));
                found.extend(of_server.map(|(_, row)| row.0));
                found.truncate(MAX_USERS);
                match last {
                    Some(last) if !last_page && found.len() < MAX_USERS => {
                        from = Bound::Excluded(last);
                    }
                    _ => return Ok(found),
                }
            }
        };
        Ok(self.store().bulk(read).await?)
    }
}

/// Is this the ID of a user of this server?
fn is_of(user_id: &str, server: &ServerName) -> bool {
    <&UserId>::try_from(user_id).is_ok_and(|user_id| user_id.server_name() == server)
}

impl ServerVisibility {
    /// Is the server in the room now?
    pub(super) fn joined_now(&self) -> bool {
        self.joined_now
    }

    /// May the server see this event whole?
    pub(super) async fn can_see(&mut self, event: &StoredEvent) -> Result<bool, RoomError> {
        if self.is_own(event) {
            return Ok(true);
        }
        let inside = match event.index {
            Some(index) => Some(index) <= self.inside_until,
            // Soft-failed, or known only because others refer to it.
            None => self.joined_now,
        };
        if event.header.standing == Standing::Outlier {
            return Ok(inside);
        }
        let before = event.header.state_before;
        let mut visibility = self.history.at(before).await?;
        if *event.pdu.kind() == TimelineEventType::RoomHistoryVisibility {
            visibility = visibility.or_kinder(self.history.at(event.header.state_after).await?);
        }
        match visibility {
            HistoryVisibility::WorldReadable => return Ok(true),
            HistoryVisibility::Shared if inside => return Ok(true),
            _ => {}
        }
        if self.named_since.is_some_and(|join| event.ordinal >= join) {
            return Ok(true);
        }
        let presence = self.presence(before.members).await?;
        Ok(presence.joined || (visibility == HistoryVisibility::Invited && presence.invited))
    }

    /// The event's JSON, redacted if the server may not see it whole.
    pub(super) async fn show(&mut self, event: &StoredEvent) -> Result<Bytes, RoomError> {
        if self.can_see(event).await? {
            return Ok(event.pdu.json().clone());
        }
        redacted_copy(event, &self.redaction)
    }

    /// What the server's own users sent, and what was done to them.
    fn is_own(&self, event: &StoredEvent) -> bool {
        event.pdu.sender().server_name() == self.server
            || (*event.pdu.kind() == TimelineEventType::RoomMember
                && event.pdu.state_key().is_some_and(|user_id| is_of(user_id, &self.server)))
    }

    /// Was any of the server's users joined or invited in this state?
    async fn presence(&mut self, members: NodeId) -> Result<Presence, RoomError> {
        if let Some(known) = self.by_members.get(members) {
            return Ok(known);
        }
        let mut keys = match self.member_keys.take() {
            Some(keys) => keys,
            None => self.rooms.member_keys(&self.room_id, &self.server).await?.to_vec(),
        };
        let mut presence = Presence::default();
        for place in 0..keys.len() {
            let Some(key) = keys.get(place).copied() else { break };
            match self.membership_at(members, key).await? {
                Some(Membership::Join) => {
                    presence.joined = true;
                    // Whoever is in the room now mostly was a moment before.
                    keys.swap(0, place);
                    break;
                }
                Some(Membership::Invite) => presence.invited = true,
                _ => {}
            }
        }
        self.member_keys = Some(keys);
        self.by_members.keep(members, presence);
        Ok(presence)
    }

    async fn membership_at(
        &self,
        members: NodeId,
        key: u32,
    ) -> Result<Option<Membership>, RoomError> {
        match get(&self.rooms.nodes(&self.room_id), members, key)? {
            Some(ordinal) => {
                Ok(Membership::of(&self.rooms.event(&self.room_id, ordinal).await?.pdu))
            }
            None => Ok(None),
        }
    }
}

/// An event in its redacted form (rooms' "Redactions"): its ID and signatures stay valid.
fn redacted_copy(event: &StoredEvent, rules: &RedactionRules) -> Result<Bytes, RoomError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        RoomError::internal(format!("event {} cannot be redacted: {error}", event.ordinal))
    };
    let mut object: CanonicalJsonObject =
        serde_json::from_slice(event.pdu.json()).map_err(|error| unreadable(&error))?;
    redact_in_place(&mut object, rules, None).map_err(|error| unreadable(&error))?;
    serde_json::to_vec(&object).map(Bytes::from).map_err(|error| unreadable(&error))
}
