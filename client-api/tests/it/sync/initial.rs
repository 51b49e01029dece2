//! A sync without `since`, and with `full_state`.

use hearth_testkit::TestServer;
use serde_json::{Value, json};

use crate::support::{
    find_state, joined, keys, list, refused, same, state_of, text, tidy, timeline, words,
};

#[tokio::test]
async fn has_the_form_of_the_specification() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "A room" })).await;
    for n in 0..3 {
        alice.send_text(&room, &n.to_string()).await;
    }
    // The push rules and the state have their own tests.
    let filter = crate::support::filter(&json!({
        "account_data": { "not_types": ["m.push_rules"] },
        "presence": { "types": [] },
        "room": { "timeline": { "limit": 2 }, "state": { "types": ["m.room.name", "m.room.member"] } },
    }));
    let answer = alice.sync(None, &filter).await;
    insta::assert_json_snapshot!(tidy(&answer, &[(&room, "room")]));
}

#[tokio::test]
async fn state_and_timeline_do_not_overlap() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let small = alice.create_public_room().await;
    let answer = alice.sync(None, "").await;
    let room = joined(&answer, &small);
    assert_eq!(list(&room["state"]["events"]), [] as [Value; 0], "all of it is in the timeline");
    assert_eq!(words(timeline(&answer, &small))[..2], ["m.room.create", "alice join"]);
    assert_ne!(room["timeline"]["limited"], true);

    for n in 0..40 {
        alice.send_text(&small, &n.to_string()).await;
    }
    alice.send_state(&small, "m.room.topic", "", json!({ "topic": "in the timeline" })).await;
    let answer = alice.sync(None, "").await;
    let room = joined(&answer, &small);
    assert_eq!(room["timeline"]["limited"], true);
    text(&room["timeline"], "prev_batch");
    state_of(&room["state"]["events"], "m.room.create", "");
    state_of(&room["state"]["events"], "m.room.member", "@alice:localhost");
    assert!(find_state(&room["state"]["events"], "m.room.topic", "").is_none());
    state_of(timeline(&answer, &small), "m.room.topic", "");
}

#[tokio::test]
async fn lists_every_joined_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let empty = alice.sync(None, "").await;
    assert!(empty["rooms"]["join"].as_object().is_none_or(serde_json::Map::is_empty), "{empty}");
    let mut rooms = Vec::new();
    for _ in 0..5 {
        rooms.push(alice.create_public_room().await);
    }
    bob.create_public_room().await;
    let answer = alice.sync(None, "").await;
    let seen = answer["rooms"]["join"].as_object().unwrap();
    same(seen.keys().map(String::as_str), rooms.iter().map(|room| room.as_str()));
}

#[tokio::test]
async fn full_state_comes_again_when_asked_for() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = alice.now().await;
    let path = format!("/_matrix/client/v3/sync?timeout=30000&full_state=true&since={since}");
    // It does not wait, although nothing happened.
    let answer = alice.get_ok(&path).await;
    let state = &joined(&answer, &room)["state"]["events"];
    let expected = [
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.member", "@alice:localhost"),
        ("m.room.member", "@bob:localhost"),
    ];
    let expected = expected.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned()));
    assert_eq!(keys(state), expected.collect());
    assert_eq!(list(timeline(&answer, &room)), [] as [Value; 0]);
}

#[tokio::test]
async fn bad_parameters_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for query in [
        "since=nonsense",
        "timeout=x",
        "timeout=-1",
        "full_state=perhaps",
        "set_presence=asleep",
        "filter=%7B",
    ] {
        let (status, answer) = alice.get(&format!("/_matrix/client/v3/sync?{query}")).await;
        assert_eq!(status, 400, "{query}: {answer}");
    }
    refused(server.client().get("/_matrix/client/v3/sync").await, 401, "M_MISSING_TOKEN");
}
