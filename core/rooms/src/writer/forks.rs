//! Rooms with more than one forward extremity: their state is the resolution of the extremities'
//! states, and the next local event joins them.
//!
//! The state in the head's row is kept resolved by whoever adds an extremity. A writer that takes a
//! room over resolves once more and corrects the head and the membership rows where they differ, so
//! that it need not trust the order in which the forks arrived.

use std::{cmp::Reverse, sync::Arc};

use ruma::UserId;

use super::{
    Batch, Context, Room,
    effects::MemberChange,
    room::{Tip, membership_of},
};
use crate::{
    error::RoomError,
    resolve::{RoomEvents, resolve},
    schema::{Membership, StoredEvent},
    state::{Node, NodeId, StateKeyOrdinal, StateRoot, TreeEditor, diff},
};

/// Corrections that a resolution asks for, to go into the writer's first commit.
pub(super) struct Merge {
    nodes: Vec<(NodeId, Arc<Node>)>,
    members: Vec<(MemberChange, Arc<StoredEvent>)>,
}

impl Room {
    /// Resolves the extremities' states and makes the result the room's current state. Only on a room
    /// that has just been loaded.
    pub(super) fn merge_tips(&mut self, view: &Context<'_>) -> Result<(), RoomError> {
        // An event names at most 20 previous events: the deepest come first.
        self.tips.sort_by_key(|tip: &Tip| Reverse(tip.depth));
        let mut roots: Vec<StateRoot> = Vec::with_capacity(self.tips.len());
        for tip in &self.tips {
            let after = self.event(view, tip.ordinal)?.header.state_after;
            if !roots.contains(&after) {
                roots.push(after);
            }
        }
        let mut state = roots
            .first()
            .copied()
            .ok_or_else(|| RoomError::internal("a room without extremities"))?;
        let source = self.nodes(view);
        let mut editor = TreeEditor::new(&source, self.head.next_node);
        if roots.len() > 1 {
            let events = RoomEvents::new(view.rooms, &self.id);
            let (mut members, mut rest) = (Vec::new(), Vec::new());
            for (key, ordinal) in resolve(&self.rules, &roots, &events, &source)?.changes {
                match key {
                    StateKeyOrdinal::Member(number) => members.push((number, ordinal)),
                    StateKeyOrdinal::Rest(number) => rest.push((number, ordinal)),
                }
            }
            state.members = editor.apply(state.members, &members)?;
            state.rest = editor.apply(state.rest, &rest)?;
        }
        let (next_node, nodes) = editor.finish(&[state.members, state.rest]);
        self.local.nodes.extend(nodes.iter().cloned());
        let members = self.corrected_members(view, state.members)?;
        self.head.next_node = next_node;
        self.head.state = state;
        if !nodes.is_empty() || !members.is_empty() {
            self.merge = Some(Merge { nodes, members });
        }
        Ok(())
    }

    /// Memberships that are not as the resolved state says.
    fn corrected_members(
        &self,
        view: &Context<'_>,
        resolved: NodeId,
    ) -> Result<Vec<(MemberChange, Arc<StoredEvent>)>, RoomError> {
        let mut corrected = Vec::new();
        for change in diff(&self.nodes(view), self.head.state.members, resolved)? {
            let event = |ordinal: Option<u32>| ordinal.map(|n| self.event(view, n)).transpose();
            let (before, after) = (event(change.before)?, event(change.after)?);
            let Some(shown) = after.as_ref().or(before.as_ref()).map(Arc::clone) else {
                continue;
            };
            let Some(user_id) = shown.pdu.state_key().and_then(|key| UserId::parse(key).ok())
            else {
                continue;
            };
            let row = self.user_room(view, &user_id)?;
            let membership =
                |event: Option<Arc<StoredEvent>>| event.and_then(|e| membership_of(&e));
            let change = MemberChange {
                before: membership(before),
                after: membership(after).unwrap_or(Membership::Leave),
                local: view.rooms.identity().is_local(&user_id),
                joined_at: row
                    .filter(|(_, row)| row.details.membership == Membership::Join)
                    .map(|(_, row)| row.joined_at),
                user_id,
            };
            corrected.push((change, shown));
        }
        Ok(corrected)
    }

    /// Writes the corrections of [`Self::merge_tips`], if there are any.
    pub(super) fn apply_merge(&mut self, batch: &mut Batch) {
        let Some(merge) = self.merge.take() else {
            return;
        };
        batch.add_nodes(&self.id, &merge.nodes);
        for (change, event) in merge.members {
            let position = batch.commit.next_position();
            change.apply(self, batch, &event, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use hearth_storage::Store;
    use hearth_types::{ManualClock, ServerIdentity};
    use ruma::{OwnedRoomId, OwnedServerName, RoomVersionId, UserId, user_id};
    use serde_json::{Value, json, value::RawValue};

    use super::*;
    use crate::{
        CreateRoomOptions, Draft, KEYSPACES, MemberProfile, Preset, Rooms, RoomsConfig,
        writer::{NewEvent, to_object},
    };

    async fn rooms() -> Rooms {
        let name = OwnedServerName::try_from("hs.test").unwrap();
        let key = ServerIdentity::generate_key();
        let identity = ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let store = Store::memory_for_tests(KEYSPACES);
        Rooms::open(store, Arc::new(identity), clock, RoomsConfig::default()).await.unwrap()
    }

    /// Appends two state events to the same place, and commits both as extremities. The head and the
    /// membership rows are the second branch's, as if nobody had resolved the states.
    async fn fork(rooms: &Rooms, room_id: &OwnedRoomId, branches: [(&str, &str, &str, Value); 2]) {
        let (commit, sealed) = {
            let view = Context::new(rooms);
            let mut room = Room::load(&view, room_id).unwrap().unwrap();
            let mut batch = Batch::new(room_id, 1);
            let (base, before) = (room.tips.clone(), room.head.clone());
            let mut tips = Vec::new();
            for (sender, event_type, state_key, content) in branches {
                room.tips.clone_from(&base);
                room.head.state = before.state;
                room.head.joined_members = before.joined_members;
                room.forget_remembered();
                let sender = UserId::parse(sender).unwrap();
                let content = to_object(content).unwrap();
                let now = rooms.clock().now();
                let mut event = NewEvent::state(sender, event_type, state_key, content, now);
                assert!(room.append(&view, &mut batch, &mut event).is_ok());
                tips.extend(room.tips.last().cloned());
            }
            room.tips = tips;
            room.head.extremities = room.tips.iter().map(|tip| tip.ordinal).collect();
            batch.seal(&room)
        };
        let committed = rooms.store().commit(commit).await.unwrap();
        sealed.publish(room_id, rooms.caches(), committed);
    }

    async fn state(rooms: &Rooms, room_id: &OwnedRoomId, key: (&str, &str)) -> Value {
        let head = rooms.head(room_id).await.unwrap().unwrap();
        let event = rooms.state_event(room_id, head.state, key.0, key.1).await.unwrap();
        event.map_or(Value::Null, |e| serde_json::from_str(e.pdu.content().get()).unwrap())
    }

    #[tokio::test]
    async fn the_next_event_joins_a_fork() {
        let alice = user_id!("@alice:hs.test");
        let bob = user_id!("@bob:hs.test");
        for version in [RoomVersionId::V10, RoomVersionId::V12] {
            let rooms = rooms().await;
            let options = CreateRoomOptions {
                preset: Some(Preset::PublicChat),
                room_version: Some(version),
                ..CreateRoomOptions::default()
            };
            let room_id = rooms.create_room(alice, options).await.unwrap();
            let branches = [
                (alice.as_str(), "m.room.name", "", json!({ "name": "one side" })),
                (bob.as_str(), "m.room.member", bob.as_str(), json!({ "membership": "join" })),
            ];
            fork(&rooms, &room_id, branches).await;
            let head = rooms.head(&room_id).await.unwrap().unwrap();
            assert_eq!(head.extremities.len(), 2);

            let draft = Draft::message(alice.to_owned(), "m.room.message".into(), text());
            let event_id = rooms.send(&room_id, draft, None).await.unwrap();
            let event = rooms.event_by_id(&room_id, &event_id).await.unwrap().unwrap();
            assert_eq!(event.pdu.prev_events().len(), 2);
            let head = rooms.head(&room_id).await.unwrap().unwrap();
            assert_eq!(head.extremities, [event.ordinal]);
            assert_eq!(head.joined_members, 2);
            assert_eq!(state(&rooms, &room_id, ("m.room.name", "")).await["name"], "one side");
            let member = state(&rooms, &room_id, ("m.room.member", bob.as_str())).await;
            assert_eq!(member["membership"], "join");
            let row = rooms.user_room(bob, &room_id).await.unwrap().unwrap();
            assert_eq!(row.details.membership, Membership::Join);
            let again = rooms.join(&room_id, bob, &MemberProfile::default(), None).await.unwrap();
            let joined = rooms.event_by_id(&room_id, &again).await.unwrap().unwrap();
            assert!(joined.ordinal < event.ordinal, "bob is joined already");
        }
    }

    #[tokio::test]
    async fn a_ban_on_one_side_corrects_the_memberships() {
        let alice = user_id!("@alice:hs.test");
        let bob = user_id!("@bob:hs.test");
        let rooms = rooms().await;
        let options =
            CreateRoomOptions { preset: Some(Preset::PublicChat), ..CreateRoomOptions::default() };
        let room_id = rooms.create_room(alice, options).await.unwrap();
        rooms.join(&room_id, bob, &MemberProfile::default(), None).await.unwrap();
        rooms.close();
        let member = "m.room.member";
        let branches = [
            (alice.as_str(), member, bob.as_str(), json!({ "membership": "ban" })),
            (
                bob.as_str(),
                member,
                bob.as_str(),
                json!({ "membership": "join", "displayname": "B" }),
            ),
        ];
        fork(&rooms, &room_id, branches).await;

        let mut room = {
            let view = Context::new(&rooms);
            let mut room = Room::load(&view, &room_id).unwrap().unwrap();
            assert_eq!(room.head.joined_members, 2);
            room.merge_tips(&view).unwrap();
            room
        };
        let mut batch = Batch::new(&room_id, 2);
        room.apply_merge(&mut batch);
        let (commit, sealed) = batch.seal(&room);
        let committed = rooms.store().commit(commit).await.unwrap();
        sealed.publish(&room_id, rooms.caches(), committed);

        assert_eq!(state(&rooms, &room_id, (member, bob.as_str())).await["membership"], "ban");
        let row = rooms.member_row(&room_id, bob).await.unwrap().unwrap();
        assert_eq!(row.membership, Membership::Ban);
        let row = rooms.user_room(bob, &room_id).await.unwrap().unwrap();
        assert_eq!((row.details.membership, row.details.was_joined), (Membership::Ban, true));
        assert_eq!(row.position, committed.last);
        assert_eq!(rooms.head(&room_id).await.unwrap().unwrap().joined_members, 1);
    }

    /// A text message's content.
    fn text() -> Box<RawValue> {
        let json = json!({ "msgtype": "m.text", "body": "hi" }).to_string();
        RawValue::from_string(json).unwrap()
    }
}
