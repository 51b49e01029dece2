//! Rooms that are joined with part of their state, which is completed behind the join.

use std::{collections::BTreeSet, sync::Arc};

use hearth_rooms::{
    CheckedPdu, RemoteJoin, RoomError, Verdict,
    read::{MembersRequest, StatePart, TimelineToken},
    schema::{self, EventRow, Membership, Standing, StoredEvent},
    state::StateRoot,
};
use hearth_storage::{Commit, Direction};
use ruma::{OwnedEventId, RoomVersionId, UserId, server_name};
use serde_json::json;

use crate::{
    elsewhere::{FAR_ADMIN, FarRoom, Sketch},
    fixture::{Server, user},
};

const BOB: &str = "@bob:far.test";
const EVE: &str = "@eve:other.test";

/// A room with members, and the answer to a join that leaves most of them out; what was left out.
fn partial(far: &mut FarRoom, user_id: &str) -> (RemoteJoin, Vec<CheckedPdu>, Vec<CheckedPdu>) {
    let (state, auth_chain) = (far.state_now(), far.all_state());
    let event = far.join(user_id);
    let named: BTreeSet<_> = event.pdu().auth_events().iter().cloned().collect();
    let is_kept = |event: &&CheckedPdu| {
        event.pdu().kind().to_string() != "m.room.member" || named.contains(event.pdu().id())
    };
    let few = state.iter().filter(is_kept).cloned().collect();
    let needed = auth_chain.iter().filter(is_kept);
    // The administrator allowed what there is.
    let admin = auth_chain.iter().filter(|event| event.pdu().state_key() == Some(FAR_ADMIN));
    let needed = needed.chain(admin).cloned().collect();
    let mut answer = far.answer(event, few, needed);
    answer.members_omitted = true;
    answer.servers_in_room = vec!["far.test".try_into().unwrap(), "other.test".try_into().unwrap()];
    (answer, state, auth_chain)
}

#[tokio::test]
async fn all_servers_that_the_answer_names_count_until_the_state_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path()).await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (mut answer, state, auth_chain) = partial(&mut far, alice.as_str());
    let named = (0..1_500).map(|n| format!("named{n:0>4}.test").try_into().unwrap());
    answer.servers_in_room.extend(named);
    server.rooms.admit_join(answer).await.unwrap();
    let of_many = server_name!("named1499.test");
    let servers = server.rooms.remote_servers(&far.id).await.unwrap();
    assert!(servers.contains(of_many), "{} servers", servers.len());
    assert!(server.rooms.has_joined_server(&far.id, of_many).await.unwrap());

    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert!(!server.rooms.has_joined_server(&far.id, of_many).await.unwrap());
    let servers = server.rooms.remote_servers(&far.id).await.unwrap();
    assert_eq!(servers.len(), 5, "{servers:?}");
    let rows = server.rooms.store().bulk({
        let room_id = far.id.clone();
        move |view| view.page(&schema::PARTIAL_SERVERS, &room_id, .., Direction::Forward, 10)
    });
    assert!(rows.await.unwrap().is_empty());
}

fn far_room(version: RoomVersionId) -> FarRoom {
    let mut far = FarRoom::new(version);
    far.join(BOB);
    far.join(EVE);
    far.member(FAR_ADMIN, EVE, "ban");
    for n in 0..150 {
        far.join(&format!("@user{n}:s{}.test", n % 4));
    }
    far
}

async fn current(server: &Server, far: &FarRoom) -> BTreeSet<OwnedEventId> {
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    ids_of(server, far, head.state).await
}

async fn ids_of(server: &Server, far: &FarRoom, root: StateRoot) -> BTreeSet<OwnedEventId> {
    let events = server.rooms.state_events(&far.id, root, StatePart::All).await.unwrap();
    events.iter().map(|event| event.header.event_id.clone()).collect()
}

/// The state as the other server has it.
fn theirs(far: &FarRoom) -> BTreeSet<OwnedEventId> {
    far.state.values().map(|event| event.pdu().id().to_owned()).collect()
}

async fn receive(server: &Server, far: &FarRoom, event: &CheckedPdu) -> Verdict {
    server.rooms.receive(&far.id, vec![event.clone()]).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_room_is_used_first_and_completed_behind_that() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::in_folder(folder.path()).await;
        let mut far = far_room(version);
        let alice = user("alice");
        let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
        let join = server.rooms.admit_join(answer).await.unwrap();
        assert!(server.rooms.is_partial(&far.id).await.unwrap());
        let listed = server.rooms.partial_rooms().await.unwrap();
        assert_eq!((&listed[0].room_id, &listed[0].join), (&far.id, &join));
        let servers = server.rooms.remote_servers(&far.id).await.unwrap();
        assert!(servers.iter().any(|name| name == "other.test"), "{servers:?}");

        // It can be spoken in, by users of both sides, and changed.
        let hello = server.say(&far.id, &alice, "hello").await.unwrap();
        let hello = server.event(&far.id, &hello).await;
        far.add(CheckedPdu::new(hello.pdu.clone()));
        let from_bob = far.say(BOB, "hello alice");
        assert_eq!(
            receive(&server, &far, &from_bob).await,
            Verdict::MissingAuth(vec![
                far.state[&("m.room.member".to_owned(), BOB.to_owned())].pdu().id().to_owned()
            ],)
        );
        let bobs_join = far.state[&("m.room.member".to_owned(), BOB.to_owned())].clone();
        server.rooms.receive_outliers(&far.id, vec![bobs_join]).await.unwrap();
        assert_eq!(receive(&server, &far, &from_bob).await, Verdict::Accepted);
        let left = far.member(BOB, BOB, "leave");
        assert_eq!(receive(&server, &far, &left).await, Verdict::Accepted);
        let topic = far.put("m.room.topic", "", json!({ "topic": "new" }));
        assert_eq!(receive(&server, &far, &topic).await, Verdict::Accepted);

        server = server.reopened(folder.path()).await;
        assert_eq!(server.rooms.partial_rooms().await.unwrap(), listed);
        let before = server.rooms.head(&far.id).await.unwrap().unwrap();
        server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
        assert!(!server.rooms.is_partial(&far.id).await.unwrap());
        assert!(server.rooms.partial_rooms().await.unwrap().is_empty());
        assert_whole(&server, &far).await;
        let head = server.rooms.head(&far.id).await.unwrap().unwrap();
        assert_eq!(head.extremities, before.extremities);

        // The states of what came meanwhile are those of the whole room, also in the cache.
        let join = server.event(&far.id, &join).await;
        let from_bob = server.event(&far.id, &from_bob.pdu().id().to_owned()).await;
        assert_eq!(from_bob.header.state_before, join.header.state_after);
        assert_eq!(ids_of(&server, &far, join.header.state_before).await.len(), 5 + 3 + 150);
        let told =
            server.rooms.store().page(&schema::PARTIAL_EVENTS, &far.id, .., Direction::Forward, 9);
        assert!(told.await.unwrap().is_empty());

        // And it goes on from there, also after a restart.
        server = server.reopened(folder.path()).await;
        let eve = far.sign(Sketch {
            sender: EVE,
            kind: "m.room.message",
            state_key: None,
            content: json!({ "body": "banned" }),
        });
        assert!(matches!(receive(&server, &far, &eve).await, Verdict::Rejected(_)));
        let after = far.join("@late:s9.test");
        assert_eq!(receive(&server, &far, &after).await, Verdict::Accepted);
        assert_whole(&server, &far).await;
    }
}

/// State, rows of members, counts and servers are those of the other server's room.
async fn assert_whole(server: &Server, far: &FarRoom) {
    assert_eq!(current(server, far).await, theirs(far));
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    let mut joined = 0;
    for ((kind, key), event) in &far.state {
        if kind != "m.room.member" {
            continue;
        }
        let user_id = UserId::parse(key).unwrap();
        let row = server.rooms.member_row(&far.id, &user_id).await.unwrap().unwrap();
        let said = server.rooms.event(&far.id, row.event).await.unwrap();
        assert_eq!(said.pdu.id(), event.pdu().id());
        joined += u64::from(row.membership == Membership::Join);
    }
    assert_eq!((head.joined_members, head.joined_local_members), (joined, 1));
    let rows =
        server.rooms.store().page(&schema::ROOM_SERVERS, &far.id, .., Direction::Forward, 99);
    let total: u64 = rows.await.unwrap().iter().map(|(_, row)| row.joined).sum();
    assert_eq!(total + 1, joined);
    let servers = server.rooms.remote_servers(&far.id).await.unwrap();
    assert!(!servers.iter().any(|name| name == "other.test"), "{servers:?}");
    let listed = server.rooms.members(&far.id, &user("alice"), &MembersRequest::default()).await;
    assert_eq!(listed.unwrap().len(), head_count(far));
}

fn head_count(far: &FarRoom) -> usize {
    far.state.keys().filter(|(kind, _)| kind == "m.room.member").count()
}

#[tokio::test]
async fn who_was_let_in_only_because_the_state_was_partial_is_put_out_again() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    // Eve's server cites the join of before the ban.
    let joined = auth_chain.iter().find(|e| e.pdu().sender() == EVE).unwrap().clone();
    server.rooms.receive_outliers(&far.id, vec![joined.clone()]).await.unwrap();
    let auth: Vec<_> = [("m.room.create", ""), ("m.room.power_levels", "")]
        .iter()
        .map(|(kind, key)| {
            far.state[&((*kind).to_owned(), (*key).to_owned())].pdu().id().to_owned()
        })
        .chain([joined.pdu().id().to_owned()])
        .collect();
    let content = json!({ "displayname": "Eve", "membership": "join" });
    let sketch = Sketch { sender: EVE, kind: "m.room.member", state_key: Some(EVE), content };
    let rules = far.state[&("m.room.join_rules".to_owned(), String::new())].pdu().id().to_owned();
    let mut member_auth = auth.clone();
    member_auth.push(rules);
    let sneaked = far.sign_with(sketch, &member_auth);
    assert_eq!(receive(&server, &far, &sneaked).await, Verdict::Accepted);
    let tip = far.tips.clone();
    far.tips = vec![sneaked.pdu().id().to_owned()];
    let sketch = Sketch {
        sender: EVE,
        kind: "m.room.message",
        state_key: None,
        content: json!({ "body": "sneaked in" }),
    };
    let said = far.sign_with(sketch, &auth);
    assert_eq!(receive(&server, &far, &said).await, Verdict::Accepted);
    far.tips = tip;
    let before = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_eq!(before.extremities.len(), 1);

    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    for event in [&sneaked, &said] {
        let stored = server.event(&far.id, &event.pdu().id().to_owned()).await;
        assert_eq!((stored.header.standing, stored.index), (Standing::Rejected, None));
    }
    let row = server.rooms.member_row(&far.id, &UserId::parse(EVE).unwrap()).await.unwrap();
    assert_eq!(row.unwrap().membership, Membership::Ban);
    assert_whole(&server, &far).await;
    server.say(&far.id, &alice, "who was that?").await.unwrap();
}

#[tokio::test]
async fn what_clients_were_told_before_is_still_known() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let position = server.rooms.store().notifier().published();
    let told = server.rooms.head(&far.id).await.unwrap().unwrap().state;
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    let at = |position| TimelineToken::at_position(position);
    assert_eq!(server.rooms.state_at(&far.id, at(position)).await.unwrap(), told);
    let now = server.rooms.store().notifier().published();
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_ne!(head.state, told);
    assert_eq!(server.rooms.state_at(&far.id, at(now)).await.unwrap(), head.state);
}

#[tokio::test]
async fn a_state_that_does_not_hold_together_completes_nothing() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let old = far.put("m.room.topic", "", json!({ "topic": "old" }));
    far.put("m.room.topic", "", json!({ "topic": "new" }));
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let mut twice = state.clone();
    twice.push(old);
    let mut headless = state.clone();
    headless.retain(|event| event.pdu().kind().to_string() != "m.room.create");
    // A state in which Alice is banned does not allow her join.
    let tips = std::mem::replace(&mut far.tips, vec![state[0].pdu().id().to_owned()]);
    let ban = far.draft_member(FAR_ADMIN, alice.as_str(), "ban");
    far.tips = tips;
    let mut banned = state.clone();
    banned.push(ban);
    let mut alien = state.clone();
    alien.push(FarRoom::new(RoomVersionId::V11).say(FAR_ADMIN, "elsewhere"));
    for bad in [twice, headless, banned, alien] {
        let refused = server.rooms.complete_state(&far.id, bad, auth_chain.clone()).await;
        assert!(matches!(refused, Err(RoomError::InvalidRoomState(_))), "{refused:?}");
        assert!(server.rooms.is_partial(&far.id).await.unwrap());
    }
    server.rooms.complete_state(&far.id, state.clone(), auth_chain.clone()).await.unwrap();
    assert_whole(&server, &far).await;
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
}

#[tokio::test]
async fn members_are_listed_when_all_are_known() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let rooms = server.rooms.clone();
    let room_id = far.id.clone();
    let asked = tokio::spawn(async move {
        rooms.members(&room_id, &user("alice"), &MembersRequest::default()).await
    });
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().len(), head_count(&far));
}

#[tokio::test]
async fn a_whole_join_puts_an_end_to_a_partial_one() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, ..) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let leave = server.rooms.leave(&far.id, &alice, None).await.unwrap();
    let leave = server.event(&far.id, &leave).await;
    far.add(CheckedPdu::new(leave.pdu.clone()));
    assert!(server.rooms.partial_rooms().await.unwrap().is_empty());
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    assert!(!server.rooms.is_partial(&far.id).await.unwrap());
    assert_whole(&server, &far).await;
}

#[tokio::test]
async fn other_servers_are_told_the_state_when_it_is_whole() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    let join = server.rooms.admit_join(answer).await.unwrap();
    let late = far.join("@late:s9.test");
    assert_eq!(receive(&server, &far, &late).await, Verdict::Accepted);
    let (rooms, room_id) = (server.rooms.clone(), far.id.clone());
    let asked = tokio::spawn(async move {
        rooms.state_ids_for_server(server_name!("s9.test"), &room_id, &join).await
    });
    tokio::task::yield_now().await;
    let whole = state.len();
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    let told = asked.await.unwrap().unwrap();
    assert_eq!(told.state.len(), whole);
}

#[tokio::test]
async fn a_further_join_without_the_members_is_not_taken() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    server.rooms.admit_join(far.answer_join(user("alice").as_str())).await.unwrap();
    far.say(BOB, "not heard here");
    let (answer, ..) = partial(&mut far, user("carol").as_str());
    let join = answer.event.pdu().id().to_owned();
    let before = current(&server, &far).await;
    let refused = server.rooms.admit_join(answer.clone()).await;
    assert!(matches!(refused, Err(RoomError::InvalidRoomState(_))), "{refused:?}");
    assert!(server.rooms.event_by_id(&far.id, &join).await.unwrap().is_none());
    assert_eq!(current(&server, &far).await, before);
    // With them it is, later on.
    let state = far.events.iter().filter(|event| before.contains(event.pdu().id()));
    let whole = RemoteJoin { state: state.cloned().collect(), members_omitted: false, ..answer };
    server.rooms.admit_join(whole).await.unwrap();
    assert_eq!(current(&server, &far).await, theirs(&far));
}

/// An invitation by Eve, who is banned, which a partial state does not say.
async fn invitation_by_eve(
    server: &Server,
    far: &mut FarRoom,
    auth_chain: &[CheckedPdu],
    user_id: &str,
) -> CheckedPdu {
    let joined = auth_chain.iter().find(|e| e.pdu().sender() == EVE).unwrap().clone();
    server.rooms.receive_outliers(&far.id, vec![joined.clone()]).await.unwrap();
    let at = |kind: &str| far.state[&(kind.to_owned(), String::new())].pdu().id().to_owned();
    let mut auth = vec![at("m.room.create"), at("m.room.power_levels"), at("m.room.join_rules")];
    auth.push(joined.pdu().id().to_owned());
    let sketch = Sketch {
        sender: EVE,
        kind: "m.room.member",
        state_key: Some(user_id),
        content: json!({ "membership": "invite" }),
    };
    far.sign_with(sketch, &auth)
}

#[tokio::test]
async fn a_local_user_whose_membership_falls_has_left_the_room() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let (alice, carol) = (user("alice"), user("carol"));
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let closed = far.put("m.room.join_rules", "", json!({ "join_rule": "invite" }));
    assert_eq!(receive(&server, &far, &closed).await, Verdict::Accepted);
    let invite = invitation_by_eve(&server, &mut far, &auth_chain, carol.as_str()).await;
    assert_eq!(receive(&server, &far, &invite).await, Verdict::Accepted);
    server.join(&far.id, &carol).await.unwrap();
    let row = server.rooms.user_room(&carol, &far.id).await.unwrap().unwrap();
    assert_eq!(row.details.membership, Membership::Join);

    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert!(server.rooms.member_row(&far.id, &carol).await.unwrap().is_none());
    let row = server.rooms.user_room(&carol, &far.id).await.unwrap().unwrap();
    assert_eq!(row.details.membership, Membership::Leave);
    let refused = server.say(&far.id, &carol, "still here").await;
    assert!(matches!(refused, Err(RoomError::NotJoined)), "{refused:?}");
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_eq!(head.joined_local_members, 1);
}

#[tokio::test]
async fn what_an_event_that_falls_had_allowed_falls_with_it() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let (alice, carol) = (user("alice"), user("carol"));
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let invite = invitation_by_eve(&server, &mut far, &auth_chain, carol.as_str()).await;
    assert_eq!(receive(&server, &far, &invite).await, Verdict::Accepted);
    // Anybody may join; this one does with an invitation among its auth events.
    let join = server.join(&far.id, &carol).await.unwrap();
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    for event_id in [invite.pdu().id().to_owned(), join] {
        let stored = server.event(&far.id, &event_id).await;
        assert_eq!(stored.header.standing, Standing::Rejected);
    }
    assert_whole(&server, &far).await;
}

#[tokio::test]
async fn the_policy_server_counts_while_its_users_are_not_known() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    far.join("@policy:other.test");
    let key = "6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s";
    let policy = json!({ "via": "other.test", "public_keys": { "ed25519": key } });
    far.put("m.room.policy", "", policy);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    // Nobody can ask it in this test, and without its signature nothing is sent.
    let refused = server.say(&far.id, &alice, "hello").await;
    assert!(matches!(refused, Err(RoomError::Remote(_))), "{refused:?}");
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    let refused = server.say(&far.id, &alice, "hello").await;
    assert!(matches!(refused, Err(RoomError::Remote(_))), "{refused:?}");
}

/// Does what a completion does to an event that falls, and that alone: its last commit was cut off.
async fn fell_before_the_crash(server: &Server, far: &FarRoom, event: &StoredEvent) {
    let mut commit = Commit::new(&far.id);
    let mut header = event.header.clone();
    header.standing = Standing::Rejected;
    let row = EventRow { index: None, header, json: event.pdu.json().clone() };
    commit.put(&schema::EVENTS, &far.id, &event.ordinal, &row);
    commit.delete(&schema::TIMELINE, &far.id, &event.index.unwrap());
    server.rooms.store().commit(commit).await.unwrap();
}

#[tokio::test]
async fn a_completion_that_was_cut_off_is_done_again() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    let join = server.rooms.admit_join(answer).await.unwrap();
    let joined = auth_chain.iter().find(|e| e.pdu().sender() == EVE).unwrap().clone();
    server.rooms.receive_outliers(&far.id, vec![joined.clone()]).await.unwrap();
    let at = |kind: &str| far.state[&(kind.to_owned(), String::new())].pdu().id().to_owned();
    let auth = [at("m.room.create"), at("m.room.power_levels"), joined.pdu().id().to_owned()];
    let content = json!({ "body": "sneaked in" });
    let sketch = Sketch { sender: EVE, kind: "m.room.message", state_key: None, content };
    let sneaked = far.sign_with(sketch, &auth);
    assert_eq!(receive(&server, &far, &sneaked).await, Verdict::Accepted);
    let sneaked: Arc<StoredEvent> = server.event(&far.id, &sneaked.pdu().id().to_owned()).await;
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_eq!(head.extremities, [sneaked.ordinal]);

    fell_before_the_crash(&server, &far, &sneaked).await;
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    let head = server.rooms.head(&far.id).await.unwrap().unwrap();
    assert_eq!(head.extremities, [server.event(&far.id, &join).await.ordinal]);
    assert_whole(&server, &far).await;
    server.say(&far.id, &alice, "who was that?").await.unwrap();
}

#[tokio::test]
async fn a_further_stay_that_was_cut_off_at_the_beginning_can_be_had_again() {
    let server = Server::new().await;
    let mut far = FarRoom::new(RoomVersionId::V11);
    let alice = user("alice");
    server.rooms.admit_join(far.answer_join(alice.as_str())).await.unwrap();
    let leave = server.rooms.leave(&far.id, &alice, None).await.unwrap();
    let leave = server.event(&far.id, &leave).await;
    far.add(CheckedPdu::new(leave.pdu.clone()));
    let bob = far.join(BOB);
    // Of the first attempt the event is here, and the number of its state key is not.
    server.rooms.receive_outliers(&far.id, vec![bob.clone()]).await.unwrap();
    let mut commit = Commit::new(&far.id);
    let key = ("m.room.member".to_owned(), BOB.to_owned());
    commit.delete(&schema::STATE_KEYS, &far.id, &key);
    server.rooms.store().commit(commit).await.unwrap();

    let (mut answer, state, auth_chain) = partial(&mut far, alice.as_str());
    answer.auth_chain.push(bob);
    server.rooms.admit_join(answer).await.unwrap();
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert_eq!(current(&server, &far).await, theirs(&far));
}

#[tokio::test]
async fn a_state_event_that_no_room_can_hold_does_not_keep_the_room_closed() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (kind, key) = ("\0".repeat(255), "\0".repeat(255));
    let content = json!({});
    let sketch = Sketch { sender: FAR_ADMIN, kind: &kind, state_key: Some(&key), content };
    let unfit = far.sign(sketch);
    let (mut answer, mut state, auth_chain) = partial(&mut far, alice.as_str());
    answer.state.push(unfit.clone());
    server.rooms.admit_join(answer).await.unwrap();
    state.push(unfit);
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert_whole(&server, &far).await;
}

#[tokio::test]
async fn a_member_who_was_left_out_is_found_when_all_are_known() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let (rooms, room_id) = (server.rooms.clone(), far.id.clone());
    let asked = tokio::spawn(async move {
        rooms.readable_state_event(&room_id, &user("alice"), "m.room.member", BOB).await
    });
    // What is known is not waited for.
    let name = server.rooms.readable_state_event(&far.id, &alice, "m.room.name", "").await;
    name.unwrap();
    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().pdu.sender(), BOB);
}

#[tokio::test]
async fn an_event_that_was_rejected_without_a_place_has_no_state_to_be_told() {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    server.rooms.admit_join(far.answer_join(user("alice").as_str())).await.unwrap();
    let content = json!({ "topic": "forged" });
    let sketch = Sketch { sender: BOB, kind: "m.room.topic", state_key: Some(""), content };
    let forged = far.sign(sketch);
    let verdicts = server.rooms.receive_outliers(&far.id, vec![forged.clone()]).await.unwrap();
    assert!(matches!(verdicts[0], Verdict::Rejected(_)), "{verdicts:?}");
    let asked = server_name!("far.test");
    let told = server.rooms.state_ids_for_server(asked, &far.id, forged.pdu().id()).await;
    assert!(matches!(told, Err(RoomError::UnknownEvent)), "{told:?}");
}

const ANN: &str = "@ann:other.test";

/// A message in a thread that mentions somebody.
fn reply(root: &OwnedEventId, body: &str, mentioned: &UserId) -> serde_json::Value {
    json!({
        "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": [mentioned] },
        "m.relates_to": { "rel_type": "m.thread", "event_id": root },
    })
}

/// What the events of a user who was banned meant to others: a thread, mentions, an annotation, and the
/// redaction of a message, which somebody who may redact it redacts as well or not.
async fn what_the_banned_did_is_taken_back(redacted_otherwise: bool) {
    let server = Server::new().await;
    let mut far = far_room(RoomVersionId::V11);
    far.join(ANN);
    let alice = user("alice");
    let (answer, state, auth_chain) = partial(&mut far, alice.as_str());
    server.rooms.admit_join(answer).await.unwrap();
    let eves = auth_chain.iter().find(|event| event.pdu().sender() == EVE).unwrap().clone();
    let anns = auth_chain.iter().find(|event| event.pdu().sender() == ANN).unwrap().clone();
    server.rooms.receive_outliers(&far.id, vec![eves.clone(), anns]).await.unwrap();
    let message =
        |sender, content| Sketch { sender, kind: "m.room.message", state_key: None, content };
    let root = far.say(FAR_ADMIN, "root");
    assert_eq!(receive(&server, &far, &root).await, Verdict::Accepted);
    let root_id = root.pdu().id().to_owned();
    for sender in [FAR_ADMIN, ANN] {
        let event = far.sign(message(sender, reply(&root_id, sender, &alice)));
        far.add(event.clone());
        assert_eq!(receive(&server, &far, &event).await, Verdict::Accepted);
    }
    let by_ann = far.tips[0].clone();

    let at = |kind: &str| far.state[&(kind.to_owned(), String::new())].pdu().id().to_owned();
    let auth = [at("m.room.create"), at("m.room.power_levels"), eves.pdu().id().to_owned()];
    let thanks = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": root_id, "key": "thanks" },
    });
    let sketches = [
        message(EVE, reply(&root_id, "by eve", &alice)),
        Sketch { sender: EVE, kind: "m.reaction", state_key: None, content: thanks },
        Sketch {
            sender: EVE,
            kind: "m.room.redaction",
            state_key: None,
            content: json!({ "redacts": by_ann }),
        },
    ];
    for sketch in sketches {
        let event = far.sign_with(sketch, &auth);
        assert_eq!(receive(&server, &far, &event).await, Verdict::Accepted);
    }
    let redacted = server.event(&far.id, &by_ann).await;
    assert!(!redacted.pdu.content().get().contains("body"));
    let mut by_admin = None;
    if redacted_otherwise {
        let sketch = Sketch {
            sender: FAR_ADMIN,
            kind: "m.room.redaction",
            state_key: None,
            content: json!({ "redacts": by_ann }),
        };
        let event = far.sign(sketch);
        far.add(event.clone());
        assert_eq!(receive(&server, &far, &event).await, Verdict::Accepted);
        by_admin = Some(server.event(&far.id, &event.pdu().id().to_owned()).await.ordinal);
    }

    server.rooms.complete_state(&far.id, state, auth_chain).await.unwrap();
    assert_eq!(current(&server, &far).await, theirs(&far));
    let by_ann = server.event(&far.id, &by_ann).await;
    assert_eq!(by_ann.header.redacted_by, by_admin);
    assert_eq!(by_ann.pdu.content().get().contains("body"), !redacted_otherwise);
    let store = server.rooms.store();
    let thread = store.get(&schema::THREADS, &far.id, &root_id).await.unwrap().unwrap();
    let replies: u32 = if redacted_otherwise { 1 } else { 2 };
    assert_eq!((thread.count, thread.notify_total), (u64::from(replies), 3));
    let latest = server.event(&far.id, &root_id).await.ordinal + replies;
    assert_eq!(thread.latest, latest);
    let forward = Direction::Forward;
    let roots = store.page(&schema::THREADS_BY_ACTIVITY, &far.id, .., forward, 9).await.unwrap();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].0, thread.latest_index);
    let children = store.page(&schema::RELATIONS, &far.id, .., forward, 9).await.unwrap();
    assert_eq!(children.len(), replies as usize, "{children:?}");
    assert!(store.page(&schema::ANNOTATIONS, &far.id, .., forward, 9).await.unwrap().is_empty());
    let mentions = store.page(&schema::MENTIONS, &alice, .., forward, 9).await.unwrap();
    assert_eq!(mentions.len(), replies as usize);
    let uncounted = store.page(&schema::UNCOUNTED, &far.id, .., forward, 9).await.unwrap();
    assert_eq!(uncounted.len(), 3 - replies as usize);
    assert!(uncounted.iter().any(|(_, row)| row.sender == EVE));
    let kept = store.page(&schema::PARTIAL_REDACTED, &far.id, .., forward, 9).await.unwrap();
    assert!(kept.is_empty());
}

#[tokio::test]
async fn an_event_that_falls_takes_back_what_it_meant_to_others() {
    for redacted_otherwise in [false, true] {
        what_the_banned_did_is_taken_back(redacted_otherwise).await;
    }
}
