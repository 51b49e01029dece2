//! Users of other servers in the user directory.

use std::collections::HashSet;

use hearth_rooms::Rooms;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use crate::{
    forks::{foreign_state, last_event},
    world::{World, user},
};

const BOB: &str = "@bob:far";

/// Has a foreign user join, leave or the like on top of the room.
async fn member(world: &World, room_id: &RoomId, user_id: &str, content: Value) {
    let prev = [last_event(world, room_id).await];
    foreign_state(world, room_id, &prev, user_id, ("m.room.member", user_id), content).await;
}

fn join(name: &str) -> Value {
    json!({ "membership": "join", "displayname": name, "avatar_url": "mxc://far/face" })
}

async fn rooms_of(rooms: &Rooms, name: &str) -> HashSet<OwnedRoomId> {
    rooms.joined_rooms(&user(name)).await.unwrap().into_iter().collect()
}

/// Whom somebody finds, with their names.
async fn found(world: &World, name: &str, term: &str) -> Vec<(String, String)> {
    let shared = rooms_of(&world.rooms, name).await;
    let (found, is_limited) = world.sync.search_remote_users(term, 10, &shared).await.unwrap();
    assert!(!is_limited);
    let pair = |one: hearth_sync::RemoteMatch| {
        (one.user_id.to_string(), one.display_name.unwrap_or_default())
    };
    found.into_iter().map(pair).collect()
}

fn bob(name: &str) -> Vec<(String, String)> {
    vec![(BOB.to_owned(), name.to_owned())]
}

#[tokio::test]
async fn who_shares_a_room_or_is_in_an_open_one_is_found_until_they_leave() {
    let world = World::new().await;
    let (alice, carol) = (user("alice"), user("carol"));
    let open = world.room(&alice).await;
    assert_eq!(found(&world, "alice", "robert").await, []);
    member(&world, &open, BOB, join("Robert Far")).await;
    assert_eq!(found(&world, "alice", "rob").await, bob("Robert Far"));
    assert_eq!(found(&world, "carol", "far").await, bob("Robert Far"), "anybody may join");
    assert_eq!(found(&world, "carol", BOB).await, bob("Robert Far"));
    assert_eq!(found(&world, "carol", "@bob:farther").await, []);
    assert_eq!(found(&world, "carol", "alice").await, [], "she is of this server");

    // Nobody from outside sees into the room any more.
    world.state(&open, &alice, "m.room.join_rules", json!({ "join_rule": "invite" })).await;
    assert_eq!(found(&world, "carol", "rob").await, []);
    assert_eq!(found(&world, "alice", "rob").await, bob("Robert Far"));

    member(&world, &open, BOB, join("Bert")).await;
    assert_eq!(found(&world, "alice", "rob").await, []);
    assert_eq!(found(&world, "alice", "bert").await, bob("Bert"));

    let other = world.room(&carol).await;
    member(&world, &other, BOB, join("Robert")).await;
    assert_eq!(found(&world, "carol", "bo").await, bob("Robert"), "as he is called there");
    member(&world, &open, BOB, json!({ "membership": "leave" })).await;
    member(&world, &other, BOB, json!({ "membership": "leave" })).await;
    assert_eq!(found(&world, "alice", "bob").await, []);
}

#[tokio::test]
async fn a_room_that_this_server_has_left_shows_nobody() {
    let world = World::new().await;
    let alice = user("alice");
    let room = world.room(&alice).await;
    member(&world, &room, BOB, join("Robert")).await;
    assert_eq!(found(&world, "carol", "robert").await, bob("Robert"));
    world.rooms.leave(&room, &alice, None).await.unwrap();
    assert_eq!(found(&world, "carol", "robert").await, []);
}
