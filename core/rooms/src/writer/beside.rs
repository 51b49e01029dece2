//! What an event means to rows that are neither its own nor state: relations, threads, what it
//! notifies, what it redacts.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId, events::TimelineEventType};

use super::{Batch, Context, Facts, NewEvent, Room, StepError, content::Relation};
use crate::{
    error::RoomError,
    redaction::RedactionEffect,
    schema::{self, EventOrdinalRow, RelationRow, StoredEvent, ThreadRow, TimelineIndex},
    state::StateRoot,
    unread::LedgerEffect,
};

/// An event as its effects see it, before it is stored.
pub(crate) struct Subject<'a> {
    pub(crate) sender: &'a UserId,
    pub(crate) kind: &'a TimelineEventType,
    pub(crate) state_key: Option<&'a str>,
    pub(crate) redacts: Option<&'a EventId>,
    /// The state before it, of an event that came from elsewhere. Faults in what such an event says
    /// of others cost it that effect; drafts are refused for them.
    pub(crate) received_at: Option<StateRoot>,
}

impl<'a> Subject<'a> {
    /// An event that is drafted here.
    pub(super) fn drafted(event: &'a NewEvent) -> Self {
        Self {
            sender: &event.sender,
            kind: &event.event_type,
            state_key: event.state_key.as_deref(),
            redacts: event.redacts.as_deref(),
            received_at: None,
        }
    }

    /// May faults still be answered by a refusal?
    pub(crate) fn is_drafted(&self) -> bool {
        self.received_at.is_none()
    }

    fn is_redaction(&self) -> bool {
        *self.kind == TimelineEventType::RoomRedaction && self.state_key.is_none()
    }
}

/// The rows beside an event that do not concern the state.
#[derive(Default)]
pub(super) struct Beside {
    relation: Option<RelationChange>,
    thread: Option<ThreadChange>,
    ledger: Option<LedgerEffect>,
    redaction: Option<RedactionEffect>,
}

impl Beside {
    /// Works the rows out, and refuses drafts that the rules outside of authorization refuse.
    pub(super) fn plan(
        room: &mut Room,
        view: &Context<'_>,
        batch: &Batch,
        subject: &Subject<'_>,
        facts: Facts,
    ) -> Result<Self, StepError> {
        let redaction = if subject.is_redaction() {
            RedactionEffect::plan(room, view, batch, subject)?
        } else {
            None
        };
        let thread = ThreadChange::plan(room, view, batch, subject, &facts)?;
        let row = thread.as_ref().map(|thread| &thread.row);
        let ledger = LedgerEffect::plan(room, view, subject.sender, &facts, row)?;
        let relation = RelationChange::plan(room, view, subject, facts.relation)?;
        Ok(Self { relation, thread, ledger, redaction })
    }

    /// Writes the rows and moves the room's memory on. `index` is the event's place.
    pub(super) fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        index: TimelineIndex,
    ) {
        if let Some(relation) = self.relation {
            relation.apply(room, batch, stored, index);
        }
        if let Some(thread) = self.thread {
            thread.apply(room, batch, stored, index);
        }
        if let (Some(ledger), TimelineIndex::Live(position)) = (self.ledger, index) {
            ledger.apply(room, batch, stored.pdu.sender(), position);
        }
        if let Some(redaction) = self.redaction {
            redaction.apply(room, batch, stored.ordinal);
        }
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
        subject: &Subject<'_>,
        relation: Option<Relation>,
    ) -> Result<Option<Self>, StepError> {
        let Some(relation) = relation else {
            return Ok(None);
        };
        let event_type = subject.kind.to_string();
        let mut annotation = relation
            .annotation(&event_type)
            .map(|key| (relation.parent.clone(), subject.sender.to_owned(), key));
        if let Some(key) = &annotation
            && room.has_annotated(view, key)?
        {
            if subject.is_drafted() {
                return Err(RoomError::DuplicateAnnotation.into());
            }
            // The first one keeps its place in the index.
            annotation = None;
        }
        Ok(Some(Self { relation, annotation, event_type }))
    }

    fn apply(
        self,
        room: &mut Room,
        batch: &mut Batch,
        stored: &Arc<StoredEvent>,
        index: TimelineIndex,
    ) {
        let key = (self.relation.parent, self.relation.rel_type, index);
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
        subject: &Subject<'_>,
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
                history @ TimelineIndex::History { .. } => Some(history),
            };
            return Ok(Some(Self { root_id, old_index, row, notifies }));
        }
        let Some(first) = room.event_by_id(view, &root_id)? else {
            // A thread whose root is not known here has no summary yet.
            return Ok(None);
        };
        if first.pdu.state_key().is_some() || has_relation(&first) {
            if !subject.is_drafted() {
                return Ok(None);
            }
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
        index: TimelineIndex,
    ) {
        // A reply of the past does not move the thread.
        let (index, latest) = match self.old_index {
            Some(newest) if newest > index => (newest, self.row.latest),
            _ => (index, stored.ordinal),
        };
        if let Some(index) = self.old_index {
            batch.commit.delete(&schema::THREADS_BY_ACTIVITY, &room.id, &index);
        }
        let row = ThreadRow {
            latest_index: index,
            latest,
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
