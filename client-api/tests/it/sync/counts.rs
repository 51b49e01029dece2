//! Unread counts (CS "Receiving notifications", "Marking notifications as read").

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::{EventId, OwnedRoomId};
use serde_json::{Value, json};

use crate::support::{V3, at, filter, joined, message, next, of_user, reaction, related};

struct Scene {
    server: TestServer,
    alice: TestUser,
    bob: TestUser,
    room: OwnedRoomId,
}

/// A room of three, so that it is no one-to-one room, in which Alice has read everything.
async fn scene() -> Scene {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    carol.join(&room).await;
    let first = bob.send_text(&room, "first").await;
    let scene = Scene { server, alice, bob, room };
    scene.read("m.read", &first, json!({})).await;
    assert_eq!(scene.counts().await, (0, 0));
    scene
}

fn counts(unread: &Value) -> (u64, u64) {
    let count =
        |name: &str| unread[name].as_u64().unwrap_or_else(|| panic!("no {name} in {unread}"));
    (count("notification_count"), count("highlight_count"))
}

impl Scene {
    /// Alice's notifications and highlights of the whole room.
    async fn counts(&self) -> (u64, u64) {
        let answer = self.alice.sync(None, "").await;
        counts(&joined(&answer, &self.room)["unread_notifications"])
    }

    /// Those of the main timeline, and those of each thread.
    async fn by_thread(&self) -> ((u64, u64), Value) {
        let by_thread =
            filter(&json!({ "room": { "timeline": { "unread_thread_notifications": true } } }));
        let answer = self.alice.sync(None, &by_thread).await;
        let room = joined(&answer, &self.room);
        (counts(&room["unread_notifications"]), room["unread_thread_notifications"].clone())
    }

    async fn read(&self, kind: &str, event: &EventId, body: Value) {
        let path = at(&self.room, format!("receipt/{kind}/{}", encode(event.as_str())));
        self.alice.post_ok(&path, body).await;
    }

    async fn mention(&self, body: &str) -> ruma::OwnedEventId {
        let content = json!({ "msgtype": "m.text", "body": body,
            "m.mentions": { "user_ids": [self.alice.user_id] } });
        self.bob.send_event(&self.room, "m.room.message", content).await
    }
}

#[tokio::test]
async fn change_in_the_response_of_their_event() {
    let scene = scene().await;
    let Scene { alice, bob, room, .. } = &scene;
    let mut since = alice.now().await;
    for n in 1..=3 {
        bob.send_text(room, &n.to_string()).await;
        let update = alice.wait_for_sync(&since).await;
        let here = joined(&update, room);
        assert_eq!(here["timeline"]["events"].as_array().unwrap().len(), 1);
        assert_eq!(counts(&here["unread_notifications"]), (n, 0));
        since = next(&update);
    }
    let last = scene.mention("alice!").await;
    let update = alice.wait_for_sync(&since).await;
    assert_eq!(counts(&joined(&update, room)["unread_notifications"]), (4, 1));
    // A receipt changes them in the response that tells of it.
    let since = next(&update);
    scene.read("m.read", &last, json!({})).await;
    let update = alice.wait_for_sync(&since).await;
    assert_eq!(counts(&joined(&update, room)["unread_notifications"]), (0, 0));
}

#[tokio::test]
async fn are_cleared_up_to_the_receipt() {
    let scene = scene().await;
    let mut events = Vec::new();
    for n in 0..5 {
        events.push(scene.bob.send_text(&scene.room, &n.to_string()).await);
    }
    assert_eq!(scene.counts().await, (5, 0));
    scene.read("m.read", &events[1], json!({})).await;
    assert_eq!(scene.counts().await, (3, 0));
    // The further of the public and the private one counts.
    scene.read("m.read.private", &events[3], json!({})).await;
    assert_eq!(scene.counts().await, (1, 0));
    scene.read("m.read", &events[2], json!({})).await;
    assert_eq!(scene.counts().await, (1, 0));
    // The fully-read marker is no receipt.
    scene.read("m.fully_read", &events[4], json!({})).await;
    assert_eq!(scene.counts().await, (1, 0));
    scene.read("m.read", &events[4], json!({})).await;
    assert_eq!(scene.counts().await, (0, 0));
    // Nobody else's receipt matters.
    scene.bob.send_text(&scene.room, "more").await;
    let path = at(&scene.room, format!("receipt/m.read/{}", events[0]));
    scene.bob.post_ok(&path, json!({})).await;
    assert_eq!(scene.counts().await, (1, 0));
}

#[tokio::test]
async fn ones_own_events_are_read() {
    let scene = scene().await;
    scene.bob.send_text(&scene.room, "hello").await;
    assert_eq!(scene.counts().await, (1, 0));
    scene.alice.send_text(&scene.room, "hello yourself").await;
    assert_eq!(scene.counts().await, (0, 0), "sending an event is a receipt");
    scene.bob.send_text(&scene.room, "again").await;
    assert_eq!(scene.counts().await, (1, 0));
}

#[tokio::test]
async fn only_what_notifies_counts() {
    let scene = scene().await;
    let Scene { bob, room, .. } = &scene;
    let event = bob.send_text(room, "counts").await;
    bob.send_event(room, "m.reaction", reaction("👍", &event)).await;
    bob.send_event(room, "m.room.message", json!({ "msgtype": "m.notice", "body": "a bot" })).await;
    bob.send_event(room, "org.example.other", json!({ "body": "x" })).await;
    bob.send_event(room, "m.room.message", {
        let mut edit = related("* counts", "m.replace", &event);
        edit["m.new_content"] = message("counts");
        edit
    })
    .await;
    assert_eq!(scene.counts().await, (1, 0));
    bob.send_event(
        room,
        "m.room.encrypted",
        json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" }),
    )
    .await;
    assert_eq!(scene.counts().await, (2, 0));
    // Only those with the power may call the whole room.
    let everybody = json!({ "msgtype": "m.text", "body": "all!", "m.mentions": { "room": true } });
    bob.send_event(room, "m.room.message", everybody.clone()).await;
    assert_eq!(scene.counts().await, (3, 0));
    scene
        .alice
        .put_ok(
            &at(room, "state/m.room.power_levels/"),
            json!({ "users": { "@bob:localhost": 50 }, "events_default": 0 }),
        )
        .await;
    scene.alice.send_text(room, "you may").await;
    assert_eq!(scene.counts().await, (0, 0));
    bob.send_event(room, "m.room.message", everybody).await;
    assert_eq!(scene.counts().await, (1, 1));
}

#[tokio::test]
async fn redacted_events_count_no_more() {
    let scene = scene().await;
    scene.bob.send_text(&scene.room, "stays").await;
    let event = scene.mention("goes").await;
    assert_eq!(scene.counts().await, (2, 1));
    scene.bob.redact(&scene.room, &event).await;
    assert_eq!(scene.counts().await, (1, 0));
}

#[tokio::test]
async fn threads_are_counted_apart() {
    let scene = scene().await;
    let Scene { bob, room, alice, .. } = &scene;
    let root = bob.send_text(room, "root").await;
    let one = bob.send_event(room, "m.room.message", related("one", "m.thread", &root)).await;
    let mut call = related("two", "m.thread", &root);
    call["m.mentions"] = json!({ "user_ids": [alice.user_id] });
    let two = bob.send_event(room, "m.room.message", call).await;
    bob.send_text(room, "beside").await;
    assert_eq!(scene.counts().await, (4, 1), "all together unless asked otherwise");
    let thread = |notifications: u8, highlights: u8| json!({ root.as_str(): { "notification_count": notifications, "highlight_count": highlights } });
    assert_eq!(scene.by_thread().await, ((2, 0), thread(2, 1)));
    scene.read("m.read", &one, json!({ "thread_id": root })).await;
    assert_eq!(scene.by_thread().await, ((2, 0), thread(1, 1)));
    scene.read("m.read", &root, json!({ "thread_id": "main" })).await;
    assert_eq!(scene.by_thread().await, ((1, 0), thread(1, 1)));
    scene.read("m.read", &two, json!({ "thread_id": root })).await;
    let (main, threads) = scene.by_thread().await;
    assert_eq!(main, (1, 0));
    let rest = &threads[root.as_str()]["notification_count"];
    assert!(rest.is_null() || rest == 0, "{threads}");
    // An unthreaded receipt reads everything up to it.
    bob.send_event(room, "m.room.message", related("three", "m.thread", &root)).await;
    let last = bob.send_text(room, "last").await;
    scene.read("m.read", &last, json!({})).await;
    let (main, threads) = scene.by_thread().await;
    assert_eq!(main, (0, 0));
    assert!(threads[root.as_str()].is_null() || threads[root.as_str()]["notification_count"] == 0);
    assert_eq!(scene.counts().await, (0, 0));
}

#[tokio::test]
async fn follow_the_users_own_rules() {
    let scene = scene().await;
    let Scene { alice, bob, room, .. } = &scene;
    let rules = |rest: &str| format!("{V3}/pushrules/global/{rest}");
    let loud = json!({ "actions": ["notify", { "set_tweak": "highlight" }], "pattern": "cake" });
    alice.put_ok(&rules("content/cake"), loud).await;
    bob.send_text(room, "there is Cake!").await;
    bob.send_text(room, "pancakes").await;
    assert_eq!(scene.counts().await, (2, 1));
    // Muting a room.
    let room_rule = rules(&format!("room/{}", encode(room.as_str())));
    alice.put_ok(&room_rule, json!({ "actions": [] })).await;
    bob.send_text(room, "nothing much").await;
    assert_eq!(scene.counts().await.1, 1);
    alice.put_ok(&rules("override/.m.rule.master/enabled"), json!({ "enabled": true })).await;
    bob.send_text(room, "cake again").await;
    assert!(scene.counts().await.1 <= 1, "the master rule silences everything");
}

#[tokio::test]
async fn one_to_one_rooms_and_invites() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    alice.join(&room).await;
    bob.send_text(&room, "just us").await;
    let answer = alice.sync(None, "").await;
    assert_eq!(counts(&joined(&answer, &room)["unread_notifications"]), (1, 0));
    // What was said before she came is not unread.
    let older = bob.create_room(json!({ "preset": "public_chat" })).await;
    bob.send_text(&older, "before").await;
    alice.join(&older).await;
    let answer = alice.sync(None, "").await;
    assert_eq!(counts(&joined(&answer, &older)["unread_notifications"]), (0, 0));
}

#[tokio::test]
async fn leave_ignored_users_out_and_survive_a_restart() {
    let mut scene = scene().await;
    for n in 0..3 {
        scene.bob.send_text(&scene.room, &n.to_string()).await;
    }
    scene.mention("alice").await;
    assert_eq!(scene.counts().await, (4, 1));
    scene.server.restart().await;
    assert_eq!(scene.counts().await, (4, 1));
    scene.bob.send_text(&scene.room, "more").await;
    assert_eq!(scene.counts().await, (5, 1));
    let ignored = json!({ "ignored_users": { "@bob:localhost": {} } });
    scene.alice.put_ok(&of_user(&scene.alice, "account_data/m.ignored_user_list"), ignored).await;
    let before = scene.counts().await;
    scene.bob.send_text(&scene.room, "unseen").await;
    assert_eq!(scene.counts().await, before, "an ignored user's event notifies nobody");
}

#[tokio::test]
async fn begin_anew_when_somebody_comes_back() {
    let scene = scene().await;
    scene.mention("alice").await;
    assert_eq!(scene.counts().await, (1, 1));
    scene.alice.leave(&scene.room).await;
    scene.mention("gone").await;
    scene.alice.join(&scene.room).await;
    assert_eq!(scene.counts().await, (0, 0), "what was said before is not unread");
    let event = scene.mention("back").await;
    assert_eq!(scene.counts().await, (1, 1));
    scene.bob.send_text(&scene.room, "more").await;
    scene.read("m.read", &event, json!({})).await;
    assert_eq!(scene.counts().await, (1, 0), "the highlight is read, the message behind it is not");
}
