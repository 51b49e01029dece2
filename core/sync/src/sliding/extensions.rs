//! What is told beside rooms: messages to the device, keys, account data, receipts, typing. The names are
//! those of MSC3884, MSC3885, MSC3959, MSC3960 and MSC3961, which both forms share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hearth_e2ee::KeyCounts;
use hearth_types::StreamPosition;
use hearth_users::AccountDataEntry;
use ruma::{OwnedRoomId, RoomId};

use super::{
    connection::{Draft, Stage},
    pass::Look,
    request::Scope,
    service::SlidingRequest,
    view::{InView, View},
};
use crate::{
    SyncError,
    body::{EventList, Object, write_json},
    encryption::Encryption,
    hub::RoomList,
    service::Inner,
};

/// What the `next_batch` of messages to the device starts with; a position follows.
const TO_DEVICE_PREFIX: &str = "d1_";

/// The extensions' part of a response.
#[derive(Default)]
pub(crate) struct Extras {
    /// Messages to the device, and up to where.
    to_device: Option<(EventList, StreamPosition)>,
    e2ee: Option<Encryption>,
    keys_changed: bool,
    account_data: Option<AccountData>,
    receipts: Option<Vec<(OwnedRoomId, Vec<u8>)>>,
    typing: Option<Vec<(OwnedRoomId, Vec<u8>)>>,
}

#[derive(Default)]
struct AccountData {
    global: EventList,
    rooms: Vec<(OwnedRoomId, EventList)>,
}

/// Up to where a device has its messages, by the token that it shows. One from the future was handed out
/// before the store was set back, and proves nothing.
pub(crate) fn to_device_since(
    inner: &Inner,
    request: &SlidingRequest,
) -> Result<Option<StreamPosition>, SyncError> {
    let Some(text) = &request.body.to_device_since else { return Ok(None) };
    let number = text.strip_prefix(TO_DEVICE_PREFIX);
    let number = number.and_then(hearth_rooms::read::tokens::parse_number).ok_or_else(|| {
        SyncError::InvalidParam("extensions.to_device.since: unknown token".to_owned())
    })?;
    let position = StreamPosition::new(number);
    Ok((position <= inner.notifier().published()).then_some(position))
}

impl Extras {
    /// What does not depend on rooms.
    pub(crate) async fn of_device(
        inner: &Inner,
        request: &SlidingRequest,
        until: StreamPosition,
    ) -> Result<Self, SyncError> {
        let (user_id, device_id) = (&request.user_id, &request.device_id);
        let extensions = &request.body.rules.extensions;
        // What is asked for stands in each answer, be it empty.
        let mut extras = Self {
            account_data: extensions.account_data.as_ref().map(|_| AccountData::default()),
            receipts: extensions.receipts.as_ref().map(|_| Vec::new()),
            typing: extensions.typing.as_ref().map(|_| Vec::new()),
            ..Self::default()
        };
        if let Some(limit) = extensions.to_device {
            let since = to_device_since(inner, request)?.unwrap_or(StreamPosition::ZERO);
            let range = (since, until);
            let page = inner.e2ee.first_to_device(user_id, device_id, range, limit).await?;
            let mut events = EventList::default();
            for event in &page.events {
                events.push(event);
            }
            extras.to_device = Some((events, page.until));
        }
        if extensions.e2ee {
            let keys: Arc<KeyCounts> = inner.e2ee.key_counts(user_id, device_id).await?;
            extras.e2ee = Some(Encryption { keys, ..Encryption::default() });
        }
        Ok(extras)
    }

    /// Is there nothing to tell?
    pub(crate) fn is_empty(&self) -> bool {
        let Self { to_device, e2ee, keys_changed, account_data, receipts, typing } = self;
        let none = |rooms: &Option<Vec<_>>| rooms.as_ref().is_none_or(Vec::is_empty);
        to_device.as_ref().is_none_or(|(events, _)| events.is_empty())
            && e2ee.as_ref().is_none_or(Encryption::is_empty)
            && !keys_changed
            && account_data.as_ref().is_none_or(|d| d.global.is_empty() && d.rooms.is_empty())
            && none(receipts)
            && none(typing)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        if let Some((events, until)) = &self.to_device {
            let mut to_device = Object::begin(object.key("to_device"));
            to_device.member("next_batch", &format!("{TO_DEVICE_PREFIX}{until}"));
            events.write(to_device.key("events"));
            to_device.end();
        }
        if let Some(encryption) = &self.e2ee {
            let mut e2ee = Object::begin(object.key("e2ee"));
            encryption.write(&mut e2ee);
            e2ee.end();
        }
        if let Some(AccountData { global, rooms }) = &self.account_data {
            let mut data = Object::begin(object.key("account_data"));
            global.write(data.key("global"));
            let mut by_room = Object::begin(data.key("rooms"));
            for (room_id, events) in rooms {
                events.write(by_room.key(room_id.as_str()));
            }
            by_room.end();
            data.end();
        }
        for (name, rooms) in [("receipts", &self.receipts), ("typing", &self.typing)] {
            let Some(rooms) = rooms else { continue };
            let mut extension = Object::begin(object.key(name));
            let mut by_room = Object::begin(extension.key("rooms"));
            for (room_id, event) in rooms {
                by_room.raw(room_id.as_str(), event);
            }
            by_room.end();
            extension.end();
        }
        object.end();
    }
}

impl Look<'_> {
    /// Adds what depends on rooms, as far as the client asks for it.
    pub(crate) async fn extend(
        &self,
        list: &RoomList,
        view: &View<'_>,
        extras: &mut Extras,
        draft: &mut Draft,
    ) -> Result<(), SyncError> {
        if let Some(encryption) = &mut extras.e2ee {
            if let Some(since) = self.base.e2ee {
                let (inner, until) = (self.inner, self.until);
                encryption.lists =
                    inner.device_lists_between(self.user_id, list, since, until).await?;
                extras.keys_changed = encryption.keys.changed > since;
            }
            draft.e2ee = Some(self.until);
        }
        let extensions = &self.rules.extensions;
        if let Some(scope) = &extensions.account_data {
            extras.account_data = Some(self.account_data(scope, view, draft).await?);
        }
        if let Some(scope) = &extensions.receipts {
            extras.receipts = Some(self.receipts(scope, view, draft).await?);
        }
        if let Some(scope) = &extensions.typing {
            extras.typing = Some(self.typing(scope, view, draft));
        }
        Ok(())
    }

    /// The rooms in view that an extension speaks of.
    pub(crate) fn covered<'v>(
        &'v self,
        scope: &'v Scope,
        view: &'v View<'_>,
    ) -> impl Iterator<Item = &'v InView<'v>> {
        view.rooms.iter().filter(|room| self.covers(scope, room))
    }

    /// Does an extension speak of this room?
    pub(crate) fn covers(&self, scope: &Scope, room: &InView<'_>) -> bool {
        scope.covers(self.rules, room.lists, room.subscribed, room.room_id.as_str())
    }

    async fn account_data(
        &self,
        scope: &Scope,
        view: &View<'_>,
        draft: &mut Draft,
    ) -> Result<AccountData, SyncError> {
        let (users, user_id) = (&self.inner.users, self.user_id);
        let mut global = Vec::new();
        let mut changed: HashMap<OwnedRoomId, Vec<AccountDataEntry>> = HashMap::new();
        match self.base.account_data {
            None => global = users.global_account_data(user_id).await?,
            Some(since) if self.inner.notifier().changed_since(self.session.topic(), since) => {
                for entry in users.account_data_changes(user_id, since, self.until).await? {
                    match entry.room_id.clone() {
                        None => global.push(entry),
                        Some(room_id) => changed.entry(room_id).or_default().push(entry),
                    }
                }
            }
            Some(_) => {}
        }
        let mut new = BTreeSet::new();
        for room in self.covered(scope, view) {
            let known = draft.known(self.base, &room.topic);
            if known.is_some_and(|sent| !sent.account_data)
                && let Some(sent) = draft.room(self.base, &room.topic)
            {
                sent.account_data = true;
                changed.remove(room.room_id);
                new.insert(room.room_id);
            }
        }
        changed.extend(users.account_data_of_rooms(user_id, &new).await?);
        let mut data = AccountData { global: list_of(&global), rooms: Vec::new() };
        for room in self.covered(scope, view) {
            if draft.known(self.base, &room.topic).is_none() {
                continue;
            }
            let entries = changed.remove(room.room_id).unwrap_or_default();
            if !entries.is_empty() {
                data.rooms.push((room.room_id.to_owned(), list_of(&entries)));
            }
        }
        // What changed elsewhere is told as a whole once it comes into view.
        draft.outdated.extend(changed.into_keys());
        draft.account_data = Some(self.until);
        Ok(data)
    }

    fn typing(
        &self,
        scope: &Scope,
        view: &View<'_>,
        draft: &mut Draft,
    ) -> Vec<(OwnedRoomId, Vec<u8>)> {
        let users = &self.inner.users;
        let mut told = Vec::new();
        for room in self.covered(scope, view).filter(|room| room.stage == Stage::Joined) {
            let serial = users.room_typing_serial(room.room_id);
            let Some(known) = draft.known(self.base, &room.topic).map(|sent| sent.typing) else {
                continue;
            };
            if serial <= known {
                continue;
            }
            let mut typing = users.typing(room.room_id);
            typing.user_ids.retain(|user_id| !self.ignored.contains(user_id));
            if let Some(sent) = draft.room(self.base, &room.topic) {
                sent.typing = serial;
            }
            if known > 0 || !typing.user_ids.is_empty() {
                let content = BTreeMap::from([("user_ids", &typing.user_ids)]);
                told.push((room.room_id.to_owned(), event("m.typing", &content)));
            }
        }
        told
    }
}

/// An event of a type and content alone.
pub(crate) fn event(kind: &str, content: &impl serde::Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = Object::begin(&mut out);
    object.member("type", kind);
    write_json(object.key("content"), content);
    object.end();
    out
}

fn list_of(entries: &[AccountDataEntry]) -> EventList {
    let mut list = EventList::default();
    for entry in entries {
        list.push_event(&entry.event_type, entry.content.get().as_bytes());
    }
    list
}

impl Look<'_> {
    /// Is the room too large for the receipts of others?
    pub(crate) async fn is_large(&self, room_id: &RoomId) -> Result<bool, SyncError> {
        let head = self.inner.rooms.head(room_id).await?;
        Ok(head.is_some_and(|head| head.joined_members > self.inner.config.large_room_members))
    }
}
