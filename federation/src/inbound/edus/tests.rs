use std::sync::Arc;

use hearth_rooms::{
    CreateRoomOptions,
    schema::{
        MEMBERS, MemberRow, PARTIAL, PARTIAL_ROOMS, PARTIAL_SERVERS, PartialRow, ROOM_SERVERS,
        SERVER_ROOMS, ServerRow,
    },
};
use hearth_storage::{Commit, Direction, Positioned};
use hearth_types::StreamPosition;
use hearth_users::{NewAccount, NewSession};
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
        commit.put(&ROOM_SERVERS, &room_id, &there, &ServerRow { joined: 1, since: 0 });
        commit.put(&MEMBERS, &room_id, &bob().to_owned(), &joined);
        commit.effect_put(&SERVER_ROOMS, &there, &room_id, &ServerRow { joined: 1, since: 0 });
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
async fn messages_to_devices_come_once_to_those_who_are_here() {
    let world = World::new().await;
    let federation = &world.server.federation;
    let alice = user_id!("@alice:here.test");
    let session = federation.users().create_session(alice, NewSession::default()).await.unwrap();
    let of_type = |kind: &str, mut message: Value| {
        message["content"]["type"] = json!(kind);
        message
    };
    let mut mixed = message("@bob:there.test", "one", "@alice:here.test");
    mixed["content"]["messages"]["@alice:here.test"] = json!({ "*": { "secret": 1 } });
    mixed["content"]["messages"]["@carol:third.test"] = json!({ "*": {} });
    mixed["content"]["messages"]["@nobody:here.test"] = json!({ "*": {} });
    let changed = of_type("m.other", mixed.clone());
    let mut second = of_type("m.second", mixed.clone());
    second["content"]["message_id"] = json!("two");
    let mut foreign = of_type("m.foreign", mixed.clone());
    foreign["content"]["sender"] = json!("@carol:third.test");
    world.take(vec![mixed, changed.clone()]).await;
    world.take(vec![changed, foreign, second]).await;
    let until = federation.store().notifier().published();
    let e2ee = federation.e2ee();
    let page = e2ee.to_device(alice, &session.device_id, StreamPosition::ZERO, until).await;
    let events = page.unwrap().events.into_iter();
    let events: Vec<Value> = events.map(|json| serde_json::from_slice(&json).unwrap()).collect();
    let event = |kind| json!({ "type": kind, "sender": bob(), "content": { "secret": 1 } });
    assert_eq!(events, [event("m.x"), event("m.second")]);
}

#[tokio::test]
async fn messages_to_devices_may_be_as_large_as_their_transaction() {
    let world = World::new().await;
    let federation = &world.server.federation;
    let alice = user_id!("@alice:here.test");
    let session = federation.users().create_session(alice, NewSession::default()).await.unwrap();
    let mut large = message("@bob:there.test", "one", "@alice:here.test");
    large["content"]["messages"]["@alice:here.test"] = json!({ "*": { "secret": 1 } });
    for n in 0..250 {
        let content = json!({ "*": { "ciphertext": "x".repeat(3_000) } });
        large["content"]["messages"][format!("@user{n}:here.test")] = content;
    }
    let mut typing = json!({ "edu_type": "m.typing", "content": {
        "user_id": bob(), "room_id": world.room_id, "typing": true,
    } });
    typing["content"]["more"] = json!("x".repeat(MAX_EDU_BYTES));
    world.take(vec![large, typing]).await;
    let until = federation.store().notifier().published();
    let e2ee = federation.e2ee();
    let page = e2ee.to_device(alice, &session.device_id, StreamPosition::ZERO, until).await;
    assert_eq!(page.unwrap().events.len(), 1);
    let typing = federation.users().typing(&world.room_id);
    assert!(typing.user_ids.is_empty(), "nothing else is as large");
}

#[tokio::test]
async fn messages_that_former_versions_kept_are_handed_over_once() {
    let world = World::new().await;
    let federation = &world.server.federation;
    let alice = user_id!("@alice:here.test");
    let session = federation.users().create_session(alice, NewSession::default()).await.unwrap();
    let there = owned_server_name!("there.test");
    // Their IDs are in another order than they came in.
    for id in ["two", "one"] {
        let mut content = message("@bob:there.test", id, "@alice:here.test")["content"].take();
        content["messages"]["@alice:here.test"] = json!({ "*": { "id": id } });
        let mut commit = Commit::new(&there);
        let position = commit.next_position();
        let key = ("m.direct_to_device".to_owned(), id.to_owned(), bob().to_string());
        let record = bytes::Bytes::from(content.to_string());
        commit.put(&KEPT_EDUS, &there, &key, &Positioned { position, record });
        federation.store().commit(commit).await.unwrap();
    }
    for _ in 0..2 {
        hand_over_kept(federation.clone()).await;
        let until = federation.store().notifier().published();
        let (e2ee, device_id) = (federation.e2ee(), &session.device_id);
        let page = e2ee.to_device(alice, device_id, StreamPosition::ZERO, until).await.unwrap();
        let read = |json: &[u8]| serde_json::from_slice::<Value>(json).unwrap();
        let ids: Vec<_> =
            page.events.iter().map(|event| read(event)["content"]["id"].clone()).collect();
        assert_eq!(ids, ["two", "one"]);
        assert!(world.kept().await.is_empty());
    }
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
async fn while_members_are_not_known_it_counts_that_their_server_is_there() {
    let world = World::new().await;
    let federation = &world.server.federation;
    let (room_id, store) = (&world.room_id, federation.store());
    let there = owned_server_name!("there.test");
    let typing = |user: &UserId| {
        let content = json!({ "room_id": room_id, "user_id": user, "typing": true });
        json!({ "edu_type": "m.typing", "content": content })
    };
    let presence = |user: &UserId| {
        let push = json!([{ "user_id": user, "presence": "online", "last_active_ago": 10 }]);
        json!({ "edu_type": "m.presence", "content": { "push": push } })
    };
    let eve = user_id!("@eve:there.test");
    let mut commit = Commit::new(room_id);
    let left = MemberRow { membership: Membership::Leave, event: world.newest.ordinal };
    commit.put(&MEMBERS, room_id, &eve.to_owned(), &left);
    commit.put(&PARTIAL, room_id, &(), &PartialRow { join: world.newest.ordinal });
    commit.put(&PARTIAL_SERVERS, room_id, &there, &());
    commit.effect_put(&PARTIAL_ROOMS, &(), room_id, &());
    store.commit(commit).await.unwrap();

    let carol = user_id!("@carol:there.test");
    world.take(vec![typing(carol), typing(eve), presence(carol)]).await;
    let users = federation.users();
    assert_eq!(users.typing(room_id).user_ids, [carol], "who left is known");
    assert_eq!(users.presence(carol).await.unwrap().state, PresenceState::Online);

    let mut commit = Commit::new(room_id);
    commit.delete(&PARTIAL, room_id, &());
    commit.effect_delete(&PARTIAL_ROOMS, &(), room_id);
    store.commit(commit).await.unwrap();
    let dave = user_id!("@dave:there.test");
    world.take(vec![typing(dave), presence(dave)]).await;
    assert_eq!(users.typing(room_id).user_ids, [carol]);
    assert_eq!(users.presence(dave).await.unwrap().state, PresenceState::Offline);
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
