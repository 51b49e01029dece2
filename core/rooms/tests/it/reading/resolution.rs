//! State resolution over the rows that a real writer leaves.

use hearth_rooms::{
    CreateRoomOptions,
    resolve::{EventSource, RoomEvents, resolve},
    state::StateKeyOrdinal,
};
use ruma::RoomVersionId;
use serde_json::json;

use super::support::{TestRooms, public, user};

#[tokio::test]
async fn resolves_the_states_of_a_stored_room() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let test = TestRooms::open().await;
        let (alice, bob) = (user("alice"), user("bob"));
        let options = CreateRoomOptions { room_version: Some(version.clone()), ..public() };
        let room = test.room(&alice, options).await;
        test.join(&room, &bob).await;
        let early = test.message(&room, &alice, "early").await;
        let topic = test.state(&room, &alice, "m.room.topic", "", json!({ "topic": "x" })).await;
        test.rooms.ban(&room, &alice, &bob, None).await.unwrap();
        let late = test.message(&room, &alice, "late").await;

        let (early, late) = (test.event(&room, &early).await, test.event(&room, &late).await);
        let (first, second) = (early.header.state_after, late.header.state_after);
        let events = RoomEvents::new(&test.rooms, &room);
        let nodes = test.rooms.nodes(&room);
        let rules = version.rules().unwrap();
        let resolved = resolve(&rules, &[first, second], &events, &nodes).unwrap();
        // The later state follows the earlier: it wins, whichever is named first.
        let topic = test.event(&room, &topic).await.ordinal;
        assert_eq!(resolved.changes.len(), 2);
        assert!(resolved.changes.iter().any(|(key, value)| {
            matches!(key, StateKeyOrdinal::Rest(_)) && *value == Some(topic)
        }));
        let ban = resolved
            .changes
            .iter()
            .find(|(key, _)| matches!(key, StateKeyOrdinal::Member(_)))
            .and_then(|(_, value)| *value)
            .unwrap();
        let ban = test.rooms.event(&room, ban).await.unwrap();
        assert_eq!(ban.pdu.state_key(), Some(bob.as_str()));
        assert_eq!(ban.pdu.content().get(), r#"{"membership":"ban"}"#);
        let resolved = resolve(&rules, &[second, first], &events, &nodes).unwrap();
        assert_eq!(resolved.changes, vec![]);
    }
}

#[tokio::test]
async fn the_auth_graph_can_be_climbed() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let mut topics = Vec::new();
    for index in 0..40 {
        let topic = json!({ "topic": index });
        let event = test.state(&room, &alice, "m.room.topic", "", topic).await;
        topics.push(test.event(&room, &event).await);
        test.message(&room, &alice, "not part of the state").await;
    }
    let events = RoomEvents::new(&test.rooms, &room);
    let parent = *topics[0].header.auth_events.last().unwrap();
    let mut climbed = Vec::new();
    let mut before = u32::MAX;
    loop {
        let page = events.auth_children(parent, before).unwrap();
        let Some(last) = page.last() else { break };
        before = *last;
        climbed.extend(page);
    }
    assert!(climbed.is_sorted_by(|a, b| a > b));
    for topic in &topics {
        assert!(climbed.contains(&topic.ordinal));
    }
    for child in climbed {
        let child = test.rooms.event(&room, child).await.unwrap();
        assert!(child.pdu.state_key().is_some());
        assert!(child.header.auth_events.contains(&parent));
    }
}
