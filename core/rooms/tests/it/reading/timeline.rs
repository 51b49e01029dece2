//! Pages of the timeline, surroundings of events, events by time.

use std::collections::HashSet;

use hearth_rooms::{
    RoomError,
    read::{MessagesPage, MessagesRequest, TimelineFilter, TimelineToken},
};
use hearth_storage::Direction;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UInt, UserId};
use serde_json::json;

use super::support::{TestRooms, ids, user};
use crate::fixture::check_pages;

fn page(direction: Direction, limit: usize) -> MessagesRequest {
    MessagesRequest { from: None, to: None, direction, limit, filter: TimelineFilter::default() }
}

impl TestRooms {
    async fn messages(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        request: MessagesRequest,
    ) -> MessagesPage {
        self.rooms.messages(room_id, user_id, &HashSet::new(), &request).await.unwrap()
    }

    async fn many(&self, room_id: &RoomId, sender: &UserId, count: usize) -> Vec<OwnedEventId> {
        let mut sent = Vec::new();
        for number in 0..count {
            sent.push(self.message(room_id, sender, &format!("{number}")).await);
        }
        sent
    }
}

#[tokio::test]
async fn pages_join_without_gap_or_repetition_in_both_directions() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    test.many(&room, &alice, 23).await;
    let mut walks = Vec::new();
    for direction in [Direction::Backward, Direction::Forward] {
        for limit in [1, 7, 1_000] {
            let (mut walk, mut from) = (Vec::new(), None);
            loop {
                let request = MessagesRequest { from, ..page(direction, limit) };
                let found = test.messages(&room, &alice, request).await;
                assert!(found.events.len() <= limit);
                walk.extend(ids(&found.events));
                // Clients hold tokens as text.
                match found.end {
                    Some(end) => from = Some(end.to_string().parse().unwrap()),
                    None => break,
                }
            }
            if direction == Direction::Backward {
                walk.reverse();
            }
            walks.push(walk);
        }
    }
    assert!(walks[0].len() > 23);
    assert!(walks.iter().all(|walk| *walk == walks[0]));
}

#[tokio::test]
async fn what_is_read_first_is_always_the_newest() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    check_pages(&test.rooms, &room).await;
    let sent = test.many(&room, &alice, 1).await;
    check_pages(&test.rooms, &room).await;
    test.join(&room, &bob).await;
    check_pages(&test.rooms, &room).await;
    test.send(&room, &alice, "m.room.redaction", json!({ "redacts": sent[0] })).await;
    check_pages(&test.rooms, &room).await;
    let newest = test.messages(&room, &bob, page(Direction::Backward, 3)).await;
    let redacted = newest.events.last().unwrap();
    assert_eq!(redacted.header.event_id, sent[0]);
    assert!(redacted.header.redacted_by.is_some(), "rows are remembered, not what they name");
    test.rooms.leave(&room, &bob, None).await.unwrap();
    check_pages(&test.rooms, &room).await;
    test.many(&room, &alice, 1).await;
    check_pages(&test.rooms, &room).await;
    // Who has left reads from where they did, whatever others read.
    let last = test.messages(&room, &bob, page(Direction::Backward, 1)).await;
    assert_eq!(last.events[0].pdu.state_key(), Some(bob.as_str()));
}

#[tokio::test]
async fn a_page_ends_where_it_is_told_to() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let sent = test.many(&room, &alice, 6).await;
    let to = TimelineToken::after(test.event(&room, &sent[2]).await.index.unwrap());
    let request = MessagesRequest { to: Some(to), ..page(Direction::Backward, 100) };
    let found = test.messages(&room, &alice, request).await;
    assert_eq!(ids(&found.events), [&sent[5], &sent[4], &sent[3]].map(Clone::clone));
    assert_eq!(found.end, None);
    let request = MessagesRequest { from: Some(to), ..page(Direction::Forward, 2) };
    let found = test.messages(&room, &alice, request).await;
    assert_eq!(ids(&found.events), sent[3..5]);
    assert_eq!(found.start, to);
}

#[tokio::test]
async fn filters_choose_by_type_sender_url_and_relation() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let plain = test.message(&room, &alice, "text").await;
    let sticker = test.send(&room, &bob, "m.sticker", json!({"url": "mxc://a/b"})).await;
    test.relate(&room, &bob, "m.thread", &plain).await;
    for (filter, wanted) in [
        (json!({"types": ["m.stick*"]}), vec![&sticker]),
        (json!({"types": ["m.sticker"], "not_senders": [bob]}), vec![]),
        (json!({"contains_url": true}), vec![&sticker]),
        (json!({"senders": [alice], "types": ["m.room.message"]}), vec![&plain]),
        (json!({"related_by_rel_types": ["m.thread"]}), vec![&plain]),
        (json!({"related_by_senders": [alice]}), vec![]),
    ] {
        let parsed = TimelineFilter::parse(&filter.to_string()).unwrap();
        let request = MessagesRequest { filter: parsed, ..page(Direction::Backward, 100) };
        let found = test.messages(&room, &alice, request).await;
        assert_eq!(ids(&found.events).iter().collect::<Vec<_>>(), wanted, "{filter}");
        assert_eq!(found.end, None, "{filter}");
    }
    let ignored = HashSet::from([bob.clone()]);
    let request = page(Direction::Backward, 100);
    let found = test.rooms.messages(&room, &alice, &ignored, &request).await.unwrap();
    assert!(!ids(&found.events).contains(&sticker));
    assert!(
        found.events.iter().any(|event| event.pdu.sender() == bob),
        "state of ignored users is shown"
    );
}

#[tokio::test]
async fn lazy_loading_adds_each_senders_membership_once() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    test.message(&room, &bob, "one").await;
    test.message(&room, &bob, "two").await;
    let filter = TimelineFilter::parse(r#"{"lazy_load_members": true}"#).unwrap();
    let request = MessagesRequest { filter, ..page(Direction::Backward, 2) };
    let found = test.messages(&room, &alice, request).await;
    let keys: Vec<_> = found.state.iter().map(|event| event.pdu.state_key()).collect();
    assert_eq!(keys, [Some(bob.as_str())]);
}

#[tokio::test]
async fn the_context_of_an_event_is_what_surrounds_it() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let sent = test.many(&room, &alice, 9).await;
    let none = HashSet::new();
    let filter = TimelineFilter::default();
    let context = test.rooms.context(&room, &alice, &none, &sent[4], 5, &filter).await.unwrap();
    assert_eq!(ids(&context.before), [sent[3].clone(), sent[2].clone()]);
    assert_eq!(ids(&context.after), sent[5..8]);
    assert!(context.state.iter().any(|event| event.pdu.state_key() == Some(alice.as_str())));
    let earlier = MessagesRequest { from: Some(context.start), ..page(Direction::Backward, 1) };
    assert_eq!(ids(&test.messages(&room, &alice, earlier).await.events), sent[1..2]);
    let later = MessagesRequest { from: Some(context.end), ..page(Direction::Forward, 1) };
    assert_eq!(ids(&test.messages(&room, &alice, later).await.events), sent[8..]);
    let alone = test.rooms.context(&room, &alice, &none, &sent[4], 0, &filter).await.unwrap();
    assert_eq!((alone.before.len(), alone.after.len()), (0, 0));
}

#[tokio::test]
async fn events_are_found_by_time_in_either_direction() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    // A second apart.
    let sent = test.many(&room, &alice, 40).await;
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let start: u64 = test.event(&room, &sent[0]).await.pdu.origin_server_ts().0.into();
    let find = async |ms: u64, direction| {
        let found = test.rooms.timestamp_to_event(&room, &alice, time(ms), direction).await;
        found.map(|event| event.pdu.id().to_owned())
    };
    for number in [0, 1, 17, 39] {
        let at = start + 1_000 * u64::try_from(number).unwrap();
        assert_eq!(find(at, Direction::Forward).await.unwrap(), sent[number]);
        assert_eq!(find(at, Direction::Backward).await.unwrap(), sent[number]);
        assert_eq!(find(at - 1, Direction::Forward).await.unwrap(), sent[number]);
        assert_eq!(find(at + 1, Direction::Backward).await.unwrap(), sent[number]);
    }
    let late = find(start + 1_000_000, Direction::Forward).await;
    assert!(matches!(late, Err(RoomError::UnknownEvent)));
    assert!(matches!(find(5, Direction::Backward).await, Err(RoomError::UnknownEvent)));
}
