//! `POST /rooms/{roomId}/upgrade` (CS "Room Upgrades").

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::OwnedRoomId;
use serde_json::{Value, json};

use crate::support::{V3, at, of_user, refused, state_of, text};

fn new_room(answer: &Value) -> OwnedRoomId {
    text(answer, "replacement_room").try_into().unwrap()
}

#[tokio::test]
async fn moves_a_room_to_another_version() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let old = alice
        .create_room(json!({
            "preset": "public_chat", "room_version": "10", "name": "Moving", "topic": "On",
            "room_alias_name": "moving", "visibility": "public",
            "creation_content": { "type": "m.space", "m.federate": false },
            "power_level_content_override": { "users": { "@alice:localhost": 100, "@bob:localhost": 60 } },
            "initial_state": [
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "m.room.server_acl", "content": { "allow": ["*"] } },
            ],
        }))
        .await;
    bob.join(&old).await;
    alice.post_ok(&at(&old, "ban"), json!({ "user_id": "@carol:localhost" })).await;
    let upgrade = at(&old, "upgrade");
    refused(bob.post(&upgrade, json!({ "new_version": "12" })).await, 403, "M_FORBIDDEN");
    refused(
        alice.post(&upgrade, json!({ "new_version": "99" })).await,
        400,
        "M_UNSUPPORTED_ROOM_VERSION",
    );
    refused(alice.post(&upgrade, json!({})).await, 400, "M_BAD_JSON");

    let new = new_room(&alice.post_ok(&upgrade, json!({ "new_version": "12" })).await);
    let state = alice.get_ok(&at(&new, "state")).await;
    let content = |kind: &str| &state_of(&state, kind, "")["content"];
    let create = content("m.room.create");
    assert_eq!(create["room_version"], "12");
    assert_eq!((&create["type"], &create["m.federate"]), (&json!("m.space"), &json!(false)));
    assert_eq!(create["predecessor"]["room_id"], old.as_str());
    assert_eq!(content("m.room.name"), &json!({ "name": "Moving" }));
    assert_eq!(content("m.room.topic")["topic"], "On");
    assert_eq!(content("m.room.join_rules")["join_rule"], "public");
    assert_eq!(content("m.room.encryption")["algorithm"], "m.megolm.v1.aes-sha2");
    assert_eq!(content("m.room.server_acl")["allow"], json!(["*"]));
    let levels = content("m.room.power_levels");
    assert_eq!(levels["users"], json!({ "@bob:localhost": 60 }), "creators are not listed");
    let carol_there = state_of(&state, "m.room.member", "@carol:localhost");
    assert_eq!(carol_there["content"]["membership"], "ban");
    refused(carol.post(&at(&new, "join"), json!({})).await, 403, "M_FORBIDDEN");

    let before = alice.get_ok(&at(&old, "state")).await;
    let tombstone = state_of(&before, "m.room.tombstone", "");
    assert_eq!(tombstone["content"]["replacement_room"], new.as_str());
    // Aliases and the place in the directory move along.
    let alias = format!("{V3}/directory/room/{}", encode("#moving:localhost"));
    assert_eq!(bob.get_ok(&alias).await["room_id"], new.as_str());
    assert_eq!(content("m.room.canonical_alias")["alias"], "#moving:localhost");
    let listed =
        |room: &ruma::RoomId| format!("{V3}/directory/list/room/{}", encode(room.as_str()));
    assert_eq!(bob.get_ok(&listed(&new)).await["visibility"], "public");
    assert_eq!(bob.get_ok(&listed(&old)).await["visibility"], "private");
    // The old room is closed to ordinary members.
    let message = json!({ "msgtype": "m.text", "body": "anyone?" });
    let levels = &state_of(&before, "m.room.power_levels", "")["content"];
    assert!(levels["events_default"].as_i64().unwrap() >= 50, "{levels}");
    assert!(levels["invite"].as_i64().unwrap() >= 50, "{levels}");
    carol.try_send_event(&old, "m.room.message", message).await;
    bob.join(&new).await;
}

#[tokio::test]
async fn takes_a_fresh_list_of_creators() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let old = alice
        .create_room(json!({ "room_version": "12", "creation_content": {
            "additional_creators": ["@bob:localhost"] } }))
        .await;
    let body = json!({ "new_version": "12", "additional_creators": ["@carol:localhost"] });
    let new = new_room(&alice.post_ok(&at(&old, "upgrade"), body).await);
    let create = alice.get_ok(&at(&new, "state/m.room.create/")).await;
    assert_eq!(create["additional_creators"], json!(["@carol:localhost"]));
    let body = json!({ "new_version": "12" });
    let newest = new_room(&alice.post_ok(&at(&new, "upgrade"), body).await);
    let create = alice.get_ok(&at(&newest, "state/m.room.create/")).await;
    assert!(create.get("additional_creators").is_none(), "{create}");
    let summary = alice.get_ok(&format!("/_matrix/client/v1/room_summary/{newest}")).await;
    assert_eq!(summary["room_version"], "12");
}

#[tokio::test]
async fn members_keep_what_they_set_for_the_old_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let old = alice.create_public_room().await;
    bob.join(&old).await;
    let tags = |user: &TestUser, room: &ruma::RoomId| {
        of_user(user, format!("rooms/{}/tags", encode(room.as_str())))
    };
    for user in [&alice, &bob] {
        user.put_ok(&format!("{}/u.work", tags(user, &old)), json!({})).await;
    }
    let direct = of_user(&alice, "account_data/m.direct");
    alice.put_ok(&direct, json!({ "@bob:localhost": [old] })).await;
    // Anybody can say of their room that it replaces another.
    let mallory = server.register("mallory").await;
    let body = json!({ "preset": "public_chat", "room_version": "11",
        "creation_content": { "predecessor": { "room_id": old, "event_id": "$x" } } });
    let fake = mallory.create_room(body).await;
    bob.join(&fake).await;
    assert_eq!(bob.get_ok(&tags(&bob, &fake)).await["tags"], json!({}));

    let body = json!({ "new_version": "11" });
    let new = new_room(&alice.post_ok(&at(&old, "upgrade"), body).await);
    assert_eq!(alice.get_ok(&tags(&alice, &new)).await["tags"], json!({ "u.work": {} }));
    assert_eq!(alice.get_ok(&direct).await, json!({ "@bob:localhost": [old, new] }));
    bob.join(&new).await;
    assert_eq!(bob.get_ok(&tags(&bob, &new)).await["tags"], json!({ "u.work": {} }));
}
