//! Requests that wait, when the session that they belong to ends.

use hearth_testkit::{TestServer, encode};
use http::StatusCode;
use serde_json::{Value, json};

/// Does this sync response say that the user is online?
fn is_online(response: &Value, user_id: &str) -> bool {
    let events = response.pointer("/presence/events").and_then(Value::as_array);
    events.into_iter().flatten().any(|event| {
        event.get("sender").is_some_and(|sender| sender == user_id)
            && event.pointer("/content/presence").is_some_and(|presence| presence == "online")
    })
}

#[tokio::test]
async fn a_waiting_sync_ends_with_its_session() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room_id = bob.create_public_room().await;
    alice.join(&room_id).await;
    let since = alice.sync(None, "&set_presence=offline").await["next_batch"].clone();
    let mut bob_since = bob.now().await;

    let poll = format!(
        "/_matrix/client/v3/sync?timeout=30000&filter={}&since={}",
        encode(r#"{"presence":{"not_types":["*"]}}"#),
        since.as_str().unwrap()
    );
    let waiting = tokio::spawn({
        let alice = alice.clone();
        async move { alice.get(&poll).await }
    });
    // Her sync makes her online: when he is told, it has been let in.
    loop {
        let response = bob.wait_for_sync(&bob_since).await;
        if is_online(&response, alice.user_id.as_str()) {
            break;
        }
        response["next_batch"].as_str().unwrap().clone_into(&mut bob_since);
    }
    alice.post_ok("/_matrix/client/v3/logout", json!({})).await;
    bob.send_text(&room_id, "she is gone").await;

    let (status, answer) = waiting.await.unwrap();
    assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNKNOWN_TOKEN")));
}
