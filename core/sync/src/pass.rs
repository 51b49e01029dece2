//! One response: what changed between what a client knows and what is published now.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use hearth_rooms::schema::{Membership, UserRoomRow};
use hearth_types::StreamPosition;
use hearth_users::AccountDataEntry;
use parking_lot::Mutex;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId};

use crate::{
    SyncError, SyncResponse, SyncToken,
    body::{EventList, Object},
    device_lists::RoomChange,
    echoes::NewestOwn,
    encryption::Encryption,
    filter::SyncFilter,
    hub::{DeviceMemory, RoomList, Session},
    service::Inner,
    to_device,
};

/// Rooms that are worked on before other tasks get their turn.
const ROOMS_PER_TURN: usize = 8;

/// What a client asks, with the token read and the filter resolved.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) user_id: OwnedUserId,
    pub(crate) device_id: OwnedDeviceId,
    pub(crate) since: Option<SyncToken>,
    pub(crate) filter: Arc<SyncFilter>,
    pub(crate) full_state: bool,
    /// Under which name the client wants the state after the timeline, if that in the place of the one before.
    pub(crate) state_after: Option<&'static str>,
    /// Rooms that are new to the client do not come as a whole, but from its token on.
    pub(crate) news_only: bool,
    /// The device has the answers to its own requests before it is shown what they made.
    pub(crate) after_answers: bool,
}

/// The work on one response.
pub(crate) struct Pass<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) session: &'a Session,
    pub(crate) question: &'a Question,
    /// The token of the response: everything up to here is in it.
    pub(crate) until: SyncToken,
    pub(crate) ignored: Arc<HashSet<OwnedUserId>>,
    pub(crate) device: Arc<Mutex<DeviceMemory>>,
    pub(crate) newest_own: NewestOwn,
    /// The rooms that were looked at.
    pub(crate) changes: Mutex<Vec<RoomChange>>,
}

/// The sections of `rooms`, as written.
#[derive(Default)]
struct RoomSections {
    join: Vec<(OwnedRoomId, Vec<u8>)>,
    invite: Vec<(OwnedRoomId, Vec<u8>)>,
    knock: Vec<(OwnedRoomId, Vec<u8>)>,
    leave: Vec<(OwnedRoomId, Vec<u8>)>,
}

/// What is told outside of rooms.
#[derive(Default)]
struct Lists {
    presence: EventList,
    account_data: EventList,
}

/// Account data of the user that belongs into the response.
#[derive(Default)]
struct AccountData {
    global: Vec<AccountDataEntry>,
    rooms: BTreeMap<OwnedRoomId, Vec<AccountDataEntry>>,
}

impl<'a> Pass<'a> {
    /// Makes the response to a question.
    pub(crate) async fn answer(
        inner: &'a Inner,
        session: &'a Session,
        question: &'a Question,
    ) -> Result<SyncResponse, SyncError> {
        // Serials first: what changes from here on may be told twice, but is not missed.
        let typing = inner.users.typing_serial();
        let presence = inner.presence.serial();
        let (list, position) = session.rooms(&inner.rooms).await?;
        let mut until = SyncToken {
            position,
            boot: inner.users.boot_id(),
            typing,
            presence,
            to_device: position,
        };
        let keys = inner.e2ee.key_counts(&question.user_id, &question.device_id).await?;
        if question.since == Some(until) && !question.full_state {
            let encryption = Encryption { keys, ..Encryption::default() };
            return Ok(respond(until, RoomSections::default(), &Lists::default(), &encryption));
        }
        let messages = to_device::read(inner, session, question, position).await?;
        until.to_device = messages.until;
        let pass = Self {
            inner,
            session,
            question,
            until,
            ignored: inner.users.ignored_users(&question.user_id).await?,
            device: session.device(&question.device_id),
            newest_own: NewestOwn::default(),
            changes: Mutex::default(),
        };
        let encryption = Encryption { to_device: messages.events, keys, ..Encryption::default() };
        Box::pin(pass.run(&list, encryption)).await
    }

    /// What the client knows of stored things.
    pub(crate) fn since(&self) -> Option<StreamPosition> {
        self.question.since.map(|since| since.position)
    }

    async fn run(
        self,
        list: &RoomList,
        mut encryption: Encryption,
    ) -> Result<SyncResponse, SyncError> {
        if self.question.since.is_none() {
            self.device.lock().members.clear();
        }
        let user_changed = self
            .since()
            .is_none_or(|since| self.inner.notifier().changed_since(self.session.topic(), since));
        let mut account_data = self.account_data(user_changed).await?;
        let mut sections = RoomSections::default();
        let places = self.places(list, user_changed, &account_data);
        for (turn, place) in places.into_iter().enumerate() {
            if turn % ROOMS_PER_TURN == ROOMS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let (Some(room), Some(topic)) = (list.joined.get(place), list.topics.get(place)) else {
                continue;
            };
            if !self.question.filter.wants_room(&room.room_id) {
                continue;
            }
            let entries = account_data.rooms.remove(&room.room_id).unwrap_or_default();
            let section = self.joined_room(room, topic, self.session, entries).await?;
            if let Some(section) = section {
                self.newest_own.room(&self.question.user_id, &room.row);
                sections.join.push((room.room_id.clone(), section));
            }
        }
        if user_changed {
            for (room_id, row) in &list.others {
                self.other_room(room_id, row, &mut sections).await?;
            }
        }
        let changes = std::mem::take(&mut *self.changes.lock());
        let met = match self.since() {
            Some(_) => self.newly_met(&changes).await?,
            None => self.present(list).await?,
        };
        encryption.lists = self.device_lists(list, changes).await?;
        let presence = self.presence(list, met).await?;
        let global = self.global_account_data(account_data.global);
        let keys_changed = self.since().is_none_or(|since| encryption.keys.changed > since);
        let mut response =
            respond(self.until, sections, &Lists { presence, account_data: global }, &encryption);
        response.is_empty &= !keys_changed;
        if self.question.after_answers {
            let (user_id, device_id) = (&self.question.user_id, &self.question.device_id);
            self.inner.echoes.answered(user_id, device_id, self.newest_own.position()).await;
        }
        Ok(response)
    }

    /// Everything on an initial sync, else what changed.
    async fn account_data(&self, user_changed: bool) -> Result<AccountData, SyncError> {
        let (users, user_id) = (&self.inner.users, &self.question.user_id);
        let mut sorted = AccountData::default();
        match self.since() {
            None => sorted.global = users.global_account_data(user_id).await?,
            Some(since) if user_changed => {
                let until = self.until.position;
                for entry in users.account_data_changes(user_id, since, until).await? {
                    match entry.room_id.clone() {
                        None => sorted.global.push(entry),
                        Some(room_id) => sorted.rooms.entry(room_id).or_default().push(entry),
                    }
                }
            }
            Some(_) => {}
        }
        Ok(sorted)
    }

    fn global_account_data(&self, entries: Vec<AccountDataEntry>) -> EventList {
        let mut list = EventList::default();
        for entry in entries {
            if self.question.filter.wants_account_data(&entry.event_type) {
                list.push_event(&entry.event_type, entry.content.get().as_bytes());
            }
        }
        list
    }

    /// The places in the list of joined rooms that have to be looked at.
    fn places(
        &self,
        list: &RoomList,
        user_changed: bool,
        account_data: &AccountData,
    ) -> BTreeSet<usize> {
        let Some(since) = self.question.since.filter(|_| !self.question.full_state) else {
            return (0..list.joined.len()).collect();
        };
        let mut places: BTreeSet<usize> =
            self.inner.notifier().changed_among(&list.topics, since.position).into_iter().collect();
        if self.until.typing > since.typing {
            places.extend(list.joined.iter().enumerate().filter_map(|(place, room)| {
                let serial = self.inner.users.room_typing_serial(&room.room_id);
                (serial > since.typing).then_some(place)
            }));
        }
        if user_changed {
            places.extend(account_data.rooms.keys().filter_map(|id| list.place_of(id)));
            // A private receipt moves the user's topic, not the room's.
            places.extend(list.joined.iter().enumerate().filter_map(|(place, room)| {
                let users = &self.inner.users;
                users.receipts_changed_since(&room.room_id, since.position).then_some(place)
            }));
        }
        places
    }

    /// A room that the user is not in: an invitation, a knock, or one that they left.
    async fn other_room(
        &self,
        room_id: &RoomId,
        row: &UserRoomRow,
        sections: &mut RoomSections,
    ) -> Result<(), SyncError> {
        let known = self.since().is_some_and(|since| row.position <= since);
        if row.position > self.until.position || !self.question.filter.wants_room(room_id) {
            return Ok(());
        }
        if !known {
            self.newest_own.room(&self.question.user_id, row);
        }
        match row.details.membership {
            Membership::Join => {}
            Membership::Invite if known || self.ignored.contains(&row.details.sender) => {}
            Membership::Invite
                if self.inner.users.blocks_invites(&self.question.user_id).await? => {}
            Membership::Invite => {
                let section = self.stripped_room(room_id, row, "invite_state").await?;
                sections.invite.push((room_id.to_owned(), section));
            }
            Membership::Knock if known => {}
            Membership::Knock => {
                let section = self.stripped_room(room_id, row, "knock_state").await?;
                sections.knock.push((room_id.to_owned(), section));
            }
            Membership::Leave | Membership::Ban => {
                // News is told in any case; what is long over only to those who ask for it.
                let news = self.since().is_some() && !known;
                let whole = self.since().is_none() || self.question.full_state;
                let wanted = self.question.filter.include_leave() && !row.details.forgotten;
                if news || (whole && wanted) {
                    let section = self.left_room(room_id, row).await?;
                    sections.leave.push((room_id.to_owned(), section));
                }
            }
        }
        Ok(())
    }
}

/// Writes the body.
fn respond(
    until: SyncToken,
    sections: RoomSections,
    lists: &Lists,
    encryption: &Encryption,
) -> SyncResponse {
    let next_batch = until.to_string();
    let mut body = Vec::new();
    let mut object = Object::begin(&mut body);
    object.member("next_batch", &next_batch);
    object.events("presence", &lists.presence);
    object.events("account_data", &lists.account_data);
    let mut is_empty = lists.presence.is_empty() && lists.account_data.is_empty();
    is_empty &= encryption.is_empty();
    encryption.write(&mut object);
    let kinds = [
        ("join", sections.join),
        ("invite", sections.invite),
        ("knock", sections.knock),
        ("leave", sections.leave),
    ];
    if kinds.iter().any(|(_, rooms)| !rooms.is_empty()) {
        is_empty = false;
        let mut rooms = Object::begin(object.key("rooms"));
        for (name, sections) in kinds.iter().filter(|(_, sections)| !sections.is_empty()) {
            let mut kind = Object::begin(rooms.key(name));
            for (room_id, section) in sections {
                kind.raw(room_id.as_str(), section);
            }
            kind.end();
        }
        rooms.end();
    }
    object.end();
    SyncResponse { next_batch, body: Bytes::from(body), is_empty }
}
