use hearth_rooms::{
    CreateRoomOptions, MemberProfile, Preset, RoomError,
    schema::{MemberRow, Membership},
};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::fixture::{Server, profile, user};

async fn membership(server: &Server, room: &ruma::RoomId, name: &str) -> Option<Membership> {
    let row: Option<MemberRow> = server.rooms.member_row(room, &user(name)).await.unwrap();
    let state = server.state(room, "m.room.member", user(name).as_str()).await;
    let row = row.map(|row| row.membership);
    let named = row.map(|membership| format!("{membership:?}").to_lowercase());
    assert_eq!(state["membership"].as_str(), named.as_deref(), "row and state agree");
    row
}

fn is_forbidden<T>(result: &Result<T, RoomError>) -> bool {
    matches!(result, Err(RoomError::Forbidden(_) | RoomError::NotJoined))
}

#[tokio::test]
async fn memberships_go_where_the_rules_let_them() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.room(&alice).await;
    let rooms = &server.rooms;

    assert!(is_forbidden(&server.join(&room, &bob).await), "not invited");
    assert!(is_forbidden(&rooms.leave(&room, &bob, None).await), "was never there");
    assert_eq!(membership(&server, &room, "bob").await, None);

    server.invite(&room, &alice, &bob).await.unwrap();
    assert_eq!(membership(&server, &room, "bob").await, Some(Membership::Invite));
    let row = rooms.user_room(&bob, &room).await.unwrap().unwrap();
    assert_eq!(row.details.sender, alice);

    rooms.leave(&room, &bob, Some("no")).await.unwrap();
    assert_eq!(membership(&server, &room, "bob").await, Some(Membership::Leave));
    assert!(is_forbidden(&server.join(&room, &bob).await), "rejected the invitation");

    server.invite(&room, &alice, &bob).await.unwrap();
    let joined = server.join(&room, &bob).await.unwrap();
    assert_eq!(server.join(&room, &bob).await.unwrap(), joined, "joining twice is joining once");
    assert!(is_forbidden(&server.invite(&room, &alice, &bob).await), "is joined");

    assert!(is_forbidden(&rooms.kick(&room, &bob, &alice, None).await), "no power");
    rooms.kick(&room, &alice, &bob, Some("out")).await.unwrap();
    assert_eq!(server.state(&room, "m.room.member", bob.as_str()).await["reason"], "out");
    assert!(is_forbidden(&rooms.kick(&room, &alice, &bob, None).await), "has left");
    let row = rooms.user_room(&bob, &room).await.unwrap().unwrap();
    assert!(row.details.was_joined && row.joined_at < row.position);

    assert!(matches!(rooms.unban(&room, &alice, &bob, None).await, Err(RoomError::BadState(_))));
    rooms.ban(&room, &alice, &bob, None).await.unwrap();
    assert!(is_forbidden(&server.invite(&room, &alice, &bob).await), "is banned");
    assert!(is_forbidden(&server.join(&room, &bob).await), "is banned");
    rooms.unban(&room, &alice, &bob, None).await.unwrap();
    assert_eq!(membership(&server, &room, "bob").await, Some(Membership::Leave));

    let head = rooms.head(&room).await.unwrap().unwrap();
    assert_eq!((head.joined_members, head.invited_members), (1, 0));
}

#[tokio::test]
async fn who_left_may_forget_until_they_come_back() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    assert!(matches!(server.rooms.forget(&room, &bob).await, Err(RoomError::UnknownRoom)));
    server.join(&room, &bob).await.unwrap();
    assert!(matches!(server.rooms.forget(&room, &bob).await, Err(RoomError::InvalidParam(_))));
    server.rooms.leave(&room, &bob, None).await.unwrap();
    server.rooms.forget(&room, &bob).await.unwrap();
    let row = server.rooms.user_room(&bob, &room).await.unwrap().unwrap();
    assert!(row.details.forgotten);
    assert!(row.position.pending_index().is_none());
    server.join(&room, &bob).await.unwrap();
    let row = server.rooms.user_room(&bob, &room).await.unwrap().unwrap();
    assert!(!row.details.forgotten);
}

#[tokio::test]
async fn knocking_asks_to_be_invited() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    for version in [RoomVersionId::V7, RoomVersionId::V12] {
        let room = server.public_room(&alice, version).await;
        let shown = MemberProfile::default();
        let knock = || server.rooms.knock(&room, &bob, &shown, Some("please"));
        assert!(is_forbidden(&knock().await), "the room is public");
        let rule = json!({ "join_rule": "knock" });
        server.put(&room, &alice, ("m.room.join_rules", ""), rule).await.unwrap();
        knock().await.unwrap();
        assert_eq!(membership(&server, &room, "bob").await, Some(Membership::Knock));
        assert!(is_forbidden(&server.join(&room, &bob).await), "not let in yet");
        server.rooms.leave(&room, &bob, None).await.unwrap();
        knock().await.unwrap();
        server.invite(&room, &alice, &bob).await.unwrap();
        server.join(&room, &bob).await.unwrap();
    }
}

/// A room that members of another may join.
async fn restricted_room(
    server: &Server,
    version: RoomVersionId,
    rule: &str,
    allowed: &ruma::RoomId,
) -> ruma::OwnedRoomId {
    let alice = user("alice");
    let options = CreateRoomOptions {
        preset: Some(Preset::PublicChat),
        room_version: Some(version),
        ..CreateRoomOptions::default()
    };
    let room = server.rooms.create_room(&alice, options).await.unwrap();
    let content = json!({
        "join_rule": rule,
        "allow": [{ "type": "m.room_membership", "room_id": allowed }],
    });
    server.put(&room, &alice, ("m.room.join_rules", ""), content).await.unwrap();
    room
}

#[tokio::test]
async fn members_of_the_named_room_may_join_a_restricted_one() {
    let server = Server::new().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let club = server.public_room(&alice, RoomVersionId::V12).await;
    let versions = [
        (RoomVersionId::V8, "restricted"),
        (RoomVersionId::V10, "knock_restricted"),
        (RoomVersionId::V12, "restricted"),
    ];
    for (version, rule) in versions {
        let room = restricted_room(&server, version, rule, &club).await;
        assert!(is_forbidden(&server.join(&room, &carol).await), "meets no condition");
        server.join(&club, &bob).await.unwrap();
        server.join(&room, &bob).await.unwrap();
        let member = server.state(&room, "m.room.member", bob.as_str()).await;
        assert_eq!(member["join_authorised_via_users_server"], alice.as_str());
        // A new profile needs nobody to vouch for it.
        let shown = MemberProfile { displayname: Some("Bobby".to_owned()), avatar_url: None };
        assert_eq!(server.rooms.update_member_profile(&bob, &shown).await.unwrap(), 2);
        let member = server.state(&room, "m.room.member", bob.as_str()).await;
        assert_eq!(member["displayname"], "Bobby");
        assert_eq!(member["join_authorised_via_users_server"], Value::Null);
        server.rooms.leave(&club, &bob, None).await.unwrap();
        server.rooms.leave(&room, &bob, None).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_may_let_in_when_none_has_the_power_to_invite() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let club = server.public_room(&alice, RoomVersionId::V12).await;
    server.join(&club, &bob).await.unwrap();
    let room = restricted_room(&server, RoomVersionId::V11, "restricted", &club).await;
    server.rooms.leave(&room, &alice, None).await.unwrap();
    let joined = server.join(&room, &bob).await;
    assert!(matches!(joined, Err(RoomError::UnableToGrantJoin(_))), "{joined:?}");
}

#[tokio::test]
async fn membership_events_sent_as_state_follow_the_same_rules() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = server.public_room(&alice, RoomVersionId::V12).await;
    let put = |sender: &ruma::UserId, target: &ruma::UserId, content: Value| {
        let (sender, target) = (sender.to_owned(), target.to_owned());
        let (server, room) = (&server, &room);
        async move { server.put(room, &sender, ("m.room.member", target.as_str()), content).await }
    };
    let join = json!({ "membership": "join", "displayname": "B", "join_authorised_via_users_server": alice });
    put(&bob, &bob, join).await.unwrap();
    let member = server.state(&room, "m.room.member", bob.as_str()).await;
    assert_eq!(member, json!({ "membership": "join", "displayname": "B" }));
    assert!(is_forbidden(&put(&alice, &user("carol"), json!({ "membership": "join" })).await));
    let remote = ruma::UserId::parse("@far:away.test").unwrap();
    let invite = put(&alice, &remote, json!({ "membership": "invite" })).await;
    assert!(matches!(invite, Err(RoomError::RemoteUser(_))));
    for bad in
        [json!({}), json!({ "membership": "lurk" }), json!({ "membership": "ban", "reason": 5 })]
    {
        assert!(matches!(put(&alice, &bob, bad).await, Err(RoomError::BadJson(_))));
    }
    put(&alice, &bob, json!({ "membership": "ban" })).await.unwrap();
    put(&alice, &bob, json!({ "membership": "leave" })).await.unwrap();
    assert_eq!(membership(&server, &room, "bob").await, Some(Membership::Leave));
    let nobody =
        server.put(&room, &alice, ("m.room.member", "bob"), json!({ "membership": "ban" }));
    assert!(matches!(nobody.await, Err(RoomError::InvalidParam(_))));
}

#[tokio::test]
async fn a_profile_is_shown_in_every_joined_room() {
    let server = Server::new().await;
    let alice = user("alice");
    let mut rooms = Vec::new();
    for _ in 0..20 {
        rooms.push(server.room(&alice).await);
    }
    server.rooms.leave(&rooms[0], &alice, None).await.unwrap();
    let shown = MemberProfile {
        displayname: Some("Alice".to_owned()),
        avatar_url: Some("mxc://hs.test/a".to_owned()),
    };
    assert_eq!(server.rooms.update_member_profile(&alice, &shown).await.unwrap(), 19);
    for room in &rooms[1..] {
        let member = server.state(room, "m.room.member", alice.as_str()).await;
        assert_eq!(member["avatar_url"], "mxc://hs.test/a");
    }
    assert_eq!(profile(&alice).avatar_url, None);
}
