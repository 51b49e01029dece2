//! What gateways get.

use std::time::Duration;

use hearth_testkit::{Network, PushGateway, TestServer, TestServerBuilder, encode};
use ruma::EventId;
use serde_json::{Value, json};

use super::{Scene, pushing, scene};
use crate::support::{V3, at, message, related};

impl Scene {
    async fn read(&self, kind: &str, event: &EventId, body: Value) {
        let path = at(&self.room, format!("receipt/{kind}/{}", encode(event.as_str())));
        self.alice.post_ok(&path, body).await;
    }
}

#[tokio::test]
async fn a_message_is_told_with_everything_that_shows_it() {
    let Scene { gateway, alice, bob, room, .. } = scene(pushing()).await;
    bob.send_state(&room, "m.room.name", "", json!({ "name": "Mission" })).await;
    let path = format!("{V3}/profile/{}/displayname", encode(bob.user_id.as_str()));
    bob.put_ok(&path, json!({ "displayname": "Bob" })).await;
    let event_id = bob.send_text(&room, "hello").await;
    let mut content = message("alice!");
    content["m.mentions"] = json!({ "user_ids": [alice.user_id] });
    let mention = bob.send_event(&room, "m.room.message", content.clone()).await;
    let pushed = gateway.events(2).await;
    let mut told = pushed[0].clone();
    assert!(told["devices"][0]["pushkey_ts"].take().as_u64().unwrap() > 1_500_000_000);
    let expected = json!({
        "event_id": event_id, "room_id": room, "type": "m.room.message", "sender": bob.user_id,
        "sender_display_name": "Bob", "room_name": "Mission", "prio": "low",
        "content": message("hello"), "counts": { "unread": told["counts"]["unread"] },
        "devices": [{ "app_id": "app", "pushkey": "key", "pushkey_ts": null }],
    });
    assert_eq!(told, expected);
    let told = &pushed[1];
    assert_eq!((&told["event_id"], &told["prio"]), (&json!(mention), &json!("high")));
    assert_eq!(told["content"], content);
    assert_eq!(told["counts"], json!({ "unread": 2 }));
    assert_eq!(told["devices"][0]["tweaks"], json!({ "sound": "default", "highlight": true }));
}

#[tokio::test]
async fn the_reduced_format_names_the_event_and_no_more() {
    let Scene { gateway, alice, bob, room, .. } = scene(pushing()).await;
    let mut reduced = gateway.pusher("app", "key");
    reduced["data"]["format"] = json!("event_id_only");
    alice.post_ok(&format!("{V3}/pushers/set"), reduced).await;
    let event_id = bob.send_text(&room, "secret").await;
    let mut told = gateway.events(1).await.remove(0);
    told["devices"][0]["pushkey_ts"].take();
    let data = json!({ "format": "event_id_only" });
    let device = json!({ "app_id": "app", "pushkey": "key", "pushkey_ts": null, "data": data });
    let expected = json!({
        "event_id": event_id, "room_id": room, "prio": "low", "counts": { "unread": 1 },
        "devices": [device],
    });
    assert_eq!(told, expected);
}

#[tokio::test]
async fn badges_follow_reads_redactions_threads_and_leaves() {
    let scene = scene(pushing()).await;
    let Scene { gateway, alice, bob, room, .. } = &scene;
    let first = bob.send_text(room, "one").await;
    bob.send_text(room, "two").await;
    let third = bob.send_text(room, "three").await;
    gateway.events(3).await;
    gateway.badge(3).await;
    scene.read("m.read", &first, json!({})).await;
    let badge = gateway.badge(2).await;
    assert_eq!(badge.get("event_id"), None);
    assert_eq!(badge["prio"], "low");
    bob.redact(room, &third).await;
    gateway.badge(1).await;
    let root = bob.send_text(room, "root").await;
    gateway.badge(2).await;
    let reply = bob.send_event(room, "m.room.message", related("reply", "m.thread", &root)).await;
    gateway.badge(3).await;
    scene.read("m.read.private", &root, json!({ "thread_id": "main" })).await;
    gateway.badge(1).await;
    scene.read("m.read", &reply, json!({ "thread_id": root })).await;
    gateway.badge(0).await;
    let other = bob.create_public_room().await;
    alice.join(&other).await;
    bob.send_text(&other, "here").await;
    gateway.badge(1).await;
    bob.send_text(room, "and there").await;
    gateway.badge(2).await;
    alice.leave(&other).await;
    gateway.badge(1).await;
    // Whoever answers has read.
    alice.send_text(room, "yes").await;
    gateway.badge(0).await;
}

#[tokio::test]
async fn nothing_is_told_that_the_rules_leave_out() {
    let Scene { gateway, alice, bob, room, .. } = scene(pushing()).await;
    alice.send_text(&room, "my own").await;
    let mut notice = message("beep");
    notice["msgtype"] = json!("m.notice");
    bob.send_event(&room, "m.room.message", notice).await;
    bob.send_state(&room, "m.room.topic", "", json!({ "topic": "quiet" })).await;
    let muted = format!("{V3}/pushrules/global/room/{}", encode(room.as_str()));
    alice.put_ok(&muted, json!({ "actions": [] })).await;
    bob.send_text(&room, "muted").await;
    let other = bob.create_public_room().await;
    alice.join(&other).await;
    let loud = bob.send_text(&other, "loud").await;
    let pushed = gateway.events(1).await;
    assert_eq!(pushed[0]["event_id"], json!(loud));
}

#[tokio::test]
async fn invitations_are_told() {
    let Scene { gateway, alice, bob, .. } = scene(pushing()).await;
    let room = bob.create_room(json!({ "name": "Secret", "invite": [alice.user_id] })).await;
    let told = gateway.events(1).await.remove(0);
    assert_eq!(told["room_id"], json!(room));
    assert_eq!((&told["type"], &told["user_is_target"]), (&json!("m.room.member"), &json!(true)));
    assert_eq!(told["room_name"], "Secret");
    assert_eq!(told["prio"], "high");
}

#[tokio::test]
async fn in_large_rooms_mentions_alone_are_told() {
    let large = pushing().config(|config| config.sync.large_room_members = 2);
    let Scene { gateway, alice, bob, room, .. } = scene(large).await;
    bob.send_text(&room, "to everybody").await;
    let mut content = message("alice!");
    content["m.mentions"] = json!({ "user_ids": [alice.user_id] });
    let mention = bob.send_event(&room, "m.room.message", content).await;
    let mut content = message("@room");
    content["m.mentions"] = json!({ "room": true });
    let to_all = bob.send_event(&room, "m.room.message", content).await;
    let pushed = gateway.events(2).await;
    assert_eq!(pushed[0]["event_id"], json!(mention));
    assert_eq!(pushed[1]["event_id"], json!(to_all));
    assert_eq!(pushed[1]["counts"]["unread"], 3, "what is not pushed is unread all the same");
}

#[tokio::test]
async fn a_gateway_that_failed_gets_what_it_missed_once_and_in_order() {
    let mut scene = scene(pushing()).await;
    let Scene { gateway, bob, room, .. } = &scene;
    gateway.refuse(Some(502));
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(json!(bob.send_text(room, &number.to_string()).await));
    }
    gateway.refusals(2).await;
    let gateway = gateway.clone();
    // What was not delivered is known after a restart.
    scene.server.restart().await;
    let Scene { bob, room, .. } = &scene;
    sent.push(json!(bob.send_text(room, "after").await));
    gateway.refuse(None);
    gateway.events(6).await;
    sent.push(json!(bob.send_text(room, "later").await));
    let pushed = gateway.events(7).await;
    let told: Vec<_> = pushed.iter().map(|told| told["event_id"].clone()).collect();
    assert_eq!(told, sent);
}

#[tokio::test]
async fn what_is_sent_while_a_pusher_catches_up_comes_behind_what_it_missed() {
    let Scene { gateway, bob, room, .. } = scene(pushing()).await;
    gateway.refuse(Some(502));
    let mut sent = Vec::new();
    for number in 0..30 {
        sent.push(json!(bob.send_text(&room, &number.to_string()).await));
    }
    gateway.refusals(1).await;
    gateway.delay(Duration::from_millis(20));
    gateway.refuse(None);
    gateway.events(1).await;
    for number in 30..60 {
        sent.push(json!(bob.send_text(&room, &number.to_string()).await));
    }
    assert!(gateway.taken().len() < sent.len(), "it still catches up");
    let pushed = gateway.events(sent.len()).await;
    let told: Vec<_> = pushed.iter().map(|told| told["event_id"].clone()).collect();
    assert_eq!(told, sent, "each once, in order");
    assert_eq!(pushed.last().unwrap()["counts"]["unread"], sent.len());
}

#[tokio::test]
async fn what_was_read_while_a_gateway_failed_is_not_told() {
    let scene = scene(pushing()).await;
    let Scene { gateway, bob, room, .. } = &scene;
    gateway.refuse(Some(500));
    bob.send_text(room, "one").await;
    let second = bob.send_text(room, "two").await;
    gateway.refusals(1).await;
    scene.read("m.read", &second, json!({})).await;
    let third = bob.send_text(room, "three").await;
    gateway.refuse(None);
    let pushed = gateway.events(1).await;
    assert_eq!(pushed[0]["event_id"], json!(third));
    assert_eq!(pushed[0]["counts"]["unread"], 1);
}

#[tokio::test]
async fn a_notification_that_the_gateway_refuses_does_not_hold_up_the_others() {
    let Scene { gateway, bob, room, .. } = scene(pushing()).await;
    gateway.refuse(Some(400));
    bob.send_text(&room, "one").await;
    gateway.refusals(1).await;
    gateway.refuse(None);
    let second = bob.send_text(&room, "two").await;
    assert_eq!(gateway.events(1).await[0]["event_id"], json!(second));
}

#[tokio::test]
async fn more_than_waits_for_a_slow_gateway_comes_in_the_end() {
    let Scene { gateway, bob, room, .. } = scene(pushing()).await;
    gateway.delay(Duration::from_secs(1));
    let mut last = json!(null);
    for number in 0..300 {
        last = json!(bob.send_text(&room, &number.to_string()).await);
    }
    gateway.delay(Duration::ZERO);
    let is_last = |taken: &[Value]| taken.last().is_some_and(|told| told["event_id"] == last);
    let taken = gateway.wait("the last of them", is_last).await;
    let ids: Vec<_> = taken.iter().filter_map(|told| told["event_id"].as_str()).collect();
    let mut different = ids.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), ids.len(), "none twice");
    assert!(ids.len() >= 200, "the newest, at least: {}", ids.len());
}

#[tokio::test]
async fn invitations_of_other_servers_are_told() {
    let network = Network::new();
    let start = |name, builder: TestServerBuilder| builder.federating(name, &network).start();
    let there = start("there.test", TestServer::builder()).await;
    let here = start("here.test", pushing()).await;
    let gateway = PushGateway::start().await;
    let alice = here.register("alice").await;
    alice.post_ok(&format!("{V3}/pushers/set"), gateway.pusher("app", "key")).await;
    let bob = there.register("bob").await;
    // Nobody of this server is in the room: the invitation is all that it knows of it.
    let body = json!({ "name": "Far away", "invite": [alice.user_id] });
    let room = bob.create_room(body).await;
    let told = gateway.events(1).await.remove(0);
    assert_eq!((&told["room_id"], &told["sender"]), (&json!(room), &json!(bob.user_id)));
    assert_eq!((&told["type"], &told["user_is_target"]), (&json!("m.room.member"), &json!(true)));
    assert_eq!(told["content"]["membership"], "invite");
    assert_eq!((&told["room_name"], &told["prio"]), (&json!("Far away"), &json!("high")));
    // Once she is in, she is told of messages.
    alice.join(&room).await;
    let hello = bob.send_text(&room, "hello").await;
    let pushed = gateway.events(2).await;
    assert_eq!(pushed[1]["event_id"], json!(hello));
}

#[tokio::test]
async fn badges_are_right_after_a_restart() {
    let mut scene = scene(pushing()).await;
    let Scene { gateway, bob, room, .. } = &scene;
    let root = bob.send_text(room, "root").await;
    let reply = bob.send_event(room, "m.room.message", related("reply", "m.thread", &root)).await;
    let gone = bob.send_text(room, "gone").await;
    gateway.events(3).await;
    scene.read("m.read", &reply, json!({ "thread_id": root })).await;
    gateway.badge(2).await;
    bob.redact(room, &gone).await;
    gateway.badge(1).await;
    scene.server.restart().await;
    let Scene { gateway, bob, room, .. } = &scene;
    bob.send_text(room, "after").await;
    let pushed = gateway.events(4).await;
    assert_eq!(pushed[3]["counts"]["unread"], 2, "the root and what came after");
    scene.read("m.read", &root, json!({ "thread_id": "main" })).await;
    gateway.badge(1).await;
}
