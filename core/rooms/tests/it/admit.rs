//! Rooms that come from other servers.

use hearth_rooms::{
    CheckedPdu, OutOfBand, RoomError, Verdict,
    read::{Ignored, MessagesPage, MessagesRequest, StatePart, TimelineFilter},
    schema::{self, Membership, Standing, TimelineIndex},
};
use hearth_storage::Direction;
use ruma::{RoomId, RoomVersionId, UserId};
use serde_json::{Value, json, value::RawValue};

use crate::{
    elsewhere::{FAR_ADMIN, FarRoom, Sketch},
    fixture::{Server, raw, user},
};

/// Versions whose rules differ in what matters here.
const VERSIONS: [RoomVersionId; 4] =
    [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];

#[tokio::test]
async fn a_join_by_way_of_another_server_makes_the_room() {
    for version in VERSIONS {
        let server = Server::new().await;
        let mut far = FarRoom::new(version);
        for number in 0..100 {
            far.join(&format!("@user{number}:s{}.test", number % 3));
        }
        far.member(FAR_ADMIN, "@user7:s1.test", "ban");
        far.say(FAR_ADMIN, "before");
        let alice = user("alice");
        let answer = far.answer_join(alice.as_str());
        let gap = answer.event.pdu().prev_events().to_vec();
        let joined = server.rooms.admit_join(answer).await.unwrap();

        let head = server.rooms.head(&far.id).await.unwrap().unwrap();
        assert_eq!((head.joined_members, head.joined_local_members), (101, 1));
        let event = server.event(&far.id, &joined).await;
        assert_eq!(head.extremities, [event.ordinal]);
        assert_eq!(head.depth, event.pdu.depth());
        let state = server.rooms.state_events(&far.id, head.state, StatePart::All).await.unwrap();
        assert_eq!(state.len(), far.state.len());
        for event in &state {
            let key = (event.pdu.kind().to_string(), event.pdu.state_key().unwrap().to_owned());
            assert_eq!(event.pdu.id(), far.state[&key].pdu().id());
        }
        let row = server.rooms.user_room(&alice, &far.id).await.unwrap().unwrap();
        assert_eq!(row.details.membership, Membership::Join);
        assert_eq!(event.index, Some(TimelineIndex::Live(row.position)));
        let banned = UserId::parse("@user7:s1.test").unwrap();
        let banned = server.rooms.member_row(&far.id, &banned).await.unwrap().unwrap();
        assert_eq!(banned.membership, Membership::Ban);
        let servers = server
            .rooms
            .store()
            .page(&schema::ROOM_SERVERS, &far.id, .., Direction::Forward, 9)
            .await
            .unwrap();
        let servers: Vec<_> =
            servers.iter().map(|(name, row)| (name.as_str(), row.joined)).collect();
        assert_eq!(servers, [("far.test", 1), ("s0.test", 34), ("s1.test", 32), ("s2.test", 33)]);
        let gaps = server
            .rooms
            .store()
            .page(&schema::HISTORY_GAPS, &far.id, .., Direction::Forward, 9)
            .await
            .unwrap();
        assert_eq!(gaps.len(), 1);
        assert_eq!((&gaps[0].0, gaps[0].1.child), (&gap[0], event.ordinal));
        ordinals_are_topological(&server, &far).await;

        server.say(&far.id, &alice, "hello").await.unwrap();
        let page = backwards(&server, &far.id, &alice).await;
        let kinds: Vec<_> = page.events.iter().map(|e| e.pdu.kind().to_string()).collect();
        assert_eq!(kinds, ["m.room.message", "m.room.member"]);
    }
}

/// The room's newest page.
async fn backwards(server: &Server, room_id: &RoomId, user_id: &UserId) -> MessagesPage {
    let request = MessagesRequest {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit: 10,
        filter: TimelineFilter::default(),
    };
    server.rooms.messages(room_id, user_id, &Ignored::default(), &request).await.unwrap()
}

/// Auth events have smaller ordinals, and the create event has the smallest.
async fn ordinals_are_topological(server: &Server, far: &FarRoom) {
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    let ordinals: Vec<u32> = (0..head.next_event).collect();
    let events = server.rooms.events(&far.id, &ordinals).await.unwrap();
    assert_eq!(events[0].pdu.kind().to_string(), "m.room.create");
    for event in events {
        assert!(event.header.auth_events.iter().all(|auth| *auth < event.ordinal));
        assert_eq!(event.header.auth_events.len(), event.pdu.auth_events().len());
    }
}

#[tokio::test]
async fn what_is_not_allowed_stays_out_of_the_state() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    far.join("@bob:far.test");
    let sketch = Sketch {
        sender: "@bob:far.test",
        kind: "m.room.topic",
        state_key: Some(""),
        content: json!({ "topic": "forged" }),
    };
    let forged = far.sign(sketch);
    let mut answer = far.answer_join("@alice:hs.test");
    answer.state.push(forged.clone());
    server.rooms.admit_join(answer).await.unwrap();
    assert!(server.state(&far.id, "m.room.topic", "").await.is_null());
    let stored = server.event(&far.id, &forged.pdu().id().to_owned()).await;
    assert_eq!(stored.header.standing, Standing::Rejected);
}

#[tokio::test]
async fn an_answer_that_does_not_hold_together_is_refused() {
    for version in VERSIONS {
        let server = Server::new().await;
        let other = FarRoom::new(version.clone());
        let alice = "@alice:hs.test";
        let mut far = FarRoom::new(version.clone());
        far.put("m.room.topic", "", json!({ "topic": "old" }));
        let old_topic = far.events.last().unwrap().clone();
        far.put("m.room.topic", "", json!({ "topic": "new" }));
        let good = far.answer_join(alice);
        let is_create = |event: &CheckedPdu| event.pdu().kind().to_string() == "m.room.create";

        let mut no_create = good.clone();
        no_create.state.retain(|event| !is_create(event));
        let mut nowhere = no_create.clone();
        nowhere.auth_chain.retain(|event| !is_create(event));
        let mut twice = good.clone();
        twice.state.push(old_topic);
        let mut another = good.clone();
        another.state.retain(|event| !is_create(event));
        another.auth_chain.retain(|event| !is_create(event));
        another.state.extend(other.events.first().cloned());
        let mut version_differs = good.clone();
        version_differs.room_version = RoomVersionId::V9;
        let mut no_auth = good.clone();
        no_auth.auth_chain.retain(|event| event.pdu().kind().to_string() != "m.room.join_rules");
        no_auth.state.retain(|event| event.pdu().kind().to_string() != "m.room.join_rules");
        let mut message = good.clone();
        message.state.push(far.say(FAR_ADMIN, "not state"));

        for bad in [no_create, nowhere, twice, another, version_differs, no_auth, message] {
            let refused = server.rooms.admit_join(bad).await;
            assert!(matches!(refused, Err(RoomError::InvalidRoomState(_))), "{refused:?}");
            assert!(server.rooms.head(&far.id).await.unwrap().is_none());
        }
        server.rooms.admit_join(good).await.unwrap();
        assert_eq!(server.state(&far.id, "m.room.topic", "").await["topic"], "new");
    }
}

#[tokio::test]
async fn a_join_that_the_state_forbids_is_refused() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    let alice = "@alice:hs.test";
    let join = far.draft_member(alice, alice, "join");
    far.member(FAR_ADMIN, alice, "ban");
    let answer = far.answer(join, far.state_now(), far.all_state());
    let refused = server.rooms.admit_join(answer).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
    assert!(server.rooms.head(&far.id).await.unwrap().is_none());
}

#[tokio::test]
async fn who_comes_back_finds_the_room_as_it_is_now() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V10);
    let alice = user("alice");
    far.join("@bob:far.test");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    server.say(&far.id, &alice, "here").await.unwrap();
    server.rooms.leave(&far.id, &alice, None).await.unwrap();
    let before = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_eq!(before.joined_local_members, 0);

    far.member(alice.as_str(), alice.as_str(), "leave");
    far.put("m.room.name", "", json!({ "name": "renamed" }));
    far.member("@bob:far.test", "@bob:far.test", "leave");
    far.join("@carol:third.test");
    let answer = far.answer_join(alice.as_str());
    let joined = server.rooms.admit_join(answer).await.unwrap();

    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    let event = server.event(&far.id, &joined).await;
    assert_eq!(head.extremities, [event.ordinal], "what was before the absence is left behind");
    assert_eq!((head.joined_members, head.joined_local_members), (3, 1));
    assert_eq!(server.state(&far.id, "m.room.name", "").await["name"], "renamed");
    let bob = UserId::parse("@bob:far.test").unwrap();
    let bob = server.rooms.member_row(&far.id, &bob).await.unwrap().unwrap();
    assert_eq!(bob.membership, Membership::Leave);
    ordinals_are_topological(&server, &far).await;
    server.say(&far.id, &alice, "back").await.unwrap();
    assert_eq!(backwards(&server, &far.id, &alice).await.events.len(), 5);
}

/// An invitation into a room that is not here.
fn invitation(far: &mut FarRoom, user_id: &UserId) -> OutOfBand {
    let event = far.draft_member(FAR_ADMIN, user_id.as_str(), "invite");
    let name = far.state[&("m.room.name".to_owned(), String::new())].pdu().json().clone();
    let name = String::from_utf8(name.to_vec()).unwrap();
    OutOfBand {
        room_id: far.id.clone(),
        room_version: far.version.clone(),
        user_id: user_id.to_owned(),
        event,
        stripped_state: vec![RawValue::from_string(name).unwrap(), raw(&json!({ "no": "event" }))],
    }
}

#[tokio::test]
async fn an_invitation_into_an_unknown_room_is_kept_until_it_ends() {
    for version in VERSIONS {
        let server = Server::new().await;
        let alice = user("alice");
        let mut far = FarRoom::new(version.clone());
        let invite = invitation(&mut far, &alice);
        let invite_id = invite.event.pdu().id().to_owned();
        server.rooms.admit_out_of_band(invite).await.unwrap();

        let rooms = server.rooms.user_rooms(&alice).await.unwrap();
        assert_eq!(rooms.len(), 1);
        let row = &rooms[0].1;
        assert_eq!(row.details.membership, Membership::Invite);
        assert_eq!(row.details.sender, FAR_ADMIN);
        let kept = server.rooms.out_of_band(&far.id, &alice).await.unwrap().unwrap();
        assert_eq!((kept.event.pdu().id(), &kept.room_version), (&*invite_id, &version));
        let stripped = server.rooms.stripped_state_for(&far.id, &alice, row).await.unwrap();
        let stripped: Vec<Value> =
            stripped.iter().map(|raw| serde_json::from_str(raw.get()).unwrap()).collect();
        assert_eq!(
            stripped,
            [
                json!({ "type": "m.room.name", "state_key": "", "sender": FAR_ADMIN,
                    "content": { "name": "far away" } }),
                json!({ "type": "m.room.member", "state_key": alice, "sender": FAR_ADMIN,
                    "content": { "membership": "invite" } }),
            ]
        );
        let refused = server.rooms.access(&far.id, &alice).await;
        assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
        let early = server.rooms.forget(&far.id, &alice).await;
        assert!(matches!(early, Err(RoomError::InvalidParam(_))), "{early:?}");

        server.rooms.leave(&far.id, &alice, None).await.unwrap();
        let row = server.rooms.user_room(&alice, &far.id).await.unwrap().unwrap();
        assert_eq!(row.details.membership, Membership::Leave);
        let again = server.rooms.leave(&far.id, &alice, None).await;
        again.unwrap();
        server.rooms.forget(&far.id, &alice).await.unwrap();
        let row = server.rooms.user_room(&alice, &far.id).await.unwrap().unwrap();
        assert!(row.details.forgotten);
        // The leave stays for the user's other devices.
        let kept = server.rooms.out_of_band(&far.id, &alice).await.unwrap().unwrap();
        assert_eq!(Membership::of(kept.event.pdu()), Some(Membership::Leave));
        assert!(kept.stripped_state.is_empty());
    }
}

#[tokio::test]
async fn the_end_of_an_invitation_that_nobody_knows_is_passed_over() {
    let server = Server::new().await;
    let alice = user("alice");
    let mut far = FarRoom::new(RoomVersionId::V11);
    let mut kick = invitation(&mut far, &alice);
    kick.event = far.draft_member(FAR_ADMIN, alice.as_str(), "leave");
    server.rooms.admit_out_of_band(kick.clone()).await.unwrap();
    assert!(server.rooms.user_rooms(&alice).await.unwrap().is_empty());

    let invite = invitation(&mut far, &alice);
    server.rooms.admit_out_of_band(invite.clone()).await.unwrap();
    far.add(invite.event.clone());
    kick.event = far.draft_member(FAR_ADMIN, alice.as_str(), "leave");
    server.rooms.admit_out_of_band(kick).await.unwrap();
    let row = server.rooms.user_room(&alice, &far.id).await.unwrap().unwrap();
    assert_eq!(row.details.membership, Membership::Leave);
    let mut of_bob = invite.clone();
    of_bob.user_id = user("bob");
    let refused = server.rooms.admit_out_of_band(of_bob).await;
    assert!(matches!(refused, Err(RoomError::InvalidParam(_))), "{refused:?}");
}

#[tokio::test]
async fn what_ended_an_earlier_invitation_does_not_end_a_new_one() {
    let server = Server::new().await;
    let alice = user("alice");
    let mut far = FarRoom::new(RoomVersionId::V11);
    let shape = invitation(&mut far, &alice);
    let admit = async |event| {
        server.rooms.admit_out_of_band(OutOfBand { event, ..shape.clone() }).await.unwrap();
        let row = server.rooms.user_room(&alice, &shape.room_id).await.unwrap().unwrap();
        row.details.membership
    };
    let first = far.draft_member(FAR_ADMIN, alice.as_str(), "invite");
    assert_eq!(admit(first.clone()).await, Membership::Invite);
    far.add(first);
    let kick = far.draft_member(FAR_ADMIN, alice.as_str(), "leave");
    far.add(kick.clone());
    let second = far.draft_member(FAR_ADMIN, alice.as_str(), "invite");
    far.add(second.clone());
    // The invitations come at once, by requests of their own; what came between them is late.
    assert_eq!(admit(second).await, Membership::Invite);
    assert_eq!(admit(kick.clone()).await, Membership::Invite);
    let last = far.draft_member(FAR_ADMIN, alice.as_str(), "leave");
    assert_eq!(admit(last).await, Membership::Leave);
    assert_eq!(admit(kick).await, Membership::Leave);
}

#[tokio::test]
async fn what_is_forgotten_stays_so_when_somebody_else_joins() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let mut far = FarRoom::new(RoomVersionId::V11);
    let invite = invitation(&mut far, &bob);
    far.add(invite.event.clone());
    server.rooms.admit_out_of_band(invite.clone()).await.unwrap();
    let event = far.draft_member(FAR_ADMIN, bob.as_str(), "leave");
    far.add(event.clone());
    server.rooms.admit_out_of_band(OutOfBand { event, ..invite }).await.unwrap();
    server.rooms.forget(&far.id, &bob).await.unwrap();
    let before = server.rooms.user_room(&bob, &far.id).await.unwrap();
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    assert_eq!(server.rooms.user_room(&bob, &far.id).await.unwrap(), before);
    let kept = server.rooms.out_of_band(&far.id, &bob).await.unwrap().unwrap();
    assert_eq!(Membership::of(kept.event.pdu()), Some(Membership::Leave));
}

#[tokio::test]
async fn an_invitation_ends_with_the_join() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let mut far = FarRoom::new(RoomVersionId::V12);
    for user_id in [&alice, &bob] {
        let invite = invitation(&mut far, user_id);
        far.add(invite.event.clone());
        server.rooms.admit_out_of_band(invite).await.unwrap();
    }
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    for user_id in [&alice, &bob] {
        assert!(server.rooms.out_of_band(&far.id, user_id).await.unwrap().is_none());
    }
    let row = server.rooms.user_room(&bob, &far.id).await.unwrap().unwrap();
    assert_eq!(row.details.membership, Membership::Invite);
    assert!(!row.details.is_out_of_band());
    let stripped = server.rooms.stripped_state_for(&far.id, &bob, &row).await.unwrap();
    assert!(stripped.iter().any(|raw| raw.get().contains("far away")));
    server.join(&far.id, &bob).await.unwrap();
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_eq!((head.joined_local_members, head.invited_members), (2, 0));
}

#[tokio::test]
async fn an_invitation_into_a_room_that_is_here_is_judged_and_not_kept() {
    const EVE: &str = "@eve:far.test";
    for version in VERSIONS {
        let server = Server::new().await;
        let (alice, bob) = (user("alice"), user("bob"));
        let mut far = FarRoom::new(version);
        far.join(EVE);
        server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
        let mut shape = invitation(&mut far, &bob);
        let mut admit = async |event: &CheckedPdu| {
            shape.event = event.clone();
            let answer = server.rooms.admit_out_of_band(shape.clone()).await;
            let kept = server.rooms.event_by_id(&shape.room_id, event.pdu().id()).await.unwrap();
            assert!(kept.is_none(), "it is not kept");
            assert!(server.rooms.user_room(&bob, &shape.room_id).await.unwrap().is_none());
            answer
        };
        let allowed = far.draft_member(EVE, bob.as_str(), "invite");
        admit(&allowed).await.unwrap();
        admit(&allowed).await.unwrap();

        let mut users = json!({ FAR_ADMIN: 100 });
        if far.version == RoomVersionId::V12 {
            users = json!({});
        }
        let levels = json!({ "users": users, "invite": 50 });
        let levels = far.put("m.room.power_levels", "", levels);
        // What it follows is not here: it comes with that.
        let follows = far.draft_member(EVE, bob.as_str(), "invite");
        admit(&follows).await.unwrap();
        let verdicts = server.rooms.receive(&far.id, vec![levels]).await.unwrap();
        assert_eq!(verdicts, [Verdict::Accepted]);
        for (event, why) in [(&follows, "by its own history"), (&allowed, "by what is now")] {
            let refused = admit(event).await;
            assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{why}: {refused:?}");
        }
        // Nor is one that came before and was not taken.
        for event in [follows, allowed] {
            server.rooms.receive(&far.id, vec![event.clone()]).await.unwrap();
            shape.event = event;
            let refused = server.rooms.admit_out_of_band(shape.clone()).await;
            assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
        }
    }
}
