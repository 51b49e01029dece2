//! `POST /user/{userId}/openid/request_token`.

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{of_user, refused, text};

#[tokio::test]
async fn tokens_are_given_to_oneself() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = of_user(&alice, "openid/request_token");
    let answer = alice.post_ok(&path, json!({})).await;
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["matrix_server_name"], "localhost");
    assert!(answer["expires_in"].as_u64().unwrap() > 0, "{answer}");
    let again = alice.post_ok(&path, json!({})).await;
    assert_ne!(text(&answer, "access_token"), text(&again, "access_token"));
    // It is no access token of this API.
    let misused = alice.with_token(text(&answer, "access_token"));
    refused(misused.get("/_matrix/client/v3/account/whoami").await, 401, "M_UNKNOWN_TOKEN");
    refused(bob.post(&path, json!({})).await, 403, "M_FORBIDDEN");
}
