//! `/threads` over a real room.

use hearth_rooms::{
    RoomError,
    read::{Ignored, ThreadsRequest},
};
use serde_json::value::RawValue;

use super::support::{TestRooms, ids, ignoring, user};

const ALL: ThreadsRequest = ThreadsRequest { participated: false, from: None, limit: 50 };

#[tokio::test]
async fn threads_come_by_their_newest_reply() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let none = Ignored::new();
    let page = test.rooms.threads(&room, &alice, &none, &ALL).await.unwrap();
    assert!(page.roots.is_empty() && page.next.is_none());

    let mut roots = Vec::new();
    for index in 0..5 {
        let start = test.message(&room, &alice, &index.to_string()).await;
        test.relate(&room, &alice, "m.thread", &start).await;
        roots.push(start);
    }
    let reply = test.relate(&room, &bob, "m.thread", &roots[1]).await;
    let order = |order: [usize; 5]| order.map(|index| roots[index].clone());
    let page = test.rooms.threads(&room, &alice, &none, &ALL).await.unwrap();
    assert_eq!(ids(&page.roots), order([1, 4, 3, 2, 0]));

    let mut request = ThreadsRequest { limit: 2, ..ALL };
    let mut found = Vec::new();
    loop {
        let page = test.rooms.threads(&room, &alice, &none, &request).await.unwrap();
        assert!(page.roots.len() <= 2);
        found.extend(ids(&page.roots));
        let Some(next) = page.next else { break };
        request.from = Some(next);
    }
    assert_eq!(found, order([1, 4, 3, 2, 0]));

    let own = ThreadsRequest { participated: true, ..ALL };
    let page = test.rooms.threads(&room, &bob, &none, &own).await.unwrap();
    assert_eq!(ids(&page.roots), [roots[1].clone()]);
    let page = test.rooms.threads(&room, &alice, &none, &own).await.unwrap();
    assert_eq!(page.roots.len(), 5);

    // Without its newest reply a thread falls back to its place.
    test.redact(&room, &bob, &reply).await;
    let page = test.rooms.threads(&room, &alice, &none, &ALL).await.unwrap();
    assert_eq!(ids(&page.roots), order([4, 3, 2, 1, 0]));
}

#[tokio::test]
async fn roots_of_ignored_users_are_shown_redacted() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let start = test.message(&room, &bob, "rude").await;
    test.relate(&room, &alice, "m.thread", &start).await;
    let page = test.rooms.threads(&room, &alice, &ignoring(&["bob"]), &ALL).await.unwrap();
    assert_eq!(ids(&page.roots), [start]);
    assert_eq!(RawValue::get(page.roots[0].pdu.content()), "{}");
    assert_eq!(page.roots[0].pdu.sender(), bob);
}

#[tokio::test]
async fn strangers_are_refused() {
    let test = TestRooms::open().await;
    let room = test.public_room(&user("alice")).await;
    let found = test.rooms.threads(&room, &user("bob"), &Ignored::new(), &ALL).await;
    assert!(matches!(found, Err(RoomError::Forbidden(_))));
}
