//! `m.invite_permission_config` (CS "Invite permission").

use hearth_testkit::{TestServer, TestUser};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, at, of_user, refused};

async fn permit(user: &TestUser, config: Value) {
    user.put_ok(&of_user(user, "account_data/m.invite_permission_config"), config).await;
}

fn invited(sync: &Value, room: &RoomId) -> bool {
    sync["rooms"]["invite"][room.as_str()].is_object()
}

#[tokio::test]
async fn invites_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({})).await;
    permit(&bob, json!({ "default_action": "block" })).await;
    let body = json!({ "user_id": bob.user_id });
    refused(alice.post(&at(&room, "invite"), body.clone()).await, 403, "M_INVITE_BLOCKED");
    let member = at(&room, "state/m.room.member/@bob:localhost");
    let invite = json!({ "membership": "invite" });
    refused(alice.put(&member, invite.clone()).await, 403, "M_INVITE_BLOCKED");
    let answer = alice.post(&format!("{V3}/createRoom"), json!({ "invite": [bob.user_id] })).await;
    refused(answer, 403, "M_INVITE_BLOCKED");
    assert!(!invited(&bob.sync(None, "").await, &room));
    // Other memberships are set as ever.
    alice.post_ok(&at(&room, "ban"), body.clone()).await;
    alice.post_ok(&at(&room, "unban"), body.clone()).await;

    for open in [json!({}), json!({ "default_action": "org.example.allow" })] {
        permit(&bob, open).await;
        alice.post_ok(&at(&room, "invite"), body.clone()).await;
        assert!(invited(&bob.sync(None, "").await, &room));
        alice.post_ok(&at(&room, "kick"), body.clone()).await;
    }
}

#[tokio::test]
async fn invites_that_are_there_are_hidden() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    let since = bob.now().await;
    permit(&bob, json!({ "default_action": "block" })).await;
    assert!(!invited(&bob.sync(None, "").await, &room));
    assert!(!invited(&bob.sync(Some(&since), "").await, &room));
    permit(&bob, json!({})).await;
    assert!(invited(&bob.sync(None, "").await, &room));
}
