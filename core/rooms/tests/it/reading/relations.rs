//! `/relations` over a real room.

use hearth_rooms::{
    RoomError,
    read::{Ignored, RelationsRequest},
};
use hearth_storage::Direction;
use ruma::OwnedEventId;
use serde_json::json;

use super::support::{TestRooms, ids, ignoring, user};

fn request(parent: &OwnedEventId) -> RelationsRequest {
    RelationsRequest {
        parent: parent.clone(),
        rel_type: None,
        event_type: None,
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: 50,
        recurse: false,
    }
}

#[tokio::test]
async fn children_come_newest_first_and_by_type() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let parent = test.message(&room, &alice, "parent").await;
    let one = test.relate(&room, &alice, "m.thread", &parent).await;
    let two = test.relate(&room, &alice, "m.reference", &parent).await;
    let reaction = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": "x" },
    });
    let three = test.send(&room, &alice, "m.reaction", reaction).await;
    let four = test.relate(&room, &alice, "m.thread", &parent).await;
    // Neither a reply nor a child of another event is a child.
    test.relate(&room, &alice, "m.reference", &two).await;

    let none = Ignored::new();
    let found = async |request: RelationsRequest| {
        let page = test.rooms.relations(&room, &alice, &none, &request).await.unwrap();
        assert_eq!((page.next, page.recursion_depth), (None, None));
        ids(&page.events)
    };
    let all = request(&parent);
    assert_eq!(found(all.clone()).await, [&four, &three, &two, &one].map(Clone::clone));
    let forward = RelationsRequest { direction: Direction::Forward, ..all.clone() };
    assert_eq!(found(forward).await, [&one, &two, &three, &four].map(Clone::clone));
    let thread = RelationsRequest { rel_type: Some("m.thread".to_owned()), ..all.clone() };
    assert_eq!(found(thread).await, [&four, &one].map(Clone::clone));
    let typed = |event_type: &str| RelationsRequest {
        rel_type: Some("m.annotation".to_owned()),
        event_type: Some(event_type.to_owned()),
        ..all.clone()
    };
    assert_eq!(found(typed("m.reaction")).await, std::slice::from_ref(&three));
    assert!(found(typed("m.room.message")).await.is_empty());

    test.redact(&room, &alice, &four).await;
    assert_eq!(found(all).await, [&three, &two, &one].map(Clone::clone));
}

#[tokio::test]
async fn pages_join_without_gap_or_repetition() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let parent = test.message(&room, &alice, "parent").await;
    let mut children = Vec::new();
    for index in 0..11 {
        let rel_type = ["m.thread", "m.reference", "org.example.x"][index % 3];
        children.push(test.relate(&room, &alice, rel_type, &parent).await);
    }
    let none = Ignored::new();
    for recurse in [false, true] {
        for direction in [Direction::Forward, Direction::Backward] {
            let mut expected = children.clone();
            if direction == Direction::Backward {
                expected.reverse();
            }
            let mut next = RelationsRequest { direction, limit: 4, recurse, ..request(&parent) };
            let mut found = Vec::new();
            let mut sizes = Vec::new();
            let mut tokens = Vec::new();
            loop {
                let page = test.rooms.relations(&room, &alice, &none, &next).await.unwrap();
                assert_eq!(page.previous, next.from);
                found.extend(ids(&page.events));
                sizes.push(page.events.len());
                let Some(token) = page.next else { break };
                tokens.push(token);
                next.from = Some(token);
            }
            assert_eq!(found, expected);
            assert_eq!(sizes, [4, 4, 3]);
            // From the first page's end to the second's there is the second page.
            let between =
                RelationsRequest { from: Some(tokens[0]), to: Some(tokens[1]), limit: 50, ..next };
            let page = test.rooms.relations(&room, &alice, &none, &between).await.unwrap();
            assert_eq!(ids(&page.events), expected[4..8]);
        }
    }
}

#[tokio::test]
async fn recursion_goes_three_levels_down() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let parent = test.message(&room, &alice, "parent").await;
    let mut chain = vec![parent.clone()];
    for _ in 0..4 {
        let last = chain.last().unwrap().clone();
        chain.push(test.relate(&room, &alice, "m.reference", &last).await);
    }
    let thread = test.relate(&room, &alice, "org.example.x", &chain[2]).await;
    let deep = RelationsRequest { recurse: true, ..request(&parent) };
    let none = Ignored::new();
    let page = test.rooms.relations(&room, &alice, &none, &deep).await.unwrap();
    assert_eq!(page.recursion_depth, Some(3));
    let expected: Vec<_> =
        [&thread, &chain[3], &chain[2], &chain[1]].into_iter().cloned().collect();
    assert_eq!(ids(&page.events), expected);
    // Others are traversed, but not shown.
    let typed = RelationsRequest { rel_type: Some("org.example.x".to_owned()), ..deep };
    let page = test.rooms.relations(&room, &alice, &none, &typed).await.unwrap();
    assert_eq!(ids(&page.events), [thread]);
}

#[tokio::test]
async fn only_what_the_reader_may_and_wants_to_see() {
    let test = TestRooms::open().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    test.join(&room, &carol).await;
    let parent = test.message(&room, &alice, "parent").await;
    let one = test.relate(&room, &carol, "m.reference", &parent).await;
    let two = test.relate(&room, &alice, "m.reference", &parent).await;
    test.rooms.leave(&room, &bob, None).await.unwrap();
    let late = test.message(&room, &alice, "late").await;
    test.relate(&room, &alice, "m.reference", &parent).await;

    let none = Ignored::new();
    let page = test.rooms.relations(&room, &bob, &none, &request(&parent)).await.unwrap();
    assert_eq!(ids(&page.events), [two.clone(), one]);
    let ignored = ignoring(&["carol"]);
    let page = test.rooms.relations(&room, &bob, &ignored, &request(&parent)).await.unwrap();
    assert_eq!(ids(&page.events), [two]);
    let unknown = ruma::owned_event_id!("$unknown");
    for (reader, parent) in [(&bob, &late), (&alice, &unknown), (&user("nobody"), &parent)] {
        let found = test.rooms.relations(&room, reader, &none, &request(parent)).await;
        assert!(matches!(found, Err(RoomError::UnknownEvent)), "{reader}: {found:?}");
    }
}

#[tokio::test]
async fn a_long_thread_can_be_read_to_its_beginning() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let parent = test.message(&room, &alice, "parent").await;
    let mut all = Vec::new();
    for index in 0..230 {
        let reply = test.relate(&room, &alice, "m.thread", &parent).await;
        all.push(reply.clone());
        if index % 20 == 0 {
            all.push(test.relate(&room, &alice, "m.reference", &reply).await);
        }
    }
    // A late child of an early reply belongs to the newest.
    let early = all[0].clone();
    all.push(test.relate(&room, &alice, "m.reference", &early).await);
    let none = Ignored::new();
    for direction in [Direction::Forward, Direction::Backward] {
        let mut next = RelationsRequest { direction, recurse: true, ..request(&parent) };
        let mut found = Vec::new();
        loop {
            let page = test.rooms.relations(&room, &alice, &none, &next).await.unwrap();
            found.extend(ids(&page.events));
            let Some(token) = page.next else { break };
            next.from = Some(token);
        }
        if direction == Direction::Backward {
            found.reverse();
        }
        assert_eq!(found, all);
    }
}
