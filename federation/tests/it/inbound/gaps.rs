//! Gaps in a room's history: what nobody told when it was needed, and how readers come across it.

use hearth_testkit::TestUser;
use http::StatusCode;
use ruma::{OwnedEventId, RoomVersionId};
use serde_json::{Value, json};

use super::{Place, Room, Scene, without_replaced};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const BACKFILL: &str = "/_matrix/federation/v1/backfill/";

/// A room behind a gap: the peer has told the last of its messages, the state before it and nothing of the
/// messages between.
struct Gapped {
    scene: Scene,
    room: Room,
    place: Place,
    /// What the peer's user said, the oldest first.
    said: Vec<Value>,
    /// Where the server's user was in `/sync` and in sliding sync before all that.
    since: String,
    pos: String,
    /// What the server's user said then, which the peer did not know of.
    before: OwnedEventId,
}

impl Gapped {
    async fn start() -> Self {
        let scene = Scene::start().await;
        let room = scene.public_room(RoomVersionId::V11).await;
        let place = scene.join(&room, &scene.peer.user("bob")).await;
        let said = place.chain(&scene, &room, 5);
        let since = scene.ann.now().await;
        let pos = sliding(&scene.ann, "").await["pos"].as_str().unwrap().to_owned();
        let before = scene.ann.send_text(&room.id, "before").await;
        let gapped = Self { scene, room, place, said, since, pos, before };
        gapped.tell_state();
        gapped.tell(&[&gapped.said[4]]).await;
        gapped
    }

    /// From now on the peer tells the room's state as of its user's join.
    fn tell_state(&self) {
        let state = self.place.state.iter().chain([&self.place.join]).cloned().collect();
        let ids: Vec<_> =
            without_replaced(state).iter().map(|event| self.room.event_id(event)).collect();
        let answer = json!({ "pdu_ids": ids, "auth_chain_ids": ids });
        let path = "/_matrix/federation/v1/state_ids/";
        self.scene.peer.answers(path, StatusCode::OK, answer);
    }

    /// From now on the peer answers backfills with these.
    fn tell_history(&self, pdus: &[Value]) {
        let answer = json!({ "origin": "peer.test", "origin_server_ts": 1, "pdus": pdus });
        self.scene.peer.answers(BACKFILL, StatusCode::OK, answer);
    }

    /// The peer sends an event.
    async fn tell(&self, events: &[&Value]) {
        let events: Vec<Value> = events.iter().map(|event| (*event).clone()).collect();
        let ids: Vec<_> = events.iter().map(|event| self.room.event_id(event)).collect();
        let results = self.scene.peer.send(self.scene.name(), events).await;
        for id in ids {
            assert_eq!(results[id.as_str()], json!({}), "{results}");
        }
    }

    /// The room's timeline in `/sync`, as it goes on from where the user was.
    async fn timeline(&self) -> Value {
        let update = self.scene.ann.sync(Some(&self.since), "").await;
        update["rooms"]["join"][self.room.id.as_str()]["timeline"].clone()
    }

    /// One page of the history.
    async fn page(&self, from: &Value) -> Value {
        let from = from.as_str().unwrap();
        let path = format!("messages?dir=b&limit=10&from={from}");
        self.scene.ann.get_ok(&TestUser::room_path(&self.room.id, &path)).await
    }

    /// The IDs of what the peer's user said, the oldest first.
    fn said_ids(&self) -> Vec<OwnedEventId> {
        self.said.iter().map(|event| self.room.event_id(event)).collect()
    }
}

/// A sliding sync of all rooms.
async fn sliding(user: &TestUser, pos: &str) -> Value {
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": 10, "required_state": [] });
    let body = json!({ "conn_id": "gaps", "lists": { "all": list } });
    let pos = if pos.is_empty() { String::new() } else { format!("?pos={pos}") };
    user.post_ok(&format!("{SLIDING}{pos}"), body).await
}

/// The IDs of events as a client sees them.
fn shown(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_timeline_is_limited_where_history_is_missing() {
    let gapped = Gapped::start().await;
    let said = gapped.said_ids();

    let timeline = gapped.timeline().await;
    assert_eq!(shown(&timeline["events"]), [said[4].as_str()]);
    assert_eq!(timeline["limited"], true);
    let update = sliding(&gapped.scene.ann, &gapped.pos).await;
    let told = &update["rooms"][gapped.room.id.as_str()];
    assert_eq!(shown(&told["timeline"]), [said[4].as_str()]);
    assert_eq!(told["limited"], true);

    // Reading on from there asks the peer, and shows what is missing before what was here.
    gapped.tell_history(&gapped.said[..4]);
    let page = gapped.page(&timeline["prev_batch"]).await;
    let mut wanted: Vec<&str> = said[..4].iter().rev().map(|id| id.as_str()).collect();
    wanted.push(gapped.before.as_str());
    assert_eq!(shown(&page["chunk"])[..5], wanted);
    assert_eq!(shown(&gapped.page(&told["prev_batch"]).await["chunk"])[..5], wanted);

    // With nothing missing any more the same sync shows all.
    let timeline = gapped.timeline().await;
    let mut wanted = vec![gapped.before.as_str()];
    wanted.extend(said.iter().map(|id| id.as_str()));
    assert_eq!(shown(&timeline["events"]), wanted);
    assert_eq!(timeline["limited"], false);
}

#[tokio::test]
async fn what_follows_a_gap_is_not_limited_for_who_knows_the_gap() {
    let mut gapped = Gapped::start().await;
    gapped.since = gapped.scene.ann.now().await;
    let last = gapped.room.event_id(&gapped.said[4]);
    let next = gapped.scene.message(&gapped.room, &gapped.place, &[last], "on");
    gapped.tell(&[&next]).await;
    let timeline = gapped.timeline().await;
    assert_eq!(shown(&timeline["events"]), [gapped.room.event_id(&next).as_str()]);
    assert_eq!(timeline["limited"], false);
}

#[tokio::test]
async fn what_nobody_has_cuts_timelines_for_a_while_only() {
    let gapped = Gapped::start().await;
    // Nobody has what it names.
    gapped.tell_history(&[]);
    for _ in 0..4 {
        let timeline = gapped.timeline().await;
        assert_eq!(timeline["limited"], true);
        let page = gapped.page(&timeline["prev_batch"]).await;
        assert_eq!(shown(&page["chunk"])[0], gapped.before.as_str());
    }
    let timeline = gapped.timeline().await;
    let last = gapped.room.event_id(&gapped.said[4]);
    assert_eq!(shown(&timeline["events"]), [gapped.before.as_str(), last.as_str()]);
    assert_eq!(timeline["limited"], false);
    assert!(!gapped.scene.peer.heard(BACKFILL).is_empty());
}
