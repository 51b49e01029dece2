use hearth_rooms::{
    CreateRoomOptions, Draft, MemberProfile, RemoteMembership, RemoteRooms as _, schema::Standing,
};
use ruma::{
    OwnedRoomId, OwnedUserId, UserId, events::TimelineEventType, owned_user_id, server_name,
};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    remote::Remote,
    testing::{Network, Server},
};

/// A room of theirs that a user of ours is in, and of which we hear nothing by ourselves.
pub(in crate::inbound) struct Bench {
    pub(super) network: Network,
    pub(in crate::inbound) us: Server,
    pub(in crate::inbound) them: Server,
    pub(in crate::inbound) room_id: OwnedRoomId,
    pub(in crate::inbound) alice: OwnedUserId,
}

pub(in crate::inbound) async fn bench() -> Bench {
    let network = Network::default();
    let us = Server::open("us.example", &network).await;
    let them = Server::open("them.example", &network).await;
    let (alice, bob) = (owned_user_id!("@alice:them.example"), owned_user_id!("@bob:us.example"));
    let options = CreateRoomOptions { public: true, ..CreateRoomOptions::default() };
    let room_id = them.federation.rooms().create_room(&alice, options).await.unwrap();
    let wish = RemoteMembership {
        room_id: room_id.clone(),
        user_id: bob,
        profile: MemberProfile::default(),
        reason: None,
        via: vec![alice.server_name().to_owned()],
    };
    Remote::new(us.federation.clone()).join(wish).await.unwrap();
    Bench { network, us, them, room_id, alice }
}

impl Bench {
    pub(in crate::inbound) async fn say(&self, count: usize) -> Vec<OwnedEventId> {
        let mut ids = Vec::new();
        for number in 0..count {
            let content = to_raw_value(&json!({ "body": number, "msgtype": "m.text" })).unwrap();
            let kind = TimelineEventType::RoomMessage;
            let draft = Draft::message(self.alice.clone(), kind, content);
            let rooms = self.them.federation.rooms();
            ids.push(rooms.send(&self.room_id, draft, None).await.unwrap());
        }
        ids
    }

    pub(super) async fn set(
        &self,
        kind: &str,
        state_key: &str,
        content: serde_json::Value,
    ) -> OwnedEventId {
        let draft = Draft {
            state_key: Some(state_key.to_owned()),
            ..Draft::message(
                self.alice.clone(),
                TimelineEventType::from(kind),
                to_raw_value(&content).unwrap(),
            )
        };
        self.them.federation.rooms().send(&self.room_id, draft, None).await.unwrap()
    }

    /// One of their events as they send it.
    pub(in crate::inbound) async fn theirs(&self, event_id: &OwnedEventId) -> Box<RawValue> {
        let theirs = self.them.federation.rooms();
        let event = theirs.event_by_id(&self.room_id, event_id).await.unwrap().unwrap();
        let json = String::from_utf8(event.pdu.json().to_vec()).unwrap();
        RawValue::from_string(json).unwrap()
    }

    /// Pushes one of their events to us.
    async fn push(&self, event_id: &OwnedEventId) -> Verdict {
        let version = self.them.federation.rooms().version(&self.room_id).await.unwrap();
        let events = vec![self.theirs(event_id).await];
        let checked = self.us.federation.checker().check(&version, &self.room_id, events).await;
        let checked: Vec<_> = checked.into_iter().map(Result::unwrap).collect();
        let gaps = Gaps::new(self.us.federation.clone());
        let origin = server_name!("them.example");
        gaps.receive(origin, &self.room_id, checked).await.unwrap().remove(0)
    }

    /// How one of their events stands with us.
    pub(in crate::inbound) async fn standing(&self, event_id: &OwnedEventId) -> Option<Standing> {
        let ours = self.us.federation.rooms();
        let event = ours.event_by_id(&self.room_id, event_id).await.unwrap();
        event.map(|event| event.header.standing)
    }

    async fn is_joined(&self, user_id: &UserId) -> bool {
        let rooms = self.us.federation.rooms();
        let head = rooms.head(&self.room_id).await.unwrap().unwrap();
        let kind = "m.room.member";
        let member =
            rooms.state_event(&self.room_id, head.state, kind, user_id.as_str()).await.unwrap();
        member.is_some_and(|member| member.pdu.content().get().contains("\"join\""))
    }
}

#[tokio::test]
async fn a_gap_is_walked_to_its_end_however_many_requests_that_takes() {
    let bench = bench().await;
    for count in [1, 5, 130] {
        let ids = bench.say(count).await;
        assert_eq!(bench.push(ids.last().unwrap()).await, Verdict::Accepted);
        for id in &ids {
            assert_eq!(bench.standing(id).await, Some(Standing::Accepted));
        }
        assert_eq!(bench.push(ids.last().unwrap()).await, Verdict::Known);
    }
}

#[tokio::test]
async fn where_the_gap_stays_open_its_state_is_fetched() {
    let bench = bench().await;
    bench.network.refuse("/get_missing_events/");
    let missed = bench.say(3).await;
    let topic = bench.set("m.room.topic", "", json!({ "topic": "what was missed" })).await;
    let last = bench.say(1).await.remove(0);
    assert_eq!(bench.push(&last).await, Verdict::Accepted);
    assert_eq!(bench.standing(&missed[0]).await, None);
    assert_eq!(bench.standing(&topic).await, Some(Standing::Outlier));
    let rooms = bench.us.federation.rooms();
    let head = rooms.head(&bench.room_id).await.unwrap().unwrap();
    let current = rooms.state_event(&bench.room_id, head.state, "m.room.topic", "").await.unwrap();
    assert_eq!(current.unwrap().pdu.id(), topic);
    assert!(bench.is_joined(&bench.alice).await);
    assert!(bench.is_joined(&owned_user_id!("@bob:us.example")).await);
    // What follows needs nothing more.
    let next = bench.say(1).await.remove(0);
    assert_eq!(bench.push(&next).await, Verdict::Accepted);
}

#[tokio::test]
async fn an_event_whose_past_cannot_be_had_harms_only_itself() {
    let bench = bench().await;
    bench.network.refuse("/get_missing_events/");
    bench.network.refuse("/state_ids/");
    let ids = bench.say(2).await;
    assert!(matches!(bench.push(&ids[1]).await, Verdict::MissingPrev(_)));
    assert_eq!(bench.standing(&ids[1]).await, None);
    assert_eq!(bench.push(&ids[0]).await, Verdict::Accepted);
    assert_eq!(bench.push(&ids[1]).await, Verdict::Accepted);
}

#[tokio::test]
async fn many_who_push_the_same_gap_fill_it_once() {
    let bench = bench().await;
    let ids = bench.say(30).await;
    let before = bench.network.requests();
    let pushes = ids.iter().rev().take(8).map(|id| bench.push(id));
    let verdicts = futures_util::future::join_all(pushes).await;
    for verdict in verdicts {
        assert!(matches!(verdict, Verdict::Accepted | Verdict::Known), "{verdict:?}");
    }
    assert!(bench.network.requests() - before <= 4, "{}", bench.network.requests() - before);
}

impl Bench {
    /// Lets all holes be tried until there are none; how many there were.
    async fn fill_holes(&self) -> usize {
        let us = &self.us.federation;
        let count = us.holes().hurry();
        us.spawn(fill_holes(us.clone(), Remote::new(us.clone())));
        for _ in 0..1_000 {
            if us.holes().hurry() == 0 {
                return count;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("holes stay open");
    }
}

#[tokio::test]
async fn what_could_not_be_judged_is_asked_for_again() {
    let bench = bench().await;
    bench.network.refuse("/get_missing_events/");
    bench.network.refuse("/state_ids/");
    let ids = bench.say(3).await;
    assert!(matches!(bench.push(&ids[2]).await, Verdict::MissingPrev(_)));
    bench.network.refuse_nothing();
    assert_eq!(bench.fill_holes().await, 1);
    for id in &ids {
        assert_eq!(bench.standing(id).await, Some(Standing::Accepted));
    }
}

#[tokio::test]
async fn history_behind_a_told_state_is_asked_for_again() {
    let bench = bench().await;
    bench.network.refuse("/get_missing_events/");
    let missed = bench.say(3).await;
    let last = bench.say(1).await.remove(0);
    assert_eq!(bench.push(&last).await, Verdict::Accepted);
    let rooms = bench.us.federation.rooms();
    let before = rooms.head(&bench.room_id).await.unwrap().unwrap();
    assert_eq!(bench.fill_holes().await, 1);
    for id in &missed {
        assert_eq!(bench.standing(id).await, Some(Standing::Accepted));
    }
    let after = rooms.head(&bench.room_id).await.unwrap().unwrap();
    assert_eq!(after.extremities, before.extremities);
    assert_eq!(after.state, before.state);
}

#[tokio::test]
async fn what_comes_before_an_event_that_is_not_shown_is_news() {
    let bench = bench().await;
    let (bob, carol) = (owned_user_id!("@bob:us.example"), owned_user_id!("@carol:them.example"));
    let levels = json!({ "users": { bob.as_str(): 90 } });
    let levels = bench.set("m.room.power_levels", "", levels).await;
    assert_eq!(bench.push(&levels).await, Verdict::Accepted);
    // Nobody else hears of this.
    let ours = bench.us.federation.rooms();
    ours.ban(&bench.room_id, &bob, &carol, None).await.unwrap();
    bench.network.refuse("/get_missing_events/");
    let topic = bench.set("m.room.topic", "", json!({ "topic": "news" })).await;
    let theirs = bench.them.federation.rooms();
    let profile = MemberProfile::default();
    let join = theirs.join(&bench.room_id, &carol, &profile, None).await.unwrap();
    assert_eq!(bench.push(&join).await, Verdict::SoftFailed);
    assert_eq!(bench.fill_holes().await, 1);
    assert_eq!(bench.standing(&topic).await, Some(Standing::Accepted));
    let head = ours.head(&bench.room_id).await.unwrap().unwrap();
    let current = ours.state_event(&bench.room_id, head.state, "m.room.topic", "").await.unwrap();
    assert_eq!(current.unwrap().pdu.id(), topic);
}

pub(super) fn member(name: &str) -> Pusher {
    Pusher { server: name.try_into().unwrap(), is_member: true }
}

fn stranger(name: &str) -> Pusher {
    Pusher { is_member: false, ..member(name) }
}

/// The ID of an event that nobody has.
fn nothing(number: usize) -> (OwnedEventId, Hole) {
    (OwnedEventId::try_from(format!("${number:0>43}")).unwrap(), Hole::Pushed)
}

#[tokio::test]
async fn holes_of_strangers_and_of_one_server_give_way_to_others() {
    let bench = bench().await;
    let (holes, room) = (bench.us.federation.holes(), &bench.room_id);
    let is_open = |number: usize| holes.of_room(room).contains(&nothing(number).0);
    for number in 0..200 {
        let pusher = stranger(&format!("s{number}.example"));
        holes.note(room, [nothing(number)], &pusher, 0).await.unwrap();
    }
    assert_eq!(holes.of_room(room).len(), 10);
    let greedy = (1_000..1_300).map(nothing);
    holes.note(room, greedy, &member("greedy.example"), 0).await.unwrap();
    assert_eq!(holes.of_room(room).len(), 100);
    assert!((0..200).all(|number| !is_open(number)), "strangers' go first");
    let others = (2_000..2_020).map(nothing);
    holes.note(room, others, &member("them.example"), 0).await.unwrap();
    assert_eq!(holes.of_room(room).len(), 100);
    assert!((2_000..2_020).all(is_open), "who has few keeps them");
    // A stranger displaces nobody of the room.
    holes.note(room, [nothing(1)], &stranger("s.example"), 0).await.unwrap();
    assert!((2_000..2_020).all(is_open) && !is_open(1));
    let kept = Holes::open(bench.us.federation.store()).await.unwrap();
    assert_eq!(kept.of_room(room), holes.of_room(room));
}

#[tokio::test]
async fn a_silent_server_does_not_keep_others_holes_open() {
    let bench = bench().await;
    let us = &bench.us.federation;
    bench.network.silence("silent.example");
    let mut ids = bench.say(3).await;
    let last = ids.pop().unwrap();
    let bob = owned_user_id!("@bob:us.example");
    let options = CreateRoomOptions::default();
    let other = us.rooms().create_room(&bob, options).await.unwrap();
    let silent = member("silent.example");
    us.holes().note(&other, (0..10).map(nothing), &silent, 0).await.unwrap();
    us.holes().hurry();
    let them = member("them.example");
    let hole = (last.clone(), Hole::Pushed);
    us.holes().note(&bench.room_id, [hole], &them, 0).await.unwrap();
    us.holes().hurry();
    us.spawn(fill_holes(us.clone(), Remote::new(us.clone())));
    for _ in 0..1_000 {
        if bench.standing(&last).await == Some(Standing::Accepted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the hole stays open");
}

#[tokio::test]
async fn holes_are_bounded_and_outlive_the_process() {
    let bench = bench().await;
    let us = &bench.us.federation;
    let events = (0..300).map(|number| {
        let id = format!("${number:0>43}");
        (OwnedEventId::try_from(id).unwrap(), Hole::Pushed)
    });
    us.holes().note(&bench.room_id, events, &member("them.example"), 0).await.unwrap();
    let noted = us.holes().hurry();
    assert!((1..=100).contains(&noted), "{noted}");
    assert_eq!(Holes::open(us.store()).await.unwrap().hurry(), noted);
}

#[tokio::test]
async fn what_there_was_no_turn_for_is_asked_for_again() {
    let bench = bench().await;
    let us = &bench.us.federation;
    let ids = bench.say(2).await;
    let others = member("others.example");
    let mut waiting: Vec<_> =
        (0..100).map(|_| Box::pin(us.turns().take(&others, &bench.room_id))).collect();
    for wait in &mut waiting {
        let _waits = futures_util::poll!(wait).is_pending();
    }
    let pdus = vec![bench.theirs(&ids[1]).await];
    let origin = server_name!("them.example");
    let results =
        crate::inbound::send::receive_room(us, origin, &bench.room_id, pdus).await.unwrap();
    assert!(results[&ids[1]].is_err());
    drop(waiting);
    assert_eq!(bench.fill_holes().await, 1);
    for id in &ids {
        assert_eq!(bench.standing(id).await, Some(Standing::Accepted));
    }
}
