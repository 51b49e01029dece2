//! A room that the hostile peer has made, for the server's users to come to.

use hearth_rooms::{MemberProfile, RemoteMembership, RoomError};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{Scene, peer::event_id};

/// A room with the state that a room has: its create event, its creator `mallory`, power levels and
/// join rules.
pub(crate) struct Elsewhere<'a> {
    scene: &'a Scene,
    pub(crate) room_id: OwnedRoomId,
    /// In the order in which they follow each other, signed.
    pub(crate) state: Vec<Value>,
}

impl<'a> Elsewhere<'a> {
    /// A room of the scene's version; `name` tells it from others.
    pub(crate) fn new(scene: &'a Scene, name: &str, join_rule: &str) -> Self {
        let creator = scene.peer.user("mallory");
        let has_own_id = scene.version == RoomVersionId::V12;
        let mut create = json!({
            "type": "m.room.create", "state_key": "", "sender": creator, "depth": 1,
            "auth_events": [], "prev_events": [],
            "content": { "room_version": scene.version, "creator": creator, "name": name },
        });
        if !has_own_id {
            create["room_id"] = json!(format!("!{name}:mallory.sim"));
        }
        let create = scene.peer.sign(&scene.version, create);
        let room_id = match create["room_id"].as_str() {
            Some(room_id) => room_id.to_owned(),
            None => format!("!{}", &event_id(&scene.version, &create)[1..]),
        };
        let room_id = RoomId::parse(room_id).unwrap();
        let mut room = Self { scene, room_id, state: vec![create] };
        let join = json!({ "membership": "join" });
        room.add_state("m.room.member", creator.as_str(), join);
        let users = if has_own_id { json!({}) } else { json!({ creator.as_str(): 100 }) };
        room.add_state("m.room.power_levels", "", json!({ "users": users }));
        room.add_state("m.room.join_rules", "", json!({ "join_rule": join_rule }));
        room
    }

    fn add_state(&mut self, event_type: &str, state_key: &str, content: Value) {
        let mut event = self.event(event_type, content);
        event["state_key"] = json!(state_key);
        self.state.push(self.sign(event));
    }

    pub(crate) fn sign(&self, event: Value) -> Value {
        self.scene.peer.sign(&self.scene.version, event)
    }

    pub(crate) fn id_of(&self, event: &Value) -> String {
        event_id(&self.scene.version, event)
    }

    /// The IDs of the state.
    pub(crate) fn state_ids(&self) -> Vec<String> {
        self.state.iter().map(|event| self.id_of(event)).collect()
    }

    /// The IDs of those state events that allow others, as far as they have one of these types.
    fn auth(&self, types: &[&str]) -> Vec<String> {
        let named = self.state.iter().filter(|event| {
            let event_type = event["type"].as_str().unwrap();
            // From version 12 on, the room's ID names the create event.
            types.contains(&event_type)
                && (event_type != "m.room.create" || self.scene.version != RoomVersionId::V12)
        });
        named.map(|event| self.id_of(event)).collect()
    }

    /// A well-formed, unsigned event of the creator that follows the state.
    #[expect(clippy::needless_pass_by_value, reason = "what tests write in place")]
    pub(crate) fn event(&self, event_type: &str, content: Value) -> Value {
        let before = self.state.last().unwrap();
        json!({
            "type": event_type,
            "room_id": self.room_id,
            "sender": self.scene.peer.user("mallory"),
            "content": content,
            "auth_events": self.auth(&["m.room.create", "m.room.member", "m.room.power_levels"]),
            "prev_events": [self.id_of(before)],
            "depth": before["depth"].as_u64().unwrap() + 1,
        })
    }

    /// A well-formed, unsigned message of the creator.
    pub(crate) fn message(&self, body: &str) -> Value {
        self.event("m.room.message", json!({ "msgtype": "m.text", "body": body }))
    }

    /// A well-formed, unsigned membership that a user gives themselves.
    pub(crate) fn own_membership(&self, user_id: &OwnedUserId, membership: &str) -> Value {
        let mut event = self.event("m.room.member", json!({ "membership": membership }));
        event["sender"] = json!(user_id);
        event["state_key"] = json!(user_id);
        event["auth_events"] =
            json!(self.auth(&["m.room.create", "m.room.power_levels", "m.room.join_rules"]));
        event
    }

    /// A well-formed, unsigned invitation by the creator.
    pub(crate) fn invitation(&self, user_id: &OwnedUserId) -> Value {
        let mut event = self.event("m.room.member", json!({ "membership": "invite" }));
        event["state_key"] = json!(user_id);
        let all = ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules"];
        event["auth_events"] = json!(self.auth(&all));
        event
    }

    /// Invites by `PUT /v2/invite`; status and answer.
    pub(crate) async fn invite(&self, event: &Value) -> (u16, Value) {
        let path = format!("/_matrix/federation/v2/invite/{}/{}", self.room_id, self.id_of(event));
        let body = json!({
            "room_version": self.scene.version, "event": event, "invite_room_state": self.state,
        });
        let scene = self.scene;
        let (status, answer) = scene.peer.ask(&scene.victim.name, "PUT", &path, Some(body)).await;
        (status.as_u16(), answer)
    }

    /// From now on the peer gives a template for the join of the server's first user, which follows these
    /// events, and lets them in with this state.
    pub(crate) fn lets_in(&self, prev_events: &[String], state: &[Value], auth_chain: &[Value]) {
        self.gives_template(prev_events);
        self.answers_join(&json!({
            "origin": self.scene.peer.name, "state": state, "auth_chain": auth_chain,
            "members_omitted": false,
        }));
    }

    pub(crate) fn gives_template(&self, prev_events: &[String]) {
        let mut template = self.own_membership(&self.scene.victim.user(0), "join");
        template["prev_events"] = json!(prev_events);
        template["depth"] = json!(20);
        let answer = json!({ "room_version": self.scene.version, "event": template });
        self.scene.peer.answers("/_matrix/federation/v1/make_join/", 200, answer);
    }

    pub(crate) fn answers_join(&self, answer: &Value) {
        self.scene.peer.answers("/_matrix/federation/v2/send_join/", 200, answer.clone());
    }

    /// From now on the peer tells the room's state, and these events beside it, as the state at any event.
    pub(crate) fn tells_state_with(&self, more: &[String]) {
        let ids = [self.state_ids().as_slice(), more].concat();
        let answer = json!({ "pdu_ids": ids, "auth_chain_ids": [] });
        self.scene.peer.answers("/_matrix/federation/v1/state_ids/", 200, answer);
    }

    /// The server's first user joins.
    pub(crate) async fn join(&self) -> Result<OwnedEventId, RoomError> {
        let remote = self.scene.victim.rooms().unwrap().remote().unwrap();
        remote.join(self.wish()).await
    }

    /// The wish of the server's first user.
    pub(crate) fn wish(&self) -> RemoteMembership {
        RemoteMembership {
            room_id: self.room_id.clone(),
            user_id: self.scene.victim.user(0),
            profile: MemberProfile::default(),
            reason: None,
            via: vec![self.scene.peer.name.clone()],
        }
    }
}
