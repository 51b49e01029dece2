//! Devices of other servers' users: whose lists are kept, followed, fetched again and forgotten.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, routing::put};
use hearth_testkit::ClientKey;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use ruma::{OwnedUserId, RoomVersionId, ServerName, UserId};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::{
    inbound::{Place, Room, Scene},
    support::{PATIENCE, World, via_path},
};

const LIST: &str = "/_matrix/federation/v1/user/devices/";
const QUERY: &str = "/_matrix/federation/v1/user/keys/query";

/// A server with a room, and a user of a scripted peer in it.
struct Stage {
    scene: Scene,
    room: Room,
    place: Place,
    bob: OwnedUserId,
    key: ClientKey,
}

impl Stage {
    async fn start() -> Self {
        let scene = Scene::start().await;
        let bob = scene.peer.user("bob");
        let room = scene.public_room(RoomVersionId::V11).await;
        let place = scene.join(&room, &bob).await;
        Self { scene, room, place, bob, key: ClientKey::new() }
    }

    fn keys(&self, device_id: &str) -> Value {
        self.key.device_keys(&self.bob, device_id.into())
    }

    /// From now on the peer tells this list.
    fn tell(&self, stream_id: u64, devices: &[&str]) {
        let devices: Vec<_> =
            devices.iter().map(|id| json!({ "device_id": id, "keys": self.keys(id) })).collect();
        let list = json!({ "user_id": self.bob, "stream_id": stream_id, "devices": devices });
        self.scene.peer.answers(LIST, StatusCode::OK, list);
    }

    /// The peer sends an update of a device.
    async fn update(&self, device_id: &str, stream_id: u64, prev_id: &[u64]) {
        let content = json!({
            "user_id": self.bob,
            "device_id": device_id,
            "stream_id": stream_id,
            "prev_id": prev_id,
            "keys": self.keys(device_id),
        });
        let edu = json!({ "edu_type": "m.device_list_update", "content": content });
        let (peer, name) = (&self.scene.peer, self.scene.name());
        let id = format!("list{stream_id}");
        let (status, answer) = peer.transaction(name, &id, Vec::new(), vec![edu]).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// The devices that a user here is told.
    async fn seen(&self) -> Vec<String> {
        let answer = query(&self.scene.ann, &self.bob).await;
        let devices = answer["device_keys"][self.bob.as_str()].as_object();
        devices.map(|devices| devices.keys().cloned().collect()).unwrap_or_default()
    }

    fn lists_told(&self) -> usize {
        self.scene.peer.heard(LIST).len()
    }
}

async fn query(asker: &hearth_testkit::TestUser, user_id: &UserId) -> Value {
    let body = json!({ "device_keys": { user_id.as_str(): [] } });
    asker.post_ok("/_matrix/client/v3/keys/query", body).await
}

#[tokio::test]
async fn a_list_is_kept_and_followed_while_a_room_is_shared() {
    let stage = Stage::start().await;
    stage.tell(5, &["A"]);
    assert_eq!(stage.seen().await, ["A"]);
    stage.update("B", 6, &[5]).await;
    assert_eq!(stage.seen().await, ["A", "B"]);
    assert_eq!(stage.lists_told(), 1, "what follows needs no question");
    // An update is lost: the list is fetched again without anybody asking.
    stage.tell(9, &["A", "B", "C", "D"]);
    stage.update("D", 9, &[8]).await;
    let fetched = async {
        while stage.lists_told() < 2 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, fetched).await.expect("the list is fetched again");
    assert_eq!(stage.seen().await, ["A", "B", "C", "D"]);
    stage.update("E", 10, &[9]).await;
    assert_eq!(stage.seen().await, ["A", "B", "C", "D", "E"]);
    assert_eq!(stage.lists_told(), 2);
    assert!(stage.scene.peer.heard(QUERY).is_empty());
}

#[tokio::test]
async fn a_gap_is_mended_when_its_server_answers_again() {
    let stage = Stage::start().await;
    stage.tell(5, &["A"]);
    assert_eq!(stage.seen().await, ["A"]);
    let error = json!({ "errcode": "M_UNKNOWN", "error": "not now" });
    stage.scene.peer.answers(LIST, StatusCode::INTERNAL_SERVER_ERROR, error.clone());
    stage.scene.peer.answers(QUERY, StatusCode::INTERNAL_SERVER_ERROR, error);
    stage.update("C", 9, &[8]).await;
    let answer = query(&stage.scene.ann, &stage.bob).await;
    assert_eq!(answer["failures"]["peer.test"]["status"], 503, "{answer}");
    assert!(answer.get("device_keys").is_none(), "what is old is not told: {answer}");
    stage.tell(9, &["A", "B", "C"]);
    assert_eq!(stage.seen().await, ["A", "B", "C"]);
}

#[tokio::test]
async fn a_list_is_not_trusted_once_its_user_has_left() {
    let stage = Stage::start().await;
    let Stage { scene, room, place, bob, .. } = &stage;
    stage.tell(5, &["A"]);
    assert_eq!(stage.seen().await, ["A"]);
    let answer = json!({ "device_keys": { bob.as_str(): { "B": stage.keys("B") } } });
    scene.peer.answers(QUERY, StatusCode::OK, answer);
    let leave = json!({
        "type": "m.room.member",
        "state_key": bob,
        "content": { "membership": "leave" },
    });
    let leave = scene.event(room, place, &[place.join_id(room)], leave);
    scene.peer.send(scene.name(), vec![leave]).await;
    // The room is followed behind the transaction.
    let forgotten = async {
        while stage.seen().await != ["B"] {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, forgotten).await.expect("the list is not used any more");
    assert_eq!(stage.lists_told(), 1, "it is not kept again");
    let told = scene.peer.heard(QUERY).len();
    assert_eq!(stage.seen().await, ["B"]);
    assert_eq!(scene.peer.heard(QUERY).len(), told + 1, "each question is passed on");
}

#[tokio::test]
async fn who_left_and_came_back_between_two_syncs_may_have_other_devices() {
    let stage = Stage::start().await;
    let Stage { scene, room, place, bob, .. } = &stage;
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let encryption = scene.ann.send_state(&room.id, "m.room.encryption", "", algorithm).await;
    stage.tell(5, &["A"]);
    assert_eq!(stage.seen().await, ["A"]);
    let before = scene.ann.now().await;
    let member = |membership: &str| {
        let content = json!({ "membership": membership });
        json!({ "type": "m.room.member", "state_key": bob, "content": content })
    };
    let leave = scene.event(room, place, &[encryption], member("leave"));
    // His server tells nothing of this while he is away.
    stage.tell(7, &["B"]);
    let mut join = member("join");
    join["depth"] = json!(place.depth() + 2);
    let is_rules = |event: &&Value| event["type"] == "m.room.join_rules";
    let rules = place.state.iter().find(is_rules).unwrap();
    let auth_events = [&leave, rules].map(|event| room.event_id(event));
    let join = scene.event_with(room, place, &[room.event_id(&leave)], &auth_events, join);
    let fates = scene.peer.send(scene.name(), vec![leave, join]).await;
    assert!(fates.as_object().unwrap().values().all(|fate| fate == &json!({})), "{fates}");
    let told = async {
        let is_told = |sync: &Value| {
            let changed = sync["device_lists"]["changed"].as_array();
            changed.is_some_and(|changed| changed.contains(&json!(bob)))
        };
        while !is_told(&scene.ann.sync(Some(&before), "").await) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("his devices are to be looked at again");
    assert_eq!(stage.seen().await, ["B"]);
}

#[tokio::test]
async fn servers_tell_each_other_of_devices_and_cross_signing_keys() {
    let world = World::start(&["a.test", "b.test"]).await;
    let (ann, bob) = (world.user("a.test", "ann").await, world.user("b.test", "bob").await);
    let key = ClientKey::new();
    let keys = key.device_keys(&bob.user_id, &bob.device_id);
    bob.post_ok("/_matrix/client/v3/keys/upload", json!({ "device_keys": keys })).await;
    let (master, self_signing) = (ClientKey::new(), ClientKey::new());
    let master_key = master.cross_signing_key(&bob.user_id, "master");
    let mut self_signing_key = self_signing.cross_signing_key(&bob.user_id, "self_signing");
    master.sign(&mut self_signing_key, &bob.user_id);
    let body = json!({ "master_key": master_key, "self_signing_key": self_signing_key });
    bob.post_ok("/_matrix/client/v3/keys/device_signing/upload", body).await;
    let id = bob.user_id.as_str();
    // Without a shared room his server is asked; with one the list is kept.
    for _ in 0..2 {
        let answer = query(&ann, &bob.user_id).await;
        let told = &answer["device_keys"][id][bob.device_id.as_str()];
        assert_eq!(told["keys"], keys["keys"], "{answer}");
        assert_eq!(answer["master_keys"][id], master_key);
        assert_eq!(answer["self_signing_keys"][id], self_signing_key);
        assert!(answer.get("failures").is_none(), "{answer}");
        let room_id = bob.create_public_room().await;
        let path = via_path("join", room_id.as_str(), &["b.test"]);
        let (status, answer) = ann.json(Method::POST, &path, Some(json!({}))).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        // Members who were left out of the join's answer come behind it.
        world.wait_for_membership(&ann, &room_id, &bob.user_id, "join").await;
    }
    let asked = world.count_requests("a.test", &format!("{LIST}{id}"));
    query(&ann, &bob.user_id).await;
    assert_eq!(asked, 1);
    assert_eq!(world.count_requests("a.test", &format!("{LIST}{id}")), 1);
}

/// Takes the transactions that come to a server from now on, in its place: their EDUs.
fn intercept(world: &World, name: &str) -> Arc<Mutex<Vec<Value>>> {
    let edus = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&edus);
    let take = move |Json(transaction): Json<Value>| async move {
        taken.lock().extend(transaction["edus"].as_array().cloned().unwrap_or_default());
        Json(json!({ "pdus": {} }))
    };
    let router = Router::new().route("/_matrix/federation/v1/send/{txn}", put(take));
    world.network().put_before(&ServerName::parse(name).unwrap(), router);
    edus
}

#[tokio::test]
async fn all_servers_of_a_room_are_told_of_the_devices_of_who_joins_by_way_of_one() {
    let world = World::start(&["a.test", "b.test", "c.test"]).await;
    let (ann, cat) = (world.user("a.test", "ann").await, world.user("c.test", "cat").await);
    let bob = world.user("b.test", "bob").await;
    let room_id = ann.create_public_room().await;
    cat.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    let keys = ClientKey::new().device_keys(&bob.user_id, &bob.device_id);
    bob.post_ok("/_matrix/client/v3/keys/upload", json!({ "device_keys": keys })).await;
    let (at_a, at_c) = (intercept(&world, "a.test"), intercept(&world, "c.test"));
    bob.post_ok(&via_path("join", room_id.as_str(), &["a.test"]), json!({})).await;
    for edus in [at_a, at_c] {
        let is_told = |edu: &Value| {
            edu["edu_type"] == "m.device_list_update"
                && edu["content"]["user_id"] == bob.user_id.as_str()
                && edu["content"]["device_id"] == bob.device_id.as_str()
        };
        let waiting = async {
            while !edus.lock().iter().any(is_told) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{:?}", edus.lock()));
    }
}
