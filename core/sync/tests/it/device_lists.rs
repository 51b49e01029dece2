//! Whose devices clients are told to look at again, and whose no more.

use hearth_e2ee::KeyUpload;
use hearth_users::{NewAccount, NewSession};
use ruma::{CanonicalJsonValue, OwnedRoomId, OwnedUserId, UserId, serde::Raw};
use serde_json::{Value, json, value::to_raw_value};
use vodozemac::olm::Account;

use crate::world::{Ask, World, user};

const MEGOLM: &str = "m.megolm.v1.aes-sha2";

pub(crate) async fn encrypted_room(world: &World, creator: &UserId) -> OwnedRoomId {
    let room = world.room(creator).await;
    encrypt(world, &room, creator).await;
    room
}

async fn encrypt(world: &World, room: &OwnedRoomId, sender: &UserId) {
    world.state(room, sender, "m.room.encryption", json!({ "algorithm": MEGOLM })).await;
}

/// A user with an account, whose device list changes with each call of the function beside.
pub(crate) async fn account(world: &World, username: &str) -> OwnedUserId {
    let account = NewAccount { username: username.to_owned(), ..NewAccount::default() };
    world.users.create_account(account).await.unwrap()
}

/// Changes the user's device list by one more device with keys.
pub(crate) async fn change_list(world: &World, user_id: &UserId) {
    let tokens = world.users.create_session(user_id, NewSession::default()).await.unwrap();
    let (device_id, account) = (tokens.device_id, Account::new());
    let keys = account.identity_keys();
    let mut object = json!({
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": [MEGOLM],
        "keys": {
            format!("ed25519:{device_id}"): keys.ed25519.to_base64(),
            format!("curve25519:{device_id}"): keys.curve25519.to_base64(),
        },
    });
    let canonical = CanonicalJsonValue::try_from(object.clone()).unwrap().to_string();
    let signature = account.sign(canonical.as_bytes()).to_base64();
    object["signatures"] = json!({ user_id: { format!("ed25519:{device_id}"): signature } });
    let device_keys = Some(Raw::from_json(to_raw_value(&object).unwrap()));
    let upload = KeyUpload { device_keys, ..KeyUpload::default() };
    world.e2ee.upload_keys(user_id, &device_id, None, upload).await.unwrap();
}

fn lists(response: &Value) -> (Vec<&str>, Vec<&str>) {
    let list = |name: &str| {
        let users = response["device_lists"][name].as_array();
        users.into_iter().flatten().filter_map(Value::as_str).collect()
    };
    (list("changed"), list("left"))
}

#[tokio::test]
async fn a_changed_list_is_told_to_those_who_share_a_room_and_to_nobody_else() {
    let world = World::new().await;
    let (alice, bob, eve) = (account(&world, "alice").await, user("bob"), user("eve"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    world.room(&eve).await;
    let (first, strangers) = (world.ask(Ask::of(&bob)).await, world.ask(Ask::of(&eve)).await);
    assert_eq!(lists(&first), (vec![], vec![]), "an initial sync tells nothing");
    change_list(&world, &alice).await;
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    assert_eq!(lists(&second), (vec!["@alice:x"], vec![]));
    assert_eq!(lists(&world.ask(Ask::of(&bob).after(&second)).await), (vec![], vec![]), "once");
    assert_eq!(lists(&world.ask(Ask::of(&bob).after(&first)).await), (vec!["@alice:x"], vec![]));
    assert_eq!(lists(&world.ask(Ask::of(&eve).after(&strangers)).await), (vec![], vec![]));
}

#[tokio::test]
async fn who_comes_to_an_encrypted_room_changes_for_both_sides() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let room = encrypted_room(&world, &alice).await;
    world.join(&room, &carol).await;
    let (hers, his) = (world.ask(Ask::of(&alice)).await, world.ask(Ask::of(&bob)).await);
    world.join(&room, &bob).await;
    let (hers, his) =
        (world.ask(Ask::of(&alice).after(&hers)).await, world.ask(Ask::of(&bob).after(&his)).await);
    assert_eq!(lists(&hers), (vec!["@bob:x"], vec![]));
    assert_eq!(lists(&his), (vec!["@alice:x", "@bob:x", "@carol:x"], vec![]));
}

#[tokio::test]
async fn a_room_without_encryption_tells_nothing_until_it_is_encrypted() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = world.room(&alice).await;
    let first = world.ask(Ask::of(&alice)).await;
    world.join(&room, &bob).await;
    let second = world.ask(Ask::of(&alice).after(&first)).await;
    assert_eq!(lists(&second), (vec![], vec![]));
    encrypt(&world, &room, &alice).await;
    let third = world.ask(Ask::of(&alice).after(&second)).await;
    assert_eq!(lists(&third), (vec!["@alice:x", "@bob:x"], vec![]));
}

#[tokio::test]
async fn who_leaves_the_last_shared_encrypted_room_is_left() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let (one, two) = (encrypted_room(&world, &alice).await, encrypted_room(&world, &alice).await);
    // Rooms without encryption do not count.
    let plain = world.room(&alice).await;
    for room in [&one, &two, &plain] {
        world.join(room, &bob).await;
    }
    let first = world.ask(Ask::of(&alice)).await;
    world.rooms.leave(&one, &bob, None).await.unwrap();
    let second = world.ask(Ask::of(&alice).after(&first)).await;
    assert_eq!(lists(&second), (vec![], vec![]), "another encrypted room is shared");
    world.rooms.leave(&two, &bob, None).await.unwrap();
    let third = world.ask(Ask::of(&alice).after(&second)).await;
    assert_eq!(lists(&third), (vec![], vec!["@bob:x"]));
    let both = world.ask(Ask::of(&alice).after(&first)).await;
    assert_eq!(lists(&both), (vec![], vec!["@bob:x"]));
}

#[tokio::test]
async fn who_leaves_a_room_leaves_its_members() {
    let world = World::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let (one, two) = (encrypted_room(&world, &alice).await, encrypted_room(&world, &alice).await);
    for member in [&bob, &carol] {
        world.join(&one, member).await;
    }
    world.join(&two, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    world.rooms.leave(&one, &bob, None).await.unwrap();
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    assert_eq!(lists(&second), (vec![], vec!["@carol:x"]), "alice is in the other room");
}

#[tokio::test]
async fn who_left_and_came_back_has_changed_nothing_in_between() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = encrypted_room(&world, &alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&alice)).await;
    world.rooms.leave(&room, &bob, None).await.unwrap();
    let away = world.ask(Ask::of(&alice).after(&first)).await;
    world.join(&room, &bob).await;
    let back = world.ask(Ask::of(&alice).after(&away)).await;
    assert_eq!(lists(&back), (vec!["@bob:x"], vec![]));
}

#[tokio::test]
async fn who_was_out_in_between_looks_at_everybody_again() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = encrypted_room(&world, &alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    world.rooms.leave(&room, &bob, None).await.unwrap();
    world.join(&room, &bob).await;
    let back = world.ask(Ask::of(&bob).after(&first)).await;
    assert_eq!(lists(&back), (vec!["@alice:x", "@bob:x"], vec![]));
    assert_eq!(lists(&world.ask(Ask::of(&bob).after(&back)).await), (vec![], vec![]), "once");
}

#[tokio::test]
async fn rooms_that_the_filter_leaves_out_count() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = encrypted_room(&world, &alice).await;
    let filter = json!({ "room": { "not_rooms": [room] } });
    let first = world.ask(Ask::of(&alice).filter(filter.clone())).await;
    world.join(&room, &bob).await;
    let second = world.ask(Ask::of(&alice).filter(filter).after(&first)).await;
    assert_eq!(second.get("rooms"), None);
    assert_eq!(lists(&second), (vec!["@bob:x"], vec![]));
}

#[tokio::test]
async fn changes_between_two_tokens_can_be_asked_for() {
    let world = World::new().await;
    let (alice, bob) = (account(&world, "alice").await, user("bob"));
    let room = encrypted_room(&world, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    world.join(&room, &alice).await;
    let second = world.ask(Ask::of(&bob).after(&first)).await;
    change_list(&world, &alice).await;
    let third = world.ask(Ask::of(&bob).after(&second)).await;
    let token = |response: &Value| response["next_batch"].as_str().unwrap_or_default().to_owned();
    let between = async |from: &Value, to: &Value| {
        let lists = world.sync.device_list_changes(&bob, &token(from), &token(to)).await.unwrap();
        lists.changed.into_iter().map(|user_id| user_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(between(&first, &second).await, ["@alice:x"]);
    assert_eq!(between(&second, &third).await, ["@alice:x"]);
    assert!(between(&third, &third).await.is_empty());
    let unknown = world.sync.device_list_changes(&bob, "x", &token(&third)).await;
    assert!(matches!(unknown, Err(hearth_sync::SyncError::InvalidParam(_))));
}

#[tokio::test]
async fn a_changed_list_wakes_who_waits() {
    let world = World::new().await;
    let (alice, bob) = (account(&world, "alice").await, user("bob"));
    let room = world.room(&alice).await;
    world.join(&room, &bob).await;
    let first = world.ask(Ask::of(&bob)).await;
    let waiting = Ask::of(&bob)
        .after(&first)
        .with(|request| request.timeout = std::time::Duration::from_mins(1));
    let (woken, ()) = tokio::join!(world.ask(waiting), async {
        tokio::task::yield_now().await;
        change_list(&world, &alice).await;
    });
    assert_eq!(lists(&woken), (vec!["@alice:x"], vec![]));
}
