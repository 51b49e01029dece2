//! `GET /rooms/{roomId}/initialSync` (CS "Room Previews").

use hearth_testkit::{TestServer, encode};
use ruma::RoomId;
use serde_json::json;

use crate::support::{V3, at, bodies, refused, state_of, text};

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

    // `GET /events` follows the room from there.
    let from = text(&peek["messages"], "end").to_owned();
    let events = |room: &RoomId, from: &str| {
        let (room, from) = (encode(room.as_str()), encode(from));
        format!("{V3}/events?room_id={room}&from={from}&timeout=30000")
    };
    let waiting = {
        let (bob, path) = (bob.clone(), events(&open, &from));
        tokio::spawn(async move { bob.get_ok(&path).await })
    };
    alice.send_text(&open, "live").await;
    let update = waiting.await.unwrap();
    assert_eq!(bodies(&update["chunk"]), ["live"]);
    assert_eq!(update["chunk"][0]["room_id"], open.as_str());
    alice.send_text(&open, "later").await;
    let update = bob.get_ok(&events(&open, text(&update, "end"))).await;
    assert_eq!(bodies(&update["chunk"]), ["later"]);
    refused(bob.get(&events(&closed, &from)).await, 403, "M_FORBIDDEN");
}
