//! The short way against ruma's plain call over whole states.

mod room;

use proptest::prelude::*;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use self::room::{TestRoom, user};
use crate::schema::EventOrdinal;

const USERS: usize = 6;

/// One attempt to add an event.
#[derive(Clone, Debug)]
struct Step {
    /// How far back the previous events are.
    prev: Vec<usize>,
    sender: usize,
    target: usize,
    kind: usize,
    /// Few different values, so that ties are common.
    timestamp: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let prev = prop_oneof![
        5 => prop::collection::vec(0..3_usize, 1..2),
        3 => prop::collection::vec(0..14_usize, 1..2),
        2 => prop::collection::vec(0..14_usize, 2..4),
    ];
    (prev, 0..USERS, 0..USERS, 0..14_usize, 0..4_u64).prop_map(
        |(prev, sender, target, kind, timestamp)| Step { prev, sender, target, kind, timestamp },
    )
}

impl Step {
    fn event(&self) -> (&'static str, Option<String>, Value) {
        let member = |user: usize, membership: &str| {
            let content = json!({ "membership": membership, "displayname": self.timestamp });
            ("m.room.member", Some(user_id(user)), content)
        };
        let state = |kind: &'static str, content: Value| (kind, Some(String::new()), content);
        match self.kind {
            0 => state("m.room.topic", json!({ "topic": self.timestamp })),
            1 => state("m.room.name", json!({ "name": self.timestamp })),
            2 | 3 => state("m.room.power_levels", self.power_levels()),
            4 => member(self.target, "ban"),
            5 => member(self.target, "leave"),
            6 => member(self.sender, "leave"),
            7..=9 => member(self.sender, "join"),
            10 => member(self.target, "invite"),
            11 => {
                let rule = ["public", "invite", "knock", "public"][self.target % 4];
                state("m.room.join_rules", json!({ "join_rule": rule }))
            }
            12 => ("org.example.own", Some(user_id(self.sender)), json!({})),
            _ => ("m.room.message", None, json!({})),
        }
    }

    fn power_levels(&self) -> Value {
        let level = [0, 25, 50, 75, 100][(self.target + self.sender) % 5];
        let mut users = json!({ user_id(1): 50 });
        users[user_id(self.target.max(1))] = level.into();
        json!({ "users": users, "state_default": if self.timestamp == 0 { 0 } else { 50 } })
    }
}

fn user_id(index: usize) -> String {
    user(index)
}

/// Versions with state resolution v2 keep the creator's level in the power levels; v12 forbids that.
fn with_creator(room: &TestRoom, kind: &str, mut content: Value) -> Value {
    if kind == "m.room.power_levels" && !room.rules.authorization.explicitly_privilege_room_creators
    {
        content["users"][user(0)] = 100.into();
    }
    content
}

fn run(version: &RoomVersionId, steps: &[Step], last: &[usize]) {
    let mut room = TestRoom::new(version);
    let back = |room: &TestRoom, offset: usize| -> EventOrdinal {
        // Never before the room is set up: 5 events.
        u32::try_from((room.len() - 1 - offset.min(room.len() - 1)).max(4)).unwrap()
    };
    for step in steps {
        let mut prev: Vec<_> = step.prev.iter().map(|offset| back(&room, *offset)).collect();
        prev.sort_unstable();
        prev.dedup();
        let (kind, state_key, content) = step.event();
        let content = with_creator(&room, kind, content);
        room.send(&prev, step.sender, kind, state_key.as_deref(), content, step.timestamp);
    }
    let roots: Vec<_> = last.iter().map(|offset| room.state_after(back(&room, *offset))).collect();
    room.merge(&roots);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn the_short_way_is_right_in_version_10(
        steps in prop::collection::vec(step(), 10..70),
        last in prop::collection::vec(0..30_usize, 2..5),
    ) {
        run(&RoomVersionId::V10, &steps, &last);
    }

    #[test]
    fn the_short_way_is_right_in_version_11(
        steps in prop::collection::vec(step(), 10..70),
        last in prop::collection::vec(0..30_usize, 2..5),
    ) {
        run(&RoomVersionId::V11, &steps, &last);
    }

    #[test]
    fn the_short_way_is_right_in_version_12(
        steps in prop::collection::vec(step(), 10..70),
        last in prop::collection::vec(0..30_usize, 2..5),
    ) {
        run(&RoomVersionId::V12, &steps, &last);
    }
}

/// A room with this many members, forked: on one side the creator changes the power levels and bans
/// user 3, on the other the moderator renames the room and user 3 sets the topic.
fn forked_room(version: &RoomVersionId, members: usize) -> (TestRoom, [EventOrdinal; 2]) {
    let mut room = TestRoom::new(version);
    let join = json!({ "membership": "join" });
    for index in 2..members {
        let last = [room.last()];
        room.send(&last, index, "m.room.member", Some(&user(index)), join.clone(), 1).unwrap();
    }
    let fork = room.last();
    let mut levels = json!({ "users": { user(1): 50, user(3): 60 }, "state_default": 0 });
    levels = with_creator(&room, "m.room.power_levels", levels);
    let base = room.send(&[fork], 0, "m.room.power_levels", Some(""), levels.clone(), 2).unwrap();
    levels["users"][user(2)] = 40.into();
    let left = room.send(&[base], 0, "m.room.power_levels", Some(""), levels, 3).unwrap();
    let ban = json!({ "membership": "ban" });
    let left = room.send(&[left], 0, "m.room.member", Some(&user(3)), ban, 4).unwrap();
    let right = room.send(&[base], 1, "m.room.name", Some(""), json!({ "name": "x" }), 3).unwrap();
    let right =
        room.send(&[right], 3, "m.room.topic", Some(""), json!({ "topic": "x" }), 4).unwrap();
    (room, [left, right])
}

#[test]
fn costs_what_the_conflict_costs() {
    for version in [RoomVersionId::V10, RoomVersionId::V12] {
        let cost = |members| {
            let (room, tips) = forked_room(&version, members);
            room.cost(&tips.map(|tip| room.state_after(tip)))
        };
        let (small, large) = (cost(100), cost(20_000));
        assert!(large.0 <= 2 * small.0, "events: {small:?} and {large:?}");
        assert!(large.1 <= 2 * small.1, "nodes: {small:?} and {large:?}");
        assert!(large.2 <= 2 * small.2, "auth children: {small:?} and {large:?}");
        assert!(small.0 < 40, "{small:?}");
    }
}

#[test]
fn a_ban_beats_what_the_banned_user_did_meanwhile() {
    let (mut room, tips) = forked_room(&RoomVersionId::V12, 5);
    let merged = room.merge(&tips.map(|tip| room.state_after(tip)));
    let at = |kind: &str, key: &str| room.value(merged, &(kind.to_owned(), key.to_owned()));
    assert_eq!(at("m.room.member", &user(3)), Some(tips[0]));
    assert_eq!(at("m.room.topic", ""), None);
    assert_eq!(at("m.room.name", ""), Some(tips[1] - 1));
}

#[test]
fn equal_states_do_not_conflict() {
    let (room, tips) = forked_room(&RoomVersionId::V11, 5);
    let same = room.state_after(tips[0]);
    let resolution = super::resolve(&room.rules, &[same, same], &room, &room).unwrap();
    assert_eq!(resolution, super::Resolution::default());
}
