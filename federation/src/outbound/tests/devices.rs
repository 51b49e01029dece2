//! Messages to devices, and changes of devices.

use bytes::Bytes;
use hearth_e2ee::{LogKind, ToDeviceMessage};
use hearth_rooms::{
    MemberProfile,
    schema::{Forwarding, LOG_ROOM_EVENT, log_payload},
};
use hearth_storage::{Keyspace, LogEntry, Topic};
use hearth_types::StreamPosition;

use super::*;

/// Rows of the crate of end-to-end encryption, as far as it writes them with a change.
const DEVICE_LISTS: Keyspace<OwnedUserId, (), StreamPosition> = Keyspace::new("e2ee_device_lists");
/// The value is a version byte and the user's ID behind its length.
const DEVICE_LIST_CHANGES: Keyspace<(), StreamPosition, Bytes> =
    Keyspace::new("e2ee_device_list_changes");

/// Sends a number each to a device of `@bob:there.test`.
async fn send(world: &World, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let messages = json!({ "@bob:there.test": { "PHONE": { "n": n } } });
        let message = ToDeviceMessage {
            sender: alice(),
            device_id: "DEVICE".into(),
            transaction_id: n.to_string().into(),
            event_type: "m.test".to_owned(),
            messages: serde_json::from_value(messages).unwrap(),
        };
        world.e2ee.send_to_device(message).await.unwrap();
    }
}

/// The numbers that arrived, in their order.
fn told(world: &World) -> Vec<u64> {
    let messages = edus(world, "m.direct_to_device").into_iter();
    let number = |content: Value| content["messages"]["@bob:there.test"]["PHONE"]["n"].as_u64();
    messages.map(|content| number(content).unwrap()).collect()
}

async fn waiting(world: &World) -> usize {
    world.e2ee.outgoing(there(), 100).await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn messages_go_out_at_once_in_order_and_fifty_at_a_time() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(10);
    send(&world, 0..1).await;
    sleep(Duration::from_millis(40)).await;
    assert_eq!(world.network().attempts(there()), 1, "nobody waits for company");
    send(&world, 1..121).await;
    assert_eq!(waiting(&world).await, 100, "nothing is forgotten before it has arrived");
    after_s(60).await;
    assert_eq!(told(&world), (0..121).collect::<Vec<_>>());
    let arrived = world.network().arrived_at(there());
    let sizes: Vec<_> =
        arrived.iter().map(|one| one.body["edus"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 50, 50, 20]);
    assert_eq!(waiting(&world).await, 0);
}

#[tokio::test(start_paused = true)]
async fn messages_outlast_an_outage_and_crashes() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    send(&world, 0..60).await;
    after_s(3).await;
    let world = world.crashed().await;
    send(&world, 60..80).await;
    let text = world.say_all(0..1).await;
    after_s(100).await;
    let world = world.crashed().await;
    world.network().set(there(), None);
    after_s(600).await;
    assert_eq!(told(&world), (0..80).collect::<Vec<_>>());
    assert_eq!(world.network().texts(there()), text);
    assert_eq!(waiting(&world).await, 0);
    let attempts = world.network().attempts(there());
    assert!(attempts <= 12, "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn messages_whose_answer_is_lost_are_repeated_under_their_id() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::LosesAnswers));
    send(&world, 0..3).await;
    after_s(2).await;
    send(&world, 3..6).await;
    after_s(30).await;
    world.network().set(there(), None);
    after_s(600).await;
    let mut taken = std::collections::BTreeMap::new();
    let mut ids = std::collections::BTreeSet::new();
    let arrived = world.network().arrived_at(there());
    for one in &arrived {
        let edus = one.body["edus"].clone();
        for edu in edus.as_array().unwrap() {
            ids.insert(edu["content"]["message_id"].as_str().unwrap().to_owned());
        }
        let before = taken.insert(one.transaction_id.clone(), edus.clone());
        assert!(before.is_none_or(|before| before == edus), "one ID, one content");
    }
    assert!(arrived.len() > taken.len(), "it was repeated");
    assert_eq!(ids.len(), 6);
    let count: usize = taken.values().map(|edus| edus.as_array().unwrap().len()).sum();
    assert_eq!(count, 6, "each under one ID");
    assert_eq!(waiting(&world).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_refused_does_not_hold_up_the_others() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Allergic("{\"n\":7}")));
    *world.network().latency.lock() = Duration::from_secs(1);
    send(&world, 0..30).await;
    let texts = world.say_all(0..3).await;
    after_s(600).await;
    let expected: Vec<_> = (0..30).filter(|n| *n != 7).collect();
    assert_eq!(told(&world), expected);
    assert_eq!(world.network().texts(there()), texts);
    assert_eq!(waiting(&world).await, 0);
}

/// Logs that a device, or the cross-signing keys, of a user changed. Returns the list's version.
pub(super) async fn change(
    world: &World,
    user_id: &OwnedUserId,
    device: Option<&str>,
    before: u64,
) -> u64 {
    let mut commit = Commit::new(user_id);
    let position = commit.next_position();
    let payload = json!({ "device_id": device, "before": { "at": before } });
    let entry = LogEntry {
        kind: LogKind::DeviceList as u8,
        topic: Topic::new(user_id.as_str()),
        payload: payload.to_string().into(),
    };
    commit.log(position, entry);
    commit.put(&DEVICE_LISTS, user_id, &(), &position);
    let row = [&[1, u8::try_from(user_id.as_str().len()).unwrap()], user_id.as_bytes()].concat();
    commit.effect_put(&DEVICE_LIST_CHANGES, &(), &position, &row.into());
    world.store.commit(commit).await.unwrap().first.get()
}

#[tokio::test(start_paused = true)]
async fn who_was_long_away_fetches_the_lists_that_changed() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    world.say_all(0..1).await;
    after_s(1).await;
    let first = change(&world, &alice(), Some("PHONE"), 1).await;
    let version = change(&world, &alice(), Some("TABLET"), first).await;
    change(&world, &owned_user_id!("@stranger:here.test"), Some("D"), 1).await;
    world.say_all(1..catch_up::MAX_REPLAYED + 50).await;
    world.network().set(there(), None);
    after_s(600).await;
    let told = edus(&world, "m.device_list_update");
    assert!(told.iter().all(|one| one["user_id"] == json!(alice())), "{told:?}");
    let newest: Vec<_> = told.iter().filter(|one| one["stream_id"] == version).collect();
    assert_eq!(newest.len(), 1, "{told:?}");
    assert!(newest[0].get("prev_id").is_none(), "it tells that something is missing: {told:?}");
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn servers_are_told_of_the_devices_of_who_comes_to_their_room() {
    let world = World::new().await;
    let bob = owned_user_id!("@bob:here.test");
    let version = change(&world, &bob, Some("PHONE"), 1).await;
    after_s(1).await;
    assert!(edus(&world, "m.device_list_update").is_empty(), "nothing is shared yet");
    let (rooms, room_id, profile) = (&world.rooms, &world.room_id, MemberProfile::default());
    rooms.invite(room_id, &alice(), &bob, &profile, None, false).await.unwrap();
    rooms.join(room_id, &bob, &profile, None).await.unwrap();
    after_s(1).await;
    let told = edus(&world, "m.device_list_update");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["user_id"], &told[0]["stream_id"]), (&json!(bob), &json!(version)));
    assert!(told[0].get("prev_id").is_none());
}

#[tokio::test(start_paused = true)]
async fn servers_are_told_of_the_devices_of_who_came_by_way_of_another_one() {
    let world = World::new().await;
    let version = change(&world, &alice(), Some("PHONE"), 1).await;
    after_s(5).await;
    let before = edus(&world, "m.device_list_update").len();
    // As if her join, the room's second event, had come back from another server; once while the others
    // can be reached, once while they cannot.
    let arrive = async |world: &World| {
        let mut commit = Commit::new(&world.room_id);
        let position = commit.next_position();
        let entry = LogEntry {
            kind: LOG_ROOM_EVENT,
            topic: Topic::new(world.room_id.as_str()),
            payload: log_payload(1, Forwarding::Arrival),
        };
        commit.log(position, entry);
        world.store.commit(commit).await.unwrap();
        after_s(5).await;
    };
    let told = |world: &World| {
        let told = edus(world, "m.device_list_update").split_off(before);
        assert!(told.iter().all(|one| one["stream_id"] == version), "{told:?}");
        assert!(told.iter().all(|one| one.get("prev_id").is_none()), "{told:?}");
        told.len()
    };
    arrive(&world).await;
    assert_eq!(told(&world), 1);
    world.network().set(there(), Some(Mode::Down));
    world.say_all(0..1).await;
    after_s(5).await;
    arrive(&world).await;
    let world = world.crashed().await;
    world.network().set(there(), None);
    after_s(600).await;
    assert_eq!(told(&world), 2);
}

#[tokio::test(start_paused = true)]
async fn changed_devices_are_told_in_order_with_what_came_before() {
    let world = World::new().await;
    let first = change(&world, &alice(), Some("PHONE"), 1).await;
    let second = change(&world, &alice(), Some("TABLET"), first).await;
    change(&world, &owned_user_id!("@stranger:here.test"), Some("D"), 1).await;
    change(&world, &alice(), None, second).await;
    after_s(1).await;
    let update = |device: &str, stream_id: u64, previous: u64| {
        json!({
            "user_id": alice(),
            "device_id": device,
            "stream_id": stream_id,
            "prev_id": [previous],
            "deleted": true,
        })
    };
    let told = edus(&world, "m.device_list_update");
    assert_eq!(told, [update("PHONE", first, 1), update("TABLET", second, first)]);
    assert_eq!(edus(&world, "m.signing_key_update"), [json!({ "user_id": alice() })]);
    assert_eq!(world.network().arrived_at(there()).len(), 1, "together");
}

#[tokio::test(start_paused = true)]
async fn changed_devices_outlast_an_outage_and_crashes() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let mut version = change(&world, &alice(), Some("D0"), 1).await;
    after_s(5).await;
    let world = world.crashed().await;
    let mut versions = vec![version];
    for number in 1..4 {
        version = change(&world, &alice(), Some(&format!("D{number}")), version).await;
        versions.push(version);
    }
    after_s(5).await;
    let world = world.crashed().await;
    world.network().set(there(), None);
    after_s(600).await;
    let told = edus(&world, "m.device_list_update");
    let got: Vec<_> = told.iter().map(|one| one["stream_id"].as_u64().unwrap()).collect();
    assert_eq!(got, versions);
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn many_changes_become_one_that_makes_the_list_be_fetched() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    let mut version = 1;
    for number in 0..30 {
        version = change(&world, &alice(), Some(&format!("D{number}")), version).await;
    }
    after_s(5).await;
    world.network().set(there(), None);
    after_s(600).await;
    let told = edus(&world, "m.device_list_update");
    assert!(told.len() < 15, "{told:?}");
    assert_eq!(told.last().unwrap()["stream_id"], version);
    let forces = told.iter().any(|one| one.get("prev_id").is_none());
    assert!(forces, "whoever gets it knows that something is missing: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_refused_does_not_hold_up_the_others() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Allergic("\"BAD\"")));
    *world.network().latency.lock() = Duration::from_secs(1);
    change(&world, &alice(), Some("BAD"), 1).await;
    send(&world, 0..3).await;
    let texts = world.say_all(0..3).await;
    after_s(600).await;
    assert!(edus(&world, "m.device_list_update").is_empty());
    assert_eq!(told(&world), [0, 1, 2]);
    assert_eq!(world.network().texts(there()), texts);
    change(&world, &alice(), Some("GOOD"), 1).await;
    after_s(10).await;
    assert_eq!(edus(&world, "m.device_list_update").len(), 1);
}
