use hearth_rooms::{Draft, RoomError};
use ruma::{EventId, OwnedEventId, RoomVersionId, UserId};
use serde_json::{Value, json};

use crate::fixture::{Server, raw, user, versions};

fn redaction(sender: &UserId, target: OwnedEventId) -> Draft {
    Draft {
        redacts: Some(target),
        ..Draft::message(
            sender.to_owned(),
            "m.room.redaction".into(),
            raw(&json!({ "reason": "r" })),
        )
    }
}

#[tokio::test]
async fn the_target_is_kept_in_its_redacted_form() {
    let server = Server::new().await;
    let alice = user("alice");
    for version in versions() {
        let room = server.public_room(&alice, version.clone()).await;
        let target = server.say(&room, &alice, "oops").await.unwrap();
        let place = server.event(&room, &target).await.index;
        let by = server.rooms.send(&room, redaction(&alice, target.clone()), None).await.unwrap();
        let by = server.event(&room, &by).await;
        let event = server.event(&room, &target).await;
        assert_eq!(event.pdu.content().get(), "{}");
        assert_eq!(event.header.redacted_by, Some(by.ordinal));
        assert_eq!(event.index, place);
        // The redacted form still has the event's ID as its hash.
        let object = serde_json::from_slice(event.pdu.json()).unwrap();
        let hash = ruma::signatures::reference_hash(&object, &version.rules().unwrap()).unwrap();
        assert_eq!(target.as_str(), format!("${hash}"));
        let json: Value = serde_json::from_slice(by.pdu.json()).unwrap();
        let in_content = matches!(version, RoomVersionId::V11 | RoomVersionId::V12);
        assert_eq!(json["content"]["redacts"].is_string(), in_content, "{version}");
        assert_eq!(json["redacts"].is_string(), !in_content, "{version}");
        assert_eq!(by.pdu.redacts(), Some(&*target));
    }
}

#[tokio::test]
async fn redacting_others_takes_power() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    server.join(&room, &bob).await.unwrap();
    let of_alice = server.say(&room, &alice, "a").await.unwrap();
    let of_bob = server.say(&room, &bob, "b").await.unwrap();
    let refused = server.rooms.send(&room, redaction(&bob, of_alice.clone()), None).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))));
    server.rooms.send(&room, redaction(&alice, of_bob.clone()), None).await.unwrap();
    // A second redaction changes nothing but is an event of its own.
    server.rooms.send(&room, redaction(&alice, of_bob), None).await.unwrap();
    let unknown = EventId::parse("$unknown").unwrap();
    let refused = server.rooms.send(&room, redaction(&alice, unknown), None).await;
    assert!(matches!(refused, Err(RoomError::UnknownEvent)));
    let create = server.rooms.event(&room, 0).await.unwrap().header.event_id.clone();
    let refused = server.rooms.send(&room, redaction(&alice, create), None).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))));
}

#[tokio::test]
async fn send_takes_redactions_whose_target_is_in_the_content() {
    let server = Server::new().await;
    let alice = user("alice");
    for version in [RoomVersionId::V10, RoomVersionId::V12] {
        let room = server.public_room(&alice, version).await;
        let target = server.say(&room, &alice, "oops").await.unwrap();
        server.send(&room, &alice, "m.room.redaction", json!({ "redacts": target })).await.unwrap();
        assert_eq!(server.event(&room, &target).await.pdu.content().get(), "{}");
        let none = server.send(&room, &alice, "m.room.redaction", json!({})).await;
        assert!(matches!(none, Err(RoomError::InvalidParam(_))));
    }
}

#[tokio::test]
async fn redacted_state_keeps_what_the_rules_need() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    let joined = server.join(&room, &bob).await.unwrap();
    server.rooms.send(&room, redaction(&alice, joined), None).await.unwrap();
    let member = server.state(&room, "m.room.member", bob.as_str()).await;
    assert_eq!(member, json!({ "membership": "join" }));
    let name =
        server.put(&room, &alice, ("m.room.name", ""), json!({ "name": "x" })).await.unwrap();
    server.rooms.send(&room, redaction(&alice, name), None).await.unwrap();
    assert_eq!(server.state(&room, "m.room.name", "").await, json!({}));
    server.say(&room, &bob, "still joined").await.unwrap();
}

#[tokio::test]
async fn a_message_and_its_redaction_may_be_in_flight_together() {
    let server = Server::new().await;
    let alice = user("alice");
    let room = server.room(&alice).await;
    let target = server.say(&room, &alice, "oops").await.unwrap();
    let redact = server.rooms.send(&room, redaction(&alice, target.clone()), None);
    let say = |_| server.say(&room, &alice, "more");
    let more = futures_util::future::join_all((0..50).map(say));
    let (redacted, said) = futures_util::future::join(redact, more).await;
    redacted.unwrap();
    assert!(said.into_iter().all(|sent| sent.is_ok()));
    assert_eq!(server.event(&room, &target).await.pdu.content().get(), "{}");
}
