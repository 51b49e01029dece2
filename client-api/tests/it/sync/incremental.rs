//! A sync from an earlier token.

use hearth_testkit::{TestServer, encode};
use serde_json::{Value, json};

use crate::support::{at, bodies, ids, joined, list, message, next, of_type, timeline, words};

#[tokio::test]
async fn tells_each_event_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let mut since = bob.now().await;
    let mut sent = Vec::new();
    let mut seen = Vec::new();
    for n in 0..5 {
        for m in 0..=n {
            sent.push(alice.send_text(&room, &format!("{n}.{m}")).await.to_string());
        }
        let update = bob.sync(Some(&since), "").await;
        assert_ne!(joined(&update, &room)["timeline"]["limited"], true);
        seen.extend(ids(timeline(&update, &room)).into_iter().map(ToOwned::to_owned));
        // Asked again with the same token, the answer is the same: it may have been lost.
        let again = bob.sync(Some(&since), "").await;
        assert_eq!(ids(timeline(&again, &room)), ids(timeline(&update, &room)));
        since = next(&update);
    }
    assert_eq!(seen, sent);
    let nothing = bob.sync(Some(&since), "").await;
    assert!(joined(&nothing, &room).is_null(), "{nothing}");
}

#[tokio::test]
async fn state_changes_come_in_the_timeline() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let since = alice.now().await;
    alice.send_state(&room, "m.room.topic", "", json!({ "topic": "one" })).await;
    alice.send_text(&room, "between").await;
    alice.send_state(&room, "m.room.topic", "", json!({ "topic": "two" })).await;
    let update = alice.sync(Some(&since), "").await;
    assert_eq!(words(timeline(&update, &room)), ["m.room.topic", "between", "m.room.topic"]);
    assert_eq!(list(&joined(&update, &room)["state"]["events"]), [] as [Value; 0]);
    let last = &timeline(&update, &room)[2];
    assert_eq!(last["unsigned"]["prev_content"], json!({ "topic": "one" }));
    assert!(last["unsigned"]["replaces_state"].is_string(), "{last}");
}

#[tokio::test]
async fn a_room_newly_joined_comes_whole() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "old" })).await;
    for n in 0..30 {
        alice.send_text(&room, &n.to_string()).await;
    }
    let since = bob.now().await;
    bob.join(&room).await;
    let update = bob.sync(Some(&since), "").await;
    let here = joined(&update, &room);
    assert_eq!(words(timeline(&update, &room)).last().unwrap(), "bob join");
    let mut state = words(&here["state"]["events"]);
    state.extend(words(timeline(&update, &room)));
    for expected in ["m.room.create", "m.room.name", "m.room.power_levels", "alice join"] {
        assert!(state.contains(&expected.to_owned()), "no {expected} in {state:?}");
    }
    assert_eq!(here["summary"]["m.joined_member_count"], 2);
}

#[tokio::test]
async fn only_the_sending_device_learns_its_transaction() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = alice.now().await;
    let path = at(&room, format!("send/m.room.message/{}", encode("t/1")));
    alice.put_ok(&path, message("hello")).await;
    let event = async |user: &hearth_testkit::TestUser| {
        timeline(&user.sync(Some(&since), "").await, &room)[0].clone()
    };
    assert_eq!(event(&alice).await["unsigned"]["transaction_id"], "t/1");
    for other in [&phone, &bob] {
        assert!(event(other).await["unsigned"].get("transaction_id").is_none());
    }
}

#[tokio::test]
async fn devices_keep_their_own_place() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let room = alice.create_public_room().await;
    let (here, there) = (alice.now().await, phone.now().await);
    alice.send_text(&room, "one").await;
    let update = alice.sync(Some(&here), "").await;
    alice.send_text(&room, "two").await;
    assert_eq!(bodies(timeline(&alice.sync(Some(&next(&update)), "").await, &room)), ["two"]);
    assert_eq!(bodies(timeline(&phone.sync(Some(&there), "").await, &room)), ["one", "two"]);
}

#[tokio::test]
async fn everything_that_happened_comes_together() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = alice.now().await;
    let event = bob.send_text(&room, "hello").await;
    bob.post_ok(&at(&room, format!("receipt/m.read/{event}")), json!({})).await;
    let typing = json!({ "typing": true, "timeout": 20_000 });
    bob.put_ok(&at(&room, "typing/@bob:localhost"), typing).await;
    let data = crate::support::of_user(&alice, "account_data/org.example.x");
    alice.put_ok(&data, json!({ "n": 1 })).await;
    let update = alice.sync(Some(&since), "").await;
    assert_eq!(bodies(timeline(&update, &room)), ["hello"]);
    of_type(&joined(&update, &room)["ephemeral"]["events"], "m.typing");
    of_type(&joined(&update, &room)["ephemeral"]["events"], "m.receipt");
    of_type(&update["account_data"]["events"], "org.example.x");
    let quiet = alice.sync(Some(&next(&update)), "").await;
    assert!(joined(&quiet, &room).is_null(), "{quiet}");
}

#[tokio::test]
async fn events_tell_the_readers_membership_at_the_time() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({})).await;
    alice.send_text(&room, "before").await;
    alice.invite(&room, &bob.user_id).await;
    alice.send_text(&room, "invited").await;
    bob.join(&room).await;
    alice.send_text(&room, "joined").await;
    let history = bob.sync(None, "").await;
    let memberships: Vec<_> = list(timeline(&history, &room))
        .iter()
        .filter(|event| event["type"] == "m.room.message")
        .map(|event| event["unsigned"]["membership"].clone())
        .collect();
    assert_eq!(memberships, ["leave", "invite", "join"]);
}
