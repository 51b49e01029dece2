use super::*;
use crate::{
    lane::What,
    registry::{Registry, entries},
};

fn at(position: u64) -> StreamPosition {
    StreamPosition::new(position)
}

fn badge(position: u64) -> Item {
    Item { position: at(position), what: What::Badge }
}

fn event(position: u64) -> Item {
    let what = What::Invitation {
        room_id: ruma::owned_room_id!("!r:hearth.test"),
        actions: Arc::from([]),
    };
    Item { position: at(position), what }
}

/// What the next job sends, and as of when the unread count is told with it.
fn sends(job: &Job) -> Option<(u64, u64)> {
    match &job.work {
        Work::Send { item, counted } => Some((item.position.get(), counted.get())),
        _ => None,
    }
}

/// A pusher that is behind, and looks for what it missed.
fn looking(lanes: &mut Lanes, pusher: &Arc<Entry>) -> Job {
    lanes.set_behind(pusher, 0);
    lanes.wake_due(0);
    let job = lanes.next().unwrap();
    assert!(matches!(job.work, Work::LookBack));
    job
}

fn missed(positions: &[u64], until: u64) -> Outcome {
    let items = positions.iter().map(|position| event(*position)).collect();
    Outcome::Missed { items, until: at(until) }
}

#[test]
fn one_at_a_time_in_order_and_the_log_is_held_for_the_oldest() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(at(1));
    for position in [3, 5] {
        assert_eq!(lanes.push(&pushers[0], event(position)), Pushed::Queued);
    }
    lanes.set_routed(at(9));
    assert_eq!(lanes.settled(), at(2));
    assert_eq!(lanes.hire(), 1);
    let first = lanes.next().unwrap();
    assert_eq!(sends(&first), Some((3, 3)));
    assert!(lanes.next().is_none(), "the second waits for the first");
    lanes.done(&first, Outcome::Done);
    assert_eq!(lanes.settled(), at(4));
    let second = lanes.next().unwrap();
    lanes.done(&second, Outcome::Done);
    assert_eq!(lanes.settled(), at(9));
    assert!(lanes.by_serial.is_empty());
}

#[test]
fn pushers_take_turns() {
    let pushers = entries(2, "a.example");
    let mut lanes = Lanes::new(at(1));
    for pusher in &pushers {
        lanes.push(pusher, event(3));
        lanes.push(pusher, event(4));
    }
    let mut order = Vec::new();
    while let Some(job) = lanes.next() {
        order.push((job.entry.serial, sends(&job).unwrap().0));
        lanes.done(&job, Outcome::Done);
    }
    assert_eq!(order, [(0, 3), (1, 3), (0, 4), (1, 4)]);
}

#[test]
fn whoever_fails_lets_go_of_the_log_and_is_tried_when_due() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(at(1));
    lanes.push(&pushers[0], event(3));
    lanes.set_routed(at(9));
    let job = lanes.next().unwrap();
    lanes.done(&job, Outcome::Behind { retry_ms: 100 });
    assert_eq!(lanes.settled(), at(9));
    assert_eq!(lanes.push(&pushers[0], event(10)), Pushed::Dropped);
    lanes.wake_due(99);
    assert!(lanes.next().is_none());
    lanes.wake_due(100);
    assert!(matches!(lanes.next().unwrap().work, Work::LookBack));
}

#[test]
fn what_is_routed_while_a_pusher_catches_up_comes_after_what_it_missed() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(at(9));
    let job = looking(&mut lanes, &pushers[0]);
    for position in [11, 13] {
        lanes.push(&pushers[0], event(position));
    }
    lanes.set_routed(at(20));
    assert_eq!(lanes.settled(), at(9), "the log is held for what is routed now");
    lanes.done(&job, missed(&[4, 11], 12));
    for position in [4, 11] {
        let job = lanes.next().unwrap();
        assert_eq!(sends(&job), Some((position, 12)), "with the count of now");
        lanes.done(&job, Outcome::Done);
    }
    let job = lanes.next().unwrap();
    assert!(matches!(job.work, Work::KeepUp { until } if until == at(12)));
    assert!(lanes.keep_up(&pushers[0]));
    lanes.done(&job, Outcome::Done);
    let job = lanes.next().unwrap();
    assert_eq!(sends(&job), Some((13, 13)), "what was missed is not sent twice");
    lanes.done(&job, Outcome::Done);
    assert_eq!(lanes.settled(), at(20));
    assert!(lanes.by_serial.is_empty());
}

#[test]
fn with_too_much_meanwhile_it_looks_again() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(at(9));
    let job = looking(&mut lanes, &pushers[0]);
    let most = u64::try_from(MAX_QUEUED).unwrap();
    for position in 0..=most {
        assert_eq!(lanes.push(&pushers[0], event(10 + position)), Pushed::Dropped);
    }
    lanes.set_routed(at(10 + most));
    assert_eq!(lanes.settled(), at(10 + most));
    lanes.done(&job, missed(&[], 12));
    let job = lanes.next().unwrap();
    assert!(matches!(job.work, Work::KeepUp { .. }));
    assert!(!lanes.keep_up(&pushers[0]));
    lanes.done(&job, Outcome::Done);
    assert!(matches!(lanes.next().unwrap().work, Work::LookBack));
}

#[test]
fn the_log_is_not_held_from_too_long_ago() {
    let pushers = entries(3, "a.example");
    let mut lanes = Lanes::new(at(9));
    let job = looking(&mut lanes, &pushers[0]);
    lanes.push(&pushers[1], event(10));
    lanes.push(&pushers[2], event(50));
    lanes.set_routed(at(60));
    let slow = lanes.let_go_before(at(40));
    assert_eq!(slow.iter().map(|entry| entry.serial).collect::<Vec<_>>(), [1]);
    lanes.set_behind(&pushers[1], 0);
    assert_eq!(lanes.settled(), at(49));
    lanes.done(&job, missed(&[], 60));
    assert!(!lanes.keep_up(&pushers[0]), "it does not have what it let go of");
}

#[test]
fn a_full_queue_is_given_up_while_one_is_under_way() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(StreamPosition::ZERO);
    lanes.push(&pushers[0], event(1));
    let job = lanes.next().unwrap();
    let mut position = 2;
    while lanes.push(&pushers[0], event(position)) == Pushed::Queued {
        position += 1;
    }
    assert_eq!(position, 1 + u64::try_from(MAX_QUEUED).unwrap());
    lanes.set_behind(&pushers[0], 0);
    assert!(lanes.next().is_none(), "one request at a time");
    lanes.done(&job, Outcome::Done);
    assert!(matches!(lanes.next().unwrap().work, Work::LookBack));
}

#[test]
fn fewer_wait_while_less_is_sent_and_nobody_is_asked_for_those_behind() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(StreamPosition::ZERO);
    lanes.set_limited(true);
    let mut position = 1;
    while lanes.push(&pushers[0], event(position)) == Pushed::Queued {
        position += 1;
    }
    assert_eq!(position, 1 + u64::try_from(MAX_QUEUED_IF_LIMITED).unwrap());
    assert!(lanes.any_takes(&pushers, at(position)));
    lanes.set_behind(&pushers[0], 0);
    assert!(!lanes.any_takes(&pushers, at(position)));
    lanes.wake_due(0);
    assert!(matches!(lanes.next().unwrap().work, Work::LookBack));
    assert!(lanes.any_takes(&pushers, at(position)), "it catches up");
}

#[test]
fn those_who_wait_for_a_job_take_what_comes() {
    let pushers = entries(3, "a.example");
    let mut lanes = Lanes::new(StreamPosition::ZERO);
    lanes.push(&pushers[0], event(1));
    assert_eq!(lanes.hire(), 1);
    lanes.push(&pushers[1], event(1));
    assert_eq!((lanes.hire(), lanes.hire()), (1, 0));
    let busy = [lanes.next().unwrap(), lanes.next().unwrap()];
    lanes.push(&pushers[2], event(1));
    assert_eq!(lanes.hire(), 1, "the others are at work");
    lanes.done(&busy[0], Outcome::Done);
    lanes.push(&pushers[0], event(2));
    assert_eq!(lanes.hire(), 0, "one of them is not any more");
}

#[test]
fn badges_do_not_pile_up_and_the_one_that_waits_tells_the_newest() {
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(StreamPosition::ZERO);
    assert_eq!(lanes.push(&pushers[0], badge(1)), Pushed::Queued);
    assert_eq!(lanes.push(&pushers[0], badge(2)), Pushed::Queued, "the first may be under way");
    assert_eq!(lanes.push(&pushers[0], badge(3)), Pushed::Dropped);
    let job = lanes.next().unwrap();
    lanes.done(&job, Outcome::Done);
    assert_eq!(sends(&lanes.next().unwrap()), Some((3, 3)));
}

#[test]
fn a_slow_gateway_leaves_room_for_others() {
    let mut lanes = Lanes::new(StreamPosition::ZERO);
    let slow = entries(MAX_PER_GATEWAY + 1, "slow.example");
    for pusher in &slow {
        lanes.push(pusher, event(1));
    }
    let jobs: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
    assert_eq!(jobs.len(), MAX_PER_GATEWAY);
    lanes.done(&jobs[0], Outcome::Done);
    let last = lanes.next().unwrap();
    assert_eq!(last.entry.key, slow[MAX_PER_GATEWAY].key);
}

#[test]
fn deleted_pushers_get_nothing() {
    let registry = Registry::default();
    let pushers = entries(1, "a.example");
    let mut lanes = Lanes::new(StreamPosition::ZERO);
    lanes.push(&pushers[0], event(1));
    registry.remove(&pushers[0]);
    lanes.forget(pushers[0].serial);
    assert!(lanes.next().is_none());
    assert_eq!(lanes.push(&pushers[0], event(2)), Pushed::Dropped);
}
