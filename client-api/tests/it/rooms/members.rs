//! `GET /rooms/{roomId}/members`, `GET /rooms/{roomId}/joined_members`.

use std::collections::BTreeMap;

use hearth_testkit::{TestServer, encode};
use serde_json::{Value, json};

use crate::support::{at, list, refused, text};

fn memberships(answer: &Value) -> BTreeMap<&str, &str> {
    list(&answer["chunk"])
        .iter()
        .map(|event| (text(event, "state_key"), text(&event["content"], "membership")))
        .collect()
}

#[tokio::test]
async fn are_listed_now_and_then() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let then = encode(&alice.now().await);
    alice.invite(&room, &carol.user_id).await;
    bob.leave(&room).await;
    let of = async |query: &str| alice.get_ok(&at(&room, format!("members{query}"))).await;
    let now = of("").await;
    let expected =
        [("@alice:localhost", "join"), ("@bob:localhost", "leave"), ("@carol:localhost", "invite")];
    assert_eq!(memberships(&now), expected.into());
    assert_eq!(now["chunk"][0]["room_id"], room.as_str());
    let past = of(&format!("?at={then}")).await;
    let expected = [("@alice:localhost", "join"), ("@bob:localhost", "join")];
    assert_eq!(memberships(&past), expected.into());
    assert_eq!(memberships(&of("?membership=join").await), [("@alice:localhost", "join")].into());
    let rest = [("@bob:localhost", "leave"), ("@carol:localhost", "invite")];
    assert_eq!(memberships(&of("?not_membership=join").await), rest.into());
    let (status, answer) = alice.get(&at(&room, "members?at=nonsense")).await;
    assert_eq!(status, 400, "{answer}");
    // Who left sees the members of then.
    let left = bob.get_ok(&at(&room, "members")).await;
    assert_eq!(memberships(&left)["@bob:localhost"], "leave");
    let stranger = server.register("zoe").await;
    refused(stranger.get(&at(&room, "members")).await, 403, "M_FORBIDDEN");
}

#[tokio::test]
async fn joined_ones_come_with_their_names() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let path = format!("/_matrix/client/v3/profile/{}", alice.user_id);
    alice.put_ok(&format!("{path}/displayname"), json!({ "displayname": "Alice" })).await;
    alice.put_ok(&format!("{path}/avatar_url"), json!({ "avatar_url": "mxc://localhost/a" })).await;
    let room =
        alice.create_room(json!({ "invite": [carol.user_id], "preset": "public_chat" })).await;
    bob.join(&room).await;
    let answer = alice.get_ok(&at(&room, "joined_members")).await;
    let joined = answer["joined"].as_object().unwrap();
    assert_eq!(joined.len(), 2, "{answer}");
    let expected = json!({ "display_name": "Alice", "avatar_url": "mxc://localhost/a" });
    assert_eq!(joined["@alice:localhost"], expected);
    refused(carol.get(&at(&room, "joined_members")).await, 403, "M_FORBIDDEN");
    bob.leave(&room).await;
    refused(bob.get(&at(&room, "joined_members")).await, 403, "M_FORBIDDEN");
}
