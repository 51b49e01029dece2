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
    rooms::RoomBodies,
    service::SlidingRequest,
    view::InView,
};
use crate::{
    SyncError,
    body::Object,
    echoes::NewestOwn,
    hub::{RoomList, Session},
    service::Inner,
};

/// What a response takes beside its rooms and extensions, mostly.
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
    pub(crate) ignored: &'a Arc<HashSet<OwnedUserId>>,
    pub(crate) blocks_invites: bool,
    /// The user's direct chats, as their clients keep them.
    pub(crate) dms: &'a HashSet<OwnedRoomId>,
    pub(crate) shared: &'a Shared,
}

/// What a look holds but for the connection: all tasks that make one response share it.
#[derive(Clone)]
pub(crate) struct Shared {
    inner: Arc<Inner>,
    session: Arc<Session>,
    request: Arc<SlidingRequest>,
    /// What the client was told of by then; `None`: nothing.
    pub(crate) position: Option<StreamPosition>,
    until: StreamPosition,
    ignored: Arc<HashSet<OwnedUserId>>,
    blocks_invites: bool,
    dms: Arc<HashSet<OwnedRoomId>>,
    pub(crate) newest_own: Arc<NewestOwn>,
}

/// What is told of a room.
pub(crate) struct Told {
    /// Was anything written?
    pub(crate) written: bool,
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

/// The parts of a response's body.
#[derive(Default)]
struct Parts {
    rooms: RoomBodies,
    counts: BTreeMap<String, u64>,
    extras: Extras,
}

/// Makes the response to a request on this connection, at the `pos` that it was entered with.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    session: &Arc<Session>,
    request: &Arc<SlidingRequest>,
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
    let shared = Shared::read(inner, session, request, connection.position, until).await?;
    let look = shared.look(connection);
    let view = look.view(&list).await?;
    let news: Vec<InView<'_>> =
        view.rooms.iter().filter(|room| look.has_news(room)).cloned().collect();
    let mut draft = Draft {
        position: until,
        account_data: connection.account_data,
        e2ee: connection.e2ee,
        receipts_left: connection.receipts_left.clone(),
        ..Draft::default()
    };
    let mut enclosed = Enclosed::default();
    let (rooms, whole) = look.rooms(&news, &list, &mut draft, &mut enclosed).await?;
    look.extend(&list, &view, &mut extras, &mut draft).await?;
    let newest = shared.newest_own.position();
    inner.echoes.answered(&request.user_id, &request.device_id, newest).await;
    draft.shown.clear();
    draft.receipts.clear();
    let told_all = whole && draft.receipts_left.is_empty();
    draft.caught_up = told_all.then_some(now);
    draft.counts.clone_from(&view.counts);
    let is_empty = rooms.is_empty() && extras.is_empty() && view.counts == connection.counts;
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

impl Shared {
    async fn read(
        inner: &Arc<Inner>,
        session: &Arc<Session>,
        request: &Arc<SlidingRequest>,
        position: Option<StreamPosition>,
        until: StreamPosition,
    ) -> Result<Self, SyncError> {
        let (users, user_id) = (&inner.users, &*request.user_id);
        let direct = users.account_data(user_id, AccountDataScope::Global, "m.direct").await?;
        Ok(Self {
            inner: Arc::clone(inner),
            session: Arc::clone(session),
            request: Arc::clone(request),
            position,
            until,
            ignored: users.ignored_users(user_id).await?,
            blocks_invites: users.blocks_invites(user_id).await?,
            dms: Arc::new(direct.map(|json| direct_chats(&json)).unwrap_or_default()),
            newest_own: Arc::default(),
        })
    }

    /// A look at what has changed for a client that knows this.
    pub(crate) fn look<'a>(&'a self, base: &'a Connection) -> Look<'a> {
        Look {
            inner: &self.inner,
            session: &self.session,
            user_id: &self.request.user_id,
            device_id: &self.request.device_id,
            form: self.request.body.form,
            rules: &self.request.body.rules,
            base,
            until: self.until,
            ignored: &self.ignored,
            blocks_invites: self.blocks_invites,
            dms: &self.dms,
            shared: self,
        }
    }
}

impl Look<'_> {
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
        // Apart, so that all of it finds room: to grow would copy what may be megabytes.
        let mut extensions = Vec::new();
        self.extras.write(&mut extensions);
        let bytes = self.rooms.len() + extensions.len() + FEW_BYTES;
        let mut out = Vec::with_capacity(bytes);
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
        self.rooms.write(body.key("rooms"));
        body.raw("extensions", &extensions);
        body.end();
        Bytes::from(out)
    }
}
