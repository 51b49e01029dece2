//! Completing a partial room: from the whole state before the join, and every state that came after it
//! worked out again.

use std::sync::Arc;

use hearth_storage::{Snapshot, run_blocking};
use hearth_types::StreamPosition;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UserId, events::TimelineEventType,
};

use super::{
    install::{ended, write},
    members::{LocalChanges, LocalMember, Member, Senders, count, gone, local_changes, servers},
    plan::stored,
    recompute::{Recomputed, Recomputer, Rewritten},
    rows::{Rows, last_of_completion, remove_leftovers},
};
use crate::{
    Rooms,
    cache::CachedHead,
    error::RoomError,
    rooms::{parse_row, state_key_ordinal},
    schema::{self, EventOrdinal, MemberRow, Membership, RoomHead, Standing, StoredEvent},
    state::{Node, NodeId, StateKeyOrdinal, StateRoot},
};

/// What a room is to look like when its state is whole.
pub(super) struct Completed {
    pub(super) room_id: OwnedRoomId,
    pub(super) old_head: RoomHead,
    pub(super) head: RoomHead,
    pub(super) nodes: Vec<(NodeId, Arc<Node>)>,
    pub(super) members: Vec<Member>,
    pub(super) gone: Vec<OwnedUserId>,
    pub(super) servers: std::collections::BTreeMap<OwnedServerName, u64>,
    pub(super) local: Vec<LocalMember>,
    /// What the current state was taken for, by position.
    pub(super) current_states: Vec<(StreamPosition, StateRoot)>,
    /// Events with other states than before.
    pub(super) rewritten: Vec<Rewritten>,
}

/// What is kept of an event of the told state: states are large, their events larger.
pub(super) struct Told {
    pub(super) key: StateKeyOrdinal,
    pub(super) ordinal: EventOrdinal,
}

fn unsound(text: impl Into<String>) -> RoomError {
    RoomError::InvalidRoomState(text.into())
}

/// Completes a room; only by its writer, while nothing of the room is in flight. The events of the
/// state must be here. If the room is whole already, only what an earlier completion left is removed.
pub(super) async fn complete(
    rooms: &Rooms,
    room_id: OwnedRoomId,
    state: Arc<[OwnedEventId]>,
) -> Result<(), RoomError> {
    let (planner, room) = (rooms.clone(), room_id.clone());
    let work = move || plan(&planner, &room, &state, &planner.store().snapshot());
    let Some(mut done) = run_blocking(work).await.map_err(ended)?? else {
        return remove_leftovers(rooms.store(), &room_id).await;
    };
    let rows = Rows::of_completion(&mut done);
    write(rooms.store(), rows).await?;
    let caches = rooms.caches();
    // Whoever waits for the whole state reads it as soon as the last commit is durable.
    for Rewritten { event, .. } in &done.rewritten {
        caches.replace_event(&done.room_id, Arc::clone(event));
    }
    let committed = rooms.store().commit(last_of_completion(&done)).await?;
    let head = CachedHead { as_of: committed.last, head: Arc::new(done.head) };
    caches.keep_head(&done.room_id, head);
    remove_leftovers(rooms.store(), &room_id).await
}

/// Works the completion out. Blocks.
fn plan(
    rooms: &Rooms,
    room_id: &OwnedRoomId,
    state: &[OwnedEventId],
    snapshot: &Snapshot,
) -> Result<Option<Completed>, RoomError> {
    let Some(partial) = snapshot.get(&schema::PARTIAL, room_id, &())? else { return Ok(None) };
    let old_head: RoomHead =
        snapshot.get(&schema::ROOMS, room_id, &())?.ok_or(RoomError::UnknownRoom)?;
    let told = read_state(snapshot, room_id, state)?;
    let nodes = rooms.nodes(room_id);
    let mut recomputer = Recomputer::new(rooms, room_id, snapshot, &nodes, &old_head)?;
    recomputer.begin(partial.join, told)?;
    recomputer.follow()?;
    let Recomputed { nodes, mut head, members: tree, rewritten, current_states } =
        recomputer.finish()?;
    let (members, senders) = read_members(rooms, room_id, snapshot, &tree, &rewritten)?;
    let all: std::collections::HashSet<&OwnedUserId> = members.iter().map(|(id, _)| id).collect();
    let gone = gone(snapshot, room_id, |id| all.contains(id))?;
    let servers = servers(rooms, snapshot, true, room_id, &members)?;
    count(rooms, &mut head, &members);
    let others: Vec<&Member> = members.iter().collect();
    let LocalChanges { changed: local, .. } =
        local_changes(rooms, snapshot, room_id, &others, &gone, &senders)?;
    Ok(Some(Completed {
        room_id: room_id.clone(),
        old_head,
        head,
        nodes,
        members,
        gone,
        servers,
        local,
        current_states,
        rewritten,
    }))
}

/// The told state by the numbers of its keys, without what was rejected.
fn read_state(
    snapshot: &Snapshot,
    room_id: &OwnedRoomId,
    state: &[OwnedEventId],
) -> Result<Vec<Told>, RoomError> {
    let mut told = Vec::with_capacity(state.len());
    let mut has_create = false;
    for event_id in state {
        let Some(event) = stored(snapshot, room_id, event_id)? else {
            return Err(unsound(format!("an event of the state is missing, {event_id}")));
        };
        if event.header.standing == Standing::Rejected {
            tracing::warn!(%room_id, %event_id, "a state event is not allowed by its auth events, and left out");
            continue;
        }
        let state_key = event.pdu.state_key().ok_or_else(|| {
            unsound(format!("the state has an event without a state key, {event_id}"))
        })?;
        has_create |= event.ordinal == 0;
        let key = (event.pdu.kind().to_string(), state_key.to_owned());
        let row = snapshot.get(&schema::STATE_KEYS, room_id, &key)?;
        let number = row.ok_or_else(|| RoomError::internal("a state key without a number"))?.0;
        told.push(Told { key: state_key_ordinal(&key.0, number), ordinal: event.ordinal });
    }
    if !has_create {
        return Err(unsound("the state does not have the room's create event"));
    }
    told.sort_unstable_by_key(|told| (told.key, told.ordinal));
    told.dedup_by_key(|told| (told.key, told.ordinal));
    if told.windows(2).any(|pair| matches!(pair, [one, other] if one.key == other.key)) {
        return Err(unsound("the state has two events at one key"));
    }
    Ok(told)
}

/// The rows of all members, and who sent the membership events of local users.
fn read_members(
    rooms: &Rooms,
    room_id: &OwnedRoomId,
    snapshot: &Snapshot,
    tree: &[EventOrdinal],
    rewritten: &[Rewritten],
) -> Result<(Vec<Member>, Senders), RoomError> {
    let (mut members, mut senders) = (Vec::with_capacity(tree.len()), Senders::new());
    let anew: std::collections::HashMap<EventOrdinal, &Arc<StoredEvent>> =
        rewritten.iter().map(|Rewritten { event, .. }| (event.ordinal, event)).collect();
    for ordinal in tree {
        let event = match anew.get(ordinal) {
            Some(event) => Arc::clone(event),
            None => parse_row(*ordinal, snapshot.get(&schema::EVENTS, room_id, ordinal)?)?,
        };
        if *event.pdu.kind() != TimelineEventType::RoomMember {
            continue;
        }
        let member = event.pdu.state_key().and_then(|key| UserId::parse(key).ok());
        let (Some(member), Some(membership)) = (member, Membership::of(&event.pdu)) else {
            continue;
        };
        if rooms.identity().is_local(&member) {
            senders.insert(*ordinal, event.pdu.sender().to_owned());
        }
        members.push((member, MemberRow { membership, event: *ordinal }));
    }
    Ok((members, senders))
}
