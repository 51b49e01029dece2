//! `GET /v1/room_summary/{roomIdOrAlias}`.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{V1, refused, tidy};

fn path(room: &str) -> String {
    format!("{V1}/room_summary/{}", encode(room))
}

#[tokio::test]
async fn describes_what_one_may_know() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "CHEESE", "topic": "Tasty",
            "room_alias_name": "cheese", "initial_state": [
                { "type": "m.room.avatar", "content": { "url": "mxc://localhost/brie" } } ] }))
        .await;
    let own = alice.get_ok(&path(room.as_str())).await;
    insta::assert_json_snapshot!(tidy(&own, &[(&room, "room")]));
    let by_alias = bob.get_ok(&path("#cheese:localhost")).await;
    assert_eq!(by_alias["room_id"], room.as_str());
    assert!(by_alias["membership"].is_null() || by_alias["membership"] == "leave", "{by_alias}");
    // A public room may be summarized for anybody.
    let anonymous = server.client().get_ok(&path("#cheese:localhost")).await;
    assert!(anonymous.get("membership").is_none(), "{anonymous}");

    let secret = alice.create_room(json!({ "name": "secret" })).await;
    refused(bob.get(&path(secret.as_str())).await, 404, "M_NOT_FOUND");
    let answer = server.client().get(&path(secret.as_str())).await;
    assert!(answer.0.is_client_error(), "{}", answer.1);
    alice.invite(&secret, &bob.user_id).await;
    let invited = bob.get_ok(&path(secret.as_str())).await;
    assert_eq!((&invited["name"], &invited["membership"]), (&json!("secret"), &json!("invite")));
    refused(bob.get(&path("!nowhere:localhost")).await, 404, "M_NOT_FOUND");
    refused(bob.get(&path("#nowhere:localhost")).await, 404, "M_NOT_FOUND");
}
