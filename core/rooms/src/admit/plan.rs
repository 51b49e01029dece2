//! What a room is to look like after a join by way of another server: worked out whole, before the
//! first row is written.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

use hearth_storage::{Direction, Snapshot};
use hearth_types::Pdu;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;

use super::{
    RemoteJoin,
    members::{
        LocalChanges, LocalMember, Member, Senders, count, gone, is_local, local_changes, servers,
    },
    order::{AuthOrder, Known, authorize, authorize_by, find},
};
use crate::{
    RoomNodes, Rooms,
    create::supported_rules,
    error::RoomError,
    rooms::{parse_row, state_key_ordinal},
    schema::{
        self, EventOrdinal, MemberRow, Membership, OutOfBandRow, RoomHead, Standing, StoredEvent,
    },
    state::{Node, NodeId, StateKeyOrdinal, StateRoot, TreeEditor, walk},
    writer::room_id_of_create,
};

/// Servers that are kept of those that the answer to a partial join names: as many of a room as are read
/// at all. Until its state is whole, they are who is told what happens here.
const MAX_PARTIAL_SERVERS: usize = 50_000;

/// The plan of a room's installation.
pub(super) struct Plan {
    pub(super) room_id: OwnedRoomId,
    /// The head as it is afterwards.
    pub(super) head: RoomHead,
    /// The head as it is now, if the room is here.
    pub(super) old_head: Option<RoomHead>,
    /// Events that were not here, in the order of their ordinals; without the join.
    pub(super) events: Vec<Arc<StoredEvent>>,
    /// State keys that the room never had.
    pub(super) state_keys: Vec<((String, String), StateKeyOrdinal)>,
    pub(super) nodes: Vec<(NodeId, Arc<Node>)>,
    /// Every member, the one who joins included.
    pub(super) members: Vec<(OwnedUserId, MemberRow)>,
    /// Users with a row who are no members any more.
    pub(super) gone: Vec<OwnedUserId>,
    /// Joined members of other servers; zero for servers that had some.
    pub(super) servers: BTreeMap<OwnedServerName, u64>,
    /// Local users whose own rows change; without the one who joins.
    pub(super) local: Vec<LocalMember>,
    /// The join: index and positions are filled in by the last commit.
    pub(super) join: StoredEvent,
    pub(super) user_id: OwnedUserId,
    /// Previous events of the join that are not part of the room's history here.
    pub(super) gaps: Vec<OwnedEventId>,
    /// The join's own gap, if another event named the join as missing.
    pub(super) fills_gap: bool,
    /// Users whose out-of-band membership ends.
    pub(super) out_of_band: Vec<OwnedUserId>,
    /// Servers in the room, if its state is partial.
    pub(super) partial: Option<Vec<OwnedServerName>>,
    /// The room was here before.
    pub(super) known: bool,
    /// Rows of an earlier attempt that was cut off are to be removed first.
    pub(super) leftovers: bool,
}

/// Works out the installation.
struct Planner<'a> {
    snapshot: &'a Snapshot,
    rules: RoomVersionRules,
    old_head: Option<RoomHead>,
    head: RoomHead,
    order: AuthOrder,
    /// Numbers of state keys, old and new.
    keys: HashMap<(String, String), StateKeyOrdinal>,
    new_keys: Vec<((String, String), StateKeyOrdinal)>,
}

#[derive(Deserialize)]
struct CreateContent {
    room_version: Option<String>,
}

fn unsound(text: impl Into<String>) -> RoomError {
    RoomError::InvalidRoomState(text.into())
}

impl Plan {
    /// Authorizes what came and works out all rows. `None` if local users are in the room: then the
    /// join is an event among others. Blocks.
    pub(super) fn make(
        rooms: &Rooms,
        join: &RemoteJoin,
        snapshot: &Snapshot,
    ) -> Result<Option<Self>, RoomError> {
        let rules = supported_rules(&join.room_version)?;
        let old_head = snapshot.get(&schema::ROOMS, &join.room_id, &())?;
        if let Some(head) = &old_head {
            if head.joined_local_members > 0 {
                return Ok(None);
            }
            if head.version != join.room_version {
                return Err(unsound("the room is here, with another version"));
            }
        }
        let head = old_head.clone().unwrap_or_else(|| RoomHead::new(join.room_version.clone()));
        let known = |event_id: &EventId| -> Result<Option<Arc<StoredEvent>>, RoomError> {
            if old_head.is_none() {
                return Ok(None);
            }
            stored(snapshot, &join.room_id, event_id)
        };
        check_create(&rules, join)?;
        let create = match &old_head {
            Some(_) => Some(parse_row(0, snapshot.get(&schema::EVENTS, &join.room_id, &0)?)?),
            None => None,
        };
        let given = join.auth_chain.iter().chain(&join.state).map(|event| event.pdu().clone());
        let given = given.filter(|pdu| pdu.id() != join.event.pdu().id());
        let order = AuthOrder::build(
            &rules.authorization,
            &join.room_id,
            head.next_event,
            given,
            create,
            &known,
        )?;
        let planner = Planner {
            snapshot,
            rules,
            head,
            order,
            keys: HashMap::new(),
            new_keys: Vec::new(),
            old_head: old_head.clone(),
        };
        planner.plan(rooms, join, &known).map(Some)
    }
}

impl Planner<'_> {
    fn plan(
        mut self,
        rooms: &Rooms,
        join: &RemoteJoin,
        known: &Known<'_>,
    ) -> Result<Plan, RoomError> {
        if self.order.create().is_none_or(|create| create.ordinal != 0) {
            return Err(unsound("the room's create event is missing or not allowed"));
        }
        let user_id = joining_user(rooms, join.event.pdu())?;
        let state = self.state(join)?;
        let auth_events = self.authorize_join(join, &state, known)?;
        self.number_keys(&join.room_id, join.event.pdu())?;
        let added = EventOrdinal::try_from(self.order.new.len()).unwrap_or(EventOrdinal::MAX);
        self.head.next_event = self.head.next_event.saturating_add(added);
        let existing = known(join.event.pdu().id())?;
        let ordinal = if let Some(event) = &existing {
            event.ordinal
        } else {
            self.head.next_event = self.head.next_event.saturating_add(1);
            self.head.next_event - 1
        };
        let (before, after, replaces, nodes) = self.trees(rooms, join, &state, ordinal)?;
        let (prev_events, gaps) = previous(join.event.pdu(), known)?;
        let (members, gone) = self.members(join, state, &user_id, ordinal)?;
        let is_known = self.old_head.is_some();
        let servers = servers(rooms, self.snapshot, is_known, &join.room_id, &members)?;
        count(rooms, &mut self.head, &members);
        self.head.state = after;
        // The rows of all members are written anew.
        self.head.forks.lag = None;
        self.head.extremities = vec![ordinal];
        self.head.depth = join.event.pdu().depth();
        self.head.forks.from_depth = self.head.depth;
        let header = schema::EventHeader {
            event_id: join.event.pdu().id().to_owned(),
            state_before: before,
            state_after: after,
            auth_events: auth_events.iter().map(|event| event.ordinal).collect(),
            prev_events,
            replaces_state: replaces,
            redacted_by: None,
            transaction: None,
            standing: Standing::Accepted,
        };
        let pdu = join.event.pdu().clone();
        let senders: Senders = join
            .state
            .iter()
            .filter_map(|event| self.order.event(event.pdu().id()))
            .filter(|event| event.pdu.state_key().is_some_and(|key| is_local(rooms, key)))
            .map(|event| (event.ordinal, event.pdu.sender().to_owned()))
            .collect();
        let others: Vec<_> = members.iter().filter(|(id, _)| *id != user_id).collect();
        let LocalChanges { changed: local, mut out_of_band } =
            local_changes(rooms, self.snapshot, &join.room_id, &others, &gone, &senders)?;
        let kept: Option<OutOfBandRow> =
            self.snapshot.get(&schema::OUT_OF_BAND, &join.room_id, &user_id)?;
        if kept.is_some() {
            out_of_band.push(user_id.clone());
        }
        let leftovers = self.old_head.is_none() && has_rows(self.snapshot, &join.room_id)?;
        let join_id = join.event.pdu().id().to_owned();
        let fills_gap =
            self.snapshot.get(&schema::HISTORY_GAPS, &join.room_id, &join_id)?.is_some();
        Ok(Plan {
            room_id: join.room_id.clone(),
            head: self.head,
            old_head: self.old_head,
            events: self.order.new,
            state_keys: self.new_keys,
            nodes,
            members,
            gone,
            servers,
            local,
            join: StoredEvent { ordinal, index: None, header, pdu },
            user_id,
            gaps,
            fills_gap,
            out_of_band,
            partial: join
                .members_omitted
                .then(|| join.servers_in_room.iter().take(MAX_PARTIAL_SERVERS).cloned().collect()),
            known: is_known,
            leftovers,
        })
    }

    /// The state before the join, without what was rejected. Refuses a state that contradicts itself.
    fn state(&self, join: &RemoteJoin) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let mut keys: HashMap<(&TimelineEventType, &str), &EventId> = HashMap::new();
        let mut state = Vec::with_capacity(join.state.len());
        for event in &join.state {
            let pdu = event.pdu();
            let state_key = pdu.state_key().ok_or_else(|| {
                unsound(format!("the state has an event without a state key, {}", pdu.id()))
            })?;
            match keys.insert((pdu.kind(), state_key), pdu.id()) {
                Some(other) if other == pdu.id() => continue,
                Some(other) => {
                    let text =
                        format!("the state has two events at one key: {other}, {}", pdu.id());
                    return Err(unsound(text));
                }
                None => {}
            }
            match self.order.event(pdu.id()) {
                Some(event) if event.header.standing != Standing::Rejected => {
                    state.push(Arc::clone(event));
                }
                Some(_) => {
                    tracing::warn!(room_id = %join.room_id, event_id = %pdu.id(), "a state event of a join is not allowed by its auth events, and left out");
                }
                None => {
                    let reason = self.order.why_dropped(pdu.id()).unwrap_or_default();
                    tracing::warn!(room_id = %join.room_id, event_id = %pdu.id(), reason, "a state event of a join is left out");
                }
            }
        }
        let create = keys.get(&(&TimelineEventType::RoomCreate, "")).copied();
        let real = self.order.create().map(|event| &*event.header.event_id);
        if create.is_none() || create != real {
            return Err(unsound("the state does not have the room's create event"));
        }
        Ok(state)
    }

    /// Checks the join against its auth events and against the state before it.
    fn authorize_join(
        &mut self,
        join: &RemoteJoin,
        state: &[Arc<StoredEvent>],
        known: &Known<'_>,
    ) -> Result<Vec<Arc<StoredEvent>>, RoomError> {
        let pdu = join.event.pdu();
        if pdu.room_id_field() != Some(&join.room_id) {
            return Err(unsound("the join is not of this room"));
        }
        let auth_events = self
            .order
            .auth_events(pdu, known)?
            .map_err(|missing| unsound(format!("the join's auth event {missing} is missing")))?;
        let create = self.order.create().cloned();
        let rules = &self.rules.authorization;
        authorize(rules, pdu, &auth_events, create.as_deref()).map_err(RoomError::Forbidden)?;
        let by_state = |event_type: &StateEventType, state_key: &str| {
            let found = find(state, event_type, state_key);
            // Members that were left out are taken from the join's own auth events.
            let left_out = || join.members_omitted && *event_type == StateEventType::RoomMember;
            let found = found.or_else(|| {
                left_out().then(|| find(&auth_events, event_type, state_key)).flatten()
            });
            found.map(|event| &event.pdu)
        };
        authorize_by(rules, pdu, create.as_deref(), by_state).map_err(RoomError::Forbidden)?;
        Ok(auth_events)
    }

    /// Gives every state key of the events its number; also of those that were here before, since the
    /// attempt that brought them may have been cut off in front of the numbers.
    fn number_keys(&mut self, room_id: &OwnedRoomId, join: &Pdu) -> Result<(), RoomError> {
        for event in self.order.accepted() {
            if let Some(state_key) = event.pdu.state_key() {
                self.number_key(room_id, event.pdu.kind().to_string(), state_key)?;
            }
        }
        if let Some(state_key) = join.state_key() {
            self.number_key(room_id, join.kind().to_string(), state_key)?;
        }
        Ok(())
    }

    fn number_key(
        &mut self,
        room_id: &OwnedRoomId,
        event_type: String,
        state_key: &str,
    ) -> Result<(), RoomError> {
        let key = (event_type, state_key.to_owned());
        if self.keys.contains_key(&key) {
            return Ok(());
        }
        if self.old_head.is_some()
            && let Some(row) = self.snapshot.get(&schema::STATE_KEYS, room_id, &key)?
        {
            let ordinal = state_key_ordinal(&key.0, row.0);
            self.keys.insert(key, ordinal);
            return Ok(());
        }
        let is_member = key.0 == "m.room.member";
        let next =
            if is_member { &mut self.head.next_member_key } else { &mut self.head.next_state_key };
        let ordinal = state_key_ordinal(&key.0, *next);
        *next = next.saturating_add(1);
        self.new_keys.push((key.clone(), ordinal));
        self.keys.insert(key, ordinal);
        Ok(())
    }

    fn key_of(&self, pdu: &Pdu) -> Result<StateKeyOrdinal, RoomError> {
        let state_key = pdu.state_key().unwrap_or_default().to_owned();
        let key = (pdu.kind().to_string(), state_key);
        let known = self.keys.get(&key).copied();
        known.ok_or_else(|| RoomError::internal("a state key without a number"))
    }

    /// Both trees before and after the join, and what the join replaces.
    #[expect(clippy::type_complexity, reason = "four things that belong to one edit")]
    fn trees(
        &mut self,
        rooms: &Rooms,
        join: &RemoteJoin,
        state: &[Arc<StoredEvent>],
        join_ordinal: EventOrdinal,
    ) -> Result<(StateRoot, StateRoot, Option<EventOrdinal>, Vec<(NodeId, Arc<Node>)>), RoomError>
    {
        let (mut members, mut rest) = (BTreeMap::new(), BTreeMap::new());
        for event in state {
            match self.key_of(&event.pdu)? {
                StateKeyOrdinal::Member(number) => members.insert(number, event.ordinal),
                StateKeyOrdinal::Rest(number) => rest.insert(number, event.ordinal),
            };
        }
        let source = rooms.nodes(&join.room_id);
        let old = self.old_head.as_ref().map(|head| head.state).unwrap_or_default();
        let mut editor = TreeEditor::new(&source, self.head.next_node);
        let before = StateRoot {
            members: replace(&mut editor, old.members, &members)?,
            rest: replace(&mut editor, old.rest, &rest)?,
        };
        let StateKeyOrdinal::Member(number) = self.key_of(join.event.pdu())? else {
            return Err(RoomError::internal("a join that is no membership"));
        };
        let after =
            StateRoot { members: editor.set(before.members, number, join_ordinal)?, ..before };
        let (next_node, nodes) = editor.finish(&[before.members, before.rest, after.members]);
        self.head.next_node = next_node;
        Ok((before, after, members.get(&number).copied(), nodes))
    }

    /// Rows of all members, and who has a row and is none.
    fn members(
        &self,
        join: &RemoteJoin,
        state: Vec<Arc<StoredEvent>>,
        user_id: &UserId,
        join_ordinal: EventOrdinal,
    ) -> Result<(Vec<Member>, Vec<OwnedUserId>), RoomError> {
        let mut members: BTreeMap<OwnedUserId, MemberRow> = BTreeMap::new();
        for event in state {
            if *event.pdu.kind() != TimelineEventType::RoomMember {
                continue;
            }
            let member = event.pdu.state_key().and_then(|key| UserId::parse(key).ok());
            if let (Some(member), Some(membership)) = (member, Membership::of(&event.pdu)) {
                members.insert(member, MemberRow { membership, event: event.ordinal });
            }
        }
        let row = MemberRow { membership: Membership::Join, event: join_ordinal };
        members.insert(user_id.to_owned(), row);
        let gone = match &self.old_head {
            Some(_) => gone(self.snapshot, &join.room_id, |id| members.contains_key(id))?,
            None => Vec::new(),
        };
        Ok((members.into_iter().collect(), gone))
    }
}

/// The tree with exactly these keys, made from the old one.
pub(super) fn replace(
    editor: &mut TreeEditor<'_, RoomNodes>,
    old: NodeId,
    wanted: &BTreeMap<u32, EventOrdinal>,
) -> Result<NodeId, RoomError> {
    let mut changes: Vec<(u32, Option<u32>)> = Vec::with_capacity(wanted.len());
    walk(editor, old, 0, &mut |key, _| {
        if !wanted.contains_key(&key) {
            changes.push((key, None));
        }
        ControlFlow::Continue(())
    })?;
    changes.extend(wanted.iter().map(|(key, ordinal)| (*key, Some(*ordinal))));
    Ok(editor.apply(old, &changes)?)
}

/// An event that the room has.
pub(super) fn stored(
    snapshot: &Snapshot,
    room_id: &OwnedRoomId,
    event_id: &EventId,
) -> Result<Option<Arc<StoredEvent>>, RoomError> {
    let Some(ordinal) = snapshot.get(&schema::EVENT_IDS, room_id, &event_id.to_owned())? else {
        return Ok(None);
    };
    let row = snapshot.get(&schema::EVENTS, room_id, &ordinal.0)?;
    Ok(Some(parse_row(ordinal.0, row)?))
}

/// Checks that the state's create event is this room's, and of the version that was promised.
fn check_create(rules: &RoomVersionRules, join: &RemoteJoin) -> Result<(), RoomError> {
    let is_create = |pdu: &&Pdu| *pdu.kind() == TimelineEventType::RoomCreate;
    let all = || join.state.iter().chain(&join.auth_chain).map(crate::CheckedPdu::pdu);
    let create =
        all().find(is_create).ok_or_else(|| unsound("the room's create event is missing"))?;
    if all().filter(is_create).any(|other| other.id() != create.id()) {
        return Err(unsound("there are two create events"));
    }
    let of_this_room = if rules.authorization.room_create_event_id_as_room_id {
        room_id_of_create(create.id())? == join.room_id
    } else {
        create.room_id_field() == Some(&join.room_id)
    };
    if !of_this_room {
        return Err(unsound("the create event is of another room"));
    }
    let content: CreateContent =
        create.content_as().map_err(|_| unsound("the create event cannot be read"))?;
    // A room without a version is of version 1 (CS "m.room.create").
    if content.room_version.as_deref().unwrap_or("1") != join.room_version.as_str() {
        return Err(unsound("the create event is of another version than was promised"));
    }
    Ok(())
}

/// The local user whose join this is.
fn joining_user(rooms: &Rooms, pdu: &Pdu) -> Result<OwnedUserId, RoomError> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    let joins = *pdu.kind() == TimelineEventType::RoomMember
        && pdu.content_as().is_ok_and(|content: Content| content.membership == "join");
    let user_id = pdu.state_key().and_then(|key| UserId::parse(key).ok());
    match user_id {
        Some(user_id) if joins && rooms.identity().is_local(&user_id) => Ok(user_id),
        _ => Err(unsound("the event is not a local user's join")),
    }
}

/// Are there rows of a room without a head?
fn has_rows(snapshot: &Snapshot, room_id: &OwnedRoomId) -> Result<bool, RoomError> {
    // Every commit of an installation begins with events, and what is removed goes before them.
    let page = snapshot.page(&schema::EVENTS, room_id, .., Direction::Forward, 1)?;
    Ok(!page.is_empty())
}

/// Ordinals of the join's previous events that are part of the history here; IDs of the others.
fn previous(
    join: &Pdu,
    known: &Known<'_>,
) -> Result<(Vec<EventOrdinal>, Vec<OwnedEventId>), RoomError> {
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    for event_id in join.prev_events() {
        match known(event_id)? {
            Some(event) if event.header.standing == Standing::Accepted => here.push(event.ordinal),
            _ => missing.push(event_id.clone()),
        }
    }
    Ok((here, missing))
}
