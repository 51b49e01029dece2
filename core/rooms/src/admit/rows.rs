//! A planned installation as commits: many of bounded size, of which the last makes the room exist.

use std::{sync::Arc, vec::IntoIter};

use hearth_storage::{
    Commit, Direction, KeyPart, Keyspace, LogEntry, Record, Snapshot, Store, Topic,
};
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};

use super::{complete::Completed, members::LocalMember, plan::Plan, recompute::Rewritten};
use crate::{
    Rooms,
    error::RoomError,
    schema::{
        self, CompletionRow, CurrentStateRow, EventOrdinalRow, EventRow, Forwarding, GapRow,
        MemberRow, Membership, PartialRow, ServerRow, StateKeyRow, StoredEvent, TimelineIndex,
        TimelineRow, UserRoomDetails, UserRoomRow,
    },
    state::{Node, NodeId, StateKeyOrdinal, StateRoot},
};

/// Operations after which a commit of an installation is closed: the limit is 1,000, and one event
/// takes at most 13, with what it meant to others some 220.
const FULL_OPERATIONS: usize = 750;
/// Bytes after which it is closed: the limit is 4 MiB, and one event takes at most 100 KiB.
const FULL_BYTES: usize = 2 * 1024 * 1024;
/// Rows that are removed at a time of the lists of a room that was partial.
const LEFTOVERS_AT_A_TIME: usize = 100;
/// Local users whose rows go into the last commit; those of more go before it.
const MAX_LOCAL_IN_LAST: usize = 300;

/// All rows but those of the last commit.
pub(super) struct Rows {
    room_id: OwnedRoomId,
    reserve: Option<schema::RoomHead>,
    events: IntoIter<Arc<StoredEvent>>,
    state_keys: IntoIter<((String, String), StateKeyOrdinal)>,
    nodes: IntoIter<(NodeId, Arc<Node>)>,
    members: IntoIter<(OwnedUserId, MemberRow)>,
    gone: IntoIter<OwnedUserId>,
    servers: IntoIter<(OwnedServerName, u64)>,
    partial: IntoIter<OwnedServerName>,
    local: IntoIter<LocalMember>,
    /// What the current state was taken for at these places, while the room was partial.
    current_states: IntoIter<(StreamPosition, StateRoot)>,
    /// Events that have become others.
    rewritten: IntoIter<Rewritten>,
}

/// What the last commit writes.
pub(super) struct LastRows {
    plan: Plan,
    before: StateRoot,
}

impl Rows {
    /// Takes what is many out of a plan.
    pub(super) fn split(mut plan: Plan) -> (Self, LastRows) {
        let joiner = plan.user_id.clone();
        let mut members = std::mem::take(&mut plan.members);
        members.retain(|(user_id, _)| *user_id != joiner);
        let many = plan.local.split_off(plan.local.len().min(MAX_LOCAL_IN_LAST));
        let rows = Self {
            room_id: plan.room_id.clone(),
            reserve: plan.old_head.take().map(|head| reserved(head, &plan.head)),
            events: std::mem::take(&mut plan.events).into_iter(),
            state_keys: std::mem::take(&mut plan.state_keys).into_iter(),
            nodes: std::mem::take(&mut plan.nodes).into_iter(),
            members: members.into_iter(),
            gone: std::mem::take(&mut plan.gone).into_iter(),
            servers: std::mem::take(&mut plan.servers).into_iter().collect::<Vec<_>>().into_iter(),
            partial: plan.partial.iter().flatten().cloned().collect::<Vec<_>>().into_iter(),
            local: many.into_iter(),
            current_states: Vec::new().into_iter(),
            rewritten: Vec::new().into_iter(),
        };
        let before = plan.join.header.state_before;
        (rows, LastRows { plan, before })
    }

    /// The next commit; `None` when all rows have been in one.
    pub(super) fn next_commit(&mut self) -> Option<Commit> {
        let mut commit = Commit::new(&self.room_id);
        while commit.len() < FULL_OPERATIONS
            && commit.bytes() < FULL_BYTES
            && self.add_next(&mut commit)
        {}
        (!commit.is_empty()).then_some(commit)
    }

    /// Adds the rows of one thing.
    fn add_next(&mut self, commit: &mut Commit) -> bool {
        let room_id = &self.room_id;
        if let Some(head) = self.reserve.take() {
            commit.put(&schema::ROOMS, room_id, &(), &head);
        } else if let Some(event) = self.events.next() {
            add_event(commit, room_id, &event);
        } else if let Some((key, ordinal)) = self.state_keys.next() {
            let (StateKeyOrdinal::Member(number) | StateKeyOrdinal::Rest(number)) = ordinal;
            commit.put(&schema::STATE_KEYS, room_id, &key, &StateKeyRow(number));
        } else if let Some((id, node)) = self.nodes.next() {
            commit.put(&schema::STATE_NODES, room_id, &id.0, &node.encode());
        } else if let Some((user_id, row)) = self.members.next() {
            commit.put(&schema::MEMBERS, room_id, &user_id, &row);
        } else if let Some(user_id) = self.gone.next() {
            commit.delete(&schema::MEMBERS, room_id, &user_id);
        } else if let Some((server, joined)) = self.servers.next() {
            let row = ServerRow { joined, since: 0 };
            commit.put(&schema::ROOM_SERVERS, room_id, &server, &row);
            commit.effect_put(&schema::SERVER_ROOMS, &server, room_id, &row);
        } else if let Some(server) = self.partial.next() {
            commit.put(&schema::PARTIAL_SERVERS, room_id, &server, &());
        } else if let Some(user) = self.local.next() {
            let position = commit.next_position();
            add_local(commit, room_id, StateRoot::default(), position, &user);
        } else if let Some((position, state)) = self.current_states.next() {
            commit.put(&schema::CURRENT_STATES, room_id, &position, &CurrentStateRow(state));
        } else if let Some(Rewritten { event, lost, meaning }) = self.rewritten.next() {
            // All in one commit: what is begun again after a crash finds the event as it is then.
            add_event(commit, room_id, &event);
            if let Some(index) = lost {
                commit.delete(&schema::TIMELINE, room_id, &index);
            }
            for meaning in meaning {
                meaning.write(commit, room_id);
            }
        } else {
            return false;
        }
        true
    }
}

impl LastRows {
    /// The last commit, and the join's place in it.
    pub(super) fn commit(&mut self) -> (Commit, StreamPosition) {
        let (fills_gap, partial) = (self.plan.fills_gap, self.plan.partial.is_some());
        let known = self.plan.known;
        let Plan { room_id, head, user_id, join, local, gaps, out_of_band, .. } = &mut self.plan;
        let mut commit = Commit::new(room_id);
        for user in local.iter() {
            let position = commit.next_position();
            add_local(&mut commit, room_id, self.before, position, user);
        }
        // What the room is before the join is not what its last event here says, if there is any.
        let position = commit.next_position();
        let row = CurrentStateRow(self.before);
        commit.put(&schema::CURRENT_STATES, room_id, &position, &row);
        let position = commit.next_position();
        let index = TimelineIndex::Live(position);
        join.index = Some(index);
        let ordinal = join.ordinal;
        add_event(&mut commit, room_id, join);
        commit.put(&schema::TIMELINE, room_id, &index, &TimelineRow { ordinal });
        let own = MemberRow { membership: Membership::Join, event: ordinal };
        commit.put(&schema::MEMBERS, room_id, user_id, &own);
        let sender = join.pdu.sender().to_owned();
        let (user_id, row) = (user_id.clone(), own);
        let own = LocalMember { user_id, row, sender, has_joined: true };
        add_local(&mut commit, room_id, join.header.state_after, position, &own);
        for missing in gaps.iter() {
            let gap = GapRow { child: ordinal, depth: join.pdu.depth(), tries: 0 };
            commit.put(&schema::HISTORY_GAPS, room_id, missing, &gap);
        }
        if fills_gap {
            commit.delete(&schema::HISTORY_GAPS, room_id, &join.header.event_id);
        }
        // Rows that are left over count no more, since the users' own rows have changed.
        for user_id in out_of_band.iter().take(MAX_LOCAL_IN_LAST) {
            commit.delete(&schema::OUT_OF_BAND, room_id, user_id);
        }
        if !partial && known {
            commit.delete(&schema::PARTIAL, room_id, &());
            commit.effect_delete(&schema::PARTIAL_ROOMS, &(), room_id);
        }
        if partial {
            commit.put(&schema::PARTIAL, room_id, &(), &PartialRow { join: ordinal });
            commit.effect_put(&schema::PARTIAL_ROOMS, &(), room_id, &());
        }
        commit.put(&schema::ROOMS, room_id, &(), head);
        let entry = LogEntry {
            kind: schema::LOG_ROOM_EVENT,
            topic: Topic::new(room_id.as_str()),
            payload: schema::log_payload(ordinal, Forwarding::Arrival),
        };
        commit.log(position, entry);
        commit.touch(Topic::new(room_id.as_str()));
        (commit, position)
    }

    /// What the room is when the commit is durable.
    pub(super) fn into_plan(self) -> Plan {
        self.plan
    }
}

impl Rows {
    /// Takes what is many out of a completion.
    pub(super) fn of_completion(done: &mut Completed) -> Self {
        let many = done.local.split_off(done.local.len().min(MAX_LOCAL_IN_LAST));
        Self {
            room_id: done.room_id.clone(),
            reserve: Some(reserved(done.old_head.clone(), &done.head)),
            events: Vec::new().into_iter(),
            state_keys: Vec::new().into_iter(),
            nodes: std::mem::take(&mut done.nodes).into_iter(),
            members: std::mem::take(&mut done.members).into_iter(),
            gone: std::mem::take(&mut done.gone).into_iter(),
            servers: std::mem::take(&mut done.servers).into_iter().collect::<Vec<_>>().into_iter(),
            partial: Vec::new().into_iter(),
            local: many.into_iter(),
            current_states: std::mem::take(&mut done.current_states).into_iter(),
            rewritten: done.rewritten.clone().into_iter(),
        }
    }
}

/// The last commit of a completion: with it the room is whole.
pub(super) fn last_of_completion(done: &Completed) -> Commit {
    let room_id = &done.room_id;
    let mut commit = Commit::new(room_id);
    for user in &done.local {
        let position = commit.next_position();
        add_local(&mut commit, room_id, done.head.state, position, user);
    }
    let position = commit.next_position();
    let row = CurrentStateRow(done.head.state);
    commit.put(&schema::CURRENT_STATES, room_id, &position, &row);
    let (before, after) = (done.old_head.state.members, done.head.state.members);
    commit.put(&schema::COMPLETIONS, room_id, &position, &CompletionRow { before, after });
    commit.delete(&schema::PARTIAL, room_id, &());
    commit.effect_delete(&schema::PARTIAL_ROOMS, &(), room_id);
    commit.put(&schema::ROOMS, room_id, &(), &done.head);
    commit.touch(Topic::new(room_id.as_str()));
    commit
}

/// The head of a room that is here, with the numbers taken that the installation uses: what an
/// attempt that is cut off leaves behind are then events that nobody refers to.
fn reserved(old: schema::RoomHead, new: &schema::RoomHead) -> schema::RoomHead {
    schema::RoomHead {
        next_event: new.next_event,
        next_member_key: new.next_member_key,
        next_state_key: new.next_state_key,
        next_node: new.next_node,
        ..old
    }
}

/// Adds an event's own rows.
fn add_event(commit: &mut Commit, room_id: &OwnedRoomId, event: &StoredEvent) {
    let row = EventRow {
        index: event.index,
        header: event.header.clone(),
        json: event.pdu.json().clone(),
    };
    commit.put(&schema::EVENTS, room_id, &event.ordinal, &row);
    commit.put(&schema::EVENT_IDS, room_id, &row.header.event_id, &EventOrdinalRow(event.ordinal));
    if event.pdu.state_key().is_some() {
        for parent in &event.header.auth_events {
            commit.put(&schema::AUTH_CHILDREN, room_id, &(*parent, event.ordinal), &());
        }
    }
}

/// Adds the row of a local user's room list.
fn add_local(
    commit: &mut Commit,
    room_id: &OwnedRoomId,
    state: StateRoot,
    position: StreamPosition,
    LocalMember { user_id, row, sender, has_joined }: &LocalMember,
) {
    let joined = row.membership == Membership::Join;
    let details = UserRoomDetails {
        membership: row.membership,
        event: row.event,
        sender: sender.clone(),
        state,
        was_joined: false,
        has_joined: *has_joined || joined,
        forgotten: false,
    };
    let joined_at = if joined { position } else { StreamPosition::ZERO };
    let row = UserRoomRow { position, joined_at, details };
    commit.effect_put(&schema::USER_ROOMS, user_id, room_id, &row);
    commit.touch(Topic::new(user_id.as_str()));
}

/// Removes what is listed of a room while it is partial: the events that came, those that were redacted, and
/// the servers that were named. Nobody looks at it where there is no row in [`schema::PARTIAL`].
pub(super) async fn remove_leftovers(
    store: &Store,
    room_id: &OwnedRoomId,
) -> Result<(), RoomError> {
    remove_all(store, &schema::PARTIAL_EVENTS, room_id).await?;
    remove_all(store, &schema::PARTIAL_REDACTED, room_id).await?;
    remove_all(store, &schema::PARTIAL_SERVERS, room_id).await
}

/// Removes a room's rows of one kind, some at a time.
async fn remove_all<C: KeyPart, V: Record>(
    store: &Store,
    keyspace: &Keyspace<OwnedRoomId, C, V>,
    room_id: &OwnedRoomId,
) -> Result<(), RoomError> {
    loop {
        let forward = Direction::Forward;
        let rows = store.page(keyspace, room_id, .., forward, LEFTOVERS_AT_A_TIME).await?;
        let mut commit = Commit::new(room_id);
        for (key, _) in &rows {
            commit.delete(keyspace, room_id, key);
        }
        if !commit.is_empty() {
            store.commit(commit).await?;
        }
        if rows.len() < LEFTOVERS_AT_A_TIME {
            return Ok(());
        }
    }
}

/// Commits that remove what an installation that was cut off has left, the events last. `None` if
/// nothing is there.
pub(super) fn cleaning(
    rooms: &Rooms,
    snapshot: &Snapshot,
    room_id: &OwnedRoomId,
) -> Result<Option<Commit>, RoomError> {
    let mut commit = Commit::new(room_id);
    let members =
        snapshot.page(&schema::MEMBERS, room_id, .., Direction::Forward, FULL_OPERATIONS / 2)?;
    for (user_id, _) in members {
        commit.delete(&schema::MEMBERS, room_id, &user_id);
        let own = snapshot.get(&schema::USER_ROOMS, &user_id, room_id)?;
        if rooms.identity().is_local(&user_id)
            && own.is_some_and(|own| !own.details.is_out_of_band())
        {
            commit.effect_delete(&schema::USER_ROOMS, &user_id, room_id);
        }
    }
    let servers = FULL_OPERATIONS.saturating_sub(commit.len()) / 2;
    for (server, _) in
        snapshot.page(&schema::ROOM_SERVERS, room_id, .., Direction::Forward, servers)?
    {
        commit.delete(&schema::ROOM_SERVERS, room_id, &server);
        commit.effect_delete(&schema::SERVER_ROOMS, &server, room_id);
    }
    remove(&mut commit, snapshot, &schema::PARTIAL_SERVERS, room_id)?;
    remove(&mut commit, snapshot, &schema::STATE_NODES, room_id)?;
    remove(&mut commit, snapshot, &schema::STATE_KEYS, room_id)?;
    remove(&mut commit, snapshot, &schema::AUTH_CHILDREN, room_id)?;
    remove(&mut commit, snapshot, &schema::EVENT_IDS, room_id)?;
    remove(&mut commit, snapshot, &schema::EVENTS, room_id)?;
    Ok((!commit.is_empty()).then_some(commit))
}

/// Deletes rows, as many as still fit.
fn remove<C: KeyPart, V: Record>(
    commit: &mut Commit,
    snapshot: &Snapshot,
    keyspace: &Keyspace<OwnedRoomId, C, V>,
    room_id: &OwnedRoomId,
) -> Result<(), RoomError> {
    let room = FULL_OPERATIONS.saturating_sub(commit.len());
    if room == 0 {
        return Ok(());
    }
    for (key, _) in snapshot.page(keyspace, room_id, .., Direction::Forward, room)? {
        commit.delete(keyspace, room_id, &key);
    }
    Ok(())
}
