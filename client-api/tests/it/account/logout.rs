//! `POST /logout`, `POST /logout/all`.

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{V3, list, refused};

fn whoami() -> String {
    format!("{V3}/account/whoami")
}

#[tokio::test]
async fn ends_this_session_and_its_device() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let phone = server.login("alice").await;
    assert_eq!(phone.post_ok(&format!("{V3}/logout"), json!({})).await, json!({}));
    let gone = refused(phone.get(&whoami()).await, 401, "M_UNKNOWN_TOKEN");
    assert_ne!(gone["soft_logout"], true, "the device is gone: {gone}");
    let devices = alice.get_ok(&format!("{V3}/devices")).await;
    assert_eq!(list(&devices["devices"]).len(), 1);
    refused(phone.post(&format!("{V3}/logout"), json!({})).await, 401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn all_ends_every_session() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let phone = server.login("alice").await;
    assert_eq!(phone.post_ok(&format!("{V3}/logout/all"), json!({})).await, json!({}));
    for device in [&alice, &phone] {
        refused(device.get(&whoami()).await, 401, "M_UNKNOWN_TOKEN");
    }
    bob.get_ok(&whoami()).await;
    let back = server.login("alice").await;
    let devices = back.get_ok(&format!("{V3}/devices")).await;
    assert_eq!(list(&devices["devices"]).len(), 1);
}
