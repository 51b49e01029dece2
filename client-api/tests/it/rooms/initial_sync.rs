//! `GET /rooms/{roomId}/initialSync` (CS "Room Previews").

use hearth_testkit::TestServer;
use serde_json::json;

use crate::support::{at, bodies, refused, state_of, text};

#[tokio::test]
async fn shows_rooms_that_are_open_to_the_world() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let open = alice
        .create_room(
            json!({ "name": "open", "initial_state": [ { "type": "m.room.history_visibility",
            "content": { "history_visibility": "world_readable" } } ] }),
        )
        .await;
    let closed = alice.create_room(json!({})).await;
    alice.send_text(&open, "hello, world").await;
    let path = |room| at(room, "initialSync");
    let peek = bob.get_ok(&path(&open)).await;
    assert_eq!(peek["room_id"], open.as_str());
    assert_eq!(bodies(&peek["messages"]["chunk"]), ["hello, world"]);
    assert_eq!(state_of(&peek["state"], "m.room.name", "")["content"]["name"], "open");
    text(&peek["messages"], "start");
    text(&peek["messages"], "end");
    refused(bob.get(&path(&closed)).await, 403, "M_FORBIDDEN");
    let own = alice.get_ok(&path(&closed)).await;
    assert_eq!(own["membership"], "join");
}
