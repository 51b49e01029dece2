//! What one connection was sent.
//!
//! Two states are kept: the one that the client has shown to know by its last `pos`, and what the response
//! after that adds to it, which may never have arrived. A request with the new `pos` makes the second
//! part of the first; one with the old `pos` again throws the second away, and is answered anew.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hearth_rooms::{
    schema::{EventOrdinal, StoredEvent},
    state::StateRoot,
};
use hearth_storage::Topic;
use hearth_types::StreamPosition;
use hearth_users::{ReceiptEntry, TypingSerial};
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::{
    pos::{Pos, ResponseSerial},
    receipts::ReceiptsLeft,
    request::RulesHash,
    required::RequiredState,
    unread::Unread,
};
use crate::{
    SyncError,
    delivery::{Deliveries, Delivery},
    members::KnownMembers,
};

/// Different combinations of `required_state` that one connection remembers; clients that use more have
/// to begin anew now and then.
const MAX_CONFIGS: usize = 200;

/// So many of them stay although no room has them any more: they may be used again.
const FEW_CONFIGS: usize = 16;
/// So many bytes of them weigh as much as another thing that is remembered.
const BYTES_PER_ENTRY: usize = 150;

/// In what way a room was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// As an invitation or a knock.
    Asked,
    /// As one that the user is in.
    Joined,
    /// As one that they are not in any more; there is nothing to add.
    Gone,
}

/// What a client knows of a room.
#[derive(Clone, Debug)]
pub(crate) struct SentRoom {
    pub(crate) stage: Stage,
    /// Everything up to here.
    pub(crate) until: StreamPosition,
    /// The client has at least so many of the newest events up to there, without a gap, or all that there
    /// are. Events that a lower limit left out (be it 0) make it that limit.
    pub(crate) timeline_limit: u64,
    /// Of the state, what this wants of that.
    pub(crate) required: Arc<RequiredState>,
    pub(crate) state: StateRoot,
    pub(crate) is_dm: bool,
    pub(crate) unread: Unread,
    /// Receipts up to here; `None`: none were sent.
    pub(crate) receipts: Option<StreamPosition>,
    /// Who types, as of this serial.
    pub(crate) typing: TypingSerial,
    /// Was its account data sent, and is not outdated since?
    pub(crate) account_data: bool,
}

/// A client was told all that its rules ask for: until something changes there is nothing to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CaughtUp {
    /// Which rules these were.
    pub(crate) rules: RulesHash,
    /// The last change of typing by then, anywhere.
    pub(crate) typing: TypingSerial,
}

/// What a response adds.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// Everything up to here was looked at.
    pub(crate) position: StreamPosition,
    pub(crate) rooms: HashMap<Topic, SentRoom>,
    /// The timelines that are shown with it.
    pub(crate) shown: HashMap<Topic, Vec<OwnedEventId>>,
    /// Receipts to be told of rooms that are new to the client, where they were read with the room.
    pub(crate) receipts: HashMap<Topic, Vec<ReceiptEntry>>,
    /// Rooms whose account data changed and was not sent.
    pub(crate) outdated: Vec<OwnedRoomId>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// Is that all there was to tell?
    pub(crate) caught_up: Option<CaughtUp>,
    pub(crate) account_data: Option<StreamPosition>,
    pub(crate) e2ee: Option<StreamPosition>,
    pub(crate) receipts_left: ReceiptsLeft,
}

impl Draft {
    /// What the client will know of a room: to be changed; `None` if the room is not sent.
    pub(crate) fn room(&mut self, base: &Connection, topic: &Topic) -> Option<&mut SentRoom> {
        if !self.rooms.contains_key(topic) {
            self.rooms.insert(topic.clone(), base.rooms.get(topic)?.clone());
        }
        self.rooms.get_mut(topic)
    }

    /// The same, to be looked at.
    pub(crate) fn known<'a>(&'a self, base: &'a Connection, topic: &Topic) -> Option<&'a SentRoom> {
        self.rooms.get(topic).or_else(|| base.rooms.get(topic))
    }
}

/// What goes out with a response whose arrival is not known, and counts from its `pos` on.
#[derive(Debug, Default)]
pub(crate) struct Enclosed {
    pub(crate) members: Vec<(OwnedRoomId, OwnedUserId, EventOrdinal)>,
    pub(crate) timelines: Vec<(OwnedRoomId, Vec<Arc<StoredEvent>>)>,
}

/// One connection of one device.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The last `pos` that the client showed; that of no response at the beginning.
    pub(crate) pos: Pos,
    /// Everything up to here was looked at; `None`: nothing was sent yet.
    pub(crate) position: Option<StreamPosition>,
    pub(crate) rooms: HashMap<Topic, SentRoom>,
    pub(crate) members: KnownMembers<ResponseSerial>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// `None`: something was left for later.
    pub(crate) caught_up: Option<CaughtUp>,
    pub(crate) account_data: Option<StreamPosition>,
    pub(crate) e2ee: Option<StreamPosition>,
    /// Receipts that are still to be told.
    pub(crate) receipts_left: ReceiptsLeft,
    deliveries: Deliveries<ResponseSerial>,
    configs: Mutex<Vec<Arc<RequiredState>>>,
    pending: Option<(Pos, Draft)>,
    /// The last response that was made, whether it arrived or not.
    last_response: ResponseSerial,
}

impl Connection {
    pub(crate) fn new(boot: u32, number: u64) -> Self {
        let serial = ResponseSerial::BEGINNING;
        let pos = Pos { position: StreamPosition::ZERO, boot, connection: number, serial };
        Self {
            pos,
            position: None,
            rooms: HashMap::new(),
            members: KnownMembers::default(),
            counts: BTreeMap::new(),
            caught_up: None,
            account_data: None,
            e2ee: None,
            receipts_left: ReceiptsLeft::default(),
            deliveries: Deliveries::default(),
            configs: Mutex::default(),
            pending: None,
            last_response: serial,
        }
    }

    /// One that stands at this position and has sent no room.
    pub(crate) fn without_rooms(position: Option<StreamPosition>) -> Self {
        Self { position, ..Self::new(0, 0) }
    }

    /// The client stands at this `pos`. Returns what that proves to have arrived.
    pub(crate) fn enter(&mut self, pos: Pos) -> Result<Vec<Delivery>, SyncError> {
        let pending = self.pending.take();
        if pos == self.pos {
            if let Some((lost, _)) = pending {
                self.members.lost(lost.serial);
                self.deliveries.lost(lost.serial);
            }
            return Ok(Vec::new());
        }
        match pending {
            Some((due, draft)) if due == pos => {
                self.apply(draft);
                self.pos = due;
                Ok(self.deliveries.proven(pos.serial))
            }
            other => {
                self.pending = other;
                Err(SyncError::UnknownPos)
            }
        }
    }

    /// There was nothing to tell: the client knows all that was looked at, without another `pos`.
    pub(crate) fn told_nothing(&mut self, draft: Draft) {
        self.apply(draft);
    }

    /// A response goes out. Returns its `pos`.
    pub(crate) fn send(&mut self, draft: Draft, enclosed: Enclosed, user_id: &UserId) -> Pos {
        let response = self.last_response.next();
        self.last_response = response;
        let pos = Pos { position: draft.position, serial: response, ..self.pos };
        for (room_id, member, event) in enclosed.members {
            self.members.sent(&room_id, &member, event, response);
        }
        for (room_id, events) in enclosed.timelines {
            self.deliveries.sent(&room_id, user_id, &events, response);
        }
        self.pending = Some((pos, draft));
        pos
    }

    fn apply(&mut self, draft: Draft) {
        self.position = Some(draft.position);
        self.rooms.extend(draft.rooms);
        for room_id in draft.outdated {
            if let Some(room) = self.rooms.get_mut(room_id.as_str()) {
                room.account_data = false;
            }
        }
        self.counts = draft.counts;
        self.caught_up = draft.caught_up;
        self.account_data = draft.account_data;
        self.e2ee = draft.e2ee;
        self.receipts_left = draft.receipts_left;
    }

    /// Does the client know this membership event?
    pub(crate) fn knows_member(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event: EventOrdinal,
    ) -> bool {
        self.members.knows(room_id, user_id, event, self.pos.serial)
    }

    /// The same set of state as one that was used before, if there is one: compared by address then.
    pub(crate) fn intern(&self, required: RequiredState) -> Result<Arc<RequiredState>, SyncError> {
        let mut configs = self.configs.lock();
        if let Some(known) = configs.iter().find(|known| ***known == required) {
            return Ok(Arc::clone(known));
        }
        if configs.len() >= FEW_CONFIGS {
            configs.retain(|config| Arc::strong_count(config) > 1);
        }
        if configs.len() >= MAX_CONFIGS {
            return Err(match self.position {
                Some(_) => SyncError::UnknownPos,
                // Whoever began anew would come here again.
                None => SyncError::InvalidParam("too many different required_state".to_owned()),
            });
        }
        let required = Arc::new(required);
        configs.push(Arc::clone(&required));
        Ok(required)
    }

    /// How much is remembered, in entries.
    pub(crate) fn weight(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |(_, draft)| draft.rooms.len());
        let of_config = |config: &Arc<RequiredState>| 1 + config.bytes() / BYTES_PER_ENTRY;
        let configs: usize = self.configs.lock().iter().map(of_config).sum();
        let receipts: usize = self.receipts_left.values().map(Vec::len).sum();
        1 + self.rooms.len() + pending + self.members.len() + configs + receipts
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn draft(position: u64, room: &str) -> Draft {
        let sent = SentRoom {
            stage: Stage::Joined,
            until: StreamPosition::new(position),
            timeline_limit: 1,
            required: Arc::default(),
            state: StateRoot::default(),
            is_dm: false,
            unread: Unread::default(),
            receipts: None,
            typing: 0,
            account_data: true,
        };
        Draft {
            position: StreamPosition::new(position),
            rooms: HashMap::from([(Topic::new(room), sent)]),
            ..Draft::default()
        }
    }

    fn send(connection: &mut Connection, draft: Draft) -> Pos {
        connection.send(draft, Enclosed::default(), user_id!("@me:x"))
    }

    #[test]
    fn a_response_counts_when_its_pos_is_shown_and_not_before() {
        let mut connection = Connection::new(1, 2);
        let first = send(&mut connection, draft(5, "!a:x"));
        assert!(connection.rooms.is_empty());
        connection.enter(first).unwrap();
        assert!(connection.rooms.contains_key("!a:x"));
        let second = send(&mut connection, draft(6, "!b:x"));
        // It did not arrive: the client asks with the first one again.
        connection.enter(first).unwrap();
        assert!(!connection.rooms.contains_key("!b:x"));
        assert!(matches!(connection.enter(second), Err(SyncError::UnknownPos)), "thrown away");
        let third = send(&mut connection, draft(6, "!c:x"));
        assert_ne!(third, second, "another response has another pos");
        connection.enter(third).unwrap();
        assert!(connection.rooms.contains_key("!c:x") && !connection.rooms.contains_key("!b:x"));
        assert!(matches!(connection.enter(first), Err(SyncError::UnknownPos)), "long gone");
        connection.enter(third).unwrap();
    }

    #[test]
    fn what_told_nothing_counts_at_once() {
        let mut connection = Connection::new(1, 2);
        let first = send(&mut connection, draft(5, "!a:x"));
        connection.enter(first).unwrap();
        connection.told_nothing(draft(9, "!a:x"));
        connection.enter(first).unwrap();
        assert_eq!(connection.position, Some(StreamPosition::new(9)));
        assert_eq!(connection.rooms.get("!a:x").unwrap().until, StreamPosition::new(9));
    }

    #[test]
    fn sets_of_state_are_kept_once_and_bounded() {
        use super::super::required::{Element, StateSet};
        let mut connection = Connection::new(1, 2);
        let set = |number: usize| -> RequiredState {
            let element = Element { kind: Some(number.to_string()), key: None };
            StateSet { include: vec![element], ..StateSet::default() }.into()
        };
        let one = connection.intern(set(0)).unwrap();
        assert!(Arc::ptr_eq(&one, &connection.intern(set(0)).unwrap()));
        let held: Vec<_> =
            (1..MAX_CONFIGS).map(|number| connection.intern(set(number)).unwrap()).collect();
        let refused = connection.intern(set(MAX_CONFIGS));
        assert!(matches!(refused, Err(SyncError::InvalidParam(_))), "to begin anew does not help");
        connection.position = Some(StreamPosition::new(1));
        assert!(matches!(connection.intern(set(MAX_CONFIGS)), Err(SyncError::UnknownPos)));
        drop(held);
        assert!(connection.intern(set(MAX_CONFIGS)).is_ok(), "what nothing uses is forgotten");
        assert!(connection.configs.lock().len() <= FEW_CONFIGS);
        let before = connection.weight();
        let long = Element { kind: Some("k".repeat(100 * BYTES_PER_ENTRY)), key: None };
        let long = StateSet { include: vec![long], ..StateSet::default() };
        connection.intern(long.into()).unwrap();
        assert!(connection.weight() > before + 100, "they weigh what they take");
    }
}
