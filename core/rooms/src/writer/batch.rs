//! The commit being built, and what becomes visible when it is durable.

use std::sync::Arc;

use hearth_storage::{Commit, Committed, LogEntry, Topic};
use hearth_types::StreamPosition;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::oneshot;

use super::{Outcome, Room};
use crate::{
    cache::{CachedHead, Caches},
    error::RoomError,
    schema::{
        self, EventOrdinalRow, EventRow, Forwarding, RoomHead, StateKeyRow, StoredEvent,
        TimelineIndex, TimelineRow,
    },
    state::{Node, NodeId, StateKeyOrdinal},
};

/// Operations after which a batch takes no further event: the commit's limit is 1,000, and one event
/// with all its rows takes about 30, with many mentions up to about 230.
const FULL_OPERATIONS: usize = 700;
/// Bytes of events after which a batch takes no further one: the commit's limit is 4 MiB.
const FULL_BYTES: usize = 2 * 1024 * 1024;

/// Who waits for an answer.
pub(crate) type Reply = oneshot::Sender<Result<Outcome, RoomError>>;

/// What one commit changes, and who waits for it.
pub(crate) struct Batch {
    /// Counts the writer's batches, from 1.
    pub(crate) number: u64,
    pub(crate) commit: Commit,
    bytes: usize,
    stopped: bool,
    events: Vec<Arc<StoredEvent>>,
    replaced: Vec<Arc<StoredEvent>>,
    nodes: Vec<(NodeId, Arc<Node>)>,
    state_keys: Vec<(String, String, StateKeyOrdinal)>,
    replies: Vec<(Reply, Outcome)>,
}

impl Batch {
    /// An empty batch for a room.
    pub(crate) fn new(room_id: &RoomId, number: u64) -> Self {
        Self {
            number,
            commit: Commit::new(&room_id.to_owned()),
            bytes: 0,
            stopped: false,
            events: Vec::new(),
            replaced: Vec::new(),
            nodes: Vec::new(),
            state_keys: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Is there nothing to write?
    pub(crate) fn is_empty(&self) -> bool {
        self.commit.is_empty()
    }

    /// Should the next event go into another commit?
    pub(crate) fn is_full(&self) -> bool {
        self.stopped || self.commit.len() >= FULL_OPERATIONS || self.bytes >= FULL_BYTES
    }

    /// Adds an event's own rows, and its log entry if it has a position.
    pub(crate) fn add_event(
        &mut self,
        room_id: &OwnedRoomId,
        event: StoredEvent,
        announced: Option<(StreamPosition, Forwarding)>,
    ) -> Arc<StoredEvent> {
        let StoredEvent { ordinal, index, header, pdu } = event;
        let row = EventRow { index, header, json: pdu.json().clone() };
        self.commit.put(&schema::EVENTS, room_id, &ordinal, &row);
        let event_id = &row.header.event_id;
        self.commit.put(&schema::EVENT_IDS, room_id, event_id, &EventOrdinalRow(ordinal));
        if let Some(index) = &index {
            self.commit.put(&schema::TIMELINE, room_id, index, &TimelineRow { ordinal });
        }
        if let Some((position, forwarding)) = announced {
            let entry = LogEntry {
                kind: schema::LOG_ROOM_EVENT,
                topic: Topic::new(room_id.as_str()),
                payload: schema::log_payload(ordinal, forwarding),
            };
            self.commit.log(position, entry);
        }
        self.bytes += row.json.len();
        let event = Arc::new(StoredEvent { ordinal, index, header: row.header, pdu });
        self.events.push(Arc::clone(&event));
        event
    }

    /// Rewrites an event that is redacted.
    pub(crate) fn replace_event(&mut self, room_id: &OwnedRoomId, event: &Arc<StoredEvent>) {
        let row = EventRow {
            index: event.index,
            header: event.header.clone(),
            json: event.pdu.json().clone(),
        };
        self.commit.put(&schema::EVENTS, room_id, &event.ordinal, &row);
        self.bytes += row.json.len();
        self.replaced.push(Arc::clone(event));
    }

    /// Has the shared caches take an event's new form in the place of the one that they have.
    pub(crate) fn announce_replaced(&mut self, event: &Arc<StoredEvent>) {
        self.replaced.push(Arc::clone(event));
    }

    /// Operations that still fit before the batch is full.
    pub(crate) fn space(&self) -> usize {
        FULL_OPERATIONS.saturating_sub(self.commit.len())
    }

    /// Lets no further event into this batch.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Adds nodes of a new state tree.
    pub(crate) fn add_nodes(&mut self, room_id: &OwnedRoomId, nodes: &[(NodeId, Arc<Node>)]) {
        for (id, node) in nodes {
            self.commit.put(&schema::STATE_NODES, room_id, &id.0, &node.encode());
            self.nodes.push((*id, Arc::clone(node)));
        }
    }

    /// Adds a state key that the room never had before.
    pub(crate) fn add_state_key(
        &mut self,
        room_id: &OwnedRoomId,
        key: (String, String),
        ordinal: StateKeyOrdinal,
    ) {
        let (StateKeyOrdinal::Member(number) | StateKeyOrdinal::Rest(number)) = ordinal;
        self.commit.put(&schema::STATE_KEYS, room_id, &key, &StateKeyRow(number));
        self.state_keys.push((key.0, key.1, ordinal));
    }

    /// Adds somebody who gets this answer when the batch is durable.
    pub(crate) fn answer_later(&mut self, reply: Reply, outcome: Outcome) {
        self.replies.push((reply, outcome));
    }

    /// Takes the answers of a batch that writes nothing.
    pub(crate) fn take_answers(&mut self) -> Vec<(Reply, Outcome)> {
        std::mem::take(&mut self.replies)
    }

    /// Ends the building: adds the room's head and its wake-up. What is left waits for the disk.
    pub(crate) fn seal(mut self, room: &Room) -> (Commit, SealedBatch) {
        self.commit.put(&schema::ROOMS, &room.id, &(), &room.head);
        self.commit.touch(Topic::new(room.id.as_str()));
        let sealed = SealedBatch {
            number: self.number,
            head: Arc::new(room.head.clone()),
            events: self.events,
            replaced: self.replaced,
            nodes: self.nodes,
            state_keys: self.state_keys,
            replies: self.replies,
        };
        (self.commit, sealed)
    }
}

/// A batch whose commit was handed over.
pub(crate) struct SealedBatch {
    pub(crate) number: u64,
    head: Arc<RoomHead>,
    events: Vec<Arc<StoredEvent>>,
    replaced: Vec<Arc<StoredEvent>>,
    nodes: Vec<(NodeId, Arc<Node>)>,
    state_keys: Vec<(String, String, StateKeyOrdinal)>,
    replies: Vec<(Reply, Outcome)>,
}

impl SealedBatch {
    /// Adds answers that wait for the same disk.
    pub(crate) fn add_answers(&mut self, answers: Vec<(Reply, Outcome)>) {
        self.replies.extend(answers);
    }

    /// The commit is durable: fills the shared caches, then answers.
    pub(crate) fn publish(self, room_id: &RoomId, caches: &Caches, committed: Committed) {
        for (id, node) in self.nodes {
            caches.keep_node(room_id, id, node);
        }
        for (event_type, state_key, ordinal) in self.state_keys {
            caches.keep_state_key(room_id, &event_type, &state_key, ordinal);
        }
        for event in self.events {
            caches.publish_event(room_id, placed(event, committed));
        }
        for event in self.replaced {
            caches.replace_event(room_id, placed(event, committed));
        }
        caches.keep_head(room_id, CachedHead { as_of: committed.last, head: self.head });
        for (reply, outcome) in self.replies {
            // A caller who left does not undo what is durable.
            drop(reply.send(Ok(outcome)));
        }
    }

    /// The commit did not happen: tells everybody.
    pub(crate) fn fail(self) {
        for (reply, _) in self.replies {
            drop(reply.send(Err(RoomError::internal("the commit failed"))));
        }
    }
}

/// The event with the position at which its commit landed.
fn placed(event: Arc<StoredEvent>, committed: Committed) -> Arc<StoredEvent> {
    let Some(TimelineIndex::Live(position)) = event.index else {
        return event;
    };
    let Some(index) = position.pending_index() else {
        return event;
    };
    let mut event = Arc::unwrap_or_clone(event);
    event.index = Some(TimelineIndex::Live(committed.first.plus(index)));
    Arc::new(event)
}
