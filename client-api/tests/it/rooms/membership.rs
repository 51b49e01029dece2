//! `/join`, `/invite`, `/leave`, `/kick`, `/ban`, `/unban`, `/knock`, `/forget`.

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use crate::support::{V3, at, outcome, refused, state_of, words};

async fn membership(viewer: &TestUser, room: &RoomId, user: &TestUser) -> Value {
    let path = at(room, format!("state/m.room.member/{}", user.user_id));
    viewer.get_ok(&path).await
}

async fn act(user: &TestUser, room: &RoomId, what: &str, whom: &TestUser) -> (u16, String) {
    let body = json!({ "user_id": whom.user_id, "reason": "because" });
    let answer = user.post(&at(room, what), body).await;
    let (status, code) = outcome(&answer);
    (status, code.to_owned())
}

fn ok() -> (u16, String) {
    (200, String::new())
}

fn forbidden() -> (u16, String) {
    (403, "M_FORBIDDEN".to_owned())
}

struct Scene {
    server: TestServer,
    alice: TestUser,
    bob: TestUser,
    carol: TestUser,
    room: OwnedRoomId,
}

/// Alice's private room, to which Bob and Carol do not belong.
async fn scene() -> Scene {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_room(json!({})).await;
    Scene { server, alice, bob, carol, room }
}

#[tokio::test]
async fn invited_users_join_and_leave() {
    let Scene { server: _server, alice, bob, carol, room } = scene().await;
    refused(bob.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
    assert_eq!(act(&bob, &room, "invite", &carol).await, forbidden());
    assert_eq!(act(&alice, &room, "invite", &bob).await, ok());
    let member = membership(&alice, &room, &bob).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("invite"), &json!("because")));
    let path = format!("{V3}/join/{}", encode(room.as_str()));
    let answer = bob.post_ok(&path, json!({ "reason": "hello" })).await;
    assert_eq!(answer, json!({ "room_id": room }));
    let member = membership(&alice, &room, &bob).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("join"), &json!("hello")));
    // Joining again changes nothing.
    let before = alice.get_ok(&at(&room, "messages?dir=b&limit=1")).await;
    assert_eq!(bob.post_ok(&at(&room, "join"), json!({})).await, json!({ "room_id": room }));
    assert_eq!(
        alice.get_ok(&at(&room, "messages?dir=b&limit=1")).await["chunk"][0]["event_id"],
        before["chunk"][0]["event_id"]
    );
    // Inviting a member is refused.
    assert_eq!(act(&alice, &room, "invite", &bob).await, forbidden());
    assert_eq!(bob.post_ok(&at(&room, "leave"), json!({ "reason": "bye" })).await, json!({}));
    let member = membership(&alice, &room, &bob).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("leave"), &json!("bye")));
    refused(bob.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
    refused(
        bob.put(&at(&room, "send/m.room.message/x"), json!({ "body": "x" })).await,
        403,
        "M_FORBIDDEN",
    );
}

#[tokio::test]
async fn invites_are_rejected_by_leaving() {
    let Scene { server: _server, alice, bob, room, .. } = scene().await;
    alice.invite(&room, &bob.user_id).await;
    bob.leave(&room).await;
    assert_eq!(membership(&alice, &room, &bob).await["membership"], "leave");
    assert!(bob.sync(None, "").await["rooms"]["invite"][room.as_str()].is_null());
}

#[tokio::test]
async fn kicks_need_power_over_somebody_who_is_there() {
    let Scene { server: _server, alice, bob, carol, room } = scene().await;
    for user in [&bob, &carol] {
        alice.invite(&room, &user.user_id).await;
        user.join(&room).await;
    }
    assert_eq!(act(&bob, &room, "kick", &carol).await, forbidden());
    assert_eq!(act(&bob, &room, "kick", &alice).await, forbidden());
    assert_eq!(act(&alice, &room, "kick", &bob).await, ok());
    let member = membership(&alice, &room, &bob).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("leave"), &json!("because")));
    assert_eq!(act(&alice, &room, "kick", &bob).await, forbidden());
    // A kick takes an invite back.
    alice.invite(&room, &bob.user_id).await;
    assert_eq!(act(&alice, &room, "kick", &bob).await, ok());
    refused(bob.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn bans_hold_until_lifted() {
    let Scene { server: _server, alice, bob, carol, room } = scene().await;
    let public = json!({ "join_rule": "public" });
    alice.send_state(&room, "m.room.join_rules", "", public).await;
    bob.join(&room).await;
    assert_eq!(act(&bob, &room, "ban", &carol).await, forbidden());
    // Also of somebody who was never there.
    assert_eq!(act(&alice, &room, "ban", &carol).await, ok());
    assert_eq!(act(&alice, &room, "ban", &bob).await, ok());
    assert_eq!(membership(&alice, &room, &bob).await["membership"], "ban");
    refused(bob.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
    assert_eq!(act(&alice, &room, "invite", &bob).await, forbidden());
    assert_eq!(act(&alice, &room, "unban", &bob).await, ok());
    assert_eq!(membership(&alice, &room, &bob).await["membership"], "leave");
    let (status, code) = act(&alice, &room, "unban", &bob).await;
    assert!(status == 403 || status == 400, "{code}");
    bob.join(&room).await;
}

#[tokio::test]
async fn knocks_ask_to_be_invited() {
    let Scene { server: _server, alice, bob, carol, room } = scene().await;
    let knock = format!("{V3}/knock/{}", encode(room.as_str()));
    refused(bob.post(&knock, json!({})).await, 403, "M_FORBIDDEN");
    alice.send_state(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await;
    let answer = bob.post_ok(&knock, json!({ "reason": "may I?" })).await;
    assert_eq!(answer, json!({ "room_id": room }));
    let member = membership(&alice, &room, &bob).await;
    assert_eq!((&member["membership"], &member["reason"]), (&json!("knock"), &json!("may I?")));
    refused(bob.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
    refused(alice.post(&knock, json!({})).await, 403, "M_FORBIDDEN");
    alice.invite(&room, &bob.user_id).await;
    bob.join(&room).await;
    // A knock is taken back by leaving, and refused by a kick.
    carol.post_ok(&knock, json!({})).await;
    carol.leave(&room).await;
    assert_eq!(membership(&alice, &room, &carol).await["membership"], "leave");
    carol.post_ok(&knock, json!({})).await;
    assert_eq!(act(&alice, &room, "kick", &carol).await, ok());
    assert_eq!(act(&alice, &room, "ban", &carol).await, ok());
    refused(carol.post(&knock, json!({})).await, 403, "M_FORBIDDEN");
    let unknown = format!("{V3}/knock/{}", encode("#nowhere:localhost"));
    refused(bob.post(&unknown, json!({})).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn left_rooms_can_be_forgotten() {
    let Scene { server: _server, alice, bob, carol, room } = scene().await;
    alice.invite(&room, &bob.user_id).await;
    bob.join(&room).await;
    alice.send_text(&room, "hello").await;
    let (status, _) = bob.post(&at(&room, "forget"), json!({})).await;
    assert_eq!(status, 400, "still in it");
    let (status, _) = carol.post(&at(&room, "forget"), json!({})).await;
    assert!(status.is_client_error(), "never in it");
    bob.leave(&room).await;
    let left = "&filter=%7B%22room%22:%7B%22include_leave%22:true%7D%7D";
    assert!(bob.sync(None, left).await["rooms"]["leave"][room.as_str()].is_object());
    bob.get_ok(&at(&room, "messages?dir=b")).await;
    assert_eq!(bob.post_ok(&at(&room, "forget"), json!({})).await, json!({}));
    assert!(bob.sync(None, left).await["rooms"]["leave"][room.as_str()].is_null());
    refused(bob.get(&at(&room, "messages?dir=b")).await, 403, "M_FORBIDDEN");
    // Coming back brings it back.
    alice.invite(&room, &bob.user_id).await;
    bob.join(&room).await;
    let history = bob.get_ok(&at(&room, "messages?dir=b&limit=50")).await;
    assert!(words(&history["chunk"]).contains(&"hello".to_owned()));
}

#[tokio::test]
async fn membership_is_also_set_as_state() {
    let Scene { server: _server, alice, bob, room, .. } = scene().await;
    let member = |user: &TestUser| at(&room, format!("state/m.room.member/{}", user.user_id));
    alice.put_ok(&member(&bob), json!({ "membership": "invite" })).await;
    bob.put_ok(&member(&bob), json!({ "membership": "join", "displayname": "B" })).await;
    let state = alice.get_ok(&at(&room, "state")).await;
    let event = state_of(&state, "m.room.member", bob.user_id.as_str());
    assert_eq!(event["content"]["membership"], "join");
    refused(bob.put(&member(&alice), json!({ "membership": "ban" })).await, 403, "M_FORBIDDEN");
    let (status, answer) = alice.put(&member(&bob), json!({ "membership": "asleep" })).await;
    assert!(status.is_client_error(), "{answer}");
    alice.put_ok(&member(&bob), json!({ "membership": "ban" })).await;
    assert_eq!(membership(&alice, &room, &bob).await["membership"], "ban");
}

#[tokio::test]
async fn unknown_rooms_are_refused() {
    let Scene { server: _server, alice, bob, .. } = scene().await;
    let nowhere = RoomId::parse("!nowhere:localhost").unwrap();
    for what in ["join", "leave", "forget"] {
        let answer = alice.post(&at(&nowhere, what), json!({})).await;
        assert!(answer.0.is_client_error(), "{what}: {}", answer.1);
    }
    for what in ["invite", "kick", "ban", "unban"] {
        let (status, code) = act(&alice, &nowhere, what, &bob).await;
        assert!((400..500).contains(&status), "{what}: {code}");
    }
    let alias = format!("{V3}/join/{}", encode("#nowhere:localhost"));
    refused(alice.post(&alias, json!({})).await, 404, "M_NOT_FOUND");
}
