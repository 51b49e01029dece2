//! One response.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use hearth_rooms::schema::{EventOrdinal, StoredEvent};
use hearth_storage::Topic;
use hearth_types::StreamPosition;
use hearth_users::{AccountDataScope, ReceiptEntry};
use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, value::RawValue};

use super::{
    connection::{CaughtUp, Connection, Draft, Enclosed, SentRoom, Stage},
    extensions::Extras,
    request::{Rules, SlidingForm},
    service::SlidingRequest,
    view::{InView, View},
};
use crate::{
    SyncError,
    body::{Object, write_json},
    echoes::NewestOwn,
    hub::{RoomList, Session},
    service::Inner,
};

/// Rooms that are worked on before other tasks get their turn: half a millisecond. Each turn may bring the
/// work to another core, with nothing of it in that core's caches.
const ROOMS_PER_TURN: usize = 16;
/// Beyond so many bytes of rooms, those that are left come with the next response.
const MAX_ROOMS_BYTES: usize = 4 * 1024 * 1024;
/// What a response takes beside its rooms, mostly.
const FEW_BYTES: usize = 1024;

/// Who looks, at what, and what they know.
pub(crate) struct Look<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) session: &'a Session,
    pub(crate) user_id: &'a UserId,
    pub(crate) device_id: &'a DeviceId,
    pub(crate) form: SlidingForm,
    pub(crate) rules: &'a Rules,
    pub(crate) base: &'a Connection,
    /// Everything up to here is looked at.
    pub(crate) until: StreamPosition,
    pub(crate) ignored: Arc<HashSet<OwnedUserId>>,
    pub(crate) blocks_invites: bool,
    /// The user's direct chats, as their clients keep them.
    pub(crate) dms: HashSet<OwnedRoomId>,
    pub(crate) newest_own: NewestOwn,
}

/// What is told of a room.
pub(crate) struct Told {
    /// `None`: nothing.
    pub(crate) body: Option<Vec<u8>>,
    /// What the client knows then.
    pub(crate) sent: SentRoom,
    /// Memberships that are among it.
    pub(crate) members: Vec<(OwnedUserId, EventOrdinal)>,
    /// Its timeline.
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// What its receipts are, where they were read with it.
    pub(crate) receipts: Option<Vec<ReceiptEntry>>,
}

/// A response, or that there is nothing to tell.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) is_empty: bool,
}

/// The rooms of a response, one after the other: members of a JSON object.
#[derive(Default)]
struct RoomBodies(Vec<u8>);

impl RoomBodies {
    fn push(&mut self, room_id: &RoomId, body: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        write_json(&mut self.0, room_id);
        self.0.push(b':');
        self.0.extend_from_slice(body);
    }
}

/// The parts of a response's body.
#[derive(Default)]
struct Parts {
    rooms: RoomBodies,
    counts: BTreeMap<String, u64>,
    extras: Extras,
}

/// Makes the response to a request on this connection, at the `pos` that it was entered with.
pub(crate) async fn answer(
    inner: &Inner,
    session: &Session,
    request: &SlidingRequest,
    connection: &mut Connection,
) -> Result<Answer, SyncError> {
    // Serials first: what changes from here on may be told twice, but is not missed.
    let typing = inner.users.typing_serial();
    let (list, until) = session.rooms(&inner.rooms).await?;
    let rules = &request.body.rules;
    let now = CaughtUp { rules: inner.sliding.hash(rules), typing };
    let mut extras = Extras::of_device(inner, request, until).await?;
    if extras.is_empty() && is_still_caught_up(inner, session, connection, rules, now, &list, until)
    {
        let parts = Parts { counts: connection.counts.clone(), extras, ..Parts::default() };
        let body = parts.write(request, &connection.pos.to_string());
        return Ok(Answer { body, is_empty: true });
    }
    let look = Look::new(inner, session, request, connection, until).await?;
    let view = look.view(&list).await?;
    let mut draft = Draft {
        position: until,
        account_data: connection.account_data,
        e2ee: connection.e2ee,
        receipts_left: connection.receipts_left.clone(),
        ..Draft::default()
    };
    let mut enclosed = Enclosed::default();
    let (rooms, whole) = look.rooms(&view, &mut draft, &mut enclosed).await?;
    look.extend(&list, &view, &mut extras, &mut draft).await?;
    let own = look.newest_own.position();
    inner.echoes.answered(&request.user_id, &request.device_id, own).await;
    draft.shown.clear();
    draft.receipts.clear();
    let told_all = whole && draft.receipts_left.is_empty();
    draft.caught_up = told_all.then_some(now);
    draft.counts.clone_from(&view.counts);
    let is_empty = rooms.0.is_empty() && extras.is_empty() && view.counts == connection.counts;
    let counts = view.counts;
    let pos = if is_empty && connection.position.is_some() {
        connection.told_nothing(draft);
        connection.pos
    } else {
        connection.send(draft, enclosed, &request.user_id)
    };
    let body = Parts { rooms, counts, extras }.write(request, &pos.to_string());
    Ok(Answer { body, is_empty })
}

/// The answer to a request that another one on the same connection has taken the place of: the client takes
/// nothing of it in.
pub(crate) fn nothing(request: &SlidingRequest) -> Bytes {
    Parts::default().write(request, request.pos.as_deref().unwrap_or_default())
}

/// Is nothing new since the client was told all that these rules ask for? From memory, by the last positions
/// of the user's rooms.
fn is_still_caught_up(
    inner: &Inner,
    session: &Session,
    connection: &Connection,
    rules: &Rules,
    now: CaughtUp,
    list: &RoomList,
    until: StreamPosition,
) -> bool {
    let (Some(since), Some(then)) = (connection.position, connection.caught_up) else {
        return false;
    };
    if then.rules != now.rules {
        return false;
    }
    let typed = now.typing > then.typing
        && rules.extensions.typing.is_some()
        && list
            .joined
            .iter()
            .any(|room| inner.users.room_typing_serial(&room.room_id) > then.typing);
    if typed {
        return false;
    }
    if since == until {
        return true;
    }
    // Others' devices change without a change of any of these topics.
    !rules.extensions.e2ee
        && !inner.notifier().changed_since(session.topic(), since)
        && inner.notifier().changed_among(&list.topics, since).is_empty()
}

/// The rooms that a user's `m.direct` names. Malformed entries are passed over.
fn direct_chats(content: &RawValue) -> HashSet<OwnedRoomId> {
    let users: BTreeMap<String, Value> = serde_json::from_str(content.get()).unwrap_or_default();
    let rooms = users.values().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    rooms.filter_map(|room_id| RoomId::parse(room_id).ok()).collect()
}

impl<'a> Look<'a> {
    async fn new(
        inner: &'a Inner,
        session: &'a Session,
        request: &'a SlidingRequest,
        base: &'a Connection,
        until: StreamPosition,
    ) -> Result<Self, SyncError> {
        let user_id = &*request.user_id;
        let direct =
            inner.users.account_data(user_id, AccountDataScope::Global, "m.direct").await?;
        Ok(Self {
            inner,
            session,
            user_id,
            device_id: &request.device_id,
            form: request.body.form,
            rules: &request.body.rules,
            base,
            until,
            ignored: inner.users.ignored_users(user_id).await?,
            blocks_invites: inner.users.blocks_invites(user_id).await?,
            dms: direct.map(|json| direct_chats(&json)).unwrap_or_default(),
            newest_own: NewestOwn::default(),
        })
    }

    /// What is told of the rooms in view, and whether that is all.
    async fn rooms(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        enclosed: &mut Enclosed,
    ) -> Result<(RoomBodies, bool), SyncError> {
        let (mut rooms, mut looked) = (RoomBodies::default(), 0);
        for room in view.rooms.iter().filter(|room| self.has_news(room)) {
            if rooms.0.len() > MAX_ROOMS_BYTES {
                return Ok((rooms, false));
            }
            looked += 1;
            if looked % ROOMS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
            let told = match room.stage {
                Stage::Joined => Box::pin(self.joined_room(room)).await?,
                Stage::Asked => self.asked_room(room).await?,
                Stage::Gone => Box::pin(self.gone_room(room)).await?,
            };
            draft.rooms.insert(room.topic.clone(), told.sent);
            if let Some(receipts) = told.receipts {
                draft.receipts.insert(room.topic.clone(), receipts);
            } else {
                let ids = told.events.iter().map(|event| event.pdu.id().to_owned()).collect();
                draft.shown.insert(room.topic.clone(), ids);
            }
            if let Some(body) = told.body {
                self.newest_own.room(self.user_id, room.row);
                rooms.push(room.room_id, &body);
            }
            let members = told.members.into_iter();
            let members = members.map(|(user_id, event)| (room.room_id.to_owned(), user_id, event));
            enclosed.members.extend(members);
            if self.inner.config.delivery_receipts {
                enclosed.timelines.push((room.room_id.to_owned(), told.events));
            }
        }
        Ok((rooms, true))
    }

    /// Can there be something to tell of a room?
    fn has_news(&self, room: &InView<'_>) -> bool {
        let Some(sent) = self.base.rooms.get(&room.topic) else { return true };
        if sent.stage != room.stage {
            return true;
        }
        match room.stage {
            Stage::Asked | Stage::Gone => room.row.position > sent.until,
            Stage::Joined => {
                room.timeline_limit > sent.timeline_limit
                    || !Arc::ptr_eq(&room.required, &sent.required)
                    || self.dms.contains(room.room_id) != sent.is_dm
                    || self.changed_since(room.room_id, &room.topic, sent.until)
            }
        }
    }

    /// Has a room, or what the user has read there, changed after this position?
    pub(crate) fn changed_since(
        &self,
        room_id: &RoomId,
        topic: &Topic,
        since: StreamPosition,
    ) -> bool {
        self.inner.notifier().changed_since(topic, since)
            || self.inner.users.receipts_changed_since(room_id, since)
    }
}

impl Parts {
    fn write(self, request: &SlidingRequest, pos: &str) -> Bytes {
        let mut out = Vec::with_capacity(self.rooms.0.len() + FEW_BYTES);
        let mut body = Object::begin(&mut out);
        body.member("pos", pos);
        if let Some(txn_id) = &request.body.txn_id {
            body.member("txn_id", txn_id);
        }
        let mut lists = Object::begin(body.key("lists"));
        for (name, count) in &self.counts {
            let mut list = Object::begin(lists.key(name));
            list.member("count", count);
            list.end();
        }
        lists.end();
        let rooms = body.key("rooms");
        rooms.push(b'{');
        rooms.extend_from_slice(&self.rooms.0);
        rooms.push(b'}');
        self.extras.write(body.key("extensions"));
        body.end();
        Bytes::from(out)
    }
}
