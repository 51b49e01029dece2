//! Bundled aggregations, out of a real room.

use hearth_rooms::format::ClientView;
use serde_json::{Value, json};

use super::support::{TestRooms, ignoring, text, user};

#[tokio::test]
async fn the_newest_valid_edit_is_bundled_whole() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let original = test.message(&room, &alice, "one").await;
    assert_eq!(test.aggregations(&room, &original, &bob).await, Value::Null);

    let first = test.edit(&room, &alice, &original, "two").await;
    let second = test.edit(&room, &alice, &original, "three").await;
    // None of these is a replacement: somebody else's, one without new content, another type.
    test.edit(&room, &bob, &original, "forged").await;
    test.relate(&room, &alice, "m.replace", &original).await;
    let mut other = json!({ "m.new_content": {} });
    other["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": original });
    test.send(&room, &alice, "org.example.other", other).await;

    let relations = test.aggregations(&room, &original, &bob).await;
    assert_eq!(relations["m.replace"]["event_id"], second.as_str());
    assert_eq!(relations["m.replace"]["content"]["m.new_content"], text("three"));
    assert_eq!(relations["m.replace"]["room_id"], room.as_str());
    // The original's content stays as it was sent.
    let shown = test.show(&room, &original, &ClientView::full(&bob, None)).await;
    assert_eq!(shown["content"], text("one"));

    test.redact(&room, &alice, &second).await;
    let relations = test.aggregations(&room, &original, &bob).await;
    assert_eq!(relations["m.replace"]["event_id"], first.as_str());
    test.redact(&room, &alice, &original).await;
    assert_eq!(test.aggregations(&room, &original, &bob).await, Value::Null);
}

#[tokio::test]
async fn edits_of_edits_and_of_state_do_not_count() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let original = test.message(&room, &alice, "one").await;
    let edit = test.edit(&room, &alice, &original, "two").await;
    test.edit(&room, &alice, &edit, "three").await;
    assert_eq!(test.aggregations(&room, &edit, &alice).await, Value::Null);
    let relations = test.aggregations(&room, &original, &alice).await;
    assert_eq!(relations["m.replace"]["event_id"], edit.as_str());

    let topic = test.state(&room, &alice, "m.room.topic", "", json!({ "topic": "x" })).await;
    test.relate(&room, &alice, "m.reference", &topic).await;
    assert_eq!(test.aggregations(&room, &topic, &alice).await, Value::Null);
}

#[tokio::test]
async fn of_equally_old_edits_the_greater_id_wins() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let room = test.public_room(&alice).await;
    let original = test.message(&room, &alice, "one").await;
    let mut edits = Vec::new();
    for body in ["a", "b", "c"] {
        let mut draft = hearth_rooms::Draft::message(
            alice.clone(),
            "m.room.message".into(),
            serde_json::value::to_raw_value(&json!({
                "msgtype": "m.text", "body": body, "m.new_content": text(body),
                "m.relates_to": { "rel_type": "m.replace", "event_id": original },
            }))
            .unwrap(),
        );
        draft.origin_server_ts = Some(ruma::MilliSecondsSinceUnixEpoch(5_u32.into()));
        edits.push(test.rooms.send(&room, draft, None).await.unwrap());
    }
    let relations = test.aggregations(&room, &original, &alice).await;
    assert_eq!(relations["m.replace"]["event_id"], edits.iter().max().unwrap().as_str());
}

#[tokio::test]
async fn references_are_listed_and_reactions_are_not() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let parent = test.message(&room, &alice, "parent").await;
    let reaction = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": "x" },
    });
    test.send(&room, &bob, "m.reaction", reaction).await;
    assert_eq!(test.aggregations(&room, &parent, &alice).await, Value::Null);

    let one = test.relate(&room, &alice, "m.reference", &parent).await;
    let two = test.relate(&room, &bob, "m.reference", &parent).await;
    let relations = test.aggregations(&room, &parent, &alice).await;
    assert_eq!(
        relations,
        json!({ "m.reference": { "chunk": [{ "event_id": one }, { "event_id": two }] } })
    );
    let ignored = ignoring(&["bob"]);
    let view = ClientView::full(&alice, None).ignoring(&ignored);
    let shown = test.show(&room, &parent, &view).await;
    assert_eq!(
        shown["unsigned"]["m.relations"],
        json!({ "m.reference": { "chunk": [{ "event_id": one }] } })
    );
    // A sync that is not limited bundles nothing.
    let shown = test.show(&room, &parent, &ClientView::sync(&alice, None, false)).await;
    assert_eq!(shown["unsigned"].get("m.relations"), None);
}

#[tokio::test]
async fn threads_are_summed_up() {
    let test = TestRooms::open().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    test.join(&room, &carol).await;
    let start = test.message(&room, &alice, "root").await;
    test.relate(&room, &bob, "m.thread", &start).await;
    let second = test.relate(&room, &bob, "m.thread", &start).await;
    let third = test.relate(&room, &carol, "m.thread", &start).await;
    let edit = test.edit(&room, &carol, &third, "edited").await;

    let thread = test.aggregations(&room, &start, &bob).await["m.thread"].clone();
    assert_eq!(thread["count"], 3);
    assert_eq!(thread["current_user_participated"], true);
    assert_eq!(thread["latest_event"]["event_id"], third.as_str());
    // What is bundled with the newest reply comes with it.
    let latest = &thread["latest_event"]["unsigned"]["m.relations"];
    assert_eq!(latest["m.replace"]["event_id"], edit.as_str());

    let dave = user("dave");
    test.join(&room, &dave).await;
    for (reader, took_part) in [(&alice, true), (&carol, true), (&dave, false)] {
        let thread = test.aggregations(&room, &start, reader).await["m.thread"].clone();
        assert_eq!(thread["current_user_participated"], took_part, "{reader}");
    }

    let ignored = ignoring(&["carol"]);
    let view = ClientView::full(&alice, None).ignoring(&ignored);
    let thread =
        test.show(&room, &start, &view).await["unsigned"]["m.relations"]["m.thread"].clone();
    assert_eq!(thread["count"], 2);
    assert_eq!(thread["latest_event"]["event_id"], second.as_str());

    test.redact(&room, &carol, &third).await;
    let thread = test.aggregations(&room, &start, &alice).await["m.thread"].clone();
    assert_eq!(thread["count"], 2);
    assert_eq!(thread["latest_event"]["event_id"], second.as_str());
}

#[tokio::test]
async fn who_has_left_is_told_nothing_of_what_came_after() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let start = test.message(&room, &alice, "root").await;
    let seen = test.relate(&room, &alice, "m.thread", &start).await;
    let edit = test.edit(&room, &alice, &start, "seen").await;
    test.rooms.leave(&room, &bob, None).await.unwrap();
    test.edit(&room, &alice, &start, "unseen").await;
    test.relate(&room, &alice, "m.thread", &start).await;
    test.relate(&room, &alice, "m.reference", &start).await;
    let relations = test.aggregations(&room, &start, &bob).await;
    assert_eq!(relations["m.replace"]["event_id"], edit.as_str());
    assert_eq!(relations["m.thread"]["latest_event"]["event_id"], seen.as_str());
    assert_eq!(relations.get("m.reference"), None);
}

#[tokio::test]
async fn forged_edits_do_not_crowd_out_the_senders() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    let original = test.message(&room, &alice, "one").await;
    let edit = test.edit(&room, &alice, &original, "two").await;
    for _ in 0..101 {
        test.edit(&room, &bob, &original, "forged").await;
    }
    let relations = test.aggregations(&room, &original, &alice).await;
    assert_eq!(relations["m.replace"]["event_id"], edit.as_str());
}
