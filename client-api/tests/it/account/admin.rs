//! `/v1/admin/lock`, `/v1/admin/suspend`, `/admin/whois`, and what locked and suspended accounts may
//! do (CS "Account moderation").

use hearth_testkit::{Client, TestServer, TestUser};
use serde_json::json;

use super::shared_secret::{register, server_with_secret};
use crate::support::{V1, V3, at, message, refused, text};

async fn start() -> (TestServer, Client) {
    let server = server_with_secret().start().await;
    let client = server.client();
    let (_, root) = register(&client, "a secret for tests", "root", true).await;
    let root = client.with_token(text(&root, "access_token"));
    (server, root)
}

fn lock(user: &TestUser) -> String {
    format!("{V1}/admin/lock/{}", user.user_id)
}

fn suspend(user: &TestUser) -> String {
    format!("{V1}/admin/suspend/{}", user.user_id)
}

#[tokio::test]
async fn a_locked_account_can_only_log_out() {
    let (server, root) = start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let room = alice.create_public_room().await;
    assert_eq!(
        root.put_ok(&lock(&alice), json!({ "locked": true })).await,
        json!({ "locked": true })
    );
    assert_eq!(root.get_ok(&lock(&alice)).await, json!({ "locked": true }));
    let sync = format!("{V3}/sync?timeout=0");
    for path in [&sync, &format!("{V3}/account/whoami"), &at(&room, "state")] {
        let answer = refused(alice.get(path).await, 401, "M_USER_LOCKED");
        assert_eq!(answer["soft_logout"], true);
    }
    let send = at(&room, "send/m.room.message/1");
    refused(alice.put(&send, message("hi")).await, 401, "M_USER_LOCKED");
    assert_eq!(phone.post_ok(&format!("{V3}/logout"), json!({})).await, json!({}));
    root.put_ok(&lock(&alice), json!({ "locked": false })).await;
    // The session was kept; the one that logged out was not.
    alice.get_ok(&sync).await;
    refused(phone.get(&sync).await, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn what_a_locked_account_left_to_be_sent_is_not_sent() {
    let (server, root) = start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let later = at(&room, "send/m.room.message/1?org.matrix.msc4140.delay=3600000");
    let scheduled = alice.put_ok(&later, message("never")).await;
    root.put_ok(&lock(&alice), json!({ "locked": true })).await;
    let delay_id = text(&scheduled, "delay_id");
    let send =
        format!("/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/send");
    refused(server.client().post(&send, json!({})).await, 401, "M_USER_LOCKED");
}

#[tokio::test]
async fn administrators_are_told_that_they_can_moderate() {
    let (server, root) = start().await;
    let alice = server.register("alice").await;
    let path = format!("{V3}/capabilities");
    let moderation = json!({ "suspend": true, "lock": true });
    assert_eq!(root.get_ok(&path).await["capabilities"]["m.account_moderation"], moderation);
    assert!(alice.get_ok(&path).await["capabilities"].get("m.account_moderation").is_none());
}

#[tokio::test]
async fn a_suspended_account_reads_leaves_and_redacts_its_own() {
    let (server, root) = start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let (own, other) = (alice.send_text(&room, "mine").await, bob.send_text(&room, "his").await);
    let elsewhere = bob.create_public_room().await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let answer = root.put_ok(&suspend(&alice), json!({ "suspended": true })).await;
    assert_eq!(answer, json!({ "suspended": true }));
    assert_eq!(root.get_ok(&suspend(&alice)).await, json!({ "suspended": true }));

    let code = "M_USER_SUSPENDED";
    let txn = |n: u8| format!("send/m.room.message/{n}");
    refused(alice.put(&at(&room, txn(1)), message("hi")).await, 403, code);
    refused(alice.put(&at(&room, "state/m.room.topic/"), json!({ "topic": "x" })).await, 403, code);
    refused(alice.post(&at(&elsewhere, "join"), json!({})).await, 403, code);
    refused(alice.post(&at(&invited, "join"), json!({})).await, 403, code);
    refused(alice.post(&format!("{V3}/knock/{elsewhere}"), json!({})).await, 403, code);
    refused(alice.post(&format!("{V3}/createRoom"), json!({})).await, 403, code);
    refused(alice.post("/_matrix/media/v3/upload", json!({})).await, 403, code);
    let invite = json!({ "user_id": "@root:localhost" });
    refused(alice.post(&at(&room, "invite"), invite).await, 403, code);
    let profile = format!("{V3}/profile/@alice:localhost/displayname");
    refused(alice.put(&profile, json!({ "displayname": "x" })).await, 403, code);
    refused(alice.put(&at(&room, format!("redact/{other}/r1")), json!({})).await, 403, code);

    alice.sync(None, "").await;
    alice.get_ok(&at(&room, "messages?dir=b")).await;
    alice.redact(&room, &own).await;
    let rest = "send/m.room.redaction/r2";
    refused(alice.put(&at(&room, rest), json!({ "redacts": other })).await, 403, code);
    alice.leave(&invited).await;
    alice.leave(&room).await;
    server.login("alice").await;
    root.put_ok(&suspend(&alice), json!({ "suspended": false })).await;
    alice.join(&elsewhere).await;
}

#[tokio::test]
async fn only_administrators_moderate_accounts() {
    let (server, root) = start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    for path in [lock(&bob), suspend(&bob)] {
        refused(alice.get(&path).await, 403, "M_FORBIDDEN");
    }
    refused(alice.put(&lock(&bob), json!({ "locked": true })).await, 403, "M_FORBIDDEN");
    refused(alice.put(&suspend(&bob), json!({ "suspended": true })).await, 403, "M_FORBIDDEN");
    refused(root.get(&format!("{V1}/admin/lock/@zoe:localhost")).await, 404, "M_NOT_FOUND");
    refused(root.get(&format!("{V1}/admin/lock/@zoe:other.example")).await, 400, "M_INVALID_PARAM");
    let own = format!("{V1}/admin/lock/@root:localhost");
    refused(root.put(&own, json!({ "locked": true })).await, 403, "M_FORBIDDEN");
    bob.sync(None, "").await;
}

#[tokio::test]
async fn whois_is_for_oneself_and_administrators() {
    let (server, root) = start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = format!("{V3}/admin/whois/{}", alice.user_id);
    let own = alice.get_ok(&path).await;
    assert_eq!(own["user_id"], "@alice:localhost");
    let connection = &own["devices"][alice.device_id.as_str()]["sessions"][0]["connections"][0];
    assert_eq!(connection["ip"], "127.0.0.1", "{own}");
    assert_eq!(root.get_ok(&path).await["user_id"], "@alice:localhost");
    refused(bob.get(&path).await, 403, "M_FORBIDDEN");
}
