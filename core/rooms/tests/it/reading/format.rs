//! Events as clients see them, out of a real room.

use hearth_rooms::{CreateRoomOptions, MemberProfile, format::ClientView, schema::TransactionKey};
use ruma::{device_id, owned_device_id};
use serde_json::{Value, json};

use super::support::{TestRooms, initial, public, text, user};

#[tokio::test]
async fn a_message_is_shown_with_its_age_and_the_readers_membership() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    let early = test.message(&room, &alice, "early").await;
    let joined = test.join(&room, &bob).await;
    let late = test.message(&room, &alice, "late").await;

    let view = ClientView::full(&bob, None);
    let shown = test.show(&room, &late, &view).await;
    assert_eq!(shown["event_id"], late.as_str());
    assert_eq!(shown["room_id"], room.as_str());
    assert_eq!(shown["content"], text("late"));
    assert_eq!(shown["unsigned"], json!({ "age": 0, "membership": "join" }));
    let before = test.show(&room, &early, &view).await;
    assert_eq!(before["unsigned"], json!({ "age": 1_000, "membership": "leave" }));
    // The join itself counts: membership is told as it was after the event.
    let join = test.show(&room, &joined, &view).await;
    assert_eq!(join["unsigned"]["membership"], "join");
    assert_eq!(join["state_key"], bob.as_str());

    let shown = test.show(&room, &late, &ClientView::sync(&bob, None, false)).await;
    assert_eq!(shown.get("room_id"), None);
}

#[tokio::test]
async fn only_the_sending_device_is_told_its_transaction() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let transaction = TransactionKey {
        user_id: alice.clone(),
        device_id: owned_device_id!("PHONE"),
        scope: "send/m.room.message".to_owned(),
        transaction_id: "m1".into(),
    };
    let event =
        test.try_send(&room, &alice, "m.room.message", text("x"), Some(transaction)).await.unwrap();
    let phone = device_id!("PHONE");
    let shown = test.show(&room, &event, &ClientView::full(&alice, Some(phone))).await;
    assert_eq!(shown["unsigned"]["transaction_id"], "m1");
    for (reader, device) in
        [(&alice, Some(device_id!("LAPTOP"))), (&alice, None), (&bob, Some(phone))]
    {
        let shown = test.show(&room, &event, &ClientView::full(reader, device)).await;
        assert_eq!(shown["unsigned"].get("transaction_id"), None);
    }
}

#[tokio::test]
async fn state_tells_what_it_replaced() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let first = test.state(&room, &alice, "m.room.topic", "", json!({ "topic": "one" })).await;
    let second = test.state(&room, &alice, "m.room.topic", "", json!({ "topic": "two" })).await;
    let view = ClientView::full(&alice, None);
    let shown = test.show(&room, &second, &view).await;
    assert_eq!(shown["unsigned"]["prev_content"], json!({ "topic": "one" }));
    assert_eq!(shown["unsigned"]["replaces_state"], first.as_str());
    let shown = test.show(&room, &first, &view).await;
    assert_eq!(shown["unsigned"].get("prev_content"), None);
}

#[tokio::test]
async fn what_was_replaced_is_told_only_to_who_may_see_it() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let options = CreateRoomOptions {
        initial_state: vec![initial(
            "m.room.history_visibility",
            json!({ "history_visibility": "joined" }),
        )],
        ..public()
    };
    let room = test.room(&alice, options).await;
    test.state(&room, &alice, "m.room.topic", "", json!({ "topic": "secret" })).await;
    test.join(&room, &bob).await;
    let second = test.state(&room, &alice, "m.room.topic", "", json!({ "topic": "open" })).await;
    let shown = test.show(&room, &second, &ClientView::full(&bob, None)).await;
    assert_eq!(shown["unsigned"].get("prev_content"), None);
    let shown = test.show(&room, &second, &ClientView::full(&alice, None)).await;
    assert_eq!(shown["unsigned"]["prev_content"], json!({ "topic": "secret" }));
}

#[tokio::test]
async fn redacted_events_tell_why() {
    for version in ["10", "12"] {
        let test = TestRooms::open().await;
        let alice = user("alice");
        let options =
            CreateRoomOptions { room_version: Some(version.try_into().unwrap()), ..public() };
        let room = test.room(&alice, options).await;
        let message = test.message(&room, &alice, "oops").await;
        let redaction = test.redact(&room, &alice, &message).await;
        let shown = test.show(&room, &message, &ClientView::full(&alice, None)).await;
        assert_eq!(shown["content"], json!({}));
        let because = &shown["unsigned"]["redacted_because"];
        assert_eq!(because["event_id"], redaction.as_str());
        assert_eq!(because["type"], "m.room.redaction");
        assert_eq!(because["redacts"], message.as_str());
        assert_eq!(because["content"]["redacts"], message.as_str());
    }
}

#[tokio::test]
async fn the_invited_are_told_the_rooms_stripped_state() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let options = CreateRoomOptions {
        name: Some("Tea".to_owned()),
        topic: Some("Leaves".to_owned()),
        initial_state: vec![initial(
            "m.room.encryption",
            json!({ "algorithm": "m.megolm.v1.aes-sha2" }),
        )],
        ..CreateRoomOptions::default()
    };
    let room = test.room(&alice, options).await;
    test.rooms.invite(&room, &alice, &bob, &MemberProfile::default(), None, false).await.unwrap();
    let row = test.rooms.user_room(&bob, &room).await.unwrap().unwrap();
    let stripped = test.rooms.stripped_state(&room, row.details.state, &bob).await.unwrap();
    let stripped: Vec<Value> =
        stripped.iter().map(|event| serde_json::from_str(event.get()).unwrap()).collect();
    let kinds: Vec<_> =
        stripped.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        kinds,
        [
            "m.room.create",
            "m.room.join_rules",
            "m.room.name",
            "m.room.topic",
            "m.room.encryption",
            "m.room.member",
            "m.room.member",
        ]
    );
    assert_eq!(stripped[5]["state_key"], alice.as_str());
    assert_eq!(stripped[6]["state_key"], bob.as_str());
    assert_eq!(stripped[6]["content"]["membership"], "invite");
    for event in stripped {
        let keys: Vec<_> = event.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["content", "sender", "state_key", "type"]);
    }
}
