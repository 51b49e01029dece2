//! `GET /v1/rooms/{roomId}/hierarchy` (CS "Spaces").

use hearth_testkit::{TestServer, TestUser, encode};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use crate::support::{at_v1, list, refused, text, tidy};

async fn space(user: &TestUser, name: &str) -> OwnedRoomId {
    let body = json!({ "preset": "public_chat", "name": name,
        "creation_content": { "type": "m.space" } });
    user.create_room(body).await
}

async fn add(user: &TestUser, parent: &RoomId, child: &RoomId, extra: Value) {
    let mut content = json!({ "via": ["localhost"] });
    for (key, value) in extra.as_object().unwrap() {
        content[key] = value.clone();
    }
    user.send_state(parent, "m.space.child", child.as_str(), content).await;
}

fn names(answer: &Value) -> Vec<&str> {
    list(&answer["rooms"]).iter().map(|room| text(room, "name")).collect()
}

#[tokio::test]
async fn walks_depth_first_through_what_is_accessible() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let top = space(&alice, "top").await;
    let sub = space(&alice, "sub").await;
    let named = |name: &str, preset: &str| json!({ "name": name, "preset": preset });
    let deep = alice.create_room(named("deep", "public_chat")).await;
    let open = alice.create_room(named("open", "public_chat")).await;
    let secret = alice.create_room(named("secret", "private_chat")).await;
    let invited = alice.create_room(json!({ "name": "invited", "invite": [bob.user_id] })).await;
    let knock = alice
        .create_room(json!({ "name": "knock", "initial_state": [
        { "type": "m.room.join_rules", "content": { "join_rule": "knock" } } ] }))
        .await;
    add(&alice, &top, &sub, json!({ "order": "a", "suggested": true })).await;
    add(&alice, &top, &open, json!({ "order": "b" })).await;
    add(&alice, &top, &secret, json!({ "order": "c" })).await;
    add(&alice, &top, &invited, json!({ "order": "d" })).await;
    add(&alice, &top, &knock, json!({ "order": "e" })).await;
    add(&alice, &sub, &deep, json!({})).await;
    // A loop is walked once; a child without `via` is none.
    add(&alice, &sub, &top, json!({})).await;
    alice.send_state(&top, "m.space.child", "!removed:localhost", json!({})).await;

    let of = async |user: &TestUser, query: &str| {
        user.get_ok(&at_v1(&top, format!("hierarchy{query}"))).await
    };
    assert_eq!(
        names(&of(&alice, "").await),
        ["top", "sub", "deep", "open", "secret", "invited", "knock"]
    );
    assert_eq!(names(&of(&bob, "").await), ["top", "sub", "deep", "open", "invited", "knock"]);
    assert_eq!(names(&of(&bob, "?suggested_only=true").await), ["top", "sub"]);
    assert_eq!(names(&of(&bob, "?max_depth=1").await), ["top", "sub", "open", "invited", "knock"]);
    assert_eq!(names(&of(&bob, "?max_depth=0").await), ["top"]);

    let mut seen = Vec::new();
    let mut from = String::new();
    for _ in 0..10 {
        let page = of(&bob, &format!("?limit=2{from}")).await;
        assert!(names(&page).len() <= 2, "{page}");
        seen.extend(names(&page).into_iter().map(ToOwned::to_owned));
        let Some(next) = page["next_batch"].as_str() else { break };
        from = format!("&from={}", encode(next));
    }
    assert_eq!(seen, ["top", "sub", "deep", "open", "invited", "knock"]);

    let page = of(&bob, "?limit=2").await;
    let next = encode(text(&page, "next_batch"));
    let changed = at_v1(&top, format!("hierarchy?max_depth=1&from={next}"));
    refused(bob.get(&changed).await, 400, "M_INVALID_PARAM");
    refused(bob.get(&at_v1(&top, "hierarchy?from=nonsense")).await, 400, "M_INVALID_PARAM");
    refused(bob.get(&at_v1(&secret, "hierarchy")).await, 403, "M_FORBIDDEN");
    let nowhere = ruma::room_id!("!nowhere:localhost");
    refused(bob.get(&at_v1(nowhere, "hierarchy")).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn describes_each_room() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let top = space(&alice, "top").await;
    let room = alice
        .create_room(json!({ "preset": "public_chat", "name": "room", "topic": "things",
            "room_alias_name": "room", "initial_state": [
                { "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
                { "type": "m.room.join_rules", "content": { "join_rule": "restricted",
                    "allow": [{ "type": "m.room_membership", "room_id": top }] } } ] }))
        .await;
    add(&alice, &top, &room, json!({ "suggested": true })).await;
    let answer = alice.get_ok(&at_v1(&top, "hierarchy")).await;
    insta::assert_json_snapshot!(tidy(&answer, &[(&top, "space"), (&room, "room")]));
}
