//! Guests: `POST /register?kind=guest`, and what they may do (CS "Guest Access").

use hearth_testkit::{Client, TestServer, encode};
use http::StatusCode;
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, at, message, refused, text};

async fn server() -> TestServer {
    TestServer::builder().config(|config| config.users.allow_guests = true).start().await
}

/// A new guest: their client and user ID.
async fn guest(server: &TestServer) -> (Client, String) {
    let body = json!({ "initial_device_display_name": "a tab" });
    let (status, answer) = server.client().post(&format!("{V3}/register?kind=guest"), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let client = server.client().with_token(text(&answer, "access_token"));
    (client, text(&answer, "user_id").to_owned())
}

fn access(rule: &str) -> Value {
    json!({ "guest_access": rule })
}

fn send(room: &RoomId, transaction: &str) -> String {
    at(room, format!("send/m.room.message/{transaction}"))
}

#[tokio::test]
async fn guests_have_accounts_of_their_own() {
    let server = server().await;
    let (client, user_id) = guest(&server).await;
    let me = client.get_ok(&format!("{V3}/account/whoami")).await;
    assert_eq!((&me["user_id"], &me["is_guest"]), (&json!(user_id), &json!(true)));
    let devices = client.get_ok(&format!("{V3}/devices")).await;
    assert_eq!(devices["devices"][0]["display_name"], "a tab");
    let name = format!("{V3}/profile/{}/displayname", encode(&user_id));
    client.put_ok(&name, json!({ "displayname": "visitor" })).await;
    client.get_ok(&format!("{V3}/sync")).await;
    let (_, other) = guest(&server).await;
    assert_ne!(user_id, other);
}

#[tokio::test]
async fn guests_may_do_only_what_is_listed() {
    let server = server().await;
    let (client, user_id) = guest(&server).await;
    let create = client.post(&format!("{V3}/createRoom"), json!({})).await;
    refused(create, 403, "M_GUEST_ACCESS_FORBIDDEN");
    let search = json!({ "search_term": "a" });
    let search = client.post(&format!("{V3}/user_directory/search"), search).await;
    refused(search, 403, "M_GUEST_ACCESS_FORBIDDEN");
    let upload = client.post("/_matrix/media/v3/upload", json!({})).await;
    refused(upload, 403, "M_GUEST_ACCESS_FORBIDDEN");
    let data = format!("{V3}/user/{}/account_data/a", encode(&user_id));
    refused(client.put(&data, json!({})).await, 403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn guests_enter_rooms_that_admit_them_and_leave_them_when_these_no_longer_do() {
    let server = server().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let (client, user_id) = guest(&server).await;
    let join = at(&room, "join");
    alice.send_state(&room, "m.room.guest_access", "", access("forbidden")).await;
    refused(client.post(&join, json!({})).await, 403, "M_GUEST_ACCESS_FORBIDDEN");
    alice.send_state(&room, "m.room.guest_access", "", access("can_join")).await;
    refused(client.put(&send(&room, "1"), message("out here")).await, 403, "M_FORBIDDEN");
    client.post_ok(&join, json!({})).await;
    client.put_ok(&send(&room, "2"), message("hello")).await;

    let since = alice.now().await;
    alice.send_state(&room, "m.room.guest_access", "", access("forbidden")).await;
    let member = at(&room, format!("state/m.room.member/{}", encode(&user_id)));
    let mut token = since;
    while alice.get_ok(&member).await["membership"] != "leave" {
        token = text(&alice.wait_for_sync(&token).await, "next_batch").to_owned();
    }
    let bob = at(&room, format!("state/m.room.member/{}", encode(bob.user_id.as_str())));
    assert_eq!(alice.get_ok(&bob).await["membership"], "join");
}
