//! Bundled aggregations: what a parent event is told about its children (CS "Aggregations of child
//! events"). Annotations are not bundled; state events have no aggregations.

use std::sync::Arc;

use hearth_storage::Direction;
use ruma::{OwnedEventId, RoomId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ReadError, Rooms,
    format::{Gatherer, Reference, References, Relations, ThreadSummary},
    schema::{RELATIONS, RelationRow, StoredEvent, THREADS, ThreadRow, TimelineIndex},
};

/// Edits by the sender that are compared to find the newest; older ones are out of the running.
const MAX_EDITS: usize = 100;
/// Edits by anybody among which the sender's are looked for.
const MAX_EDIT_ROWS: usize = 2_000;
/// References that are listed with an event; more are found by `/relations`.
const MAX_REFERENCES: usize = 100;
/// Replies that are looked at, the newest first, to see whether the reader took part and which of them
/// come from ignored users.
const MAX_REPLIES: usize = 2_000;
/// Replies of which one must be visible for a thread to be told of.
const MAX_LATEST_TRIES: usize = 50;
/// Rows in one read that is not a blocking job.
const INLINE_ROWS: usize = 100;

const REPLACE: &str = "m.replace";
const REFERENCE: &str = "m.reference";
/// The relation of a thread's replies to its root.
pub(super) const THREAD: &str = "m.thread";

/// The key of a child's row.
pub(super) type RelationKey = (OwnedEventId, String, TimelineIndex);

impl Rooms {
    /// Children of an event by one relation, in a direction.
    async fn children_by(
        &self,
        room_id: &RoomId,
        parent: &OwnedEventId,
        rel_type: &str,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(RelationKey, RelationRow)>, ReadError> {
        let key = |index| (parent.clone(), rel_type.to_owned(), index);
        let range = key(TimelineIndex::START)..=key(TimelineIndex::END);
        let room_id = room_id.to_owned();
        if limit <= INLINE_ROWS {
            return Ok(self.store().page(&RELATIONS, &room_id, range, direction, limit).await?);
        }
        let read = move |snapshot: &hearth_storage::Snapshot| {
            snapshot.page(&RELATIONS, &room_id, range, direction, limit)
        };
        Ok(self.store().bulk(read).await?)
    }

    /// The thread that this event is the root of.
    pub(super) async fn thread_row(
        &self,
        room_id: &RoomId,
        root: &StoredEvent,
    ) -> Result<Option<ThreadRow>, ReadError> {
        let row = self.store().get(&THREADS, &room_id.to_owned(), &root.header.event_id).await?;
        Ok(row.filter(|row| row.count > 0))
    }
}

impl Gatherer<'_> {
    /// Everything that is bundled with an event.
    pub(crate) async fn relations(
        &mut self,
        event: &StoredEvent,
    ) -> Result<Option<Relations>, ReadError> {
        if event.pdu.state_key().is_some() || !self.has_children(event).await? {
            return Ok(None);
        }
        let relations = Relations { thread: self.thread(event).await?, ..self.flat(event).await? };
        Ok((!relations.is_empty()).then_some(relations))
    }

    /// Edits and references: what is bundled with the newest reply of a thread too. Threads do not
    /// start from replies, so there is nothing to descend into.
    async fn flat(&mut self, event: &StoredEvent) -> Result<Relations, ReadError> {
        Ok(Relations {
            replace: self.newest_edit(event).await?,
            reference: self.references(event).await?,
            thread: None,
        })
    }

    /// Most events have no children: one look spares the others.
    async fn has_children(&self, event: &StoredEvent) -> Result<bool, ReadError> {
        let range = all_children(&event.header.event_id);
        let room_id = self.room_id.to_owned();
        let store = self.rooms.store();
        let rows = store.page(&RELATIONS, &room_id, range, Direction::Forward, 1).await?;
        Ok(!rows.is_empty())
    }

    /// The newest valid replacement (CS "Validity of replacement events").
    async fn newest_edit(
        &mut self,
        event: &StoredEvent,
    ) -> Result<Option<Box<RawValue>>, ReadError> {
        if event.header.redacted_by.is_some()
            || event.pdu.state_key().is_some()
            || relation_type(event).as_deref() == Some(REPLACE)
            || self.view.ignores(event.pdu.sender())
        {
            return Ok(None);
        }
        let parent = &event.header.event_id;
        let edits = |limit| {
            self.rooms.children_by(self.room_id, parent, REPLACE, Direction::Backward, limit)
        };
        let mut rows = edits(INLINE_ROWS).await?;
        if rows.len() == INLINE_ROWS {
            // Others' edits count for nothing and must not crowd out the sender's.
            rows = edits(MAX_EDIT_ROWS).await?;
        }
        let event_type = event.pdu.kind().to_string();
        let candidates: Vec<_> = rows
            .into_iter()
            .filter(|(_, row)| row.sender == *event.pdu.sender() && row.event_type == event_type)
            .map(|(_, row)| row.ordinal)
            .take(MAX_EDITS)
            .collect();
        let mut edits = self.rooms.events(self.room_id, &candidates).await?;
        edits.retain(|edit| is_replacement(edit));
        edits.sort_by(|a, b| {
            let order =
                |edit: &StoredEvent| (edit.pdu.origin_server_ts(), edit.pdu.id().to_owned());
            order(b).cmp(&order(a))
        });
        for edit in edits {
            if self.visibility.can_see(&edit).await? {
                return self.show(&edit, None).await.map(Some);
            }
        }
        Ok(None)
    }

    async fn references(&mut self, event: &StoredEvent) -> Result<Option<References>, ReadError> {
        let parent = &event.header.event_id;
        let rows = self
            .rooms
            .children_by(self.room_id, parent, REFERENCE, Direction::Forward, MAX_REFERENCES)
            .await?;
        let ordinals: Vec<_> = rows
            .into_iter()
            .filter(|(_, row)| !self.view.ignores(&row.sender))
            .map(|(_, row)| row.ordinal)
            .collect();
        let mut chunk = Vec::with_capacity(ordinals.len());
        for child in self.rooms.events(self.room_id, &ordinals).await? {
            if child.header.redacted_by.is_none() && self.visibility.can_see(&child).await? {
                chunk.push(Reference { event_id: child.header.event_id.clone() });
            }
        }
        Ok((!chunk.is_empty()).then_some(References { chunk }))
    }

    /// The summary of the thread that an event is the root of.
    async fn thread(&mut self, root: &StoredEvent) -> Result<Option<ThreadSummary>, ReadError> {
        let Some(row) = self.rooms.thread_row(self.room_id, root).await? else { return Ok(None) };
        let reader = self.view.user_id;
        let newest = self.rooms.event(self.room_id, row.latest).await?;
        let mut participated = root.pdu.sender() == reader || newest.pdu.sender() == reader;
        let mut count = row.count;
        let mut latest = None;
        if !self.view.ignores(newest.pdu.sender()) && self.visibility.can_see(&newest).await? {
            latest = Some(newest);
        }
        let ignores_anybody = self.view.ignored.is_some_and(|ignored| !ignored.is_empty());
        if !participated || latest.is_none() || ignores_anybody {
            let parent = &root.header.event_id;
            let replies = self
                .rooms
                .children_by(self.room_id, parent, THREAD, Direction::Backward, MAX_REPLIES)
                .await?;
            participated |= replies.iter().any(|(_, reply)| reply.sender == *reader);
            let unwanted = replies.iter().filter(|(_, reply)| self.view.ignores(&reply.sender));
            count = count.saturating_sub(unwanted.count() as u64);
            if latest.is_none() {
                latest = self.newest_visible(&replies).await?;
            }
        }
        let Some(latest) = latest else { return Ok(None) };
        let relations = self.flat(&latest).await?;
        let relations = (!relations.is_empty()).then_some(relations);
        Ok(Some(ThreadSummary {
            latest_event: self.show(&latest, relations).await?,
            count,
            current_user_participated: participated,
        }))
    }

    /// The newest reply that the reader may and wants to see.
    async fn newest_visible(
        &mut self,
        newest_first: &[(RelationKey, RelationRow)],
    ) -> Result<Option<Arc<StoredEvent>>, ReadError> {
        let wanted: Vec<_> = newest_first
            .iter()
            .filter(|(_, reply)| !self.view.ignores(&reply.sender))
            .take(MAX_LATEST_TRIES)
            .map(|(_, reply)| reply.ordinal)
            .collect();
        for reply in self.rooms.events(self.room_id, &wanted).await? {
            if self.visibility.can_see(&reply).await? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }
}

/// The range of all rows of a parent's children, whatever the relation.
pub(super) fn all_children(parent: &OwnedEventId) -> std::ops::RangeInclusive<RelationKey> {
    let key = |rel_type: &str, index| (parent.clone(), rel_type.to_owned(), index);
    key("", TimelineIndex::START)..=key(LAST_REL_TYPE, TimelineIndex::END)
}

/// Sorts after every relation type that anybody uses: 0x10FFFF is no character.
const LAST_REL_TYPE: &str = "\u{10FFFF}";

/// The relation type that an event states.
pub(super) fn relation_type(event: &StoredEvent) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    #[derive(Deserialize)]
    struct RelatesTo {
        rel_type: String,
    }
    event.pdu.content_as::<Content>().ok().map(|content| content.relates_to.rel_type)
}

/// Has a child by `m.replace` what a replacement needs? Encrypted ones have it inside.
fn is_replacement(edit: &StoredEvent) -> bool {
    #[derive(Deserialize)]
    struct Object {}
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.new_content")]
        _new_content: Object,
    }
    edit.header.redacted_by.is_none()
        && edit.pdu.state_key().is_none()
        && (*edit.pdu.kind() == TimelineEventType::RoomEncrypted
            || edit.pdu.content_as::<Content>().is_ok())
}
