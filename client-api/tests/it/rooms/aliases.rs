//! `/directory/room/{roomAlias}`, `GET /rooms/{roomId}/aliases` (CS "Room aliases").

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{V3, at, refused, same};

fn path(alias: &str) -> String {
    format!("{V3}/directory/room/{}", encode(alias))
}

#[tokio::test]
async fn are_made_looked_up_and_deleted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    refused(alice.get(&path("#a:localhost")).await, 404, "M_NOT_FOUND");
    for alias in ["#a:localhost", "#üb:localhost"] {
        assert_eq!(alice.put_ok(&path(alias), json!({ "room_id": room })).await, json!({}));
        // Look-ups need no token.
        let found = server.client().get_ok(&path(alias)).await;
        assert_eq!(found, json!({ "room_id": room, "servers": ["localhost"] }));
    }
    let listed = alice.get_ok(&at(&room, "aliases")).await;
    let listed = listed["aliases"].as_array().unwrap().iter().map(|alias| alias.as_str().unwrap());
    same(listed, ["#a:localhost", "#üb:localhost"]);
    refused(bob.get(&at(&room, "aliases")).await, 403, "M_FORBIDDEN");
    refused(alice.put(&path("#a:localhost"), json!({ "room_id": room })).await, 409, "M_UNKNOWN");
    bob.post_ok(&format!("{V3}/join/{}", encode("#a:localhost")), json!({})).await;
    refused(bob.delete(&path("#a:localhost"), None).await, 403, "M_FORBIDDEN");
    assert_eq!(alice.delete(&path("#a:localhost"), None).await.1, json!({}));
    refused(alice.get(&path("#a:localhost")).await, 404, "M_NOT_FOUND");
    refused(alice.delete(&path("#a:localhost"), None).await, 404, "M_NOT_FOUND");
    // Whoever made an alias may delete it.
    bob.put_ok(&path("#bobs:localhost"), json!({ "room_id": room })).await;
    assert_eq!(bob.delete(&path("#bobs:localhost"), None).await.0, 200);
}

#[tokio::test]
async fn bad_ones_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let long = format!("#{}:localhost", "x".repeat(255));
    for alias in ["no-sigil", "#no-server", "#a:elsewhere.example", &long] {
        let (status, answer) = alice.put(&path(alias), json!({ "room_id": room })).await;
        assert!(status.is_client_error(), "{alias}: {answer}");
    }
    let (status, answer) =
        alice.put(&path("#a:localhost"), json!({ "room_id": "!nowhere:localhost" })).await;
    assert!(status == 404 || status == 403 || status == 400, "{answer}");
    refused(alice.get(&path("#a:localhost")).await, 404, "M_NOT_FOUND");
    refused(alice.put(&path("#a:localhost"), json!({})).await, 400, "M_BAD_JSON");
    refused(
        server.client().put(&path("#a:localhost"), json!({ "room_id": room })).await,
        401,
        "M_MISSING_TOKEN",
    );
}
