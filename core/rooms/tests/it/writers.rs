//! How many rooms are active at a time.

use std::sync::Arc;

use hearth_rooms::{CreateRoomOptions, Draft, KEYSPACES, OutOfBand, Rooms, RoomsConfig};
use hearth_storage::Store;
use hearth_types::{ManualClock, ServerIdentity};
use ruma::{OwnedServerName, RoomVersionId};
use serde_json::json;

use crate::{
    elsewhere::{FAR_ADMIN, FarRoom},
    fixture::{raw, user},
};

/// A server that has few writers at a time.
async fn with_writers(max_active_rooms: usize) -> Rooms {
    let name = OwnedServerName::try_from("hs.test").unwrap();
    let key = ServerIdentity::generate_key();
    let identity = Arc::new(ServerIdentity::from_der(name, &key, "1".to_owned()).unwrap());
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let config = RoomsConfig { max_active_rooms, ..RoomsConfig::default() };
    Rooms::open(Store::memory_for_tests(KEYSPACES), identity, clock, config).await.unwrap()
}

#[tokio::test]
async fn rooms_that_have_been_idle_make_place_for_others() {
    let rooms = with_writers(4).await;
    let alice = user("alice");
    let mut made = Vec::new();
    for _ in 0..20 {
        made.push(rooms.create_room(&alice, CreateRoomOptions::default()).await.unwrap());
    }
    for room_id in made.iter().rev().chain(&made) {
        let content = raw(&json!({ "body": "still here" }));
        let draft = Draft::message(alice.clone(), "m.room.message".into(), content);
        rooms.send(room_id, draft, None).await.unwrap();
    }
}

#[tokio::test]
async fn invitations_into_rooms_that_are_not_here_keep_no_writer() {
    let rooms = with_writers(4).await;
    let alice = user("alice");
    for _ in 0..20 {
        let mut far = FarRoom::new(RoomVersionId::V11);
        let invitation = OutOfBand {
            room_id: far.id.clone(),
            room_version: far.version.clone(),
            user_id: alice.clone(),
            event: far.draft_member(FAR_ADMIN, alice.as_str(), "invite"),
            stripped_state: Vec::new(),
        };
        rooms.admit_out_of_band(invitation).await.unwrap();
    }
    assert_eq!(rooms.user_rooms(&alice).await.unwrap().len(), 20);
}
