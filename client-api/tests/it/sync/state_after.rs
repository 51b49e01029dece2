//! `use_state_after` (since Matrix 1.16): the state at the timeline's end instead of its start.

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{filter, find_state, joined, keys, list, next, state_of, timeline};

const AFTER: &str = "&use_state_after=true";

#[tokio::test]
async fn replaces_the_state_section() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let topic = |text: &str| json!({ "topic": text });
    alice.send_state(&room, "m.room.topic", "", topic("first")).await;
    let initial = alice.sync(None, AFTER).await;
    let here = joined(&initial, &room);
    assert!(here.get("state").is_none(), "{here}");
    let after = &here["state_after"]["events"];
    assert!(keys(after).contains(&("m.room.create".to_owned(), String::new())));
    assert_eq!(state_of(after, "m.room.topic", "")["content"], topic("first"));

    let since = next(&initial);
    alice.send_state(&room, "m.room.topic", "", topic("second")).await;
    alice.send_state(&room, "m.room.topic", "", topic("third")).await;
    let update = alice.sync(Some(&since), AFTER).await;
    let here = joined(&update, &room);
    assert!(here.get("state").is_none(), "{here}");
    let after = &here["state_after"]["events"];
    assert_eq!(list(after).len(), 1);
    assert_eq!(state_of(after, "m.room.topic", "")["content"], topic("third"));
    assert_eq!(list(timeline(&update, &room)).len(), 2, "they are in the timeline as well");

    // Required even when it is empty.
    alice.send_text(&room, "hello").await;
    let update = alice.sync(Some(&next(&update)), AFTER).await;
    assert_eq!(joined(&update, &room)["state_after"], json!({ "events": [] }));
    let usual = alice.sync(Some(&since), "").await;
    assert!(joined(&usual, &room).get("state_after").is_none());
}

#[tokio::test]
async fn of_a_gap_covers_the_timeline_too() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    let topic = |text: &str| json!({ "topic": text });
    alice.send_state(&room, "m.room.topic", "", topic("in the gap")).await;
    alice.send_state(&room, "org.example.x", "", json!({ "n": 1 })).await;
    for n in 0..4 {
        alice.send_text(&room, &n.to_string()).await;
    }
    alice.send_state(&room, "m.room.topic", "", topic("in the timeline")).await;
    let limit = filter(&json!({ "room": { "timeline": { "limit": 2 } } }));
    let update = alice.sync(Some(&since), &format!("{AFTER}{limit}")).await;
    let here = joined(&update, &room);
    assert_eq!(here["timeline"]["limited"], true);
    let after = &here["state_after"]["events"];
    assert_eq!(state_of(after, "m.room.topic", "")["content"], topic("in the timeline"));
    assert_eq!(state_of(after, "org.example.x", "")["content"], json!({ "n": 1 }));
    assert_eq!(list(after).len(), 2);
    assert!(find_state(after, "m.room.create", "").is_none());
}

#[tokio::test]
async fn leaves_have_it_too() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    alice.send_state(&room, "m.room.topic", "", json!({ "topic": "bye" })).await;
    bob.leave(&room).await;
    alice.send_state(&room, "m.room.topic", "", json!({ "topic": "gone" })).await;
    let update = bob.sync(Some(&since), AFTER).await;
    let left = &update["rooms"]["leave"][room.as_str()];
    assert!(left.get("state").is_none(), "{left}");
    let after = &left["state_after"]["events"];
    assert_eq!(state_of(after, "m.room.topic", "")["content"]["topic"], "bye");
    assert_eq!(
        state_of(after, "m.room.member", "@bob:localhost")["content"]["membership"],
        "leave"
    );
}

#[tokio::test]
async fn asked_for_by_its_unstable_name_has_that_name() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let unstable = "&org.matrix.msc4222.use_state_after=true";
    let initial = alice.sync(None, unstable).await;
    let here = joined(&initial, &room);
    assert!(here.get("state").is_none() && here.get("state_after").is_none(), "{here}");
    let after = &here["org.matrix.msc4222.state_after"]["events"];
    assert!(keys(after).contains(&("m.room.create".to_owned(), String::new())));

    alice.send_text(&room, "hello").await;
    let since = next(&initial);
    let update = alice.sync(Some(&since), unstable).await;
    let after = &joined(&update, &room)["org.matrix.msc4222.state_after"];
    assert_eq!(after, &json!({ "events": [] }), "required even when it is empty");
    // Who knows both names gets the specification's.
    let both = alice.sync(Some(&since), &format!("{unstable}{AFTER}")).await;
    assert_eq!(joined(&both, &room)["state_after"], json!({ "events": [] }));
    let other = alice.sync(Some(&since), "&org.matrix.msc4222.use_state_after=false").await;
    assert!(joined(&other, &room).get("org.matrix.msc4222.state_after").is_none());
}
