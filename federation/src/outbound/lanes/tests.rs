use ruma::{owned_room_id, owned_user_id, server_name};

use super::{
    super::{catch_up::Missed, lists::ListChange},
    *,
};

fn at(position: u64) -> StreamPosition {
    StreamPosition::new(position)
}

fn item(position: u64) -> Item {
    let room_id = owned_room_id!("!r:here.test");
    Item { position: at(position), room_id, ordinal: 1 }
}

fn change(user: usize, position: u64) -> ListChange {
    let user_id = format!("@u{user}:here.test").try_into().unwrap();
    ListChange::whole(at(position), user_id, at(position))
}

fn server(number: usize) -> OwnedServerName {
    format!("n{number}.test").try_into().unwrap()
}

fn lanes() -> Lanes {
    Lanes::new(at(10), [])
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_before_more_is_read() {
    let (mut lanes, there, now) = (lanes(), server_name!("there.test"), Instant::now());
    let mut position = 10;
    // Until there is no place for a further one.
    while lanes.by_server.get(there).is_none_or(|lane| lane.behind.is_none()) {
        position += 1;
        lanes.push_list_change(there, change(position, position as u64), now);
        assert!(position < 2_000);
    }
    lanes.set_routed(at(position as u64), true);
    lanes.start(there, now + super::super::edus::GATHER);
    let mut told = BTreeMap::new();
    loop {
        // Presence gathers anew each time.
        lanes.push_presence(there, &owned_user_id!("@u:here.test"), now);
        match lanes.next(there, now).unwrap() {
            Task::Send(batch) => {
                for change in batch.edus.lists {
                    told.insert(change.position, change.user_id);
                }
                lanes.delivered(there);
            }
            Task::Read(after, _) => {
                assert_eq!(after, at(position as u64 - 1), "the last one is still to be told");
                break;
            }
        }
    }
    assert_eq!(told.len(), position - 11, "all others were");
}

#[tokio::test(start_paused = true)]
async fn what_was_read_and_finds_no_place_is_read_again() {
    let (mut lanes, there, now) = (lanes(), server_name!("there.test"), Instant::now());
    lanes.push(there, item(11));
    lanes.set_routed(at(5_000), true);
    let missed = Missed {
        items: vec![item(20), item(3_000)],
        receipts: Vec::new(),
        lists: (12..2_000).map(|position| change(position, position as u64)).collect(),
        until: at(4_000),
    };
    lanes.refill(there, missed);
    lanes.start(there, now);
    let (mut told, mut items) = (0, Vec::new());
    let after = loop {
        match lanes.next(there, now).unwrap() {
            Task::Send(batch) => {
                told += batch.edus.lists.len();
                items.extend(batch.items.iter().map(|item| item.position));
                lanes.delivered(there);
            }
            Task::Read(after, _) => break after,
        }
    };
    assert_eq!((after, items), (at(11 + told as u64), vec![at(11), at(20)]));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_and_finds_its_place_taken_is_read_again() {
    let (mut lanes, there, now) = (lanes(), server_name!("there.test"), Instant::now());
    for position in 11..20 {
        lanes.push_list_change(there, change(position, position as u64), now);
    }
    let now = now + super::super::edus::GATHER;
    lanes.start(there, now);
    let Some(Task::Send(batch)) = lanes.next(there, now) else { panic!("nothing is sent") };
    assert_eq!(batch.edus.lists.len(), 9);
    let mut position = 20;
    while lanes.by_server[there].behind.is_none() {
        lanes.push_list_change(there, change(position, position as u64), now);
        position += 1;
        assert!(position < 2_000);
    }
    lanes.offer_singly(there, batch);
    assert_eq!(lanes.by_server[there].behind, Some(at(10)), "before the first of them");
}

#[tokio::test(start_paused = true)]
async fn a_full_table_holds_the_cursor_and_lets_in_who_waits() {
    let (mut lanes, now) = (lanes(), Instant::now());
    for number in 0..MAX_LANES + 2 {
        lanes.push(&server(number), item(11 + number as u64));
    }
    lanes.set_routed(at(100), true);
    let first_left_out = 11 + MAX_LANES as u64;
    // All others have got what is theirs.
    for number in 0..MAX_LANES {
        assert!(lanes.start_if_due(&server(number), now));
        assert!(matches!(lanes.next(&server(number), now), Some(Task::Send(_))));
        lanes.delivered(&server(number));
        assert_eq!(lanes.next(&server(number), now), None);
    }
    let checkpoint = lanes.checkpoint();
    assert_eq!(checkpoint.shared, at(first_left_out - 1));
    lanes.persisted(&checkpoint);
    lanes.let_in();
    for number in MAX_LANES..MAX_LANES + 2 {
        assert!(lanes.start_if_due(&server(number), now));
        let read = lanes.next(&server(number), now);
        assert_eq!(read, Some(Task::Read(at(first_left_out - 1), None)));
        let items = vec![item(11 + number as u64)];
        let (receipts, lists, until) = (Vec::new(), Vec::new(), at(100));
        lanes.refill(&server(number), Missed { items, receipts, lists, until });
        assert!(matches!(lanes.next(&server(number), now), Some(Task::Send(_))));
        lanes.delivered(&server(number));
    }
    assert_eq!(lanes.checkpoint().shared, at(100));
}

#[test]
fn messages_to_servers_that_do_not_exist_leave_places_for_others() {
    let mut lanes = lanes();
    assert!(!lanes.take_messages_left_out());
    for number in 0..5 * MAX_LANES {
        lanes.push_messages(&server(number));
    }
    let crowd = lanes.by_server.len();
    assert!(crowd < MAX_LANES && !lanes.take_messages_left_out());
    lanes.push(server_name!("there.test"), item(11));
    lanes.set_routed(at(11), true);
    assert!(lanes.by_server.contains_key(server_name!("there.test")));
    for number in 0..crowd {
        lanes.drop_all(&server(number));
    }
    lanes.persisted(&lanes.checkpoint());
    assert!(lanes.take_messages_left_out(), "they are looked for again");
}
