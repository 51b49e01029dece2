//! A room as another server keeps it: events made and signed there, with the state that they build.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use hearth_rooms::{CheckedPdu, RemoteJoin};
use hearth_types::{Pdu, ServerIdentity};
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId,
    RoomVersionId,
    room_version_rules::RoomVersionRules,
    signatures::{hash_and_sign_event, reference_hash},
};
use serde_json::{Value, json};

/// An event before it is signed.
pub(crate) struct Sketch<'a> {
    pub(crate) sender: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) state_key: Option<&'a str>,
    pub(crate) content: Value,
}

/// A room of the server `far.test`.
#[derive(Clone)]
pub(crate) struct FarRoom {
    pub(crate) id: OwnedRoomId,
    pub(crate) version: RoomVersionId,
    rules: RoomVersionRules,
    identity: Arc<ServerIdentity>,
    /// All events in the order of their making.
    pub(crate) events: Vec<CheckedPdu>,
    /// The current state, by type and state key.
    pub(crate) state: BTreeMap<(String, String), CheckedPdu>,
    /// What the next event follows.
    pub(crate) tips: Vec<OwnedEventId>,
    pub(crate) depth: u64,
    time: u64,
}

pub(crate) const FAR_ADMIN: &str = "@admin:far.test";

impl FarRoom {
    /// A public room with an administrator, power levels, join rules and a history visibility.
    #[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
    pub(crate) fn new(version: RoomVersionId) -> Self {
        static ROOMS: AtomicU64 = AtomicU64::new(0);
        let name = OwnedServerName::try_from("far.test").unwrap();
        let key = ServerIdentity::generate_key();
        let identity = Arc::new(ServerIdentity::from_der(name, &key, "far".to_owned()).unwrap());
        let rules = version.rules().unwrap();
        // No two rooms are alike, also where the create event names the room.
        let number = ROOMS.fetch_add(1, Ordering::Relaxed);
        let id = RoomId::parse(format!("!room{number}:far.test")).unwrap();
        let mut room = Self {
            id,
            rules,
            version: version.clone(),
            identity,
            events: Vec::new(),
            state: BTreeMap::new(),
            tips: Vec::new(),
            depth: 0,
            time: 1_600_000_000_000 + number,
        };
        let mut create = json!({ "room_version": version });
        if !room.rules.authorization.use_room_create_sender {
            create["creator"] = FAR_ADMIN.into();
        }
        let event = room.put("m.room.create", "", create);
        if room.rules.authorization.room_create_event_id_as_room_id {
            let hash = event.pdu().id().as_str().trim_start_matches('$').to_owned();
            room.id = RoomId::parse(format!("!{hash}")).unwrap();
        }
        room.put("m.room.member", FAR_ADMIN, json!({ "membership": "join" }));
        let mut users = json!({ FAR_ADMIN: 100 });
        if room.rules.authorization.explicitly_privilege_room_creators {
            users = json!({});
        }
        room.put("m.room.power_levels", "", json!({ "users": users, "invite": 0 }));
        room.put("m.room.join_rules", "", json!({ "join_rule": "public" }));
        let visibility = json!({ "history_visibility": "shared" });
        room.put("m.room.history_visibility", "", visibility);
        room.put("m.room.name", "", json!({ "name": "far away" }));
        room
    }

    /// State by the administrator.
    pub(crate) fn put(&mut self, kind: &str, key: &str, content: Value) -> CheckedPdu {
        let event = self.sign(Sketch { sender: FAR_ADMIN, kind, state_key: Some(key), content });
        self.add(event.clone());
        event
    }

    /// A join of somebody.
    pub(crate) fn join(&mut self, user_id: &str) -> CheckedPdu {
        self.member(user_id, user_id, "join")
    }

    /// A membership.
    pub(crate) fn member(&mut self, sender: &str, user_id: &str, membership: &str) -> CheckedPdu {
        let event = self.draft_member(sender, user_id, membership);
        self.add(event.clone());
        event
    }

    /// A membership that is not part of the room yet.
    pub(crate) fn draft_member(
        &mut self,
        sender: &str,
        user_id: &str,
        membership: &str,
    ) -> CheckedPdu {
        let content = json!({ "membership": membership });
        self.sign(Sketch { sender, kind: "m.room.member", state_key: Some(user_id), content })
    }

    /// A message of somebody.
    pub(crate) fn say(&mut self, sender: &str, body: &str) -> CheckedPdu {
        let content = json!({ "msgtype": "m.text", "body": body });
        let event = self.sign(Sketch { sender, kind: "m.room.message", state_key: None, content });
        self.add(event.clone());
        event
    }

    /// Makes the event part of the room.
    pub(crate) fn add(&mut self, event: CheckedPdu) {
        let pdu = event.pdu();
        if let Some(state_key) = pdu.state_key() {
            let key = (pdu.kind().to_string(), state_key.to_owned());
            self.state.insert(key, event.clone());
        }
        self.tips = vec![pdu.id().to_owned()];
        self.depth = pdu.depth();
        self.events.push(event);
    }

    /// Makes an event on top of the room as it stands.
    pub(crate) fn sign(&mut self, sketch: Sketch<'_>) -> CheckedPdu {
        let auth_events = self.auth_events(&sketch);
        self.sign_with(sketch, &auth_events)
    }

    /// Makes an event with these auth events.
    #[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
    pub(crate) fn sign_with(
        &mut self,
        sketch: Sketch<'_>,
        auth_events: &[OwnedEventId],
    ) -> CheckedPdu {
        self.time += 1_000;
        let mut event = json!({
            "auth_events": auth_events,
            "content": sketch.content,
            "depth": self.depth + 1,
            "origin_server_ts": self.time,
            "prev_events": self.tips,
            "room_id": self.id,
            "sender": sketch.sender,
            "type": sketch.kind,
        });
        if let Some(state_key) = sketch.state_key {
            event["state_key"] = state_key.into();
        }
        let by_event = self.rules.authorization.room_create_event_id_as_room_id;
        if sketch.kind == "m.room.create" && by_event {
            event.as_object_mut().unwrap().remove("room_id");
        }
        self.finish(event)
    }

    /// Hashes and signs an event as it is.
    pub(crate) fn finish(&self, event: Value) -> CheckedPdu {
        let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        let (name, key) = (self.identity.server_name().as_str(), self.identity.key_pair());
        hash_and_sign_event(name, key, &mut object, &self.rules.redaction).unwrap();
        let hash = reference_hash(&object, &self.rules).unwrap();
        let json = Bytes::from(serde_json::to_vec(&object).unwrap());
        CheckedPdu::new(Pdu::parse(EventId::parse(format!("${hash}")).unwrap(), json).unwrap())
    }

    /// The auth events that the specification chooses.
    fn auth_events(&self, sketch: &Sketch<'_>) -> Vec<OwnedEventId> {
        let mut keys = vec![("m.room.power_levels", ""), ("m.room.member", sketch.sender)];
        if !self.rules.authorization.room_create_event_id_as_room_id {
            keys.push(("m.room.create", ""));
        }
        if sketch.kind == "m.room.member" {
            keys.push(("m.room.member", sketch.state_key.unwrap()));
            if ["join", "invite", "knock"].contains(&sketch.content["membership"].as_str().unwrap())
            {
                keys.push(("m.room.join_rules", ""));
            }
        }
        if sketch.kind == "m.room.create" {
            keys.clear();
        }
        keys.sort_unstable();
        keys.dedup();
        let at = |(kind, key): &(&str, &str)| {
            let event = self.state.get(&((*kind).to_owned(), (*key).to_owned()))?;
            Some(event.pdu().id().to_owned())
        };
        keys.iter().filter_map(at).collect()
    }

    /// The state, as an answer to a join has it.
    pub(crate) fn state_now(&self) -> Vec<CheckedPdu> {
        self.state.values().cloned().collect()
    }

    /// Every state event that ever was, as a generous auth chain.
    pub(crate) fn all_state(&self) -> Vec<CheckedPdu> {
        self.events.iter().filter(|event| event.pdu().state_key().is_some()).cloned().collect()
    }

    /// What this server answers to a join of that user; the join is part of the room from then on.
    pub(crate) fn answer_join(&mut self, user_id: &str) -> RemoteJoin {
        let (state, auth_chain) = (self.state_now(), self.all_state());
        let event = self.join(user_id);
        self.answer(event, state, auth_chain)
    }

    /// An answer of these parts.
    pub(crate) fn answer(
        &self,
        event: CheckedPdu,
        state: Vec<CheckedPdu>,
        auth_chain: Vec<CheckedPdu>,
    ) -> RemoteJoin {
        RemoteJoin {
            room_id: self.id.clone(),
            room_version: self.version.clone(),
            event,
            state,
            auth_chain,
            members_omitted: false,
            servers_in_room: vec!["far.test".try_into().unwrap()],
        }
    }
}
