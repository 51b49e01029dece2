//! `/publicRooms`, `/directory/list/room/{roomId}` (CS "Published room directory").

use hearth_testkit::{Client, TestServer, encode};
use ruma::RoomId;
use serde_json::{Value, json};

use crate::support::{V3, list, refused, same, set, text, tidy};

fn path() -> String {
    format!("{V3}/publicRooms")
}

fn visibility(room: &RoomId) -> String {
    format!("{V3}/directory/list/room/{}", encode(room.as_str()))
}

fn names(answer: &Value) -> Vec<&str> {
    list(&answer["chunk"]).iter().map(|room| text(room, "name")).collect()
}

async fn find(client: &Client, body: Value) -> Value {
    client.post_ok(&path(), body).await
}

#[tokio::test]
async fn shows_published_rooms() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice
        .create_room(json!({ "visibility": "public", "name": "The Pub", "topic": "Ale",
            "room_alias_name": "pub", "initial_state": [
                { "type": "m.room.avatar", "content": { "url": "mxc://localhost/pub" } } ] }))
        .await;
    let private = alice.create_room(json!({ "name": "Hidden" })).await;
    bob.join(&room).await;
    let anybody = server.client();
    let answer = anybody.get_ok(&path()).await;
    insta::assert_json_snapshot!(tidy(&answer, &[(&room, "room")]));
    assert_eq!(anybody.get_ok(&visibility(&private)).await, json!({ "visibility": "private" }));
    let public = json!({ "visibility": "public" });
    refused(bob.put(&visibility(&private), public.clone()).await, 403, "M_FORBIDDEN");
    assert_eq!(alice.put_ok(&visibility(&private), public.clone()).await, json!({}));
    assert_eq!(anybody.get_ok(&visibility(&private)).await, public);
    same(names(&anybody.get_ok(&path()).await), ["The Pub", "Hidden"]);
    alice.put_ok(&visibility(&room), json!({ "visibility": "private" })).await;
    assert_eq!(names(&anybody.get_ok(&path()).await), ["Hidden"]);
    let nowhere = visibility(ruma::room_id!("!nowhere:localhost"));
    refused(alice.get(&nowhere).await, 404, "M_NOT_FOUND");
    refused(alice.put(&nowhere, public).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn pages_and_searches() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    for n in 0..5 {
        let body = json!({ "visibility": "public", "name": format!("Room {n}"),
            "topic": if n % 2 == 0 { "Even" } else { "Odd" }, "room_alias_name": format!("r{n}") });
        alice.create_room(body).await;
    }
    let space = json!({ "visibility": "public", "name": "A Space",
        "creation_content": { "type": "m.space" } });
    alice.create_room(space).await;

    let mut seen = Vec::new();
    let mut page = alice.get_ok(&format!("{}?limit=2", path())).await;
    for _ in 0..10 {
        seen.extend(names(&page).into_iter().map(ToOwned::to_owned));
        assert!(names(&page).len() <= 2);
        let Some(next) = page["next_batch"].as_str() else { break };
        page = alice.get_ok(&format!("{}?limit=2&since={}", path(), encode(next))).await;
    }
    assert_eq!(seen.len(), 6, "each room on one page: {seen:?}");
    assert_eq!(set(&seen).len(), 6);

    let filter = |filter: Value| json!({ "filter": filter });
    let search =
        async |term: &str| find(&alice, filter(json!({ "generic_search_term": term }))).await;
    same(names(&search("even").await), ["Room 0", "Room 2", "Room 4"]);
    assert_eq!(names(&search("r3").await), ["Room 3"]);
    assert_eq!(names(&search("none").await), Vec::<&str>::new());
    let spaces = find(&alice, filter(json!({ "room_types": ["m.space"] }))).await;
    assert_eq!(names(&spaces), ["A Space"]);
    assert_eq!(spaces["chunk"][0]["room_type"], "m.space");
    let plain = find(&alice, filter(json!({ "room_types": [null] }))).await;
    assert_eq!(names(&plain).len(), 5);
    refused(server.client().post(&path(), json!({})).await, 401, "M_MISSING_TOKEN");
    let (status, answer) = alice.get(&format!("{}?since=nonsense", path())).await;
    assert!(status == 400, "{answer}");
}
