//! State and auth chains for other servers. Both can be large: each answer is one blocking job over
//! ordinals, which are an order of the auth graph.

use std::{collections::HashMap, ops::ControlFlow};

use bytes::Bytes;
use hearth_storage::Snapshot;
use roaring::RoaringBitmap;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName};

use crate::{
    Rooms,
    error::{DamagedRoom, RoomError},
    rooms::RoomNodes,
    schema::{self, EventOrdinal, StoredEvent},
    state::{StateRoot, walk},
};

/// Events in one answer at most, state and auth chain together: more than the largest rooms have.
const MAX_EVENTS: u64 = 500_000;
/// The room's create event: from room version 12 on no event names it, and every auth chain has it.
const CREATE: EventOrdinal = 0;

/// The state before an event, by ID.
#[derive(Clone, Debug, Default)]
pub struct StateIds {
    /// The state's events.
    pub state: Vec<OwnedEventId>,
    /// Their auth chains.
    pub auth_chain: Vec<OwnedEventId>,
}

/// The state before an event, as PDUs.
#[derive(Clone, Debug, Default)]
pub struct StateAnswer {
    /// The state's events.
    pub state: Vec<Bytes>,
    /// Their auth chains.
    pub auth_chain: Vec<Bytes>,
}

impl Rooms {
    /// The state before an event.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnknownEvent`] if it is not here or has no state; [`RoomError::Forbidden`] if the
    /// server may not see the room; [`RoomError::Busy`] if the room's own state is still partial after a
    /// while: without its members it must not be taken for whole.
    pub async fn state_ids_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateIds, RoomError> {
        let root = self.root_for_server(server, room_id, event_id).await?;
        let gathered = self.gather_state(room_id, root).await?;
        let ids = |ordinals: &RoaringBitmap| gathered.each(ordinals, |event| event.id.clone());
        Ok(StateIds { state: ids(&gathered.state), auth_chain: ids(&gathered.chain) })
    }

    /// The same, as PDUs.
    ///
    /// # Errors
    ///
    /// As [`Self::state_ids_for_server`].
    pub async fn state_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateAnswer, RoomError> {
        let root = self.root_for_server(server, room_id, event_id).await?;
        let gathered = self.gather_state(room_id, root).await?;
        let auth_chain = gathered.pdus(&gathered.chain);
        Ok(StateAnswer { state: gathered.pdus(&gathered.state), auth_chain })
    }

    /// An event's auth chain.
    ///
    /// # Errors
    ///
    /// As [`Self::state_ids_for_server`], but that the event needs no state.
    pub async fn auth_chain_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<Bytes>, RoomError> {
        // Who is in the room is known only then.
        self.wait_for_server(room_id).await?;
        let mut visibility = self.server_visibility(room_id, server).await?;
        let event = self.event_by_id(room_id, event_id).await?.ok_or(RoomError::UnknownEvent)?;
        if !visibility.joined_now() && !visibility.can_see(&event).await? {
            return Err(RoomError::Forbidden("your server is not in this room".to_owned()));
        }
        let starts: RoaringBitmap = event.header.auth_events.iter().copied().collect();
        let gathered = self.gather(room_id, RoaringBitmap::new(), starts).await?;
        Ok(gathered.pdus(&gathered.chain))
    }

    /// The state before an event that a server may ask about.
    async fn root_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateRoot, RoomError> {
        self.wait_for_server(room_id).await?;
        let mut visibility = self.server_visibility(room_id, server).await?;
        let event = self.event_by_id(room_id, event_id).await?.ok_or(RoomError::UnknownEvent)?;
        if !visibility.joined_now() && !visibility.can_see(&event).await? {
            return Err(RoomError::Forbidden("your server is not in this room".to_owned()));
        }
        // A rejected event is no part of the room's history, and has no state there.
        if has_state(&event) && !event.pdu.is_rejected() {
            Ok(event.header.state_before)
        } else {
            Err(RoomError::UnknownEvent)
        }
    }

    /// A whole state with its auth chain.
    async fn gather_state(&self, room_id: &RoomId, root: StateRoot) -> Result<Gathered, RoomError> {
        let nodes = self.nodes(room_id);
        let state = self.blocking(move |_| state_of(&nodes, root)).await?;
        self.gather(room_id, state, RoaringBitmap::new()).await
    }

    /// Events and their auth chains: `chain` is all ancestors of `state`, and `extra` with its own.
    pub(super) async fn gather(
        &self,
        room_id: &RoomId,
        state: RoaringBitmap,
        extra: RoaringBitmap,
    ) -> Result<Gathered, RoomError> {
        let room_id = room_id.to_owned();
        self.blocking(move |snapshot| Gathered::read(snapshot, &room_id, state, extra)).await
    }

    /// Runs a job that may fail in the room's own terms.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Snapshot) -> Result<T, RoomError> + Send + 'static,
    ) -> Result<T, RoomError> {
        self.store().bulk(move |snapshot| Ok(job(snapshot))).await?
    }
}

/// Outliers have no state here, and neither has anything else of which only the bytes are known, such as
/// what was rejected as an outlier.
fn has_state(event: &StoredEvent) -> bool {
    event.header.state_after != StateRoot::default()
}

/// The events of a state.
pub(super) fn state_of(nodes: &RoomNodes, root: StateRoot) -> Result<RoaringBitmap, RoomError> {
    let mut ordinals = RoaringBitmap::new();
    for tree in [root.rest, root.members] {
        walk(nodes, tree, 0, &mut |_, ordinal| {
            ordinals.insert(ordinal);
            if ordinals.len() > MAX_EVENTS {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
    }
    Ok(ordinals)
}

/// An event as it is sent.
struct Sent {
    id: OwnedEventId,
    json: Bytes,
}

/// Events that were read for one answer.
pub(super) struct Gathered {
    pub(super) state: RoaringBitmap,
    pub(super) chain: RoaringBitmap,
    events: HashMap<EventOrdinal, Sent>,
}

impl Gathered {
    /// Walks the auth graph in falling order of ordinals, so that each event is read once.
    fn read(
        snapshot: &Snapshot,
        room_id: &OwnedRoomId,
        state: RoaringBitmap,
        extra: RoaringBitmap,
    ) -> Result<Self, RoomError> {
        let mut open = &state | &extra;
        let mut chain = extra;
        if !open.is_empty() {
            chain.insert(CREATE);
            open.insert(CREATE);
        }
        let mut events = HashMap::new();
        while let Some(ordinal) = open.max() {
            open.remove(ordinal);
            if open.len() + events.len() as u64 >= MAX_EVENTS {
                return Err(RoomError::internal("the room's state is too large to be answered"));
            }
            let row = snapshot
                .get(&schema::EVENTS, room_id, &ordinal)?
                .ok_or(DamagedRoom::MissingEvent(ordinal))?;
            for auth_event in row.header.auth_events {
                // A damaged row must not send the walk round in circles.
                if auth_event < ordinal && chain.insert(auth_event) {
                    open.insert(auth_event);
                }
            }
            events.insert(ordinal, Sent { id: row.header.event_id, json: row.json });
        }
        Ok(Self { state, chain, events })
    }

    /// Something of each of these events, in the order of their ordinals.
    fn each<T>(&self, ordinals: &RoaringBitmap, take: impl Fn(&Sent) -> T) -> Vec<T> {
        ordinals.iter().filter_map(|ordinal| self.events.get(&ordinal).map(&take)).collect()
    }

    /// The PDUs of these events.
    pub(super) fn pdus(&self, ordinals: &RoaringBitmap) -> Vec<Bytes> {
        self.each(ordinals, |event| event.json.clone())
    }
}
