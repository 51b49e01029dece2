//! `/profile/{userId}` and its fields (CS "Profiles").

use hearth_testkit::{TestServer, TestUser, encode};
use serde_json::{Value, json};

use crate::support::{V3, at, outcome, refused, set, state_of, timeline, word};

fn of(user: &TestUser) -> String {
    format!("{V3}/profile/{}", user.user_id)
}

fn field(user: &TestUser, name: &str) -> String {
    format!("{}/{}", of(user), encode(name))
}

#[tokio::test]
async fn fields_are_set_read_and_deleted() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let fields = [
        ("displayname", json!("Alice Margatroid")),
        ("avatar_url", json!("mxc://localhost/abc")),
        ("m.tz", json!("Europe/London")),
        ("org.example.languages", json!(["en", { "cy": 2 }])),
    ];
    for (name, value) in &fields {
        assert_eq!(alice.put_ok(&field(&alice, name), json!({ *name: value })).await, json!({}));
        assert_eq!(bob.get_ok(&field(&alice, name)).await, json!({ *name: value }));
    }
    let whole: Value =
        fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    // Profiles are read without a token.
    assert_eq!(server.client().get_ok(&of(&alice)).await, whole);
    for (name, _) in &fields {
        assert_eq!(alice.delete(&field(&alice, name), None).await.1, json!({}));
        refused(bob.get(&field(&alice, name)).await, 404, "M_NOT_FOUND");
    }
    // Deleting what is not there is fine.
    let (status, _) = alice.delete(&field(&alice, "m.tz"), None).await;
    assert_eq!(status, 200);
    refused(bob.get(&format!("{V3}/profile/@zoe:localhost")).await, 404, "M_NOT_FOUND");
    refused(bob.get(&format!("{V3}/profile/@zoe:localhost/displayname")).await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn bad_fields_are_refused() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let before = alice.get_ok(&of(&alice)).await;
    let put = async |name: &str, body: Value| alice.put(&field(&alice, name), body).await;
    refused(
        bob.put(&field(&alice, "displayname"), json!({ "displayname": "x" })).await,
        403,
        "M_FORBIDDEN",
    );
    refused(bob.delete(&field(&alice, "displayname"), None).await, 403, "M_FORBIDDEN");
    // "One of the following": the order of the checks is free.
    let missing = put("displayname", json!({ "org.example.other": "x" })).await;
    assert!(
        [(400, "M_MISSING_PARAM"), (400, "M_BAD_JSON")].contains(&outcome(&missing)),
        "{missing:?}"
    );
    for bad in ["NotNamespaced", "org.Example.upper", ".x.y", "1st", "a b", "org.example.é"] {
        refused(put(bad, json!({ bad: "x" })).await, 400, "M_INVALID_PARAM");
    }
    for wrong in [json!(5), json!({}), json!(["x"])] {
        let answer = put("displayname", json!({ "displayname": wrong })).await;
        assert_eq!(outcome(&answer), (400, "M_BAD_JSON"), "{answer:?}");
    }
    let long = format!("org.example.{}", "x".repeat(250));
    refused(put(&long, json!({ &long: "x" })).await, 400, "M_KEY_TOO_LARGE");
    assert_eq!(alice.get_ok(&of(&alice)).await, before, "nothing was stored");
}

#[tokio::test]
async fn a_profile_has_64_kib() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let big = |size: usize| json!({ "org.example.big": "x".repeat(size) });
    let path = field(&alice, "org.example.big");
    alice.put_ok(&path, big(60_000)).await;
    let more = json!({ "org.example.more": "x".repeat(6_000) });
    refused(
        alice.put(&field(&alice, "org.example.more"), more.clone()).await,
        400,
        "M_PROFILE_TOO_LARGE",
    );
    refused(alice.put(&path, big(66_000)).await, 400, "M_PROFILE_TOO_LARGE");
    alice.put_ok(&path, big(1_000)).await;
    alice.put_ok(&field(&alice, "org.example.more"), more).await;
}

#[tokio::test]
async fn a_new_name_reaches_the_rooms() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_public_room().await;
    bob.join(&room).await;
    let since = bob.now().await;
    alice.put_ok(&field(&alice, "displayname"), json!({ "displayname": "Alice" })).await;
    let update = bob.wait_for_sync(&since).await;
    let event = &timeline(&update, &room)[0];
    assert_eq!(word(event), "alice join");
    assert_eq!(event["content"]["displayname"], "Alice");
    assert_eq!(event["unsigned"]["prev_content"]["membership"], "join");
    // A custom field does not.
    let since = update["next_batch"].as_str().unwrap().to_owned();
    alice.put_ok(&field(&alice, "org.example.x"), json!({ "org.example.x": 1 })).await;
    assert!(timeline(&bob.sync(Some(&since), "").await, &room).is_null());
    // New memberships carry the name.
    let other = bob.create_room(json!({ "invite": [alice.user_id] })).await;
    let members = bob.get_ok(&at(&other, "members")).await;
    let member = state_of(&members["chunk"], "m.room.member", "@alice:localhost");
    assert_eq!(member["content"]["displayname"], "Alice");
}

#[tokio::test]
async fn everybody_sees_names_that_are_not_secret() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    alice.put_ok(&field(&alice, "displayname"), json!({ "displayname": "Alice" })).await;
    let room = alice.create_room(json!({ "invite": [bob.user_id] })).await;
    bob.join(&room).await;
    let members = alice.get_ok(&at(&room, "joined_members")).await;
    let joined = members["joined"].as_object().unwrap();
    assert_eq!(set(joined.keys()), set(["@alice:localhost", "@bob:localhost"]));
    assert_eq!(joined["@alice:localhost"]["display_name"], "Alice");
}
