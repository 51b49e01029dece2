//! Receipts, typing and presence.

use super::*;

async fn read_up_to(world: &World, place: u64) {
    let event = world.rooms.newest_events(&world.room_id).await.unwrap().pop().unwrap();
    let update = hearth_users::ReceiptUpdate {
        room_id: world.room_id.clone(),
        user_id: alice(),
        receipt_type: ReceiptType::Read,
        thread: ruma::events::receipt::ReceiptThread::Main,
        event_id: event.pdu.id().to_owned(),
        timeline_position: place,
        fan_out: true,
        ts_ms: Some(place),
    };
    world.outbound.0.users.set_receipt(update).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn receipts_go_out_the_newest_of_each_user() {
    let world = World::new().await;
    *world.network().latency.lock() = Duration::from_secs(5);
    for place in 1..=20 {
        read_up_to(&world, place).await;
        sleep(Duration::from_millis(20)).await;
    }
    after_s(30).await;
    let receipts = edus(&world, "m.receipt");
    assert_eq!(receipts.len(), 2, "the first ones, and all that came meanwhile: {receipts:?}");
    let newest = &receipts[1][world.room_id.as_str()]["m.read"][alice().as_str()];
    assert_eq!(newest["data"], json!({ "ts": 20, "thread_id": "main" }));
    // Private ones and those of others stay.
    let update = |user: &str, receipt_type| hearth_users::ReceiptUpdate {
        room_id: world.room_id.clone(),
        user_id: user.try_into().unwrap(),
        receipt_type,
        thread: ruma::events::receipt::ReceiptThread::Unthreaded,
        event_id: "$e".try_into().unwrap(),
        timeline_position: 100,
        fan_out: true,
        ts_ms: None,
    };
    let users = &world.outbound.0.users;
    users.set_receipt(update("@alice:here.test", ReceiptType::ReadPrivate)).await.unwrap();
    users.set_receipt(update("@bob:there.test", ReceiptType::Read)).await.unwrap();
    after_s(30).await;
    assert_eq!(edus(&world, "m.receipt").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn receipts_outlast_an_outage_and_a_crash() {
    let world = World::new().await;
    world.network().set(there(), Some(Mode::Down));
    read_up_to(&world, 1).await;
    after_s(5).await;
    read_up_to(&world, 2).await;
    let world = world.crashed().await;
    world.network().set(there(), None);
    after_s(100).await;
    let receipts = edus(&world, "m.receipt");
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let newest = &receipts[0][world.room_id.as_str()]["m.read"][alice().as_str()];
    assert_eq!(newest["data"]["ts"], 2);
    assert!(world.outbound.report().await.unwrap()[0].is_well());
}

#[tokio::test(start_paused = true)]
async fn typing_is_told_repeated_and_not_kept_for_who_is_away() {
    let world = World::new().await;
    let users = &world.outbound.0.users;
    let types = |typing| {
        let content = json!({ "room_id": world.room_id, "user_id": alice(), "typing": typing });
        move |told: &Value| *told == content
    };
    users.set_typing(&world.room_id, &alice(), Some(Duration::from_mins(2)));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(edus(&world, "m.typing").len(), 1);
    after_s(60).await;
    assert_eq!(edus(&world, "m.typing").len(), 2, "who types on is repeated");
    assert!(edus(&world, "m.typing").iter().all(types(true)));
    users.set_typing(&world.room_id, &alice(), None);
    after_s(60).await;
    assert_eq!(edus(&world, "m.typing").len(), 3);
    assert!(types(false)(&edus(&world, "m.typing")[2]));

    world.network().set(there(), Some(Mode::Down));
    users.set_typing(&world.room_id, &alice(), Some(Duration::from_secs(1)));
    after_s(60).await;
    let attempts = world.network().attempts(there());
    world.network().set(there(), None);
    after_s(600).await;
    assert_eq!(edus(&world, "m.typing").len(), 3);
    assert_eq!(world.network().attempts(there()), attempts, "there is nothing to be sent");
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_as_it_stands_when_it_is_sent() {
    let world = World::new().await;
    let users = &world.outbound.0.users;
    world.network().set(there(), Some(Mode::Down));
    for (state, status) in [
        (ruma::presence::PresenceState::Online, "here"),
        (ruma::presence::PresenceState::Unavailable, "not here"),
    ] {
        users.set_presence(&alice(), state, Some(status.to_owned())).await.unwrap();
        after_s(5).await;
    }
    world.network().set(there(), None);
    after_s(10).await;
    let told = edus(&world, "m.presence");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["push"].as_array().unwrap().len(), 1);
    assert_eq!(told[0]["push"][0]["presence"], "unavailable");
    assert_eq!(told[0]["push"][0]["status_msg"], "not here");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_typing_costs_few_transactions() {
    let world = World::new().await;
    let users = &world.outbound.0.users;
    for round in 0..200 {
        let timeout = (round % 2 == 0).then_some(Duration::from_secs(20));
        users.set_typing(&world.room_id, &alice(), timeout);
        sleep(Duration::from_millis(5)).await;
    }
    after_s(1).await;
    let attempts = world.network().attempts(there());
    assert!((2..=40).contains(&attempts), "{attempts} transactions in a second");
}
