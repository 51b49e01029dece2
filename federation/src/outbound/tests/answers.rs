//! What other servers, and what stands in front of them, answer to transactions.

use hearth_types::StreamPosition;
use ruma::api::federation::transactions::send_transaction_message::v1::Request as Transaction;
use tokio::time::timeout;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_something_in_front_of_a_server_says_is_waited_out() {
    for status in [400, 409, 410, 421, 451] {
        let world = World::new().await;
        world.network().set(there(), Some(Mode::Masked(status)));
        let texts = world.say_all(0..30).await;
        after_s(100).await;
        let attempts = world.network().attempts(there());
        assert!((2..=15).contains(&attempts), "{attempts} attempts at {status}");
        world.network().set(there(), None);
        after_s(600).await;
        assert_eq!(world.network().texts(there()), texts, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_refuses_everything_is_not_offered_everything_at_once() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Error(400, "M_UNKNOWN")));
    let texts = world.say_all(0..40).await;
    after_s(100).await;
    world.network().set(there(), None);
    after_s(4_000).await;
    let got = world.network().texts(there());
    assert!(got.len() >= 30, "{} events are given up", texts.len() - got.len());
    assert_eq!(got, texts[texts.len() - got.len()..]);
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_too_large_do_not_have_it_repeated_every_second() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Verbose));
    let texts = world.say_all(0..3).await;
    after_s(100).await;
    let attempts = world.network().attempts(there());
    assert!((2..=10).contains(&attempts), "{attempts} attempts");
    world.network().set(there(), None);
    after_s(600).await;
    assert_eq!(world.network().texts(there()), texts);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_of_the_events_has_taken_them() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Terse));
    let texts = world.say_all(0..3).await;
    after_s(100).await;
    assert_eq!(world.network().texts(there()), texts, "each came once");
    assert!(world.outbound.report().await.unwrap().iter().all(DestinationReport::is_well));
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_be_spared_in_the_head_of_the_answer_is() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Asks("300")));
    world.say("hello").await;
    after_s(290).await;
    assert_eq!(world.network().attempts(there()), 1);
    world.network().set(there(), None);
    after_s(30).await;
    assert_eq!(world.network().texts(there()), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn servers_that_do_not_answer_leave_places_for_what_somebody_waits_for() {
    let world = World::new().await;
    let mut commit = Commit::new(&world.room_id);
    for number in 0..300 {
        let server = ServerName::parse(format!("s{number}.test")).unwrap();
        world.network().set(&server, Some(Mode::Silent));
        commit.put(&ROOM_SERVERS, &world.room_id, &server, &ServerRow { joined: 1, since: 0 });
    }
    world.store.commit(commit).await.unwrap();
    world.say("hello").await;
    after_s(1).await;
    let inner = &world.outbound.0;
    let origin = inner.identity.server_name().to_owned();
    let question = Transaction::new("question".into(), origin, inner.clock.now());
    let limits = inner.client.limits();
    let asked = inner.client.send(server_name!("waited-for.test"), question, limits);
    timeout(Duration::from_secs(1), asked).await.expect("there is a place").unwrap();
}

#[test]
fn what_is_not_written_is_written_with_the_next_checkpoint() {
    let mut lanes = Lanes::new(StreamPosition::ZERO, []);
    let room_id = OwnedRoomId::try_from("!room:here.test").unwrap();
    lanes.push(there(), lanes::Item { position: StreamPosition::new(1), room_id, ordinal: 0 });
    lanes.set_routed(StreamPosition::new(50_000), true);
    let unwritten = lanes.checkpoint();
    assert_eq!(unwritten.rows, [(there().to_owned(), Some(StreamPosition::ZERO))]);
    assert_eq!(unwritten.shared, StreamPosition::new(50_000));
    let again = lanes.checkpoint();
    assert_eq!(again, unwritten, "the shared cursor must not pass who has no row");
    lanes.persisted(&again);
    assert!(lanes.checkpoint().rows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_federate_any_more_does_not_hold_the_log() {
    let world = World::new().await;
    world.say("hello").await;
    after_s(5).await;
    world.outbound.close().await;
    assert!(world.store.cursor("federation").await.unwrap().is_some());
    Outbound::forget(&world.store).await.unwrap();
    assert_eq!(world.store.cursor("federation").await.unwrap(), None);
    // It may federate again.
    let world = world.restarted().await;
    world.say("again").await;
    after_s(5).await;
    assert_eq!(world.network().texts(there()), ["hello", "again"]);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_answer_is_lost_is_repeated_under_its_id() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::LosesAnswers));
    let mut texts = world.say_all(0..3).await;
    after_s(1).await;
    texts.extend(world.say_all(3..6).await);
    after_s(30).await;
    world.network().set(there(), None);
    after_s(600).await;
    let arrived = world.network().arrived_at(there());
    let mut taken = std::collections::BTreeMap::new();
    for one in &arrived {
        let pdus = one.body["pdus"].clone();
        let before = taken.insert(one.transaction_id.clone(), pdus.clone());
        assert!(before.is_none_or(|before| before == pdus), "one ID, one content");
    }
    assert!(arrived.len() > taken.len(), "it was repeated");
    let pdus = taken.values().flat_map(|pdus| pdus.as_array().unwrap().clone());
    let got: Vec<_> = pdus.map(|pdu| pdu["content"]["body"].as_str().unwrap().to_owned()).collect();
    assert_eq!(got.len(), texts.len(), "each under one ID: {got:?}");
}
