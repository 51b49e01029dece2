//! Filters of lists.

use hearth_rooms::{CreateRoomOptions, Preset};
use hearth_users::AccountDataScope;
use ruma::{OwnedRoomId, UserId};
use serde_json::{Map, Value, json, value::to_raw_value};

use super::{Phone, rooms};
use crate::world::{World, user};

async fn space(world: &World, creator: &UserId) -> OwnedRoomId {
    let content = json!({"type": "m.space"});
    let options = CreateRoomOptions {
        preset: Some(Preset::PublicChat),
        creation_content: serde_json::from_value(content).unwrap(),
        ..CreateRoomOptions::default()
    };
    world.rooms.create_room(creator, options).await.unwrap()
}

async fn filtered(world: &World, user_id: &UserId, filters: Value) -> (Vec<String>, u64) {
    let list = json!({"ranges": [[0, 99]], "timeline_limit": 1, "filters": filters});
    let answer = Phone::of(user_id, json!({"lists": {"l": list}})).ask(world).await;
    (rooms(&answer), answer["lists"]["l"]["count"].as_u64().unwrap())
}

#[tokio::test]
async fn rooms_are_told_apart_by_what_they_are() {
    let world = World::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let plain = world.room(&alice).await;
    let secret = world.room(&alice).await;
    let algorithm = json!({"algorithm": "m.megolm.v1.aes-sha2"});
    world.state(&secret, &alice, "m.room.encryption", algorithm).await;
    world.state(&secret, &alice, "m.room.name", json!({"name": "Deep Secrets"})).await;
    let space = space(&world, &alice).await;
    let asked = world.room(&bob).await;
    world.invite(&asked, &bob, &alice).await;
    // What is broken in it does not hide the rest.
    let direct = json!({"@bob:x": [5, secret, "#no:id"], "broken": [], "@carol:x": {"no": "list"}});
    let direct = to_raw_value(&direct).unwrap();
    let scope = AccountDataScope::Global;
    world.users.set_account_data(&alice, scope, "m.direct", &direct).await.unwrap();
    let tag = Map::new();
    world.users.set_tag(&alice, &plain, "m.favourite", tag.clone()).await.unwrap();
    world.users.set_tag(&alice, &secret, "m.favourite", tag.clone()).await.unwrap();
    world.users.set_tag(&alice, &secret, "m.lowpriority", tag).await.unwrap();
    let (p, s, c, i) = (&plain, &secret, &space, &asked);
    for (filter, expected) in [
        (json!({}), vec![p, s, c, i]),
        (json!({"is_invite": true}), vec![i]),
        (json!({"is_invite": false}), vec![p, s, c]),
        (json!({"is_encrypted": true}), vec![s]),
        (json!({"is_encrypted": false}), vec![p, c, i]),
        (json!({"is_dm": true}), vec![s]),
        (json!({"is_dm": false, "is_invite": false}), vec![p, c]),
        (json!({"room_types": ["m.space"]}), vec![c]),
        (json!({"room_types": [null]}), vec![p, s, i]),
        (json!({"room_types": [null, "m.space"], "not_room_types": [null]}), vec![c]),
        (json!({"not_room_types": ["m.space"], "is_invite": false}), vec![p, s]),
        (json!({"room_types": []}), vec![]),
        (json!({"room_name_like": "sEcret"}), vec![s]),
        (json!({"tags": ["m.favourite"]}), vec![p, s]),
        (json!({"tags": ["m.favourite"], "not_tags": ["m.lowpriority"]}), vec![p]),
        (json!({"not_tags": ["m.favourite"]}), vec![c, i]),
    ] {
        let mut expected: Vec<String> = expected.into_iter().map(ToString::to_string).collect();
        expected.sort();
        let count = u64::try_from(expected.len()).unwrap();
        assert_eq!(filtered(&world, &alice, filter.clone()).await, (expected, count), "{filter}");
    }
}

#[tokio::test]
async fn a_space_has_its_direct_children() {
    let world = World::new().await;
    let alice = user("alice");
    let (outer, inner) = (space(&world, &alice).await, space(&world, &alice).await);
    let (one, two) = (world.room(&alice).await, world.room(&alice).await);
    let child = |via: Value| to_raw_value(&json!({"via": via})).unwrap();
    for (space, room, via) in [
        (&outer, &one, json!(["x"])),
        (&outer, &inner, json!(["x"])),
        (&inner, &two, json!(["x"])),
        (&outer, &two, json!([])),
    ] {
        let draft = hearth_rooms::Draft::state(
            alice.clone(),
            "m.space.child".into(),
            room.to_string(),
            child(via),
        );
        world.rooms.send(space, draft, None).await.unwrap();
    }
    let of = async |spaces: Value| filtered(&world, &alice, json!({"spaces": spaces})).await.0;
    let names = |rooms: &[&OwnedRoomId]| {
        let mut names: Vec<String> = rooms.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(of(json!([outer])).await, names(&[&one, &inner]));
    assert_eq!(of(json!([outer, inner])).await, names(&[&one, &inner, &two]));
    assert_eq!(of(json!(["!unknown:x"])).await, [] as [String; 0]);
    assert_eq!(of(json!([])).await, [] as [String; 0]);
}

#[tokio::test]
async fn counts_follow_what_changes() {
    let world = World::new().await;
    let alice = user("alice");
    let one = world.room(&alice).await;
    world.room(&alice).await;
    let list = json!({
        "ranges": [[0, 99]], "timeline_limit": 1,
        "filters": {"is_encrypted": true, "tags": ["u.work"]},
    });
    let mut phone = Phone::of(&alice, json!({"lists": {"l": list}}));
    assert_eq!(phone.ask(&world).await["lists"]["l"]["count"], 0);
    let algorithm = json!({"algorithm": "m.megolm.v1.aes-sha2"});
    world.state(&one, &alice, "m.room.encryption", algorithm).await;
    assert_eq!(phone.ask(&world).await["lists"]["l"]["count"], 0);
    world.users.set_tag(&alice, &one, "u.work", Map::new()).await.unwrap();
    let tagged = phone.ask(&world).await;
    assert_eq!(tagged["lists"]["l"]["count"], 1);
    assert_eq!(rooms(&tagged), [one.to_string()]);
    world.users.delete_tag(&alice, &one, "u.work").await.unwrap();
    assert_eq!(phone.ask(&world).await["lists"]["l"]["count"], 0);
}
