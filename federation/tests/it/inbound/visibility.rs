//! Which events another server gets whole: those that one of its users may see.

use hearth_testkit::{TestUser, encode};
use http::StatusCode;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::{Value, json};

use super::{Room, Scene, assert_error};

/// What was said, and when.
struct Told {
    room: Room,
    before: OwnedEventId,
    invited: OwnedEventId,
    joined: OwnedEventId,
    left: OwnedEventId,
}

/// A room in which something is said before a user of the peer is invited, until they join, until they
/// leave, and after that.
async fn tell(scene: &Scene, visibility: &str) -> Told {
    let bob = scene.peer.user("bob");
    let state = json!([{
        "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": visibility },
    }]);
    let room = scene.room(RoomVersionId::V11, json!({ "initial_state": state })).await;
    let before = scene.ann.send_text(&room.id, "before").await;
    scene.ann.invite(&room.id, &bob).await;
    let invited = scene.ann.send_text(&room.id, "invited").await;
    scene.join(&room, &bob).await;
    let joined = scene.ann.send_text(&room.id, "joined").await;
    Told { room, before, invited, joined, left: OwnedEventId::try_from("$later").unwrap() }
}

impl Told {
    /// Has the user leave, and something said after that.
    async fn without_them(mut self, scene: &Scene) -> Self {
        let kick = TestUser::room_path(&self.room.id, "kick");
        scene.ann.post_ok(&kick, json!({ "user_id": scene.peer.user("bob") })).await;
        self.left = scene.ann.send_text(&self.room.id, "left").await;
        self
    }
}

/// The event's text as the peer gets it: nothing if it comes redacted.
async fn text(scene: &Scene, event_id: &OwnedEventId) -> Option<String> {
    let path = format!("/_matrix/federation/v1/event/{}", encode(event_id.as_str()));
    let answer = scene.peer.get_ok(scene.name(), &path).await;
    let event = &answer["pdus"][0];
    assert_eq!(event["type"], "m.room.message");
    assert_eq!(hearth_testkit::peer::event_id(&RoomVersionId::V11, event), *event_id);
    event["content"].get("body").map(|body| body.as_str().unwrap().to_owned())
}

async fn texts(scene: &Scene, told: &Told) -> Vec<bool> {
    let mut shown = Vec::new();
    for event_id in [&told.before, &told.invited, &told.joined] {
        shown.push(text(scene, event_id).await.is_some());
    }
    shown
}

#[tokio::test]
async fn who_is_in_the_room_gets_what_the_rooms_visibility_gives_them() {
    let scene = Scene::start().await;
    for (visibility, wanted) in [
        ("joined", [false, false, true]),
        ("invited", [false, true, true]),
        ("shared", [true, true, true]),
        ("world_readable", [true, true, true]),
    ] {
        let told = tell(&scene, visibility).await;
        assert_eq!(texts(&scene, &told).await, wanted, "{visibility}");

        // The same in lists of events, where the hidden ones keep their places.
        let query = format!("?limit=50&v={}", encode(told.joined.as_str()));
        let answer = scene.peer.get_ok(scene.name(), &told.room.path("backfill", &query)).await;
        assert_eq!(bodies(&answer["pdus"]), in_words(wanted, true), "{visibility}");
        let body = json!({
            "earliest_events": [], "latest_events": [told.joined], "limit": 50,
        });
        let path = told.room.path("get_missing_events", "");
        let (_, answer) = scene.peer.post(scene.name(), &path, body).await;
        assert_eq!(bodies(&answer["events"]), in_words(wanted, false), "{visibility}");
    }
}

/// The texts of the messages in a list, sorted; a hidden one has none.
fn bodies(events: &Value) -> Vec<Option<String>> {
    let messages = events.as_array().unwrap().iter();
    let messages = messages.filter(|event| event["type"] == "m.room.message");
    let mut bodies: Vec<_> = messages
        .map(|event| Some(event["content"].get("body")?.as_str().unwrap().to_owned()))
        .collect();
    bodies.sort();
    bodies
}

fn in_words(shown: [bool; 3], with_last: bool) -> Vec<Option<String>> {
    let all = ["before", "invited", "joined"].into_iter().zip(shown);
    let mut words: Vec<_> = all
        .filter(|(word, _)| with_last || *word != "joined")
        .map(|(word, shown)| shown.then(|| word.to_owned()))
        .collect();
    words.sort();
    words
}

#[tokio::test]
async fn who_has_left_gets_what_was_before() {
    let scene = Scene::start().await;
    for (visibility, is_seen_after) in
        [("joined", false), ("invited", false), ("shared", false), ("world_readable", true)]
    {
        let told = tell(&scene, visibility).await.without_them(&scene).await;
        assert!(text(&scene, &told.joined).await.is_some(), "{visibility}");
        assert_eq!(text(&scene, &told.left).await.is_some(), is_seen_after, "{visibility}");
        let query = format!("?event_id={}", encode(told.left.as_str()));
        let (status, _) = scene.peer.get(scene.name(), &told.room.path("state_ids", &query)).await;
        assert_eq!(status == StatusCode::OK, is_seen_after, "{visibility}");
    }
}

#[tokio::test]
async fn who_was_never_in_the_room_gets_nothing() {
    let scene = Scene::start().await;
    let room = scene.public_room(RoomVersionId::V11).await;
    let message = scene.ann.send_text(&room.id, "hello").await;
    let id = encode(message.as_str());
    for (what, query) in [
        ("state", format!("?event_id={id}")),
        ("state_ids", format!("?event_id={id}")),
        ("event_auth", format!("/{id}")),
        ("backfill", format!("?limit=10&v={id}")),
        ("timestamp_to_event", "?ts=0&dir=f".to_owned()),
    ] {
        let answer = scene.peer.get(scene.name(), &room.path(what, &query)).await;
        assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    }
    let body = json!({ "earliest_events": [], "latest_events": [message], "limit": 10 });
    let answer = scene.peer.post(scene.name(), &room.path("get_missing_events", ""), body).await;
    assert_error(&answer, StatusCode::FORBIDDEN, "M_FORBIDDEN");
    let path = format!("/_matrix/federation/v1/event/{id}");
    assert_error(&scene.peer.get(scene.name(), &path).await, StatusCode::NOT_FOUND, "M_NOT_FOUND");
}

#[tokio::test]
async fn rooms_that_are_not_here_are_not_found() {
    let scene = Scene::start().await;
    let room = Room { id: ruma::owned_room_id!("!nowhere:hs.test"), version: RoomVersionId::V11 };
    for (what, query) in [
        ("state", "?event_id=%24a"),
        ("state_ids", "?event_id=%24a"),
        ("event_auth", "/%24a"),
        ("backfill", "?limit=10&v=%24a"),
        ("timestamp_to_event", "?ts=0&dir=f"),
        ("hierarchy", ""),
    ] {
        let answer = scene.peer.get(scene.name(), &room.path(what, query)).await;
        assert_error(&answer, StatusCode::NOT_FOUND, "M_NOT_FOUND");
    }
}
