//! Making one event: plan, build, sign, authorize, apply.

use std::sync::Arc;

use bytes::Bytes;
use hearth_types::{
    Pdu,
    limits::{MAX_DEPTH, MAX_PDU_BYTES, MAX_PREV_EVENTS},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, Int, MilliSecondsSinceUnixEpoch,
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    signatures::{hash_and_sign_event, reference_hash},
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
    },
};
use serde_json::value::RawValue;

use super::{
    Batch, Context, Facts, Room, StepError,
    effects::{Effects, StateChange},
    room::Tip,
    room_id::chosen_room_id,
};
use crate::{
    Rooms,
    error::RoomError,
    schema::{
        self, EventHeader, Forwarding, RoomHead, Standing, StoredEvent, TimelineIndex,
        TransactionKey,
    },
    state::StateKeyOrdinal,
};

/// An event that is about to be built.
#[derive(Clone, Debug)]
pub(crate) struct NewEvent {
    pub(crate) sender: OwnedUserId,
    pub(crate) event_type: TimelineEventType,
    pub(crate) state_key: Option<String>,
    pub(crate) content: CanonicalJsonObject,
    /// The target of a redaction.
    pub(crate) redacts: Option<OwnedEventId>,
    pub(crate) origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The request that asked for it.
    pub(crate) transaction: Option<TransactionKey>,
}

impl NewEvent {
    /// A state event of this server's own making.
    pub(crate) fn state(
        sender: OwnedUserId,
        event_type: impl Into<TimelineEventType>,
        state_key: impl Into<String>,
        content: CanonicalJsonObject,
        origin_server_ts: MilliSecondsSinceUnixEpoch,
    ) -> Self {
        Self {
            sender,
            event_type: event_type.into(),
            state_key: Some(state_key.into()),
            content,
            redacts: None,
            origin_server_ts,
            transaction: None,
        }
    }
}

/// Events that authorize another one, with the keys that they stand at.
pub(super) type AuthEvents = Vec<((StateEventType, String), Arc<StoredEvent>)>;

/// A signed event that has not been authorized.
pub(crate) struct SignedEvent {
    pub(crate) pdu: Pdu,
}

impl Room {
    /// A new room with its create event, in memory and in a batch.
    pub(crate) fn create(
        view: &Context<'_>,
        version: RoomVersionId,
        rules: RoomVersionRules,
        mut create: NewEvent,
    ) -> Result<(Self, Batch), RoomError> {
        let by_event = rules.authorization.room_create_event_id_as_room_id;
        let at = create.origin_server_ts;
        let chosen = (!by_event).then(|| chosen_room_id(view.rooms.identity(), at)).transpose()?;
        let planned = create.clone();
        let links = Links { room_id: chosen.as_deref(), depth: 1 };
        let object = event_object(&mut create, &links, [].into_iter(), [].into_iter(), &rules);
        let pdu = sign(view.rooms, object, &rules)?.pdu;
        check_state_independent_auth_rules(&rules.authorization, &pdu, |_| None::<&Pdu>)
            .map_err(RoomError::InvalidRoomState)?;
        let room_id = match chosen {
            Some(room_id) => room_id,
            None => room_id_of_create(pdu.id())?,
        };
        let mut room = Self::empty(room_id, rules, RoomHead::new(version));
        let mut batch = Batch::new(&room.id, 1);
        let effects = Effects::plan(&mut room, view, &batch, &planned, Facts::default());
        let effects = effects.map_err(|error| match error {
            StepError::Refused(error) => error,
            StepError::Settle | StepError::Full | StepError::Long | StepError::Unsigned => {
                RoomError::internal("a new room waits for itself")
            }
        })?;
        room.apply(&mut batch, &planned, pdu, &AuthEvents::new(), effects);
        Ok((room, batch))
    }

    /// Appends an event to the room, in memory and in the batch; or finds that the room's state says
    /// the same already, and returns the event that says it.
    ///
    /// After an error nothing has changed, and `event` is whole if it was [`StepError::Settle`].
    pub(crate) fn append(
        &mut self,
        view: &Context<'_>,
        batch: &mut Batch,
        event: &mut NewEvent,
    ) -> Result<OwnedEventId, StepError> {
        if let Some(existing) = self.identical_state(view, event)? {
            return Ok(existing);
        }
        let facts =
            Facts::of(&event.event_type.to_string(), event.state_key.as_deref(), &event.content);
        let effects = Effects::plan(self, view, batch, event, facts)?;
        let auth_events = self.auth_events(view, event)?;
        let built = self.build(view.rooms, event, &auth_events)?;
        self.authorize(view, &built.pdu, &auth_events)?;
        Ok(self.apply(batch, event, built.pdu, &auth_events, effects))
    }

    /// Builds, signs and authorizes an event on top of the room, without making it part of it.
    ///
    /// After an error `event` is whole if it was [`StepError::Settle`].
    pub(crate) fn prepare(
        &mut self,
        view: &Context<'_>,
        event: &mut NewEvent,
    ) -> Result<Pdu, StepError> {
        let auth_events = self.auth_events(view, event)?;
        let built = self.build(view.rooms, event, &auth_events)?;
        self.authorize(view, &built.pdu, &auth_events)?;
        Ok(built.pdu)
    }

    /// The current event at the same state key, if it says the same in the name of the same sender.
    pub(super) fn identical_state(
        &mut self,
        view: &Context<'_>,
        event: &NewEvent,
    ) -> Result<Option<OwnedEventId>, StepError> {
        let Some(state_key) = &event.state_key else {
            return Ok(None);
        };
        let Some(current) = self.state_event(view, &event.event_type.to_string(), state_key)?
        else {
            return Ok(None);
        };
        let same_content = || -> Option<bool> {
            let content = serde_json::to_string(&event.content).ok()?;
            Some(content == current.pdu.content().get())
        };
        let same = current.pdu.sender() == event.sender && same_content() == Some(true);
        Ok(same.then(|| current.header.event_id.clone()))
    }

    /// Chooses the auth events (SS "Auth events selection").
    pub(super) fn auth_events(
        &mut self,
        view: &Context<'_>,
        event: &NewEvent,
    ) -> Result<AuthEvents, StepError> {
        let content = if event.event_type == TimelineEventType::RoomMember {
            let json = serde_json::to_string(&event.content)
                .map_err(|error| RoomError::BadJson(error.to_string()))?;
            RawValue::from_string(json).map_err(|error| RoomError::BadJson(error.to_string()))?
        } else {
            // Only a membership event's content says anything about its auth events.
            RawValue::NULL.to_owned()
        };
        let types = auth_types_for_event(
            &event.event_type,
            &event.sender,
            event.state_key.as_deref(),
            &content,
            &self.rules.authorization,
        )
        .map_err(RoomError::BadJson)?;
        let mut found = AuthEvents::with_capacity(types.len());
        for (event_type, state_key) in types {
            if let Some(auth) = self.state_event(view, &event_type.to_string(), &state_key)? {
                found.push(((event_type, state_key), auth));
            }
        }
        Ok(found)
    }

    /// Builds and signs the event on top of the forward extremities. Takes the event's content.
    fn build(
        &self,
        rooms: &Rooms,
        event: &mut NewEvent,
        auth_events: &AuthEvents,
    ) -> Result<SignedEvent, StepError> {
        let auth_ids = auth_events.iter().map(|(_, auth)| auth.header.event_id.as_str());
        let prev_ids = self.prev_tips().iter().map(|tip| tip.event_id.as_str());
        let links = Links { room_id: Some(&self.id), depth: self.next_depth() };
        let object = event_object(event, &links, auth_ids, prev_ids, &self.rules);
        Ok(sign(rooms, object, &self.rules)?)
    }

    /// The extremities that the next event follows: all, or the deepest of too many.
    pub(super) fn prev_tips(&self) -> &[Tip] {
        self.tips.get(..self.tips.len().min(MAX_PREV_EVENTS)).unwrap_or_default()
    }

    pub(super) fn next_depth(&self) -> u64 {
        self.tips.iter().map(|tip| tip.depth + 1).max().unwrap_or(1).min(MAX_DEPTH)
    }

    /// Checks the authorization rules against the event's auth events, which for a local event are
    /// the current state.
    pub(super) fn authorize(
        &mut self,
        view: &Context<'_>,
        pdu: &Pdu,
        auth_events: &AuthEvents,
    ) -> Result<(), StepError> {
        let create = self.create_event(view)?;
        let by_id = |event_id: &EventId| {
            auth_events
                .iter()
                .map(|(_, auth)| auth)
                .chain([&create])
                .find(|auth| auth.header.event_id == event_id)
                .map(|auth| &auth.pdu)
        };
        let by_key = |event_type: &StateEventType, state_key: &str| {
            if *event_type == StateEventType::RoomCreate {
                return Some(&create.pdu);
            }
            auth_events
                .iter()
                .find(|((auth_type, auth_key), _)| auth_type == event_type && auth_key == state_key)
                .map(|(_, auth)| &auth.pdu)
        };
        let rules = &self.rules.authorization;
        check_state_independent_auth_rules(rules, pdu, by_id)
            .and_then(|()| check_state_dependent_auth_rules(rules, pdu, by_key))
            .map_err(|reason| StepError::Refused(RoomError::Forbidden(reason)))
    }

    /// Makes the event part of the room: cannot fail.
    pub(crate) fn apply(
        &mut self,
        batch: &mut Batch,
        event: &NewEvent,
        pdu: Pdu,
        auth_events: &AuthEvents,
        effects: Effects,
    ) -> OwnedEventId {
        let ordinal = self.head.next_event;
        let position = batch.commit.next_position();
        let index = TimelineIndex::Live(position);
        let state_before = self.head.state;
        let state_after = effects.state.as_ref().map_or(state_before, |state| state.root);
        let prev_tips = self.prev_tips();
        let header = EventHeader {
            event_id: pdu.id().to_owned(),
            state_before,
            state_after,
            auth_events: auth_events.iter().map(|(_, auth)| auth.ordinal).collect(),
            prev_events: prev_tips.iter().map(|tip| tip.ordinal).collect(),
            replaces_state: effects.state.as_ref().and_then(|state| state.replaces),
            redacted_by: None,
            transaction: event
                .transaction
                .as_ref()
                .map(|key| (key.device_id.clone(), key.transaction_id.clone())),
            standing: Standing::Accepted,
        };
        let merged = prev_tips.len();
        let event_id = header.event_id.clone();
        let depth = pdu.depth();
        let stored = StoredEvent { ordinal, index: Some(index), header, pdu };
        let announced = Some((position, Forwarding::Here));
        let stored = batch.add_event(&self.id, stored, announced);
        self.note_while_partial(batch, ordinal);

        self.head.next_event += 1;
        self.head.depth = depth;
        self.tips.drain(..merged);
        self.tips.push(Tip { ordinal, event_id: event_id.clone(), depth, state: state_after });
        self.head.extremities = self.tips.iter().map(|tip| tip.ordinal).collect();
        self.local.places.insert(ordinal, (batch.number, position));
        self.local.event_ids.insert(event_id.clone(), ordinal);
        self.local.events.insert(ordinal, Arc::clone(&stored));
        effects.apply(self, batch, &stored, position);
        event_id
    }

    /// Applies the change of state that an event drafted here makes.
    pub(super) fn apply_state(
        &mut self,
        batch: &mut Batch,
        change: StateChange,
        stored: &Arc<StoredEvent>,
    ) {
        self.head.state = change.root;
        self.add_state_rows(batch, change, stored);
        let state_key = stored.pdu.state_key().unwrap_or_default();
        self.remember_state(&stored.pdu.kind().to_string(), state_key, Some(stored));
    }

    /// Writes what a state event brings: its key's number, its edges in the auth graph, the nodes of
    /// the state after it.
    pub(super) fn add_state_rows(
        &mut self,
        batch: &mut Batch,
        change: StateChange,
        stored: &Arc<StoredEvent>,
    ) {
        if let Some((key, ordinal)) = change.new_key {
            self.add_state_key(batch, key, ordinal);
        }
        self.add_auth_edges(batch, stored);
        batch.add_nodes(&self.id, &change.nodes);
        self.local.nodes.extend(change.nodes);
        self.head.next_node = change.next_node;
    }

    /// Numbers a state key that the room never had before.
    pub(super) fn add_state_key(
        &mut self,
        batch: &mut Batch,
        key: (String, String),
        ordinal: StateKeyOrdinal,
    ) {
        match ordinal {
            StateKeyOrdinal::Member(number) => self.head.next_member_key = number + 1,
            StateKeyOrdinal::Rest(number) => self.head.next_state_key = number + 1,
        }
        self.local.state_keys.insert(key.clone(), ordinal);
        batch.add_state_key(&self.id, key, ordinal);
    }

    /// Writes a state event's edges in the auth graph, upwards.
    pub(super) fn add_auth_edges(&mut self, batch: &mut Batch, stored: &StoredEvent) {
        for parent in &stored.header.auth_events {
            let edge = (*parent, stored.ordinal);
            batch.commit.put(&schema::AUTH_CHILDREN, &self.id, &edge, &());
            self.local.auth_children.insert(edge);
        }
    }
}

/// Where an event goes.
pub(crate) struct Links<'a> {
    /// `None` for create events of room version 12 and later.
    pub(crate) room_id: Option<&'a RoomId>,
    pub(crate) depth: u64,
}

/// The event as an object without hashes and signatures. Takes the content out of the event.
pub(crate) fn event_object<'a>(
    event: &mut NewEvent,
    links: &Links<'_>,
    auth_events: impl Iterator<Item = &'a str>,
    prev_events: impl Iterator<Item = &'a str>,
    rules: &RoomVersionRules,
) -> CanonicalJsonObject {
    let ids = |ids: &mut dyn Iterator<Item = &'a str>| {
        CanonicalJsonValue::Array(ids.map(|id| CanonicalJsonValue::String(id.to_owned())).collect())
    };
    let (mut auth_events, mut prev_events) = (auth_events, prev_events);
    let mut content = std::mem::take(&mut event.content);
    let mut object = CanonicalJsonObject::new();
    if event.event_type == TimelineEventType::RoomRedaction && event.state_key.is_none() {
        // Room version 11 moved the target into the content.
        content.remove("redacts");
        if let Some(target) = event.redacts.as_ref().map(ToString::to_string) {
            let holder =
                if rules.redaction.content_field_redacts { &mut content } else { &mut object };
            holder.insert("redacts".to_owned(), target.into());
        }
    }
    object.insert("auth_events".to_owned(), ids(&mut auth_events));
    object.insert("content".to_owned(), CanonicalJsonValue::Object(content));
    object.insert("depth".to_owned(), integer(links.depth));
    object.insert("origin_server_ts".to_owned(), integer(event.origin_server_ts.get().into()));
    object.insert("prev_events".to_owned(), ids(&mut prev_events));
    if let Some(room_id) = links.room_id {
        object.insert("room_id".to_owned(), room_id.as_str().to_owned().into());
    }
    object.insert("sender".to_owned(), event.sender.as_str().to_owned().into());
    if let Some(state_key) = &event.state_key {
        object.insert("state_key".to_owned(), state_key.clone().into());
    }
    object.insert("type".to_owned(), event.event_type.to_string().into());
    object
}

fn integer(number: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::try_from(number).unwrap_or(Int::MAX))
}

/// Hashes and signs an event; its ID is its reference hash.
pub(crate) fn sign(
    rooms: &Rooms,
    mut object: CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<SignedEvent, RoomError> {
    let identity = rooms.identity();
    // What can fail here is only the size: the object is of this server's own making.
    let too_large = |_| RoomError::TooLarge;
    hash_and_sign_event(
        identity.server_name().as_str(),
        identity.key_pair(),
        &mut object,
        &rules.redaction,
    )
    .map_err(too_large)?;
    let hash = reference_hash(&object, rules).map_err(too_large)?;
    let event_id = EventId::parse(format!("${hash}"))
        .map_err(|error| RoomError::internal(error.to_string()))?;
    let json =
        serde_json::to_vec(&object).map_err(|error| RoomError::internal(error.to_string()))?;
    if json.len() > MAX_PDU_BYTES {
        return Err(RoomError::TooLarge);
    }
    let pdu = Pdu::parse(event_id, Bytes::from(json))
        .map_err(|error| RoomError::BadJson(error.to_string()))?;
    Ok(SignedEvent { pdu })
}

/// The ID of the room that a create event makes, where the event decides it (room version 12).
pub(crate) fn room_id_of_create(event_id: &EventId) -> Result<OwnedRoomId, RoomError> {
    let hash = event_id.as_str().trim_start_matches('$');
    RoomId::parse(format!("!{hash}")).map_err(|error| RoomError::internal(error.to_string()))
}
