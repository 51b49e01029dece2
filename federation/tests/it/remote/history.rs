//! History from before a server was in the room.

use hearth_testkit::TestUser;
use serde_json::{Value, json};

use crate::support::{World, via_path};

/// The texts of the newest messages, newest first, read page by page.
async fn texts(user: &TestUser, room_id: &ruma::RoomId) -> Vec<String> {
    let mut texts = Vec::new();
    let mut from = String::new();
    for _ in 0..20 {
        let path = TestUser::room_path(room_id, &format!("messages?dir=b&limit=20{from}"));
        let page = user.get_ok(&path).await;
        let bodies = page["chunk"].as_array().unwrap().iter();
        let body = |event: &Value| event["content"]["body"].as_str().map(ToOwned::to_owned);
        texts.extend(bodies.filter_map(body));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return texts,
        }
    }
    panic!("the history does not end: {texts:?}");
}

#[tokio::test]
async fn what_was_said_before_the_join_can_be_read_to_the_beginning() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    let said: Vec<String> = (0..120).map(|n| format!("message {n}")).collect();
    for text in &said {
        ann.send_text(&room_id, text).await;
    }
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    let mut read = texts(&bob, &room_id).await;
    read.reverse();
    assert_eq!(read, said);
}

#[tokio::test]
async fn the_first_timeline_after_the_join_is_limited_until_what_was_before_is_here() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    ann.send_text(&room_id, "before the join").await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    let timeline = async || {
        let sync = bob.sync(None, "").await;
        sync["rooms"]["join"][room_id.as_str()]["timeline"].clone()
    };
    let first = timeline().await;
    assert_eq!(first["limited"], true);
    let shown = first["events"].as_array().unwrap();
    assert_eq!(shown.len(), 1, "the join: {first}");
    assert_eq!(texts(&bob, &room_id).await, ["before the join"]);
    let whole = timeline().await;
    assert_eq!(whole["limited"], false, "{whole}");
    assert_eq!(whole["events"][0]["type"], "m.room.create");
}

#[tokio::test]
async fn history_that_nobody_may_see_is_not_shown() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let hidden = json!({
        "type": "m.room.history_visibility",
        "content": { "history_visibility": "joined" },
    });
    let body = json!({ "preset": "public_chat", "initial_state": [hidden] });
    let room_id = ann.create_room(body).await;
    ann.send_text(&room_id, "secret").await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    assert_eq!(texts(&bob, &room_id).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_event_of_a_time_before_the_join_is_found() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    let first = ann.send_text(&room_id, "first").await;
    let path = TestUser::room_path(&room_id, &format!("event/{first}"));
    let at = ann.get_ok(&path).await["origin_server_ts"].clone();
    ann.send_text(&room_id, "second").await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    let path = format!(
        "/_matrix/client/v1/rooms/{}/timestamp_to_event?dir=f&ts={at}",
        hearth_testkit::encode(room_id.as_str())
    );
    let found = bob.get_ok(&path).await;
    assert!(found["origin_server_ts"].as_u64() >= at.as_u64(), "{found}");
    let shown = found["event_id"].as_str().unwrap();
    assert_eq!(bob.get_ok(&path).await["event_id"], shown);
    let same = ann.get_ok(&path).await;
    assert_eq!(same["event_id"], shown);
}
