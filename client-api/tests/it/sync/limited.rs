//! Gaps: limited timelines, and `/messages` from their `prev_batch`.

use hearth_testkit::{TestServer, encode};
use serde_json::{Value, json};

use crate::support::{
    all_different, at, bodies, filter, find_state, ids, joined, list, next, state_of, text,
    timeline, walk,
};

#[tokio::test]
async fn a_gap_is_filled_without_gap_or_duplicate() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let limit = filter(&json!({ "room": { "timeline": { "limit": 4 } } }));
    alice.send_text(&room, "known").await;
    let since = next(&alice.sync(None, &limit).await);
    let mut sent = Vec::new();
    for n in 0..19 {
        sent.push(alice.send_text(&room, &n.to_string()).await.to_string());
    }
    let update = alice.sync(Some(&since), &limit).await;
    let here = &joined(&update, &room)["timeline"];
    assert_eq!(here["limited"], true);
    assert_eq!(bodies(&here["events"]), ["15", "16", "17", "18"]);
    // Backwards from the gap's end to where the client was.
    let prev = text(here, "prev_batch");
    let mut filled =
        walk(&alice, &room, "b", Some(prev), &format!("&limit=6&to={}", encode(&since))).await;
    filled.reverse();
    all_different(&filled);
    let mut all: Vec<_> = ids(&json!(filled)).into_iter().map(ToOwned::to_owned).collect();
    all.extend(ids(&here["events"]).into_iter().map(ToOwned::to_owned));
    assert_eq!(all, sent);
    // The specification's own way: from the old token to the gap's end.
    let path = format!("messages?dir=f&limit=100&from={}&to={}", encode(&since), encode(prev));
    let forwards = alice.get_ok(&at(&room, path)).await;
    assert_eq!(ids(&forwards["chunk"]), ids(&json!(filled)));
}

#[tokio::test]
async fn state_of_the_gap_comes_with_it() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    let topic = |text: &str| json!({ "topic": text });
    alice.send_state(&room, "m.room.topic", "", topic("overtaken")).await;
    alice.send_state(&room, "m.room.topic", "", topic("in the gap")).await;
    bob.join(&room).await;
    for n in 0..5 {
        alice.send_text(&room, &n.to_string()).await;
    }
    alice.send_state(&room, "m.room.topic", "", topic("in the timeline")).await;
    let limit = filter(&json!({ "room": { "timeline": { "limit": 2 } } }));
    let update = alice.sync(Some(&since), &limit).await;
    let here = joined(&update, &room);
    assert_eq!(here["timeline"]["limited"], true);
    // The state at the start of the timeline, as a difference to `since`.
    let state = &here["state"]["events"];
    assert_eq!(state_of(state, "m.room.topic", "")["content"], topic("in the gap"));
    state_of(state, "m.room.member", "@bob:localhost");
    assert_eq!(list(state).len(), 2, "{state}");
    assert_eq!(
        state_of(timeline(&update, &room), "m.room.topic", "")["content"],
        topic("in the timeline")
    );
    assert!(find_state(state, "m.room.create", "").is_none());
}

#[tokio::test]
async fn a_limit_of_nothing_still_tells_of_the_gap() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    alice.send_state(&room, "m.room.topic", "", json!({ "topic": "new" })).await;
    alice.send_text(&room, "hello").await;
    let limit = filter(&json!({ "room": { "timeline": { "limit": 0 } } }));
    let update = alice.sync(Some(&since), &limit).await;
    // Servers may raise the limit to one; what is left out must be marked and its state told.
    let here = joined(&update, &room);
    assert_eq!(here["timeline"]["limited"], true, "{update}");
    assert_eq!(state_of(&here["state"]["events"], "m.room.topic", "")["content"]["topic"], "new");
}

#[tokio::test]
async fn a_filtered_timeline_is_not_limited_by_what_it_leaves_out() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    for n in 0..3 {
        alice.send_text(&room, &n.to_string()).await;
        for _ in 0..8 {
            alice.send_event(&room, "org.example.noise", json!({})).await;
        }
    }
    let wanted =
        filter(&json!({ "room": { "timeline": { "limit": 5, "types": ["m.room.message"] } } }));
    let update = alice.sync(Some(&since), &wanted).await;
    assert_eq!(bodies(timeline(&update, &room)), ["0", "1", "2"]);
    assert_ne!(joined(&update, &room)["timeline"]["limited"], true);
    let one =
        filter(&json!({ "room": { "timeline": { "limit": 1, "types": ["m.room.message"] } } }));
    let update = alice.sync(Some(&since), &one).await;
    assert_eq!(bodies(timeline(&update, &room)), ["2"]);
    assert_eq!(joined(&update, &room)["timeline"]["limited"], true);
    let rest: Value = json!(
        walk(
            &alice,
            &room,
            "b",
            Some(text(&joined(&update, &room)["timeline"], "prev_batch")),
            &filter(&json!({ "types": ["m.room.message"] }))
        )
        .await
    );
    assert_eq!(bodies(&rest), ["1", "0"]);
}
