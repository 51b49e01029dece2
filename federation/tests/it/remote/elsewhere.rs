//! Profiles, directories and spaces of other servers.

use http::StatusCode;
use serde_json::json;

use crate::support::{World, via_path};

#[tokio::test]
async fn a_profile_of_another_server_is_shown() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let path = format!("/_matrix/client/v3/profile/{}", ann.user_id);
    ann.put_ok(&format!("{path}/displayname"), json!({ "displayname": "Ann A." })).await;
    assert_eq!(bob.get_ok(&path).await["displayname"], "Ann A.");
    let (status, _) = bob.get("/_matrix/client/v3/profile/@none:a.test").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = bob.get("/_matrix/client/v3/profile/@any:c.test").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn the_directory_of_another_server_is_shown() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({ "visibility": "public", "name": "Lounge" })).await;
    let listed = bob.get_ok("/_matrix/client/v3/publicRooms?server=a.test").await;
    assert_eq!(listed["chunk"][0]["room_id"], room_id.as_str(), "{listed}");
    let search = json!({ "filter": { "generic_search_term": "nothing" } });
    let found = bob.post_ok("/_matrix/client/v3/publicRooms?server=a.test", search).await;
    assert_eq!(found["chunk"], json!([]));
}

#[tokio::test]
async fn rooms_of_another_server_are_part_of_a_space() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let inner = ann.create_room(json!({ "preset": "public_chat", "name": "Inner" })).await;
    let space = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let middle = ann.create_room(space.clone()).await;
    let via = json!({ "via": ["a.test"] });
    ann.send_state(&middle, "m.space.child", inner.as_str(), via.clone()).await;
    let hidden = ann.create_room(json!({})).await;
    ann.send_state(&middle, "m.space.child", hidden.as_str(), via.clone()).await;
    let outer = bob.create_room(space).await;
    bob.send_state(&outer, "m.space.child", middle.as_str(), via).await;
    let path =
        format!("/_matrix/client/v1/rooms/{}/hierarchy", hearth_testkit::encode(outer.as_str()));
    let page = bob.get_ok(&path).await;
    let rooms: Vec<&str> =
        page["rooms"].as_array().unwrap().iter().map(|r| r["room_id"].as_str().unwrap()).collect();
    assert_eq!(rooms, [outer.as_str(), middle.as_str(), inner.as_str()], "{page}");
}

#[tokio::test]
async fn a_room_of_another_server_is_summarized() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let room_id = ann.create_room(json!({ "preset": "public_chat", "name": "Lounge" })).await;
    let path = via_path("x", room_id.as_str(), &["a.test"]).replace("/v3/x/", "/v1/room_summary/");
    let summary = bob.get_ok(&path).await;
    assert_eq!((&summary["name"], &summary["membership"]), (&json!("Lounge"), &json!("leave")));
    let private = ann.create_room(json!({})).await;
    let path = via_path("x", private.as_str(), &["a.test"]).replace("/v3/x/", "/v1/room_summary/");
    assert_eq!(bob.get(&path).await.0, StatusCode::NOT_FOUND);
}
