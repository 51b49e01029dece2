use std::sync::Arc;

use hearth_rooms::{
    CreateRoomOptions,
    schema::{MEMBERS, MemberRow, ROOM_SERVERS, SERVER_ROOMS, ServerRow},
};
use hearth_storage::{Commit, Direction};
use hearth_users::NewAccount;
use ruma::{owned_server_name, presence::PresenceState, server_name, user_id};
use serde_json::{Value, json};

use super::*;
use crate::testing::{Network, Server};

/// A server with an account `@alice:here.test` and a room that `@bob:there.test` is in.
struct World {
    server: Server,
    room_id: OwnedRoomId,
    newest: Arc<hearth_rooms::StoredEvent>,
}

fn bob() -> &'static UserId {
    user_id!("@bob:there.test")
}

impl World {
    async fn new() -> Self {
        let server = Server::open("here.test", &Network::default()).await;
        let federation = &server.federation;
        let alice = user_id!("@alice:here.test");
        let account = NewAccount { username: "alice".to_owned(), ..NewAccount::default() };
        federation.users().create_account(account).await.unwrap();
        let options = CreateRoomOptions::default();
        let room_id = federation.rooms().create_room(alice, options).await.unwrap();
        let newest = federation.rooms().newest_events(&room_id).await.unwrap().pop().unwrap();
        let mut commit = Commit::new(&room_id);
        let there = owned_server_name!("there.test");
        let joined = MemberRow { membership: Membership::Join, event: newest.ordinal };
        commit.put(&ROOM_SERVERS, &room_id, &there, &ServerRow { joined: 1 });
        commit.put(&MEMBERS, &room_id, &bob().to_owned(), &joined);
        commit.effect_put(&SERVER_ROOMS, &there, &room_id, &ServerRow { joined: 1 });
        federation.store().commit(commit).await.unwrap();
        Self { server, room_id, newest }
    }

    async fn take(&self, edus: Vec<Value>) {
        let edus = edus.iter().map(|edu| Raw::from_json_string(edu.to_string()).unwrap());
        let there = server_name!("there.test");
        receive(&self.server.federation, there, edus.collect()).await.unwrap();
    }

    /// Types and subjects of what is kept, with the contents.
    async fn kept(&self) -> Vec<(String, String, Value)> {
        let there = owned_server_name!("there.test");
        let store = self.server.federation.store();
        let rows = store.page(&KEPT_EDUS, &there, .., Direction::Forward, 100).await.unwrap();
        let read = |content: &[u8]| serde_json::from_slice(content).unwrap();
        rows.into_iter().map(|((kind, id, _), row)| (kind, id, read(&row.record))).collect()
    }
}

fn message(sender: &str, id: &str, to: &str) -> Value {
    let messages = json!({ to: { "DEVICE": { "secret": 1 } } });
    let content =
        json!({ "sender": sender, "type": "m.x", "message_id": id, "messages": messages });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

fn device(user: &str, device_id: &str, stream_id: u64) -> Value {
    let content = json!({ "user_id": user, "device_id": device_id, "stream_id": stream_id });
    json!({ "edu_type": "m.device_list_update", "content": content })
}

#[tokio::test]
async fn messages_to_devices_are_kept_once_for_those_who_are_here() {
    let world = World::new().await;
    let mut mixed = message("@bob:there.test", "one", "@alice:here.test");
    mixed["content"]["messages"]["@carol:third.test"] = json!({ "X": {} });
    mixed["content"]["messages"]["@nobody:here.test"] = json!({ "X": {} });
    let mut changed = message("@bob:there.test", "one", "@alice:here.test");
    changed["content"]["type"] = json!("m.other");
    world.take(vec![mixed, changed.clone()]).await;
    world.take(vec![changed, message("@carol:third.test", "two", "@alice:here.test")]).await;
    world.take(vec![message("@bob:there.test", "three", "@carol:third.test")]).await;
    let kept = world.kept().await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    let (kind, id, content) = &kept[0];
    assert_eq!((kind.as_str(), id.as_str()), ("m.direct_to_device", "one"));
    assert_eq!(content["type"], "m.x");
    let recipients: Vec<_> = content["messages"].as_object().unwrap().keys().collect();
    assert_eq!(recipients, ["@alice:here.test"]);
}

#[tokio::test]
async fn changed_device_lists_count_for_users_who_share_a_room() {
    let world = World::new().await;
    let keys =
        |user: &str| json!({ "edu_type": "m.signing_key_update", "content": { "user_id": user } });
    let e2ee = world.server.federation.e2ee();
    let published = || world.server.federation.store().notifier().published();
    for edu in [device("@bob:there.test", "A", 1), keys("@bob:there.test")] {
        let since = published();
        world.take(vec![edu]).await;
        assert_eq!(e2ee.changed_lists(since, published()).await.unwrap(), [bob()]);
    }
    let since = published();
    for user in ["@carol:third.test", "@alice:here.test", "@stranger:there.test"] {
        world.take(vec![device(user, "C", 4), keys(user)]).await;
    }
    assert_eq!(published(), since);
}

#[tokio::test]
async fn what_is_kept_of_one_server_is_bounded() {
    let world = World::new().await;
    let large = "x".repeat(65 * 1024);
    let mut too_large = message("@bob:there.test", "large", "@alice:here.test");
    too_large["content"]["messages"]["@alice:here.test"]["DEVICE"]["secret"] = json!(large);
    world.take(vec![too_large]).await;
    assert!(world.kept().await.is_empty());
    for number in 0..30 {
        let id = format!("M{number:02}");
        world.take(vec![message("@bob:there.test", &id, "@alice:here.test")]).await;
    }
    assert_eq!(world.kept().await.len(), 20);
}

#[tokio::test]
async fn presence_counts_for_users_who_share_a_room() {
    let world = World::new().await;
    let push: Vec<_> = ["@bob:there.test", "@stranger:there.test", "@alice:here.test"]
        .map(|user| json!({ "user_id": user, "presence": "online", "last_active_ago": 10 }))
        .into();
    world.take(vec![json!({ "edu_type": "m.presence", "content": { "push": push } })]).await;
    let users = world.server.federation.users();
    assert_eq!(users.presence(bob()).await.unwrap().state, PresenceState::Online);
    for other in [user_id!("@stranger:there.test"), user_id!("@alice:here.test")] {
        assert_eq!(users.presence(other).await.unwrap().state, PresenceState::Offline);
    }
}

#[tokio::test]
async fn the_presence_of_one_user_loses_nobody_elses() {
    for odd in [
        json!({ "user_id": "@never:there.test", "presence": "online" }),
        json!({ "user_id": "@skewed:there.test", "presence": "online", "last_active_ago": -250 }),
        json!({ "user_id": "no user", "presence": "online", "last_active_ago": 1 }),
        json!("no update"),
    ] {
        let world = World::new().await;
        let good = json!({
            "user_id": bob(), "presence": "online", "last_active_ago": 10,
            "currently_active": true,
        });
        let push = [odd.clone(), good];
        world.take(vec![json!({ "edu_type": "m.presence", "content": { "push": push } })]).await;
        let shown = world.server.federation.users().presence(bob()).await.unwrap();
        assert_eq!(shown.state, PresenceState::Online, "{odd}");
        assert!(shown.currently_active);
    }
    let now_ms = crate::testing::START_MS;
    for (ago, last_active_ms) in
        [(json!(null), None), (json!(-250), Some(now_ms)), (json!(250), Some(now_ms - 250))]
    {
        let world = World::new().await;
        let mut push = json!({ "user_id": bob(), "presence": "unavailable" });
        if !ago.is_null() {
            push["last_active_ago"] = ago;
        }
        world.take(vec![json!({ "edu_type": "m.presence", "content": { "push": [push] } })]).await;
        let shown = world.server.federation.users().presence(bob()).await.unwrap();
        assert_eq!(
            (shown.state, shown.last_active_ms),
            (PresenceState::Unavailable, last_active_ms)
        );
    }
}

#[tokio::test]
async fn a_receipt_counts_for_an_event_and_a_thread_that_are_here() {
    let world = World::new().await;
    let event_id = world.newest.pdu.id();
    let receipt = |user: &str, event_id: &str, thread: Option<&str>| {
        let data = json!({ "ts": 5, "thread_id": thread });
        let data = if thread.is_some() { data } else { json!({ "ts": 5 }) };
        let read = json!({ user: { "data": data, "event_ids": [event_id] } });
        let content = json!({ world.room_id.as_str(): { "m.read": read } });
        json!({ "edu_type": "m.receipt", "content": content })
    };
    let users = world.server.federation.users();
    let count = async || users.own_receipts(&world.room_id, bob()).await.unwrap().len();
    world.take(vec![receipt("@bob:there.test", "$unknown", None)]).await;
    world.take(vec![receipt("@bob:there.test", event_id.as_str(), Some("$unknown"))]).await;
    world.take(vec![receipt("@carol:there.test", event_id.as_str(), None)]).await;
    assert_eq!(count().await, 0);
    world.take(vec![receipt("@bob:there.test", event_id.as_str(), None)]).await;
    world.take(vec![receipt("@bob:there.test", event_id.as_str(), Some("main"))]).await;
    assert_eq!(count().await, 2);
    let receipts = users.own_receipts(&world.room_id, bob()).await.unwrap();
    assert_eq!(receipts[0].ts_ms, 5, "when it was read, not when it came");
}

#[tokio::test]
async fn too_large_edus_are_dropped() {
    let world = World::new().await;
    let content = json!({
        "room_id": world.room_id,
        "user_id": bob(),
        "typing": true,
        "more": "x".repeat(MAX_EDU_BYTES),
    });
    world.take(vec![json!({ "edu_type": "m.typing", "content": content })]).await;
    assert!(world.server.federation.users().typing(&world.room_id).user_ids.is_empty());
}
