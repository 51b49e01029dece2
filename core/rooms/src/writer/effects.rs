//! The rows beside an event: state, memberships, relations, threads, what it notifies, its transaction.
//!
//! Planned before the event is built (everything that reads or may fail), applied after it was
//! authorized (nothing fails).

use std::sync::Arc;

use hearth_storage::Topic;
use hearth_types::StreamPosition;
use ruma::{
    CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, UserId,
    events::TimelineEventType,
};

use super::{
    Batch, Context, Facts, NewEvent, Room, StepError, content::Relation, room::membership_from,
};
use crate::{
    error::RoomError,
    redaction::RedactionEffect,
    rooms::state_key_ordinal,
    schema::{
        self, EventOrdinal, EventOrdinalRow, MemberRow, Membership, RelationRow, StoredEvent,
        ThreadRow, TimelineIndex, TransactionKey, TransactionRow, UserRoomDetails, UserRoomRow,
    },
    state::{self, Node, NodeId, StateKeyOrdinal, StateRoot, TreeEditor},
    unread::LedgerEffect,
};

/// Everything that an event changes beside its own rows.
pub(crate) struct Effects {
    pub(super) state: Option<StateChange>,
    member: Option<MemberChange>,
    relation: Option<RelationChange>,
    thread: Option<ThreadChange>,
    ledger: Option<LedgerEffect>,
    redaction: Option<RedactionEffect>,
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
        let is_redaction =
            event.event_type == TimelineEventType::RoomRedaction && event.state_key.is_none();
        let redaction =
            if is_redaction { RedactionEffect::plan(room, view, batch, event)? } else { None };
        let thread = ThreadChange::plan(room, view, batch, &facts)?;
        let ledger =
            LedgerEffect::plan(room, view, event, &facts, thread.as_ref().map(|t| &t.row))?;
        Ok(Self {
            state: StateChange::plan(room, view, event)?,
            member: MemberChange::plan(room, view, batch, event)?,
            relation: RelationChange::plan(room, view, event, facts.relation)?,
            thread,
            ledger,
            redaction,
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
        if let Some(relation) = self.relation {
            relation.apply(room, batch, stored, position);
        }
        if let Some(thread) = self.thread {
            thread.apply(room, batch, stored, position);
        }
        if let Some(ledger) = self.ledger {
            ledger.apply(room, batch, stored.pdu.sender(), position);
        }
        if let Some(redaction) = self.redaction {
            redaction.apply(room, batch, stored.ordinal);
        }
        if let Some((key, at)) = self.transaction {
            // In the same commit as the event: a repeated request finds it or did nothing.
            let row = TransactionRow { event_id: stored.header.event_id.clone(), at };
            batch.commit.put(&schema::TRANSACTIONS, &room.id, &key, &row);
            room.local.transactions.insert(key, row.event_id);
        }
    }
}

/// A change of the room's state, worked out.
pub(crate) struct StateChange {
    pub(super) root: StateRoot,
    pub(super) replaces: Option<EventOrdinal>,
    pub(super) new_key: Option<((String, String), StateKeyOrdinal)>,
    pub(super) nodes: Vec<(NodeId, Arc<Node>)>,
    pub(super) next_node: u32,
}

impl StateChange {
    fn plan(room: &Room, view: &Context<'_>, event: &NewEvent) -> Result<Option<Self>, StepError> {
        let Some(state_key) = &event.state_key else {
            return Ok(None);
        };
        let event_type = event.event_type.to_string();
        let known = room.state_key(view, &event_type, state_key)?;
        let is_member = event_type == "m.room.member";
        let next = if is_member { room.head.next_member_key } else { room.head.next_state_key };
        let key = known.unwrap_or_else(|| state_key_ordinal(&event_type, next));
        let nodes = room.nodes(view);
        let mut state = room.head.state;
        let (StateKeyOrdinal::Member(number) | StateKeyOrdinal::Rest(number)) = key;
        let tree = if is_member { &mut state.members } else { &mut state.rest };
        let replaces = if known.is_some() { state::get(&nodes, *tree, number)? } else { None };
        let mut editor = TreeEditor::new(&nodes, room.head.next_node);
        *tree = editor.set(*tree, number, room.head.next_event)?;
        let (next_node, nodes) = editor.finish(&[*tree]);
        let new_key = known.is_none().then(|| ((event_type, state_key.clone()), key));
        Ok(Some(Self { root: state, replaces, new_key, nodes, next_node }))
    }
}

/// A change of somebody's membership.
pub(super) struct MemberChange {
    pub(super) user_id: OwnedUserId,
    pub(super) before: Option<Membership>,
    pub(super) after: Membership,
    /// Local users have a row under their own prefix.
    pub(super) local: bool,
    /// Since when the user was joined until now.
    pub(super) joined_at: Option<StreamPosition>,
}

impl MemberChange {
    fn plan(
        room: &mut Room,
        view: &Context<'_>,
        batch: &Batch,
        event: &NewEvent,
    ) -> Result<Option<Self>, StepError> {
        let (TimelineEventType::RoomMember, Some(state_key)) =
            (&event.event_type, &event.state_key)
        else {
            return Ok(None);
        };
        let user_id = UserId::parse(state_key)
            .map_err(|_| RoomError::InvalidParam("the state key is not a user ID".to_owned()))?;
        let after = event
            .content
            .get("membership")
            .and_then(CanonicalJsonValue::as_str)
            .and_then(membership_from)
            .ok_or_else(|| RoomError::BadJson("no such membership".to_owned()))?;
        let before = room.membership(view, &user_id)?;
        let local = view.rooms.identity().is_local(&user_id);
        let mut joined_at = None;
        if local
            && before == Some(Membership::Join)
            && let Some((written, row)) = room.user_room(view, &user_id)?
        {
            joined_at = Some(room.real_position(batch.number, (written, row.joined_at))?);
        }
        Ok(Some(Self { user_id, before, after, local, joined_at }))
    }

    pub(super) fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        let row = MemberRow { membership: self.after, event: stored.ordinal };
        batch.commit.put(&schema::MEMBERS, &room.id, &self.user_id, &row);
        room.local.members.insert(self.user_id.clone(), row);
        let head = &mut room.head;
        count(&mut head.joined_members, &self, Membership::Join);
        count(&mut head.invited_members, &self, Membership::Invite);
        if !self.local {
            return;
        }
        count(&mut head.joined_local_members, &self, Membership::Join);
        let was_joined = self.before == Some(Membership::Join);
        let joined_at = match self.after {
            Membership::Join => self.joined_at.unwrap_or(position),
            _ => self.joined_at.unwrap_or(StreamPosition::ZERO),
        };
        let details = UserRoomDetails {
            membership: self.after,
            event: stored.ordinal,
            sender: stored.pdu.sender().to_owned(),
            state: room.head.state,
            was_joined,
            forgotten: false,
        };
        let row = UserRoomRow { position, joined_at, details };
        batch.commit.effect_put(&schema::USER_ROOMS, &self.user_id, &room.id, &row);
        batch.commit.touch(Topic::new(self.user_id.as_str()));
        room.local.user_rooms.insert(self.user_id, (batch.number, row));
    }
}

/// Moves a counter of members in a membership.
fn count(counter: &mut u64, change: &MemberChange, membership: Membership) {
    if change.before == Some(membership) {
        *counter = counter.saturating_sub(1);
    }
    if change.after == membership {
        *counter += 1;
    }
}

/// A new child of an event.
struct RelationChange {
    relation: Relation,
    annotation: Option<(OwnedEventId, OwnedUserId, String)>,
    event_type: String,
}

impl RelationChange {
    fn plan(
        room: &Room,
        view: &Context<'_>,
        event: &NewEvent,
        relation: Option<Relation>,
    ) -> Result<Option<Self>, StepError> {
        let Some(relation) = relation else {
            return Ok(None);
        };
        let event_type = event.event_type.to_string();
        let annotation = relation
            .annotation(&event_type)
            .map(|key| (relation.parent.clone(), event.sender.clone(), key));
        if let Some(key) = &annotation
            && room.has_annotated(view, key)?
        {
            return Err(RoomError::DuplicateAnnotation.into());
        }
        Ok(Some(Self { relation, annotation, event_type }))
    }

    fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        let key = (self.relation.parent, self.relation.rel_type, TimelineIndex::Live(position));
        let row = RelationRow {
            ordinal: stored.ordinal,
            event_type: self.event_type,
            sender: stored.pdu.sender().to_owned(),
        };
        batch.commit.put(&schema::RELATIONS, &room.id, &key, &row);
        if let Some(key) = self.annotation {
            let row = EventOrdinalRow(stored.ordinal);
            batch.commit.put(&schema::ANNOTATIONS, &room.id, &key, &row);
            room.local.annotations.insert(key, true);
        }
    }
}

/// A new reply in a thread.
pub(crate) struct ThreadChange {
    root_id: OwnedEventId,
    /// Where the thread stood in the order of activity.
    old_index: Option<TimelineIndex>,
    /// The row as it was before the reply; with a count of zero if there was none.
    pub(crate) row: ThreadRow,
    notifies: bool,
}

impl ThreadChange {
    fn plan(
        room: &Room,
        view: &Context<'_>,
        batch: &Batch,
        facts: &Facts,
    ) -> Result<Option<Self>, StepError> {
        let Some(relation) = facts.relation.as_ref().filter(|relation| relation.is_thread()) else {
            return Ok(None);
        };
        let root_id = relation.parent.clone();
        let notifies = facts.notifies;
        if let Some((written, row)) = room.thread(view, &root_id)? {
            let old_index = match row.latest_index {
                _ if row.count == 0 => None,
                TimelineIndex::Live(position) => Some(TimelineIndex::Live(
                    room.real_position(batch.number, (written, position))?,
                )),
                backfilled @ TimelineIndex::Backfilled(_) => Some(backfilled),
            };
            return Ok(Some(Self { root_id, old_index, row, notifies }));
        }
        let Some(first) = room.event_by_id(view, &root_id)? else {
            // A thread whose root is not known here has no summary yet.
            return Ok(None);
        };
        if first.pdu.state_key().is_some() || has_relation(&first) {
            let text = "threads cannot start from an event that relates to another";
            return Err(RoomError::InvalidParam(text.to_owned()).into());
        }
        let row = ThreadRow {
            latest_index: TimelineIndex::START,
            latest: first.ordinal,
            root: first.ordinal,
            count: 0,
            notify_total: 0,
        };
        Ok(Some(Self { root_id, old_index: None, row, notifies }))
    }

    fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        position: StreamPosition,
    ) {
        if let Some(index) = self.old_index {
            batch.commit.delete(&schema::THREADS_BY_ACTIVITY, &room.id, &index);
        }
        let index = TimelineIndex::Live(position);
        let row = ThreadRow {
            latest_index: index,
            latest: stored.ordinal,
            root: self.row.root,
            count: self.row.count + 1,
            notify_total: self.row.notify_total + u64::from(self.notifies),
        };
        batch.commit.put(&schema::THREADS, &room.id, &self.root_id, &row);
        let by_activity = EventOrdinalRow(row.root);
        batch.commit.put(&schema::THREADS_BY_ACTIVITY, &room.id, &index, &by_activity);
        room.local.threads.insert(self.root_id, (batch.number, row));
    }
}

/// Does an event relate to another by a relation type? (replies do not count)
fn has_relation(event: &StoredEvent) -> bool {
    #[derive(serde::Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Option<RelatesTo>,
    }
    #[derive(serde::Deserialize)]
    struct RelatesTo {
        rel_type: Option<serde::de::IgnoredAny>,
    }
    let content: Result<Content, _> = event.pdu.content_as();
    content.is_ok_and(|content| content.relates_to.is_some_and(|to| to.rel_type.is_some()))
}
