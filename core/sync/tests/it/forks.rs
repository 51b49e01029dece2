//! Rooms whose history has forks: what a client knows after a sync is the room's current state.

use std::collections::BTreeMap;

use hearth_rooms::{CheckedPdu, Verdict, read::StatePart};
use hearth_types::Pdu;
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, RoomId, RoomVersionId, UserId,
    signatures::reference_hash, state_res::auth_types_for_event,
};
use serde_json::{Value, json, value::to_raw_value};

use crate::world::{Ask, World, events, joined, keys, text_of, timeline, user};

const BOB: &str = "@bob:far";
const CAROL: &str = "@carol:far";

/// After everything that the world's own clock says, so that these events win where time decides.
const LATER_MS: u64 = 1_800_000_000_000;

/// An event of another server, on top of these events, authorized by the state after the first.
async fn foreign(
    world: &World,
    room_id: &RoomId,
    prev: &[OwnedEventId],
    sender: &str,
    (kind, state_key): (&str, Option<&str>),
    content: Value,
) -> CheckedPdu {
    let rooms = &world.rooms;
    let first = rooms.event_by_id(room_id, &prev[0]).await.unwrap().unwrap();
    let version = rooms.head(room_id).await.unwrap().unwrap().version.clone();
    let rules = version.rules().unwrap();
    let sender = UserId::parse(sender).unwrap();
    let raw = to_raw_value(&content).unwrap();
    let types =
        auth_types_for_event(&kind.into(), &sender, state_key, &raw, &rules.authorization).unwrap();
    let mut auth = Vec::new();
    for (kind, key) in types {
        let root = first.header.state_after;
        let event = rooms.state_event(room_id, root, &kind.to_string(), &key).await.unwrap();
        auth.extend(event.map(|event| event.header.event_id.clone()));
    }
    let mut object = json!({
        "type": kind, "sender": sender, "room_id": room_id, "content": content,
        "prev_events": prev, "auth_events": auth, "depth": 20, "origin_server_ts": LATER_MS,
        "hashes": { "sha256": "" }, "signatures": {},
    });
    if let Some(state_key) = state_key {
        object["state_key"] = state_key.into();
    }
    let object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
    let hash = reference_hash(&object, &rules).unwrap();
    let json = serde_json::to_vec(&object).unwrap();
    let event_id = EventId::parse(format!("${hash}")).unwrap();
    CheckedPdu::new(Pdu::parse(event_id, json.into()).unwrap())
}

async fn take(world: &World, room_id: &RoomId, event: CheckedPdu) -> Verdict {
    world.rooms.receive(room_id, vec![event]).await.unwrap().remove(0)
}

/// State by a foreign user; returns the event's ID.
pub(crate) async fn foreign_state(
    world: &World,
    room_id: &RoomId,
    prev: &[OwnedEventId],
    sender: &str,
    key: (&str, &str),
    content: Value,
) -> OwnedEventId {
    let event = foreign(world, room_id, prev, sender, (key.0, Some(key.1)), content).await;
    let event_id = event.pdu().id().to_owned();
    assert_eq!(take(world, room_id, event).await, Verdict::Accepted);
    event_id
}

/// The end of a room without forks.
pub(crate) async fn last_event(world: &World, room_id: &RoomId) -> OwnedEventId {
    let head = world.rooms.head(room_id).await.unwrap().unwrap();
    let last = world.rooms.event(room_id, head.extremities[0]).await.unwrap();
    last.header.event_id.clone()
}

/// What a client knows of a room's state.
#[derive(Default)]
struct Client(BTreeMap<(String, String), String>);

impl Client {
    /// Reads one section as clients do: the state, then the state events of the timeline; or the
    /// state after it alone.
    fn read(&mut self, section: &Value) {
        let mut parts = vec![&section["state"], &section["timeline"]];
        if section["state_after"].is_object() {
            parts = vec![&section["state_after"]];
        }
        for event in parts.into_iter().flat_map(events) {
            if let Some(state_key) = event["state_key"].as_str() {
                let key = (text_of(&event["type"]), state_key.to_owned());
                self.0.insert(key, text_of(&event["event_id"]));
            }
        }
    }

    async fn assert_current(&self, world: &World, room_id: &RoomId) {
        let root = world.rooms.head(room_id).await.unwrap().unwrap().state;
        let current = world.rooms.state_events(room_id, root, StatePart::All).await.unwrap();
        let current: BTreeMap<_, _> = current
            .iter()
            .map(|event| {
                let state_key = event.pdu.state_key().unwrap().to_owned();
                ((event.pdu.kind().to_string(), state_key), event.header.event_id.to_string())
            })
            .collect();
        assert_eq!(self.0, current);
    }
}

/// A room of `@alice:x` with two users of another server, one of whom has a level of 50; and its last
/// event.
async fn shared_room(world: &World) -> (ruma::OwnedRoomId, OwnedEventId) {
    let alice = user("alice");
    let room_id = world.room(&alice).await;
    for far in [BOB, CAROL] {
        let prev = [last_event(world, &room_id).await];
        let join = json!({ "membership": "join" });
        foreign_state(world, &room_id, &prev, far, ("m.room.member", far), join).await;
    }
    let levels = json!({ "users": { BOB: 50 } });
    world.state(&room_id, &alice, "m.room.topic", json!({ "topic": "first" })).await;
    let base = world.state(&room_id, &alice, "m.room.power_levels", levels).await;
    (room_id, base)
}

#[tokio::test]
async fn both_sides_of_an_open_fork_are_state() {
    let world = World::new().await;
    let (room_id, base) = shared_room(&world).await;
    let alice = user("alice");
    for state_after in [false, true] {
        let ask = Ask::of(&alice).with(|request| request.use_state_after = state_after);
        let mut client = Client::default();
        let first = world.ask(ask.clone()).await;
        client.read(joined(&first, &room_id));
        client.assert_current(&world, &room_id).await;

        let (left, right) =
            if state_after { ("org.left", "org.right") } else { ("m.room.name", "m.room.topic") };
        let base = [base.clone()];
        foreign_state(&world, &room_id, &base, BOB, (left, ""), json!({ "name": "x" })).await;
        let news = world.ask(ask.clone().after(&first)).await;
        client.read(joined(&news, &room_id));
        client.assert_current(&world, &room_id).await;
        // The other side, on the same base: a client that starts here needs both.
        foreign_state(&world, &room_id, &base, BOB, (right, ""), json!({ "topic": "x" })).await;
        let news = world.ask(ask.clone().after(&news)).await;
        client.read(joined(&news, &room_id));
        client.assert_current(&world, &room_id).await;
        for limit in [1, 2, 20] {
            let filter = json!({ "room": { "timeline": { "limit": limit } } });
            let fresh = world.ask(ask.clone().filter(filter.clone())).await;
            let mut client = Client::default();
            client.read(joined(&fresh, &room_id));
            client.assert_current(&world, &room_id).await;
            let since = world.ask(ask.clone().filter(filter).after(&first)).await;
            let mut client = Client::default();
            client.read(joined(&first, &room_id));
            client.read(joined(&since, &room_id));
            client.assert_current(&world, &room_id).await;
        }
    }
}

#[tokio::test]
async fn state_that_a_resolution_changed_is_told_though_no_event_shows_it() {
    let world = World::new().await;
    let (room_id, base) = shared_room(&world).await;
    let (alice, base) = (user("alice"), [base]);
    // Carol is banned on one side; on the other Bob loses the level that he banned her with.
    let ban = json!({ "membership": "ban" });
    foreign_state(&world, &room_id, &base, BOB, ("m.room.member", CAROL), ban).await;
    for state_after in [false, true] {
        let ask = Ask::of(&alice).with(|request| request.use_state_after = state_after);
        let first = world.ask(ask.clone()).await;
        let mut client = Client::default();
        client.read(joined(&first, &room_id));
        client.assert_current(&world, &room_id).await;
        if !state_after {
            continue;
        }
        let levels = json!({ "users": { BOB: 0 } });
        let key = ("m.room.power_levels", "");
        let demotion = foreign_state(&world, &room_id, &base, "@alice:x", key, levels).await;
        let news = world.ask(ask.clone().after(&first)).await;
        let section = joined(&news, &room_id);
        assert_eq!(timeline(section), [demotion.as_str()]);
        let told = ["m.room.member/@carol:far", "m.room.power_levels"];
        assert_eq!(keys(&section["state_after"]), told);
        client.read(section);
        client.assert_current(&world, &room_id).await;

        // The same for a client that asks for the state before the timeline.
        let plain = world.ask(Ask::of(&alice).after(&first)).await;
        let section = joined(&plain, &room_id);
        assert_eq!(keys(&section["state"]), ["m.room.member/@carol:far"]);
    }
}

#[tokio::test]
async fn soft_failed_events_are_in_no_sync() {
    let world = World::new().await;
    let (room_id, base) = shared_room(&world).await;
    let alice = user("alice");
    let bob = UserId::parse(BOB).unwrap();
    world.rooms.ban(&room_id, &alice, &bob, None).await.unwrap();
    let first = world.ask(Ask::of(&alice)).await;
    let message = (("m.room.message"), None);
    let evading =
        foreign(&world, &room_id, std::slice::from_ref(&base), BOB, message, json!({})).await;
    assert_eq!(take(&world, &room_id, evading.clone()).await, Verdict::SoftFailed);
    let news = world.ask(Ask::of(&alice).after(&first)).await;
    assert!(joined(&news, &room_id).is_null());
    let prev = [base, evading.pdu().id().to_owned()];
    let after = foreign(&world, &room_id, &prev, CAROL, message, json!({})).await;
    assert_eq!(take(&world, &room_id, after.clone()).await, Verdict::Accepted);
    let news = world.ask(Ask::of(&alice).after(&news)).await;
    assert_eq!(timeline(joined(&news, &room_id)), [after.pdu().id().as_str()]);
    assert_eq!(world.rooms.head(&room_id).await.unwrap().unwrap().version, RoomVersionId::V12);
}

#[tokio::test]
async fn whom_a_resolution_bans_hears_of_it() {
    let world = World::new().await;
    let (room_id, base) = shared_room(&world).await;
    let (alice, dora) = (user("alice"), user("dora"));
    world.join(&room_id, &dora).await;
    let known = world.ask(Ask::of(&dora)).await;
    assert!(joined(&known, &room_id).is_object());
    // Bob bans Dora on a side on which she has not joined yet; the join there is older than the ban.
    let ban = json!({ "membership": "ban", "reason": "spam" });
    foreign_state(&world, &room_id, &[base], BOB, ("m.room.member", dora.as_str()), ban).await;
    let news = world.ask(Ask::of(&dora).after(&known)).await;
    let section = &news["rooms"]["leave"][room_id.as_str()];
    let shown = events(&section["timeline"]).iter().chain(events(&section["state"]));
    assert!(shown.into_iter().any(|event| event["content"]["membership"] == "ban"), "{news}");
    let row = world.rooms.member_row(&room_id, &alice).await.unwrap();
    assert!(row.is_some());
}
