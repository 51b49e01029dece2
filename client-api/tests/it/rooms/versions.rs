//! Every room version that is served, through a room's whole life.

use hearth_testkit::{TestServer, encode};
use serde_json::json;

use crate::support::{V3, at, refused, state_of, text, tidy};

#[tokio::test]
async fn all_are_served() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let capabilities = alice.get_ok(&format!("{V3}/capabilities")).await;
    let versions = &capabilities["capabilities"]["m.room_versions"];
    assert_eq!(versions["default"], "12");
    let available = versions["available"].as_object().unwrap();
    assert_eq!(available.len(), 7);
    for version in 6..=12 {
        let version = version.to_string();
        assert_eq!(available[&version], "stable");
        let body = json!({ "preset": "public_chat", "room_version": version, "name": "A" });
        let room = alice.create_room(body).await;
        let state = alice.get_ok(&at(&room, "state")).await;
        let create = state_of(&state, "m.room.create", "");
        assert_eq!(create["content"]["room_version"], version.as_str());
        // A room names its creator until version 10.
        let creator = &create["content"]["creator"];
        if matches!(version.as_str(), "11" | "12") {
            assert!(creator.is_null(), "{create}");
        } else {
            assert_eq!(creator, "@alice:localhost");
        }
        bob.join(&room).await;
        let event = bob.send_text(&room, "hello").await;
        assert!(event.as_str().starts_with('$') && !event.as_str().contains(':'));
        let redaction = alice.redact(&room, &event).await;
        let read = bob.get_ok(&at(&room, format!("event/{}", encode(event.as_str())))).await;
        assert_eq!(read["content"], json!({}), "version {version}");
        let because = &read["unsigned"]["redacted_because"];
        assert_eq!(text(because, "event_id"), redaction.as_str());
        // Towards clients the target stands in both places, whatever the version.
        assert_eq!(because["redacts"], event.as_str(), "version {version}: {because}");
        assert_eq!(because["content"]["redacts"], event.as_str(), "version {version}: {because}");
        let demote = json!({ "users": { "@bob:localhost": 50 } });
        refused(
            bob.put(&at(&room, "state/m.room.power_levels/"), demote).await,
            403,
            "M_FORBIDDEN",
        );
        let ban = json!({ "user_id": "@bob:localhost" });
        alice.post_ok(&at(&room, "ban"), ban).await;
        refused(bob.post(&at(&room, "join"), json!({})).await, 403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn an_event_has_the_form_of_the_specification() {
    let server = TestServer::start().await;
    let alice = server.register("alice").await;
    let room = alice.create_public_room().await;
    let first = alice.send_state(&room, "m.room.topic", "", json!({ "topic": "one" })).await;
    let second = alice.send_state(&room, "m.room.topic", "", json!({ "topic": "two" })).await;
    let event = alice.get_ok(&at(&room, format!("event/{second}"))).await;
    let names: [(&dyn AsRef<str>, &str); 3] = [(&room, "room"), (&first, "one"), (&second, "two")];
    insta::assert_json_snapshot!(tidy(&event, &names));
    assert!(event["origin_server_ts"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(event["unsigned"]["age"].as_u64().is_some());
}
