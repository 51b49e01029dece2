//! Typing, receipts and presence between servers.

use std::time::Duration;

use ruma::OwnedRoomId;
use serde_json::{Value, json};
use tokio::time::timeout;

use hearth_testkit::{TestUser, encode};

use crate::support::{World, via_path};

/// How long something ephemeral may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ann's room, with Bob of another server in it.
async fn shared_room(world: &World) -> (TestUser, TestUser, OwnedRoomId) {
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_public_room().await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    (ann, bob, room_id)
}

/// Syncs until a response has what is looked for.
async fn sees(viewer: &TestUser, since: &str, what: &str, found: impl Fn(&Value) -> bool) {
    let looking = async {
        let mut since = since.to_owned();
        loop {
            let sync = viewer.wait_for_sync(&since).await;
            if found(&sync) {
                return;
            }
            sync["next_batch"].as_str().unwrap().clone_into(&mut since);
        }
    };
    let seen = timeout(PATIENCE, looking).await;
    seen.unwrap_or_else(|_| panic!("{} does not see {what}", viewer.user_id));
}

/// The content of an ephemeral event of a room.
fn ephemeral<'a>(sync: &'a Value, room_id: &OwnedRoomId, kind: &str) -> Option<&'a Value> {
    let room = &sync["rooms"]["join"][room_id.as_str()];
    let mut events = room["ephemeral"]["events"].as_array()?.iter();
    Some(&events.find(|event| event["type"] == kind)?["content"])
}

async fn sees_typing(viewer: &TestUser, since: &str, room_id: &OwnedRoomId, typists: &[&TestUser]) {
    let ids: Vec<_> = typists.iter().map(|user| user.user_id.as_str()).collect();
    sees(viewer, since, "who types", |sync| {
        ephemeral(sync, room_id, "m.typing")
            .is_some_and(|content| content["user_ids"] == json!(ids))
    })
    .await;
}

#[tokio::test]
async fn who_types_is_seen_on_the_other_server() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob, room_id) = shared_room(&world).await;
    for (typist, viewer) in [(&ann, &bob), (&bob, &ann)] {
        let since = viewer.now().await;
        let path = format!("typing/{}", encode(typist.user_id.as_str()));
        let path = TestUser::room_path(&room_id, &path);
        typist.put_ok(&path, json!({ "typing": true, "timeout": 30_000 })).await;
        sees_typing(viewer, &since, &room_id, &[typist]).await;
        let since = viewer.now().await;
        typist.put_ok(&path, json!({ "typing": false })).await;
        sees_typing(viewer, &since, &room_id, &[]).await;
    }
}

#[tokio::test]
async fn public_receipts_are_seen_on_the_other_server_and_private_ones_are_not() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob, room_id) = shared_room(&world).await;
    let since = bob.now().await;
    let first = ann.send_text(&room_id, "one").await;
    let second = ann.send_text(&room_id, "two").await;
    world.wait_for_event(&bob, &since, &room_id, &second).await;
    let read = async |kind: &str, event_id: &str| {
        let path = TestUser::room_path(&room_id, &format!("receipt/{kind}/{}", encode(event_id)));
        bob.post_ok(&path, json!({})).await;
    };
    let since = ann.now().await;
    read("m.read.private", second.as_str()).await;
    read("m.read", first.as_str()).await;
    let bob_id = bob.user_id.as_str();
    sees(&ann, &since, "the receipt", |sync| {
        let receipts = ephemeral(sync, &room_id, "m.receipt");
        assert!(!sync.to_string().contains("m.read.private"), "{sync}");
        receipts.is_some_and(|content| content[first.as_str()]["m.read"].get(bob_id).is_some())
    })
    .await;
    read("m.read", second.as_str()).await;
    sees(&ann, &since, "the receipt's move", |sync| {
        let receipts = ephemeral(sync, &room_id, "m.receipt");
        receipts.is_some_and(|content| content[second.as_str()]["m.read"].get(bob_id).is_some())
    })
    .await;
}

/// Says that somebody is online, with a status message.
async fn go_online(person: &TestUser) {
    let path = format!("/_matrix/client/v3/presence/{}/status", encode(person.user_id.as_str()));
    person.put_ok(&path, json!({ "presence": "online", "status_msg": "at sea" })).await;
}

async fn sees_online(viewer: &TestUser, since: &str, person: &TestUser) {
    sees(viewer, since, "the presence", |sync| {
        let events = sync["presence"]["events"].as_array().into_iter().flatten();
        events.filter(|event| event["sender"] == person.user_id.as_str()).any(|event| {
            event["content"]["presence"] == "online" && event["content"]["status_msg"] == "at sea"
        })
    })
    .await;
}

#[tokio::test]
async fn who_was_online_before_they_came_is_seen_by_those_who_were_there() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    go_online(&ann).await;
    go_online(&bob).await;
    let (ann_since, bob_since) = (ann.now().await, bob.now().await);
    let room_id = ann.create_public_room().await;
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    sees_online(&ann, &ann_since, &bob).await;
    sees_online(&bob, &bob_since, &ann).await;
}

#[tokio::test]
async fn presence_is_seen_on_the_other_server() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob, _room_id) = shared_room(&world).await;
    for (person, viewer) in [(&ann, &bob), (&bob, &ann)] {
        let since = viewer.now().await;
        go_online(person).await;
        sees_online(viewer, &since, person).await;
        let path =
            format!("/_matrix/client/v3/presence/{}/status", encode(person.user_id.as_str()));
        let shown = viewer.get_ok(&path).await;
        assert_eq!(shown["status_msg"], "at sea");
    }
}
