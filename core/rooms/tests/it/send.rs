use std::collections::HashSet;

use hearth_rooms::{
    Draft, RoomError,
    schema::{self, MAIN_TIMELINE, TimelineIndex, TransactionKey},
};
use hearth_storage::Direction;
use hearth_types::StreamPosition;
use ruma::{RoomId, RoomVersionId};
use serde_json::{Value, json};

use crate::fixture::{Server, raw, user};

fn transaction(id: &str) -> TransactionKey {
    TransactionKey {
        user_id: user("alice"),
        device_id: "PHONE".into(),
        scope: "send/m.room.message".to_owned(),
        transaction_id: id.into(),
    }
}

fn text(body: &str) -> Draft {
    let content = json!({ "msgtype": "m.text", "body": body });
    Draft::message(user("alice"), "m.room.message".into(), raw(&content))
}

#[tokio::test]
async fn events_follow_each_other_in_position_order() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let mut last = None;
    for n in 0..20 {
        let event_id = server.say(&room, &alice, &n.to_string()).await.unwrap();
        let event = server.event(&room, &event_id).await;
        if let Some(before) = last {
            assert_eq!(event.pdu.prev_events(), [before]);
        }
        last = Some(event_id);
    }
    let page = server
        .rooms
        .store()
        .page(&schema::TIMELINE, &room, .., Direction::Forward, 100)
        .await
        .unwrap();
    let ordinals: Vec<u32> = page.iter().map(|(_, row)| row.ordinal).collect();
    assert_eq!(ordinals, (0..26).collect::<Vec<_>>());
    for (index, row) in page {
        let event = server.rooms.event(&room, row.ordinal).await.unwrap();
        assert_eq!(event.index, Some(index), "cached events know their place");
    }
}

#[tokio::test]
async fn the_same_transaction_makes_one_event() {
    let server = Server::new().await;
    let room = server.room(&user("alice")).await;
    let before = server.rooms.head(&room).await.unwrap().unwrap().next_event;
    let sends = (0..32).map(|_| server.rooms.send(&room, text("once"), Some(transaction("t"))));
    let sent = futures_util::future::join_all(sends).await;
    let ids: HashSet<_> = sent.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
    let again = server.rooms.send(&room, text("once"), Some(transaction("t"))).await.unwrap();
    assert!(ids.contains(&again));
    let other = server.rooms.send(&room, text("once"), Some(transaction("u"))).await.unwrap();
    assert!(!ids.contains(&other));
    let after = server.rooms.head(&room).await.unwrap().unwrap().next_event;
    assert_eq!(after - before, 2);
}

#[tokio::test]
async fn many_senders_at_once_lose_nothing() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let sends = (0..500).map(|n| server.say(&room, &alice, if n % 2 == 0 { "a" } else { "b" }));
    let sent = futures_util::future::join_all(sends).await;
    let ids: HashSet<_> = sent.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 500);
    let head = server.rooms.head(&room).await.unwrap().unwrap();
    assert_eq!(head.next_event, 506);
    assert_eq!(head.notify_total, 500);
    assert_eq!(head.extremities, [505]);
}

#[tokio::test]
async fn identical_state_is_not_sent_again() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let name = |name: &str| server.put(&room, &alice, ("m.room.name", ""), json!({ "name": name }));
    let first = name("a").await.unwrap();
    assert_eq!(name("a").await.unwrap(), first);
    let second = name("b").await.unwrap();
    assert_ne!(second, first);
    let event = server.event(&room, &second).await;
    let replaced = server.event(&room, &first).await;
    assert_eq!(event.header.replaces_state, Some(replaced.ordinal));
    assert_eq!(event.header.state_before, replaced.header.state_after);
}

#[tokio::test]
async fn refuses_what_cannot_be_sent() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    assert!(matches!(server.say(&room, &bob, "hi").await, Err(RoomError::NotJoined)));
    server.join(&room, &bob).await.unwrap();
    let name = server.put(&room, &bob, ("m.room.name", ""), json!({})).await;
    assert!(matches!(name, Err(RoomError::Forbidden(_))));
    let create = server.put(&room, &alice, ("m.room.create", ""), json!({})).await;
    assert!(matches!(create, Err(RoomError::Forbidden(_))));
    let float = server.send(&room, &alice, "x", json!({ "a": 1.5 })).await;
    assert!(matches!(float, Err(RoomError::BadJson(_))));
    let large = server.say(&room, &alice, &"x".repeat(66_000)).await;
    assert!(matches!(large, Err(RoomError::TooLarge)));
    let long_type = server.send(&room, &alice, &"x".repeat(256), json!({})).await;
    assert!(matches!(long_type, Err(RoomError::TooLarge)));
    let long_id = server.rooms.send(&room, text("x"), Some(transaction(&"t".repeat(800)))).await;
    assert!(matches!(long_id, Err(RoomError::InvalidParam(_))));
    let nowhere = RoomId::parse("!nowhere:hs.test").unwrap();
    assert!(matches!(server.say(&nowhere, &alice, "hi").await, Err(RoomError::UnknownRoom)));
    let levels = json!({ "users": { alice.as_str(): 100 } });
    let levels = server.put(&room, &alice, ("m.room.power_levels", ""), levels).await;
    assert!(matches!(levels, Err(RoomError::Forbidden(_))), "creators have no level in version 12");
    server.say(&room, &bob, "still fine").await.unwrap();
}

#[tokio::test]
async fn a_canonical_alias_must_lead_to_the_room() {
    let server = Server::new().await;
    let alice = user("alice");
    let (room, other) = (server.room(&alice).await, server.room(&alice).await);
    let alias = |name: &str| ruma::RoomAliasId::parse(format!("#{name}:hs.test")).unwrap();
    server.rooms.create_alias(&alias("here"), &room, &alice).await.unwrap();
    server.rooms.create_alias(&alias("there"), &other, &alice).await.unwrap();
    let put = |content: Value| server.put(&room, &alice, ("m.room.canonical_alias", ""), content);
    for bad in ["#there:hs.test", "#unknown:hs.test"] {
        assert!(matches!(put(json!({ "alias": bad })).await, Err(RoomError::BadAlias(_))));
        assert!(matches!(put(json!({ "alt_aliases": [bad] })).await, Err(RoomError::BadAlias(_))));
    }
    assert!(matches!(put(json!({ "alias": "here" })).await, Err(RoomError::InvalidParam(_))));
    put(json!({ "alias": "#here:hs.test" })).await.unwrap();
    put(json!({ "alias": "" })).await.unwrap();
    put(json!({ "alt_aliases": ["#here:hs.test"] })).await.unwrap();
    server.rooms.delete_alias(&alias("here"), &alice).await.unwrap();
    assert_eq!(
        server.state(&room, "m.room.canonical_alias", "").await,
        json!({ "alt_aliases": [] })
    );
}

#[tokio::test]
async fn annotations_are_not_repeated() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let target = server.say(&room, &alice, "hi").await.unwrap();
    let react = |key: &str| {
        let relates_to = json!({ "rel_type": "m.annotation", "event_id": target, "key": key });
        server.send(&room, &alice, "m.reaction", json!({ "m.relates_to": relates_to }))
    };
    let first = react("👍").await.unwrap();
    assert!(matches!(react("👍").await, Err(RoomError::DuplicateAnnotation)));
    react("👎").await.unwrap();
    let draft = Draft {
        redacts: Some(first),
        ..Draft::message(alice.clone(), "m.room.redaction".into(), raw(&json!({})))
    };
    server.rooms.send(&room, draft, None).await.unwrap();
    react("👍").await.unwrap();
}

#[tokio::test]
async fn threads_keep_their_summary() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let first = server.say(&room, &alice, "root").await.unwrap();
    let reply = |to: ruma::OwnedEventId| {
        let relates_to = json!({ "rel_type": "m.thread", "event_id": to });
        let content = json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relates_to });
        server.send(&room, &alice, "m.room.message", content)
    };
    let replies = (0..40).map(|_| reply(first.clone()));
    let replies: Vec<_> =
        futures_util::future::join_all(replies).await.into_iter().map(Result::unwrap).collect();
    assert!(matches!(reply(replies[0].clone()).await, Err(RoomError::InvalidParam(_))));

    let store = server.rooms.store();
    let row = store.get(&schema::THREADS, &room, &first).await.unwrap().unwrap();
    assert_eq!((row.count, row.notify_total), (40, 40));
    let by_activity = || store.page(&schema::THREADS_BY_ACTIVITY, &room, .., Direction::Forward, 9);
    assert_eq!(
        by_activity().await.unwrap(),
        [(row.latest_index, schema::EventOrdinalRow(row.root))]
    );

    let newest = server.rooms.event(&room, row.latest).await.unwrap();
    let redact = |target| Draft {
        redacts: Some(target),
        ..Draft::message(alice.clone(), "m.room.redaction".into(), raw(&json!({})))
    };
    server.rooms.send(&room, redact(newest.header.event_id.clone()), None).await.unwrap();
    let row = store.get(&schema::THREADS, &room, &first).await.unwrap().unwrap();
    assert_eq!((row.count, row.notify_total), (39, 40));
    assert!(row.latest < newest.ordinal);
    assert_eq!(
        by_activity().await.unwrap(),
        [(row.latest_index, schema::EventOrdinalRow(row.root))]
    );
    for reply in replies.iter().filter(|id| **id != newest.header.event_id) {
        server.rooms.send(&room, redact(reply.clone()), None).await.unwrap();
    }
    let row = store.get(&schema::THREADS, &room, &first).await.unwrap().unwrap();
    assert_eq!((row.count, row.notify_total), (0, 40));
    assert_eq!(by_activity().await.unwrap(), []);
    reply(first.clone()).await.unwrap();
    let row = store.get(&schema::THREADS, &room, &first).await.unwrap().unwrap();
    assert_eq!((row.count, row.notify_total), (1, 41));
}

#[tokio::test]
async fn the_ledger_counts_what_notifies() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    server.join(&room, &bob).await.unwrap();
    server.say(&room, &alice, "one").await.unwrap();
    let notice = json!({ "msgtype": "m.notice", "body": "x" });
    server.send(&room, &alice, "m.room.message", notice).await.unwrap();
    let mention = json!({
        "msgtype": "m.text", "body": "x",
        "m.mentions": { "user_ids": [bob, alice, user("stranger")], "room": true },
    });
    let mentioning = server.send(&room, &alice, "m.room.message", mention.clone()).await.unwrap();
    server.send(&room, &bob, "m.room.message", mention).await.unwrap();

    let store = server.rooms.store();
    let totals =
        store.page(&schema::NOTIFY_TOTALS, &room, .., Direction::Forward, 10).await.unwrap();
    let totals: Vec<_> = totals.into_iter().map(|((scope, _), row)| (scope, row.0)).collect();
    assert_eq!(totals, [(MAIN_TIMELINE, 1), (MAIN_TIMELINE, 2), (MAIN_TIMELINE, 3)]);
    let own = store.page(&schema::OWN_TOTALS, &room, .., Direction::Forward, 10).await.unwrap();
    let own: Vec<_> = own.into_iter().map(|((user, _, _), row)| (user, row.0)).collect();
    assert_eq!(own, [(alice.clone(), 1), (alice.clone(), 2), (bob.clone(), 1)]);

    let event = server.event(&room, &mentioning).await;
    let position = event.index.map(TimelineIndex::position).unwrap();
    let of_bob = store.page(&schema::MENTIONS, &bob, .., Direction::Forward, 10).await.unwrap();
    assert_eq!(of_bob.len(), 1);
    assert_eq!(of_bob[0].0, (room.clone(), position));
    let stranger = user("stranger");
    let of_stranger = store.page(&schema::MENTIONS, &stranger, .., Direction::Forward, 10);
    assert_eq!(of_stranger.await.unwrap(), []);
    let of_room =
        store.page(&schema::ROOM_MENTIONS, &room, .., Direction::Forward, 10).await.unwrap();
    assert_eq!(of_room.len(), 1, "bob may not notify the room");
    assert!(position > StreamPosition::ZERO);

    let draft = Draft {
        redacts: Some(mentioning),
        ..Draft::message(alice.clone(), "m.room.redaction".into(), raw(&json!({})))
    };
    server.rooms.send(&room, draft, None).await.unwrap();
    let uncounted =
        store.page(&schema::UNCOUNTED, &room, .., Direction::Forward, 10).await.unwrap();
    assert_eq!(uncounted.len(), 1);
    assert_eq!(uncounted[0].0, (MAIN_TIMELINE, position));
    assert_eq!(store.page(&schema::MENTIONS, &bob, .., Direction::Forward, 10).await.unwrap(), []);
}

#[tokio::test]
async fn each_event_is_in_the_log_once() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    server.say(&room, &alice, "hi").await.unwrap();
    let log = server.rooms.store().log_after(StreamPosition::ZERO, 100).await.unwrap();
    let ordinals: Vec<_> = log
        .iter()
        .filter(|record| record.entry.kind == schema::LOG_ROOM_EVENT)
        .filter_map(|record| schema::log_ordinal(&record.entry.payload))
        .collect();
    assert_eq!(ordinals, (0..7).collect::<Vec<_>>());
}

#[tokio::test]
async fn old_transactions_are_swept() {
    let server = Server::new().await;
    let room = server.room(&user("alice")).await;
    let first = server.rooms.send(&room, text("a"), Some(transaction("old"))).await.unwrap();
    server.clock.advance(std::time::Duration::from_hours(8 * 24));
    let kept = server.rooms.send(&room, text("a"), Some(transaction("new"))).await.unwrap();
    assert_eq!(server.rooms.sweep_transactions().await.unwrap(), 1);
    let again = server.rooms.send(&room, text("a"), Some(transaction("new"))).await.unwrap();
    assert_eq!(again, kept);
    let row = server.rooms.store().get(&schema::TRANSACTIONS, &room, &transaction("old")).await;
    assert_eq!(row.unwrap(), None);
    assert_ne!(first, kept);
}

#[tokio::test]
async fn goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (alice, bob) = (user("alice"), user("bob"));
    let server = Server::in_folder(folder.path()).await;
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    server.join(&room, &bob).await.unwrap();
    let sent = server.rooms.send(&room, text("a"), Some(transaction("t"))).await.unwrap();

    let server = server.reopened(folder.path()).await;
    let known = async |key: &str| server.rooms.sent_by(&room, &transaction(key)).await.unwrap();
    assert_eq!((known("t").await.as_ref(), known("other").await), (Some(&sent), None));
    let again = server.rooms.send(&room, text("a"), Some(transaction("t"))).await.unwrap();
    assert_eq!(again, sent);
    let next = server.say(&room, &bob, "b").await.unwrap();
    assert_eq!(server.event(&room, &next).await.pdu.prev_events(), [sent]);
    let head = server.rooms.head(&room).await.unwrap().unwrap();
    assert_eq!((head.joined_members, head.notify_total), (2, 2));
    server.rooms.kick(&room, &alice, &bob, None).await.unwrap();
    let row = server.rooms.user_room(&bob, &room).await.unwrap().unwrap();
    assert!(row.joined_at > StreamPosition::ZERO && row.joined_at < row.position);
}
