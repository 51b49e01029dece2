//! Invites and knocks: rooms with stripped state (CS "Stripped state").

use hearth_testkit::{TestServer, encode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, joined, list, next, state_of, tidy, words};

fn invite<'a>(sync: &'a Value, room: &RoomId) -> &'a Value {
    &sync["rooms"]["invite"][room.as_str()]["invite_state"]["events"]
}

fn knock<'a>(sync: &'a Value, room: &RoomId) -> &'a Value {
    &sync["rooms"]["knock"][room.as_str()]["knock_state"]["events"]
}

fn stripped(events: &Value) {
    for event in list(events) {
        let fields: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["content", "sender", "state_key", "type"], "{event}");
    }
}

#[tokio::test]
async fn an_invite_describes_the_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "name": "The room", "topic": "Its topic", "room_alias_name": "r",
            "initial_state": [
                { "type": "m.room.avatar", "content": { "url": "mxc://localhost/a" } },
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "org.example.secret", "content": { "secret": true } } ] }))
        .await;
    let since = bob.now().await;
    alice.invite(&room, &bob.user_id).await;
    let update = bob.wait_for_sync(&since).await;
    let events = invite(&update, &room);
    stripped(events);
    for kind in ["create", "name", "avatar", "topic", "join_rules", "canonical_alias", "encryption"]
    {
        state_of(events, &format!("m.room.{kind}"), "");
    }
    let member = state_of(events, "m.room.member", "@bob:localhost");
    assert_eq!(
        (&member["content"]["membership"], &member["sender"]),
        (&json!("invite"), &json!("@alice:localhost"))
    );
    assert!(!words(events).contains(&"org.example.secret".to_owned()));
    assert!(joined(&update, &room).is_null());
    // It is there in an initial sync, and told only once in incremental ones.
    stripped(invite(&bob.sync(None, "").await, &room));
    assert!(invite(&bob.sync(Some(&next(&update)), "").await, &room).is_null());

    bob.join(&room).await;
    let update = bob.sync(Some(&next(&update)), "").await;
    assert!(joined(&update, &room).is_object() && invite(&update, &room).is_null());
    assert!(invite(&bob.sync(None, "").await, &room).is_null());
}

#[tokio::test]
async fn a_rejected_invite_is_left() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let since = bob.now().await;
    bob.leave(&room).await;
    let update = bob.sync(Some(&since), "").await;
    assert!(update["rooms"]["leave"][room.as_str()].is_object(), "{update}");
    assert!(invite(&update, &room).is_null());
    // What was said in a room that he never was in does not show.
    assert!(!update.to_string().contains("m.room.power_levels"), "{update}");
    let since = next(&update);
    alice.invite(&room, &bob.user_id).await;
    alice.post_ok(&crate::support::at(&room, "kick"), json!({ "user_id": bob.user_id })).await;
    let update = bob.sync(Some(&since), "").await;
    assert!(invite(&update, &room).is_null(), "taken back: {update}");
}

#[tokio::test]
async fn a_knock_describes_the_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "name": "Knock!", "initial_state": [
            { "type": "m.room.join_rules", "content": { "join_rule": "knock" } } ] }))
        .await;
    let (hers, his) = (alice.now().await, bob.now().await);
    bob.post_ok(&format!("{V3}/knock/{}", encode(room.as_str())), json!({ "reason": "hi" })).await;
    let update = bob.wait_for_sync(&his).await;
    let events = knock(&update, &room);
    stripped(events);
    state_of(events, "m.room.create", "");
    assert_eq!(state_of(events, "m.room.name", "")["content"]["name"], "Knock!");
    let member = state_of(events, "m.room.member", "@bob:localhost");
    insta::assert_json_snapshot!(tidy(member, &[]));
    assert!(knock(&bob.sync(None, "").await, &room).is_array());
    let seen = alice.sync(Some(&hers), "").await;
    assert_eq!(words(crate::support::timeline(&seen, &room)), ["bob knock"]);
    // Accepted, it becomes an invite.
    alice.invite(&room, &bob.user_id).await;
    let update = bob.sync(Some(&next(&update)), "").await;
    assert!(invite(&update, &room).is_array() && knock(&update, &room).is_null(), "{update}");
}
