//! Forks: soft failure, resolution, and that all servers agree in the end.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ruma::{RoomVersionId, UserId};
use serde_json::{Value, json};

use super::*;
use crate::Teller;

const ALICE: &str = "@alice:hs.test";
const BOB: &str = "@bob:b.test";
const CAROL: &str = "@carol:c.test";
const DAVE: &str = "@dave:d.test";
const LEVELS: &str = "m.room.power_levels";

fn id_of(event: &CheckedPdu) -> OwnedEventId {
    event.pdu().id().to_owned()
}

/// Power levels in which the creator has 100 where the version wants it said.
fn levels(shared: &Shared, users: &Value) -> Value {
    let mut content = json!({ "users": users });
    if !shared.rules.authorization.explicitly_privilege_room_creators {
        content["users"][ALICE] = 100.into();
    }
    content
}

/// Gives levels, on top of everything.
async fn promote(shared: &Shared, users: Value) {
    let content = levels(shared, &users);
    let event = shared.state(ALICE, (LEVELS, ""), content).await;
    assert_eq!(shared.take(event).await, Verdict::Accepted);
}

#[tokio::test]
async fn a_soft_failed_event_is_not_shown_and_can_be_built_upon() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL]).await;
        let base = shared.tips().await;
        let ban = shared.state(ALICE, (MEMBER, BOB), json!({ "membership": "ban" })).await;
        assert_eq!(shared.take(ban.clone()).await, Verdict::Accepted);

        let making = shared.making(BOB, "m.room.message").await;
        let evading = shared.make(Making { prev: base, ..making }).await;
        let published = shared.rooms.store().notifier().published();
        assert_eq!(shared.take(evading.clone()).await, Verdict::SoftFailed);
        assert_eq!(shared.tips().await, [id_of(&ban)]);
        assert!(!timeline(&shared.rooms, &shared.id).await.contains(&id_of(&evading)));
        let log = shared.rooms.store().log_after(published, 10).await.unwrap();
        assert!(log.iter().all(|record| record.entry.kind != schema::LOG_ROOM_EVENT));
        let stored = shared.event(&id_of(&evading)).await;
        assert_eq!((stored.header.standing, stored.index), (Standing::SoftFailed, None));

        // The next local event does not name it; one of another server may.
        let alice = UserId::parse(ALICE).unwrap();
        let text = RawValue::from_string("{}".to_owned()).unwrap();
        let draft = crate::Draft::message(alice, "m.room.message".into(), text);
        let local = shared.rooms.send(&shared.id, draft, None).await.unwrap();
        assert_eq!(shared.event(&local).await.pdu.prev_events(), [id_of(&ban)]);
        let making = shared.making(CAROL, "m.room.message").await;
        let prev = vec![local, id_of(&evading)];
        let merging = shared.make(Making { prev, ..making }).await;
        assert_eq!(shared.take(merging.clone()).await, Verdict::Accepted);
        assert_eq!(shared.tips().await, [id_of(&merging)]);
        assert!(!timeline(&shared.rooms, &shared.id).await.contains(&id_of(&evading)));
        assert_rows_follow(&shared.rooms, &shared.id).await;
    }
}

#[tokio::test]
async fn behind_a_gap_an_event_is_judged_by_what_is_known_on_both_sides_of_it() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB]).await;
        let twin = shared.full_twin("t.test").await;
        let ban = shared.state(ALICE, (MEMBER, BOB), json!({ "membership": "ban" })).await;
        // The twin does not hear of Carol's join, and hears of Bob's ban alone.
        shared.join(CAROL).await;
        let told: Vec<_> = current(&shared.rooms, &shared.id).await.into_iter().collect();
        let told = told.iter().map(|(_, _, id)| OwnedEventId::try_from(id.as_str()).unwrap());
        let told: Vec<_> = told.collect();
        let outliers = shared.history().await.into_iter();
        let outliers = outliers.filter(|event| told.iter().any(|id| id == event.pdu().id()));
        twin.receive_outliers(&shared.id, outliers.collect()).await.unwrap();
        assert_eq!(receive(&twin, &shared.id, ban).await, Verdict::Accepted);
        shared.take(shared.message(CAROL, "missed").await).await;
        let by_carol = shared.message(CAROL, "from behind the gap").await;
        let by_bob = shared.message(BOB, "from behind the gap").await;
        for (event, expected) in [(by_bob, Verdict::SoftFailed), (by_carol, Verdict::Accepted)] {
            let teller = Teller::of(event.pdu(), event.pdu().sender().server_name());
            let told = twin.receive_with_state(&shared.id, event, told.clone(), teller).await;
            assert_eq!(told.unwrap(), expected);
        }
        assert_rows_follow(&twin, &shared.id).await;
    }
}

#[tokio::test]
async fn a_ban_wins_over_what_the_banned_did_meanwhile() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL]).await;
        promote(&shared, json!({ BOB: 50 })).await;
        let base = shared.tips().await;
        let twin = shared.full_twin("t.test").await;
        let ban = shared.state(ALICE, (MEMBER, BOB), json!({ "membership": "ban" })).await;
        let topic = json!({ "topic": "by bob" });
        let topic = shared.state_on(&base, BOB, ("m.room.topic", ""), topic).await;

        // Here the ban is first, there the topic.
        assert_eq!(shared.take(ban.clone()).await, Verdict::Accepted);
        assert_eq!(shared.take(topic.clone()).await, Verdict::SoftFailed);
        assert_eq!(receive(&twin, &shared.id, topic.clone()).await, Verdict::Accepted);
        let by_bob = content(&twin, &shared.id, ("m.room.topic", "")).await;
        assert_eq!(by_bob, json!({ "topic": "by bob" }));
        assert_eq!(receive(&twin, &shared.id, ban.clone()).await, Verdict::Accepted);
        for rooms in [&shared.rooms, &twin] {
            assert_eq!(content(rooms, &shared.id, ("m.room.topic", "")).await, Value::Null);
            let bob = content(rooms, &shared.id, (MEMBER, BOB)).await;
            assert_eq!(bob, json!({ "membership": "ban" }));
            assert_rows_follow(rooms, &shared.id).await;
        }
        assert_eq!(current(&twin, &shared.id).await, current(&shared.rooms, &shared.id).await);
    }
}

#[tokio::test]
async fn of_two_levels_at_once_the_stronger_sender_s_win() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL, DAVE]).await;
        promote(&shared, json!({ BOB: 90, CAROL: 10 })).await;
        let base = shared.tips().await;
        let twin = shared.full_twin("t.test").await;
        // Bob takes Carol's level; Alice takes Bob's at the same time, and lets Carol keep hers.
        let by_bob = levels(&shared, &json!({ BOB: 90, CAROL: 0 }));
        let by_bob = shared.state_on(&base, BOB, (LEVELS, ""), by_bob).await;
        let by_alice = levels(&shared, &json!({ BOB: 0, CAROL: 60 }));
        let by_alice = shared.state_on(&base, ALICE, (LEVELS, ""), by_alice.clone()).await;
        assert_eq!(shared.take(by_bob.clone()).await, Verdict::Accepted);
        assert_eq!(shared.take(by_alice.clone()).await, Verdict::Accepted);
        assert_eq!(receive(&twin, &shared.id, by_alice.clone()).await, Verdict::Accepted);
        assert_eq!(receive(&twin, &shared.id, by_bob).await, Verdict::SoftFailed);
        for rooms in [&shared.rooms, &twin] {
            let now = content(rooms, &shared.id, (LEVELS, "")).await;
            let expected: Value = serde_json::from_str(by_alice.pdu().content().get()).unwrap();
            assert_eq!(now, expected);
        }
    }
}

#[tokio::test]
async fn a_soft_failed_event_can_come_back_as_state() {
    for version in VERSIONS {
        let shared = Shared::with(version, &[BOB, CAROL, DAVE]).await;
        promote(&shared, json!({ BOB: 90, CAROL: 50 })).await;
        let base = shared.tips().await;
        // Bob demotes Carol, who sets the topic meanwhile; what Alice does undoes Bob's doing.
        let demotion = levels(&shared, &json!({ BOB: 90, CAROL: 0 }));
        let demotion = shared.state_on(&base, BOB, (LEVELS, ""), demotion).await;
        assert_eq!(shared.take(demotion).await, Verdict::Accepted);
        let topic = json!({ "topic": "by carol" });
        let topic = shared.state_on(&base, CAROL, ("m.room.topic", ""), topic).await;
        assert_eq!(shared.take(topic.clone()).await, Verdict::SoftFailed);
        let undoing = levels(&shared, &json!({ BOB: 0, CAROL: 50 }));
        let undoing = shared.state_on(&base, ALICE, (LEVELS, ""), undoing).await;
        assert_eq!(shared.take(undoing).await, Verdict::Accepted);
        assert_eq!(content(&shared.rooms, &shared.id, ("m.room.topic", "")).await, Value::Null);

        let mut prev = shared.tips().await;
        assert_eq!(prev.len(), 2);
        prev.push(id_of(&topic));
        let making = shared.making(DAVE, "m.room.message").await;
        let merging = shared.make(Making { prev, ..making }).await;
        assert_eq!(shared.take(merging).await, Verdict::Accepted);
        let now = content(&shared.rooms, &shared.id, ("m.room.topic", "")).await;
        assert_eq!(now, json!({ "topic": "by carol" }));
        assert!(!timeline(&shared.rooms, &shared.id).await.contains(&id_of(&topic)));
    }
}

#[tokio::test]
async fn members_follow_a_resolution_that_takes_many_of_them_out() {
    let shared = Shared::with(RoomVersionId::V11, &[BOB]).await;
    promote(&shared, json!({ BOB: 90 })).await;
    let base = shared.tips().await;
    // Bob closes the room, and so many join on the other side of the partition that their rows take
    // several commits; some of them are this server's.
    let twin = shared.full_twin("t.test").await;
    let closed = json!({ "join_rule": "invite" });
    let closed = shared.state_on(&base, BOB, ("m.room.join_rules", ""), closed).await;
    for number in 0..450 {
        let server = if number % 3 == 0 { "t.test" } else { "far.test" };
        let user = format!("@user{number}:{server}");
        let join = shared.state(&user, (MEMBER, &user), json!({ "membership": "join" })).await;
        assert_eq!(shared.take(join).await, Verdict::Accepted);
    }
    let verdicts = twin.receive(&shared.id, shared.history().await).await.unwrap();
    assert_eq!(verdicts.iter().filter(|v| **v == Verdict::Accepted).count(), 450);
    assert_eq!(twin.head(&shared.id).await.unwrap().unwrap().joined_members, 452);

    assert_eq!(receive(&twin, &shared.id, closed.clone()).await, Verdict::Accepted);
    // The rows follow without anybody asking; a receipt waits for them in any case.
    assert_eq!(receive(&twin, &shared.id, closed).await, Verdict::Known);
    wait_for_rows(&twin, &shared.id).await;
    let head = twin.head(&shared.id).await.unwrap().unwrap();
    assert_eq!((head.joined_members, head.joined_local_members), (2, 0));
    assert_rows_follow(&twin, &shared.id).await;
}

/// Waits until the writer has brought the members' rows up to the state.
async fn wait_for_rows(rooms: &Rooms, id: &OwnedRoomId) {
    for _ in 0..1_000 {
        if rooms.head(id).await.unwrap().unwrap().forks.lag.is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the rows of the members do not follow the state");
}

#[tokio::test]
async fn a_room_has_a_bounded_number_of_forks() {
    let shared = Shared::with(RoomVersionId::V10, &[BOB]).await;
    let base = shared.tips().await;
    let before = timeline(&shared.rooms, &shared.id).await.len();
    for number in 0..30 {
        let making = shared.making(BOB, "m.room.message").await;
        let fork = Making { prev: base.clone(), at: 1_700_000_000_000 + number, ..making };
        assert_eq!(shared.take(shared.make(fork).await).await, Verdict::Accepted);
        assert!(shared.tips().await.len() <= super::super::forks::MAX_EXTREMITIES);
    }
    assert_eq!(timeline(&shared.rooms, &shared.id).await.len(), before + 30);
    // The next local event joins them.
    let alice = UserId::parse(ALICE).unwrap();
    let text = RawValue::from_string("{}".to_owned()).unwrap();
    let draft = crate::Draft::message(alice, "m.room.message".into(), text);
    let joining = shared.rooms.send(&shared.id, draft, None).await.unwrap();
    assert_eq!(shared.tips().await, [joining]);
}

/// One attempt to add an event somewhere in the graph.
#[derive(Clone, Debug)]
struct Step {
    /// How far back its previous events are.
    prev: Vec<usize>,
    /// How far back it takes its auth events from, if not from there.
    auth: Option<usize>,
    sender: usize,
    target: usize,
    kind: usize,
    at: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let prev = prop_oneof![
        4 => prop::collection::vec(0..2_usize, 1..2),
        3 => prop::collection::vec(0..10_usize, 1..2),
        2 => prop::collection::vec(0..10_usize, 2..4),
    ];
    let auth = prop::option::weighted(0.15, 0..12_usize);
    (prev, auth, 0..4_usize, 0..4_usize, 0..12_usize, 0..4_u64).prop_map(
        |(prev, auth, sender, target, kind, at)| Step { prev, auth, sender, target, kind, at },
    )
}

const USERS: [&str; 4] = [ALICE, BOB, CAROL, DAVE];

impl Step {
    fn event(&self, shared: &Shared) -> (&'static str, Option<&'static str>, Value) {
        let (sender, target) = (USERS[self.sender], USERS[self.target]);
        let member = |user, membership: &str| {
            (
                MEMBER,
                Some(user),
                json!({ "membership": membership, "displayname": self.at.to_string() }),
            )
        };
        match self.kind {
            0 => ("m.room.topic", Some(""), json!({ "topic": self.at })),
            1 => ("m.room.name", Some(""), json!({ "name": self.at })),
            2 | 3 => (LEVELS, Some(""), levels(shared, &json!({ BOB: 75, target: self.at * 25 }))),
            // Alice stays, to join all ends.
            4 => member(USERS[self.target.max(1)], "ban"),
            5 => member(USERS[self.target.max(1)], "leave"),
            6 if self.sender > 0 => member(sender, "leave"),
            6..=8 => member(sender, "join"),
            9 => member(target, "invite"),
            10 => {
                let rule = ["public", "invite"][self.target % 2];
                ("m.room.join_rules", Some(""), json!({ "join_rule": rule }))
            }
            _ => ("m.room.message", None, json!({ "body": self.at })),
        }
    }
}

/// Makes the events on a server that knows all of them, in the order in which it came to know them.
async fn grow(shared: &Shared, steps: &[Step]) -> Vec<CheckedPdu> {
    let mut grown: Vec<CheckedPdu> = Vec::new();
    let root = shared.tips().await;
    let mut ids = root.clone();
    for step in steps {
        let back = |offset: usize| ids[ids.len() - 1 - offset.min(ids.len() - 1)].clone();
        let mut prev: Vec<_> = step.prev.iter().map(|offset| back(*offset)).collect();
        prev.sort();
        prev.dedup();
        let (kind, state_key, content) = step.event(shared);
        let making = shared.making(USERS[step.sender], kind).await;
        let making = Making { state_key, content, prev, at: making.at + step.at, ..making };
        let auth = match step.auth {
            Some(offset) => {
                let elsewhere = Making { prev: vec![back(offset)], ..making.clone() };
                Some(shared.make(elsewhere).await.pdu().auth_events().to_vec())
            }
            None => None,
        };
        let event = shared.make(Making { auth, ..making }).await;
        match shared.take(event.clone()).await {
            Verdict::Known => {}
            Verdict::Accepted | Verdict::SoftFailed | Verdict::Rejected(_) => {
                ids.push(id_of(&event));
                grown.push(event);
            }
            other => panic!("{other:?}"),
        }
    }
    // The creator joins all ends.
    loop {
        let named: BTreeSet<_> = grown.iter().flat_map(|event| event.pdu().prev_events()).collect();
        let mut ends: Vec<_> = ids.iter().filter(|id| !named.contains(id)).cloned().collect();
        if let [_] = ends[..] {
            break;
        }
        ends.truncate(20);
        let making = shared.making(ALICE, "m.room.message").await;
        let joining = Making { prev: ends, ..making };
        let joining = shared.make(joining).await;
        assert_eq!(shared.take(joining.clone()).await, Verdict::Accepted);
        ids.push(id_of(&joining));
        grown.push(joining);
    }
    grown
}

/// An order in which the events can come: each after those that it names.
fn shuffled(events: &[CheckedPdu], mut seed: u64) -> Vec<CheckedPdu> {
    let all: BTreeSet<&EventId> = events.iter().map(|event| event.pdu().id()).collect();
    let mut placed: BTreeSet<&EventId> = BTreeSet::new();
    let mut order = Vec::new();
    while order.len() < events.len() {
        let ready: Vec<&CheckedPdu> = events
            .iter()
            .filter(|event| !placed.contains(event.pdu().id()))
            .filter(|event| {
                let named = event.pdu().prev_events().iter().chain(event.pdu().auth_events());
                named.into_iter().all(|id| !all.contains(&**id) || placed.contains(&**id))
            })
            .collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let next = ready[usize::try_from(seed >> 33).unwrap() % ready.len()];
        placed.insert(next.pdu().id());
        order.push(next.clone());
    }
    order
}

/// A state as (type, state key) and event ID.
async fn state_of(rooms: &Rooms, id: &OwnedRoomId, root: StateRoot) -> Vec<OwnedEventId> {
    let events = rooms.state_events(id, root, crate::read::StatePart::All).await.unwrap();
    let mut ids: Vec<_> = events.iter().map(|event| event.header.event_id.clone()).collect();
    ids.sort();
    ids
}

async fn agrees(version: RoomVersionId, steps: Vec<Step>, seeds: Vec<u64>) {
    let shared = Shared::with(version, &[BOB, CAROL, DAVE]).await;
    promote(&shared, json!({ BOB: 75 })).await;
    let prefix = shared.history().await;
    let grown = grow(&shared, &steps).await;
    assert_rows_follow(&shared.rooms, &shared.id).await;
    for (number, seed) in seeds.into_iter().enumerate() {
        let twin = shared.twin(&format!("t{number}.test")).await;
        twin.receive(&shared.id, prefix.clone()).await.unwrap();
        let verdicts = twin.receive(&shared.id, shuffled(&grown, seed)).await.unwrap();
        assert!(
            !verdicts
                .iter()
                .any(|v| matches!(v, Verdict::MissingPrev(_) | Verdict::MissingAuth(_)))
        );
        for event in &grown {
            let here = shared.event(event.pdu().id()).await;
            let there = twin.event_by_id(&shared.id, event.pdu().id()).await.unwrap().unwrap();
            let rejected = |event: &StoredEvent| event.header.standing == Standing::Rejected;
            assert_eq!(rejected(&here), rejected(&there), "{:?}", event.pdu());
            for roots in [
                (here.header.state_before, there.header.state_before),
                (here.header.state_after, there.header.state_after),
            ] {
                let here = state_of(&shared.rooms, &shared.id, roots.0).await;
                assert_eq!(here, state_of(&twin, &shared.id, roots.1).await);
            }
        }
        assert_rows_follow(&twin, &shared.id).await;
        assert_eq!(twin.head(&shared.id).await.unwrap().unwrap().extremities.len(), 1);
        let there = current(&twin, &shared.id).await;
        assert_eq!(there, current(&shared.rooms, &shared.id).await);
    }
}

fn run(version: RoomVersionId, steps: Vec<Step>, seeds: Vec<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(agrees(version, steps, seeds));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn servers_agree_whatever_the_order_in_version_6(
        steps in prop::collection::vec(step(), 4..24),
        seeds in prop::collection::vec(any::<u64>(), 2..3),
    ) {
        run(RoomVersionId::V6, steps, seeds);
    }

    #[test]
    fn servers_agree_whatever_the_order_in_version_11(
        steps in prop::collection::vec(step(), 4..24),
        seeds in prop::collection::vec(any::<u64>(), 2..3),
    ) {
        run(RoomVersionId::V11, steps, seeds);
    }

    #[test]
    fn servers_agree_whatever_the_order_in_version_12(
        steps in prop::collection::vec(step(), 4..24),
        seeds in prop::collection::vec(any::<u64>(), 2..3),
    ) {
        run(RoomVersionId::V12, steps, seeds);
    }
}
