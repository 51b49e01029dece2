//! `/devices`, `/delete_devices`: listing, naming and deleting with user-interactive authentication.

use hearth_testkit::TestServer;
use http::{Method, StatusCode};
use serde_json::json;

use super::{password_stage, with_password};
use crate::support::{V3, list, refused, same, text, tidy};

fn devices() -> String {
    format!("{V3}/devices")
}

fn device(id: impl AsRef<str>) -> String {
    format!("{V3}/devices/{}", id.as_ref())
}

#[tokio::test]
async fn list_and_rename() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let bob = server.register("bob").await;
    alice.put_ok(&device(&phone.device_id), json!({ "display_name": "Phone" })).await;
    let all = alice.get_ok(&devices()).await;
    same(
        list(&all["devices"]).iter().map(|device| text(device, "device_id")),
        [alice.device_id.as_str(), phone.device_id.as_str()],
    );
    let one = alice.get_ok(&device(&phone.device_id)).await;
    assert_eq!(one["display_name"], "Phone");
    assert_eq!(tidy(&one, &[])["device_id"], "[device_id]");
    refused(alice.get(&device("NONE")).await, 404, "M_NOT_FOUND");
    let name = json!({ "display_name": "x" });
    refused(alice.put(&device("NONE"), name.clone()).await, 404, "M_NOT_FOUND");
    refused(bob.put(&device(&phone.device_id), name).await, 404, "M_NOT_FOUND");
    refused(bob.get(&device(&phone.device_id)).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn deleting_is_no_way_to_try_passwords() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let guess = async |password: &str| {
        let mut stage = password_stage("", "alice", password);
        stage.as_object_mut().unwrap().remove("session");
        alice.json(Method::DELETE, &device("NONE"), Some(json!({ "auth": stage }))).await
    };
    for _ in 0..20 {
        let (status, answer) = guess("wrong").await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_FORBIDDEN")));
    }
    refused(guess(&alice.password()).await, 429, "M_LIMIT_EXCEEDED");
    server.login("alice").await;
}

#[tokio::test]
async fn deleting_wants_the_password() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    let path = device(&phone.device_id);
    let (status, answer) =
        with_password(&alice, Method::DELETE, &path, json!({}), "alice", "wrong").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    assert_eq!(answer["errcode"], "M_FORBIDDEN");
    assert!(answer["session"].is_string(), "the stage may be tried again: {answer}");
    phone.get_ok(&devices()).await;

    let password = alice.password();
    let (status, answer) =
        with_password(&alice, Method::DELETE, &path, json!({}), "alice", &password).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
    refused(phone.get(&devices()).await, 401, "M_UNKNOWN_TOKEN");
    refused(alice.get(&path).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_session_proves_only_its_request() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let phone = server.login("alice").await;
    let tablet = server.login("alice").await;
    let (_, challenge) = alice.delete(&device(&phone.device_id), None).await;
    let session = text(&challenge, "session");
    let body = json!({ "auth": password_stage(session, "alice", &alice.password()) });
    // Moved to another device, the session proves nothing.
    let (status, answer) = alice.delete(&device(&tablet.device_id), Some(body)).await;
    assert!(status.is_client_error(), "{answer}");
    tablet.get_ok(&devices()).await;
    // Nor does somebody else's password.
    let body = json!({ "auth": password_stage(session, "bob", &bob.password()) });
    let (status, answer) = alice.delete(&device(&phone.device_id), Some(body)).await;
    assert!(status.is_client_error(), "{answer}");
    phone.get_ok(&devices()).await;
}

#[tokio::test]
async fn several_are_deleted_at_once() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let (phone, tablet) = (server.login("alice").await, server.login("alice").await);
    let body = json!({ "devices": [phone.device_id, tablet.device_id] });
    let path = format!("{V3}/delete_devices");
    let (status, answer) =
        with_password(&alice, Method::POST, &path, body, "alice", &alice.password()).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
    for gone in [&phone, &tablet] {
        refused(gone.get(&devices()).await, 401, "M_UNKNOWN_TOKEN");
    }
    assert_eq!(list(&alice.get_ok(&devices()).await["devices"]).len(), 1);
}
