//! Whose devices a client has to look at again, and whose no more (CS "Tracking the device list for a
//! user").
//!
//! Lists that changed are read from one place, whoever's they are; who came to an encrypted room or left
//! it is the difference of the room's members between two positions, which costs what differs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hearth_rooms::{
    RoomError,
    read::{StatePart, TimelineToken},
    schema::{EventOrdinal, Membership, StoredEvent},
    state::StateRoot,
};
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};

use crate::{SyncError, SyncService, hub::RoomList, pass::Pass, service::Inner};

/// Look-ups that are made before other tasks get their turn.
const LOOKUPS_PER_TURN: usize = 100;

/// Users whose device lists matter anew, or no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceLists {
    /// Their devices or keys changed, or an encrypted room is shared with them since.
    pub changed: BTreeSet<OwnedUserId>,
    /// No encrypted room is shared with them any more.
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    pub(crate) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// A room that the user is in, and what its state was and is.
#[derive(Clone, Debug)]
pub(crate) struct RoomChange {
    pub(crate) room_id: OwnedRoomId,
    /// The state that the client knows; `None` if the user was not in the room then, or not all the time since.
    pub(crate) known: Option<StateRoot>,
    pub(crate) end: StateRoot,
}

impl Pass<'_> {
    /// What changed since the client's token; nothing on an initial sync. `changes` are those of the
    /// rooms that were looked at for the response.
    pub(crate) async fn device_lists(
        &self,
        rooms: &RoomList,
        mut changes: Vec<RoomChange>,
    ) -> Result<DeviceLists, SyncError> {
        let Some(since) = self.since() else { return Ok(DeviceLists::default()) };
        let (inner, until) = (self.inner, self.until.position);
        // Rooms that the filter leaves out of the response matter all the same.
        for place in inner.notifier().changed_among(&rooms.topics, since) {
            if let Some(room) = rooms.joined.get(place)
                && !self.question.filter.wants_room(&room.room_id)
            {
                changes.extend(inner.room_change(rooms, place, since, until).await?);
            }
        }
        let user_id = &self.question.user_id;
        Question { inner, user_id, rooms, since, until }.answer(&changes).await
    }
}

impl SyncService {
    /// What changed between two of the user's sync tokens (CS "GET /keys/changes").
    ///
    /// # Errors
    ///
    /// [`SyncError::InvalidParam`] if one of them is none.
    pub async fn device_list_changes(
        &self,
        user_id: &UserId,
        from: &str,
        to: &str,
    ) -> Result<DeviceLists, SyncError> {
        let since = self.inner.read_token(from)?.position;
        let until = self.inner.read_token(to)?.position;
        let connection = self.inner.hub.connect(user_id);
        let (rooms, _) = connection.session().rooms(&self.inner.rooms).await?;
        self.inner.device_lists_between(user_id, &rooms, since, until).await
    }
}

impl Inner {
    /// What changed between two positions for a user with these rooms.
    pub(crate) async fn device_lists_between(
        &self,
        user_id: &UserId,
        rooms: &RoomList,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<DeviceLists, SyncError> {
        let mut changes = Vec::new();
        for place in self.notifier().changed_among(&rooms.topics, since) {
            changes.extend(self.room_change(rooms, place, since, until).await?);
        }
        Question { inner: self, user_id, rooms, since, until }.answer(&changes).await
    }

    /// How a room that the user is in changed between two positions.
    async fn room_change(
        &self,
        list: &RoomList,
        place: usize,
        since: StreamPosition,
        until: StreamPosition,
    ) -> Result<Option<RoomChange>, SyncError> {
        let Some(room) = list.joined.get(place).filter(|room| room.row.joined_at <= until) else {
            return Ok(None);
        };
        let room_id = room.room_id.clone();
        let at = TimelineToken::at_position;
        let known = if room.row.joined_at <= since {
            Some(self.rooms.state_at(&room_id, at(since)).await?)
        } else {
            None
        };
        let end = self.rooms.state_at(&room_id, at(until)).await?;
        Ok(Some(RoomChange { room_id, known, end }))
    }
}

/// For whom, and from where to where.
struct Question<'a> {
    inner: &'a Inner,
    user_id: &'a UserId,
    rooms: &'a RoomList,
    since: StreamPosition,
    until: StreamPosition,
}

impl Question<'_> {
    async fn answer(&self, changes: &[RoomChange]) -> Result<DeviceLists, SyncError> {
        let mut lists = DeviceLists::default();
        let users = self.inner.e2ee.changed_lists(self.since, self.until).await?;
        let shared = self.shared_with_servers(&users).await?;
        for user_id in users {
            if user_id == self.user_id || self.shares_room(&user_id, &shared).await? {
                lists.changed.insert(user_id);
            }
        }
        let e2ee = &self.inner.e2ee;
        lists.changed.extend(e2ee.newly_signed(self.user_id, self.since, self.until).await?);
        let mut gone = BTreeSet::new();
        for change in changes {
            self.compare(change, &mut lists.changed, &mut gone).await?;
        }
        self.rooms_left(&mut gone).await?;
        gone.retain(|user_id| !lists.changed.contains(user_id) && user_id != self.user_id);
        lists.left = self.without_those_here(gone).await?;
        Ok(lists)
    }

    /// The user's rooms, by their places in the list, that the other servers of these users are in: most
    /// servers are in few of them, so that few have to be looked through for each user.
    async fn shared_with_servers(
        &self,
        users: &[OwnedUserId],
    ) -> Result<BTreeMap<OwnedServerName, Vec<usize>>, SyncError> {
        let own_name = self.inner.rooms.identity().server_name();
        let servers = users.iter().map(|user_id| user_id.server_name());
        let mut shared: BTreeMap<_, Vec<usize>> = servers
            .filter(|server| *server != own_name)
            .map(|server| (server.to_owned(), Vec::new()))
            .collect();
        if shared.is_empty() {
            return Ok(shared);
        }
        for (place, room) in self.rooms.joined.iter().enumerate() {
            if place % LOOKUPS_PER_TURN == LOOKUPS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let there = match self.inner.rooms.remote_servers(&room.room_id).await {
                Ok(there) => there,
                // It was purged meanwhile.
                Err(RoomError::UnknownRoom) => continue,
                Err(error) => return Err(error.into()),
            };
            for (server, places) in &mut shared {
                if there.contains(server) {
                    places.push(place);
                }
            }
        }
        Ok(shared)
    }

    /// `shared` are the user's rooms that the user's server is in.
    async fn shares_room(
        &self,
        user_id: &UserId,
        shared: &BTreeMap<OwnedServerName, Vec<usize>>,
    ) -> Result<bool, SyncError> {
        if self.inner.rooms.identity().is_local(user_id) {
            let rows = self.inner.rooms.user_rooms(user_id).await?;
            let mut joined =
                rows.iter().filter(|(_, row)| row.details.membership == Membership::Join);
            return Ok(joined.any(|(room_id, _)| self.rooms.place_of(room_id).is_some()));
        }
        let places = shared.get(user_id.server_name()).into_iter().flatten();
        for (number, room) in places.filter_map(|place| self.rooms.joined.get(*place)).enumerate() {
            if self.is_member(&room.room_id, user_id, number).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_member(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        number: usize,
    ) -> Result<bool, SyncError> {
        if number % LOOKUPS_PER_TURN == LOOKUPS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        let row = self.inner.rooms.member_row(room_id, user_id).await?;
        Ok(row.is_some_and(|row| row.membership == Membership::Join))
    }

    async fn is_encrypted(&self, room_id: &RoomId, root: StateRoot) -> Result<bool, SyncError> {
        let event = self.inner.rooms.state_ordinal(room_id, root, "m.room.encryption", "").await?;
        Ok(event.is_some())
    }

    /// Who came to a room that is encrypted, and who went.
    async fn compare(
        &self,
        change: &RoomChange,
        came: &mut BTreeSet<OwnedUserId>,
        gone: &mut BTreeSet<OwnedUserId>,
    ) -> Result<(), SyncError> {
        let RoomChange { room_id, known, end } = change;
        if *known == Some(*end) || !self.is_encrypted(room_id, *end).await? {
            return Ok(());
        }
        match known {
            Some(known) if self.is_encrypted(room_id, *known).await? => {
                self.compare_members(room_id, *known, *end, came, gone).await
            }
            // The user is new in the room, or its encryption is.
            _ => {
                came.extend(self.members(room_id).await?);
                Ok(())
            }
        }
    }

    async fn compare_members(
        &self,
        room_id: &RoomId,
        known: StateRoot,
        end: StateRoot,
        came: &mut BTreeSet<OwnedUserId>,
        gone: &mut BTreeSet<OwnedUserId>,
    ) -> Result<(), SyncError> {
        let rooms = &self.inner.rooms;
        let differ = rooms.state_changes(room_id, known, end, StatePart::Members)?;
        let before: Vec<EventOrdinal> = differ.iter().filter_map(|change| change.before).collect();
        let after: Vec<EventOrdinal> = differ.iter().filter_map(|change| change.after).collect();
        let before = joined_among(&rooms.events(room_id, &before).await?);
        let after = joined_among(&rooms.events(room_id, &after).await?);
        came.extend(after.difference(&before).cloned());
        gone.extend(before.difference(&after).cloned());
        Ok(())
    }

    async fn members(&self, room_id: &RoomId) -> Result<Vec<OwnedUserId>, SyncError> {
        let members = self.inner.rooms.members_with(room_id, Membership::Join).await?;
        Ok(members.into_iter().map(|(user_id, _)| user_id).collect())
    }

    /// The members of encrypted rooms that the user left.
    async fn rooms_left(&self, gone: &mut BTreeSet<OwnedUserId>) -> Result<(), SyncError> {
        for (room_id, row) in &self.rooms.others {
            let out = matches!(row.details.membership, Membership::Leave | Membership::Ban);
            let news = row.position > self.since && row.position <= self.until;
            if out
                && news
                && !row.details.is_out_of_band()
                && self.is_encrypted(room_id, row.details.state).await?
            {
                gone.extend(self.members(room_id).await?);
            }
        }
        Ok(())
    }

    /// Those who share no encrypted room with the user any more: by looking each up in each room, or by
    /// reading the rooms' members, whichever is less.
    async fn without_those_here(
        &self,
        gone: BTreeSet<OwnedUserId>,
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        if gone.is_empty() {
            return Ok(gone);
        }
        let (mut encrypted, mut members) = (Vec::new(), 0);
        for room in &self.rooms.joined {
            let Some(head) = self.inner.rooms.head(&room.room_id).await? else { continue };
            if self.is_encrypted(&room.room_id, head.state).await? {
                encrypted.push(&room.room_id);
                members += head.joined_members;
            }
        }
        let lookups = gone.len().saturating_mul(encrypted.len());
        if u64::try_from(lookups).is_ok_and(|lookups| lookups <= members) {
            return self.looked_up(gone, &encrypted).await;
        }
        let mut here = HashSet::new();
        for room_id in encrypted {
            here.extend(self.members(room_id).await?);
        }
        Ok(gone.into_iter().filter(|user_id| !here.contains(user_id)).collect())
    }

    async fn looked_up(
        &self,
        gone: BTreeSet<OwnedUserId>,
        encrypted: &[&OwnedRoomId],
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let (mut left, mut number) = (BTreeSet::new(), 0);
        'users: for user_id in gone {
            for room_id in encrypted {
                number += 1;
                if self.is_member(room_id, &user_id, number).await? {
                    continue 'users;
                }
            }
            left.insert(user_id);
        }
        Ok(left)
    }
}

/// The users whom these membership events let in.
pub(crate) fn joined_among(events: &[std::sync::Arc<StoredEvent>]) -> BTreeSet<OwnedUserId> {
    let joined = events.iter().filter(|event| Membership::of(&event.pdu) == Some(Membership::Join));
    joined.filter_map(|event| event.pdu.state_key()?.try_into().ok()).collect()
}
