//! The rows beside an event that is drafted here: state, memberships, what it means to others, its
//! transaction.
//!
//! Planned before the event is built (everything that reads or may fail), applied after it was
//! authorized (nothing fails).

use std::sync::Arc;

use hearth_types::StreamPosition;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId};

use super::{
    Batch, Context, Facts, NewEvent, Room, StepError,
    beside::{Beside, Subject},
    members::MemberChange,
};
use crate::{
    error::RoomError,
    rooms::state_key_ordinal,
    schema::{self, EventOrdinal, StoredEvent, TimelineIndex, TransactionKey, TransactionRow},
    state::{self, Node, NodeId, StateKeyOrdinal, StateRoot, TreeEditor},
};

/// Everything that an event changes beside its own rows.
pub(crate) struct Effects {
    pub(super) state: Option<StateChange>,
    member: Option<MemberChange>,
    beside: Beside,
    transaction: Option<(TransactionKey, MilliSecondsSinceUnixEpoch)>,
}

impl Effects {
    /// Works out the effects, and refuses what the rules outside of authorization refuse.
    pub(super) fn plan(
        room: &mut Room,
        view: &Context<'_>,
        batch: &Batch,
        event: &NewEvent,
        facts: Facts,
    ) -> Result<Self, StepError> {
        let beside = Beside::plan(room, view, batch, &Subject::drafted(event), facts)?;
        Ok(Self {
            state: StateChange::plan(room, view, event)?,
            member: MemberChange::plan(room, view, batch, event)?,
            beside,
            transaction: event.transaction.clone().map(|key| (key, view.rooms.clock().now())),
        })
    }

    /// Writes the rows and moves the room's memory on.
    pub(super) fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        if let Some(state) = self.state {
            room.apply_state(batch, state, stored);
        }
        if let Some(member) = self.member {
            member.apply(room, batch, stored, position);
        }
        self.beside.apply(room, batch, stored, TimelineIndex::Live(position));
        if let Some((key, at)) = self.transaction {
            room.keep_transaction(batch, key, stored.header.event_id.clone(), at);
        }
    }
}

/// A change of the room's state, worked out.
pub(crate) struct StateChange {
    pub(super) root: StateRoot,
    pub(super) replaces: Option<EventOrdinal>,
    pub(super) new_key: Option<NewKey>,
    pub(super) nodes: Vec<(NodeId, Arc<Node>)>,
    pub(super) next_node: u32,
}

impl StateChange {
    fn plan(room: &Room, view: &Context<'_>, event: &NewEvent) -> Result<Option<Self>, StepError> {
        let Some(state_key) = &event.state_key else {
            return Ok(None);
        };
        let event_type = event.event_type.to_string();
        let ordinal = room.head.next_event;
        Ok(Some(Self::at(room, view, room.head.state, (&event_type, state_key), ordinal)?))
    }

    /// The change that an event makes to a state of the room.
    pub(super) fn at(
        room: &Room,
        view: &Context<'_>,
        before: StateRoot,
        (event_type, state_key): (&str, &str),
        ordinal: EventOrdinal,
    ) -> Result<Self, RoomError> {
        let (key, new_key) = room.numbered_key(view, event_type, state_key)?;
        let nodes = room.nodes(view);
        let mut after = before;
        let (tree, number) = match key {
            StateKeyOrdinal::Member(number) => (&mut after.members, number),
            StateKeyOrdinal::Rest(number) => (&mut after.rest, number),
        };
        let replaces = if new_key.is_none() { state::get(&nodes, *tree, number)? } else { None };
        let mut editor = TreeEditor::new(&nodes, room.head.next_node);
        *tree = editor.set(*tree, number, ordinal)?;
        let (next_node, nodes) = editor.finish(&[*tree]);
        Ok(Self { root: after, replaces, new_key, nodes, next_node })
    }
}

/// A state key with the number that it is about to get.
pub(super) type NewKey = ((String, String), StateKeyOrdinal);

impl Room {
    /// Notes which event a request made, in the same commit as the event: a repeated request finds it or
    /// did nothing.
    pub(super) fn keep_transaction(
        &mut self,
        batch: &mut Batch,
        key: TransactionKey,
        event_id: OwnedEventId,
        at: MilliSecondsSinceUnixEpoch,
    ) {
        let row = TransactionRow { event_id, at };
        batch.commit.put(&schema::TRANSACTIONS, &self.id, &key, &row);
        self.local.transactions.insert(key, row.event_id);
    }

    /// The number of a state key; if the room never had it, the next one, which it is to be given.
    pub(super) fn numbered_key(
        &self,
        view: &Context<'_>,
        event_type: &str,
        state_key: &str,
    ) -> Result<(StateKeyOrdinal, Option<NewKey>), RoomError> {
        if let Some(known) = self.state_key(view, event_type, state_key)? {
            return Ok((known, None));
        }
        let is_member = event_type == "m.room.member";
        let next = if is_member { self.head.next_member_key } else { self.head.next_state_key };
        let key = state_key_ordinal(event_type, next);
        Ok((key, Some(((event_type.to_owned(), state_key.to_owned()), key))))
    }
}
