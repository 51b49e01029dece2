//! `POST /account/deactivate`.

use hearth_testkit::{TestServer, TestUser};
use http::{Method, StatusCode};
use serde_json::json;

use super::with_password;
use crate::support::{V3, at, find_state, of_user, refused, state_of, timeline, words};

#[tokio::test]
async fn ends_the_account_for_good() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let phone = server.login("alice").await;
    let room = bob.create_public_room().await;
    alice.join(&room).await;
    let invited = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    alice.put_ok(&of_user(&alice, "account_data/org.example.x"), json!({ "a": 1 })).await;
    let since = bob.now().await;

    let path = format!("{V3}/account/deactivate");
    let (status, answer) =
        with_password(&alice, Method::POST, &path, json!({}), "alice", &alice.password()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let unbound = answer["id_server_unbind_result"].as_str().unwrap();
    assert!(["success", "no-support"].contains(&unbound), "{answer}");

    for device in [&alice, &phone] {
        refused(device.get(&format!("{V3}/account/whoami")).await, 401, "M_UNKNOWN_TOKEN");
    }
    let login = json!({ "type": "m.login.password", "password": TestUser::password_of("alice"),
        "identifier": { "type": "m.id.user", "user": "alice" } });
    refused(server.client().post(&format!("{V3}/login"), login).await, 403, "M_USER_DEACTIVATED");
    let register = json!({ "username": "alice", "password": "correct horse" });
    refused(server.client().post(&format!("{V3}/register"), register).await, 400, "M_USER_IN_USE");
    let available = format!("{V3}/register/available?username=alice");
    refused(server.client().get(&available).await, 400, "M_USER_IN_USE");

    // The user leaves the rooms and rejects the invites.
    let update = bob.wait_for_sync(&since).await;
    let mut left = words(timeline(&update, &room));
    if left.is_empty() {
        left = words(timeline(
            &bob.wait_for_sync(update["next_batch"].as_str().unwrap()).await,
            &room,
        ));
    }
    assert_eq!(left, ["alice leave"]);
    let state = bob.get_ok(&at(&invited, "members")).await;
    let member = find_state(&state["chunk"], "m.room.member", "@alice:localhost");
    assert_eq!(member.map(|event| &event["content"]["membership"]), Some(&json!("leave")));
}

#[tokio::test]
async fn hides_the_profile() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob.create_public_room().await;
    alice.join(&room).await;
    let profile = format!("{V3}/profile/@alice:localhost");
    alice.put_ok(&format!("{profile}/displayname"), json!({ "displayname": "Alice" })).await;
    let path = format!("{V3}/account/deactivate");
    let body = json!({ "erase": true });
    let (status, answer) =
        with_password(&alice, Method::POST, &path, body, "alice", &alice.password()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, answer) = bob.get(&format!("{profile}/displayname")).await;
    assert!(status == 404 || answer["displayname"].is_null(), "{answer}");
    let members = bob.get_ok(&at(&room, "members")).await;
    let member = state_of(&members["chunk"], "m.room.member", "@alice:localhost");
    assert_eq!(member["content"]["membership"], "leave");
}
