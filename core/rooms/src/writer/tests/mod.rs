//! Events of other servers, made by hand and received by several servers in one process.

mod checks;
mod cost;
mod forks;
mod receipt;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hearth_storage::{Direction, Store};
use hearth_types::{ManualClock, ServerIdentity};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId,
    UInt, UserId, room_version_rules::RoomVersionRules, state_res::auth_types_for_event,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    Batch, Context, NewEvent, Room,
    append::{Links, event_object, sign},
    effects::StateChange,
    room::Tip,
    to_object,
};
use crate::{
    CheckedPdu, CreateRoomOptions, KEYSPACES, Preset, Rooms, RoomsConfig, Verdict,
    resolve::{RoomEvents, resolve},
    rooms::lookup,
    schema::{
        self, EventHeader, Forwarding, RoomHead, Standing, StoredEvent, TIMELINE, TimelineIndex,
    },
    state::{StateKeyOrdinal, StateRoot},
};

pub(super) const MEMBER: &str = "m.room.member";

/// Milliseconds that the servers' clocks are apart.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Rooms of a server of this name, in memory.
pub(super) async fn server(name: &str) -> Rooms {
    let name = OwnedServerName::try_from(name).unwrap();
    let key = ServerIdentity::generate_key();
    let identity = ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap();
    // From room version 12 on the time tells two rooms of one user apart.
    let now = 1_700_000_000_000 + STARTED.fetch_add(1_000, Ordering::Relaxed);
    let clock = Arc::new(ManualClock::new(now));
    let store = Store::memory_for_tests(KEYSPACES);
    Rooms::open(store, Arc::new(identity), clock, RoomsConfig::default()).await.unwrap()
}

/// An event to be made.
#[derive(Clone)]
pub(super) struct Making<'a> {
    pub(super) sender: &'a str,
    pub(super) kind: &'a str,
    pub(super) state_key: Option<&'a str>,
    pub(super) content: Value,
    pub(super) prev: Vec<OwnedEventId>,
    /// Instead of those that the state calls for.
    pub(super) auth: Option<Vec<OwnedEventId>>,
    pub(super) depth: u64,
    pub(super) at: u64,
    pub(super) redacts: Option<OwnedEventId>,
}

/// A public room whose creator is `@alice:hs.test`, and the server that knows everything of it.
pub(super) struct Shared {
    pub(super) rooms: Rooms,
    pub(super) id: OwnedRoomId,
    pub(super) rules: RoomVersionRules,
    version: RoomVersionId,
}

impl Shared {
    pub(super) async fn new(version: RoomVersionId) -> Self {
        let rooms = server("hs.test").await;
        let options = CreateRoomOptions {
            preset: Some(Preset::PublicChat),
            room_version: Some(version.clone()),
            ..CreateRoomOptions::default()
        };
        let alice = UserId::parse("@alice:hs.test").unwrap();
        let id = rooms.create_room(&alice, options).await.unwrap();
        Self { rooms, id, rules: version.rules().unwrap(), version }
    }

    /// The same with these remote users joined.
    pub(super) async fn with(version: RoomVersionId, users: &[&str]) -> Self {
        let shared = Self::new(version).await;
        for user in users {
            shared.join(user).await;
        }
        shared
    }

    pub(super) async fn join(&self, user: &str) -> OwnedEventId {
        let join = self.state(user, (MEMBER, user), json!({ "membership": "join" })).await;
        let event_id = join.pdu().id().to_owned();
        assert_eq!(self.take(join).await, Verdict::Accepted);
        event_id
    }

    /// The forward extremities.
    pub(super) async fn tips(&self) -> Vec<OwnedEventId> {
        let head = self.rooms.head(&self.id).await.unwrap().unwrap();
        let events = self.rooms.events(&self.id, &head.extremities).await.unwrap();
        events.iter().map(|event| event.header.event_id.clone()).collect()
    }

    pub(super) async fn making<'a>(&self, sender: &'a str, kind: &'a str) -> Making<'a> {
        let prev = self.tips().await;
        Making {
            sender,
            kind,
            state_key: None,
            content: json!({}),
            prev,
            auth: None,
            depth: 50,
            at: 1_700_000_000_000,
            redacts: None,
        }
    }

    /// A message on top of everything.
    pub(super) async fn message(&self, sender: &str, body: &str) -> CheckedPdu {
        let content = json!({ "msgtype": "m.text", "body": body });
        let making = self.making(sender, "m.room.message").await;
        self.make(Making { content, ..making }).await
    }

    /// State on top of everything.
    pub(super) async fn state(
        &self,
        sender: &str,
        key: (&str, &str),
        content: Value,
    ) -> CheckedPdu {
        let making = self.making(sender, key.0).await;
        self.make(Making { state_key: Some(key.1), content, ..making }).await
    }

    /// State on top of these events.
    pub(super) async fn state_on(
        &self,
        prev: &[OwnedEventId],
        sender: &str,
        key: (&str, &str),
        content: Value,
    ) -> CheckedPdu {
        let making = self.making(sender, key.0).await;
        let prev = prev.to_vec();
        self.make(Making { state_key: Some(key.1), content, prev, ..making }).await
    }

    /// Makes and signs an event, with the auth events that the state before it calls for.
    pub(super) async fn make(&self, making: Making<'_>) -> CheckedPdu {
        let sender = UserId::parse(making.sender).unwrap();
        let auth = match &making.auth {
            Some(auth) => auth.clone(),
            None => self.auth_events(&sender, &making).await,
        };
        let at = MilliSecondsSinceUnixEpoch(UInt::try_from(making.at).unwrap());
        let mut event = NewEvent {
            sender,
            event_type: making.kind.into(),
            state_key: making.state_key.map(str::to_owned),
            content: to_object(making.content).unwrap(),
            redacts: making.redacts,
            origin_server_ts: at,
            transaction: None,
        };
        let links = Links { room_id: Some(&self.id), depth: making.depth };
        let auth = auth.iter().map(|id| id.as_str());
        let prev = making.prev.iter().map(|id| id.as_str());
        let object = event_object(&mut event, &links, auth, prev, &self.rules);
        CheckedPdu::new(sign(&self.rooms, object, &self.rules).unwrap().pdu)
    }

    async fn auth_events(&self, sender: &UserId, making: &Making<'_>) -> Vec<OwnedEventId> {
        let mut roots = Vec::new();
        for prev in &making.prev {
            roots.push(self.event(prev).await.header.state_after);
        }
        let nodes = self.rooms.nodes(&self.id);
        let changes = if roots.len() == 1 {
            Vec::new()
        } else {
            let events = RoomEvents::new(&self.rooms, &self.id);
            resolve(&self.rules, &roots, &events, &nodes).unwrap().changes
        };
        let content = RawValue::from_string(making.content.to_string()).unwrap();
        let rules = &self.rules.authorization;
        let kind = making.kind.into();
        let types = auth_types_for_event(&kind, sender, making.state_key, &content, rules).unwrap();
        let mut found = Vec::new();
        for (event_type, state_key) in types {
            let key = self.rooms.state_key(&self.id, &event_type.to_string(), &state_key).await;
            let Some(key) = key.unwrap() else { continue };
            let found_at = changes.iter().find(|(at, _)| *at == key);
            let ordinal = match found_at {
                Some((_, ordinal)) => *ordinal,
                None => lookup(&nodes, roots[0], key).unwrap(),
            };
            if let Some(ordinal) = ordinal {
                let event = self.rooms.event(&self.id, ordinal).await.unwrap();
                found.push(event.header.event_id.clone());
            }
        }
        found
    }

    pub(super) async fn take(&self, event: CheckedPdu) -> Verdict {
        receive(&self.rooms, &self.id, event).await
    }

    pub(super) async fn event(&self, event_id: &EventId) -> Arc<StoredEvent> {
        self.rooms.event_by_id(&self.id, event_id).await.unwrap().unwrap()
    }

    /// All events of the room that have a state, in the order in which they came here.
    pub(super) async fn history(&self) -> Vec<CheckedPdu> {
        let head = self.rooms.head(&self.id).await.unwrap().unwrap();
        let all: Vec<u32> = (0..head.next_event).collect();
        let events = self.rooms.events(&self.id, &all).await.unwrap();
        let with_state = events.iter().filter(|event| super::receive::has_state(event));
        with_state.map(|event| CheckedPdu::new(event.pdu.clone())).collect()
    }

    /// Another server that knows this room's create event and nothing else of it.
    pub(super) async fn twin(&self, name: &str) -> Rooms {
        let rooms = server(name).await;
        let create = self.rooms.event(&self.id, 0).await.unwrap().pdu.clone();
        let (commit, sealed) = {
            let view = Context::new(&rooms);
            let head = RoomHead::new(self.version.clone());
            let mut room = Room::empty(self.id.clone(), self.rules.clone(), head);
            let mut batch = Batch::new(&self.id, 1);
            let empty = StateRoot::default();
            let key = ("m.room.create", "");
            let change = StateChange::at(&room, &view, empty, key, 0).unwrap();
            let header = EventHeader {
                event_id: create.id().to_owned(),
                state_before: empty,
                state_after: change.root,
                auth_events: Vec::new(),
                prev_events: Vec::new(),
                replaces_state: None,
                redacted_by: None,
                transaction: None,
                standing: Standing::Accepted,
            };
            let position = batch.commit.next_position();
            let index = Some(TimelineIndex::Live(position));
            let tip =
                Tip { ordinal: 0, event_id: create.id().to_owned(), depth: 1, state: change.root };
            let event = StoredEvent { ordinal: 0, index, header, pdu: create };
            let announced = Some((position, Forwarding::Elsewhere));
            let event = room.add_stored(&mut batch, event, announced, None);
            room.head.state = change.root;
            room.add_state_rows(&mut batch, change, &event);
            room.head.extremities = vec![0];
            room.tips = vec![tip];
            batch.seal(&room)
        };
        let committed = rooms.store().commit(commit).await.unwrap();
        sealed.publish(&self.id, rooms.caches(), committed);
        rooms
    }

    /// The same with all that is known here so far, rejected events too.
    pub(super) async fn full_twin_of_all(&self, name: &str) -> Rooms {
        let rooms = self.twin(name).await;
        rooms.receive(&self.id, self.history().await).await.unwrap();
        rooms
    }

    /// The same where nothing was rejected or soft-failed.
    pub(super) async fn full_twin(&self, name: &str) -> Rooms {
        let rooms = self.twin(name).await;
        let history = self.history().await;
        let verdicts = rooms.receive(&self.id, history).await.unwrap();
        assert!(verdicts.iter().all(|v| matches!(v, Verdict::Accepted | Verdict::Known)));
        rooms
    }
}

pub(super) async fn receive(rooms: &Rooms, id: &OwnedRoomId, event: CheckedPdu) -> Verdict {
    rooms.receive(id, vec![event]).await.unwrap().remove(0)
}

/// The current state: (type, state key) and event ID, sorted.
pub(super) async fn current(rooms: &Rooms, id: &OwnedRoomId) -> Vec<(String, String, String)> {
    let root = rooms.head(id).await.unwrap().unwrap().state;
    let events = rooms.state_events(id, root, crate::read::StatePart::All).await.unwrap();
    let mut all: Vec<_> = events
        .iter()
        .map(|event| {
            let state_key = event.pdu.state_key().unwrap().to_owned();
            (event.pdu.kind().to_string(), state_key, event.header.event_id.to_string())
        })
        .collect();
    all.sort();
    all
}

/// The content of a current state event.
pub(super) async fn content(rooms: &Rooms, id: &OwnedRoomId, key: (&str, &str)) -> Value {
    let head = rooms.head(id).await.unwrap().unwrap();
    let event = rooms.state_event(id, head.state, key.0, key.1).await.unwrap();
    event.map_or(Value::Null, |event| serde_json::from_str(event.pdu.content().get()).unwrap())
}

/// IDs of the events in the timeline, in order.
pub(super) async fn timeline(rooms: &Rooms, id: &OwnedRoomId) -> Vec<OwnedEventId> {
    let rows = rooms.store().page(&TIMELINE, id, .., Direction::Forward, 10_000).await.unwrap();
    let ordinals: Vec<u32> = rows.iter().map(|(_, row)| row.ordinal).collect();
    let events = rooms.events(id, &ordinals).await.unwrap();
    events.iter().map(|event| event.header.event_id.clone()).collect()
}

/// Rows that must follow the current state do: members, counters, servers.
pub(super) async fn assert_rows_follow(rooms: &Rooms, id: &OwnedRoomId) {
    let head = rooms.head(id).await.unwrap().unwrap();
    let events = rooms.state_events(id, head.state, crate::read::StatePart::Members).await.unwrap();
    let mut joined = std::collections::BTreeMap::<String, u64>::new();
    let (mut all, mut local, mut invited) = (0, 0, 0);
    for event in events {
        let user = UserId::parse(event.pdu.state_key().unwrap()).unwrap();
        let row = rooms.member_row(id, &user).await.unwrap().unwrap();
        assert_eq!(row.event, event.ordinal, "{user}");
        let membership = schema::Membership::of(&event.pdu).unwrap();
        assert_eq!(row.membership, membership);
        let is_local = rooms.identity().is_local(&user);
        if is_local {
            let row = rooms.user_room(&user, id).await.unwrap().unwrap();
            assert_eq!(row.details.membership, membership);
        }
        invited += u64::from(membership == schema::Membership::Invite);
        if membership == schema::Membership::Join {
            all += 1;
            local += u64::from(is_local);
            if !is_local {
                *joined.entry(user.server_name().to_string()).or_default() += 1;
            }
        }
    }
    assert_eq!((head.joined_members, head.joined_local_members), (all, local));
    assert_eq!(head.invited_members, invited);
    let forward = Direction::Forward;
    let rows = rooms.store().page(&schema::ROOM_SERVERS, id, .., forward, 1_000).await.unwrap();
    let rows = rows.into_iter().filter(|(_, row)| row.joined > 0);
    let rows: Vec<_> = rows.map(|(server, row)| (server.to_string(), row.joined)).collect();
    assert_eq!(rows, joined.into_iter().collect::<Vec<_>>());
    for (server, joined) in rows {
        let server = OwnedServerName::try_from(server).unwrap();
        let row = rooms.store().get(&schema::SERVER_ROOMS, &server, id).await.unwrap();
        assert_eq!(row.is_some_and(|row| row.joined > 0), joined > 0);
    }
}

/// A state key's number, to be sure that it has one.
pub(super) async fn number(rooms: &Rooms, id: &OwnedRoomId, key: (&str, &str)) -> StateKeyOrdinal {
    rooms.state_key(id, key.0, key.1).await.unwrap().unwrap()
}

/// Every room version with rules of its own.
pub(super) const VERSIONS: [RoomVersionId; 4] =
    [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
