//! Who may see what (CS "Room History Visibility").

use hearth_rooms::{
    CreateRoomOptions, MemberProfile, RoomError,
    read::{Access, MembersRequest},
    schema::Membership,
};
use ruma::{OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde_json::json;

use super::support::{TestRooms, ids, initial, public, user};

impl TestRooms {
    async fn with_visibility(&self, creator: &UserId, visibility: &str) -> OwnedRoomId {
        let content = json!({"history_visibility": visibility});
        let initial_state = vec![initial("m.room.history_visibility", content)];
        self.room(creator, CreateRoomOptions { initial_state, ..public() }).await
    }

    async fn sees(&self, room_id: &RoomId, reader: &UserId, event_id: &OwnedEventId) -> bool {
        match self.rooms.readable_event(room_id, reader, event_id).await {
            Ok(_) => true,
            Err(RoomError::UnknownEvent) => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn invite(&self, room_id: &RoomId, sender: &UserId, target: &UserId) {
        let profile = MemberProfile::default();
        self.rooms.invite(room_id, sender, target, &profile, None, false).await.unwrap();
    }
}

/// What a user sees of events from before their invitation, between it and their join, while they were
/// in, and after they left.
async fn story(visibility: &str) -> [bool; 4] {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.with_visibility(&alice, visibility).await;
    let before = test.message(&room, &alice, "before").await;
    test.invite(&room, &alice, &bob).await;
    let invited = test.message(&room, &alice, "invited").await;
    test.join(&room, &bob).await;
    let inside = test.message(&room, &alice, "inside").await;
    test.rooms.leave(&room, &bob, None).await.unwrap();
    let after = test.message(&room, &alice, "after").await;
    let mut seen = [false; 4];
    for (place, event) in [before, invited, inside, after].iter().enumerate() {
        seen[place] = test.sees(&room, &bob, event).await;
    }
    seen
}

#[tokio::test]
async fn each_visibility_shows_its_part_of_the_story() {
    assert_eq!(story("world_readable").await, [true, true, true, true]);
    assert_eq!(story("shared").await, [true, true, true, false]);
    assert_eq!(story("invited").await, [false, true, true, false]);
    assert_eq!(story("joined").await, [false, false, true, false]);
    assert_eq!(story("org.unknown").await, [true, true, true, false], "as if shared");
}

#[tokio::test]
async fn an_event_is_judged_by_what_held_when_it_was_sent() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.with_visibility(&alice, "joined").await;
    let hidden = test.message(&room, &alice, "hidden").await;
    let kind = "m.room.history_visibility";
    let content = json!({"history_visibility": "shared"});
    let opening = test.state(&room, &alice, kind, "", content).await;
    let shown = test.message(&room, &alice, "shown").await;
    let content = json!({"history_visibility": "joined"});
    let closing = test.state(&room, &alice, kind, "", content).await;
    let hidden_again = test.message(&room, &alice, "hidden again").await;
    let join = test.join(&room, &bob).await;
    for (event, visible) in [
        (&hidden, false),
        (&opening, true),
        (&shown, true),
        (&closing, true),
        (&hidden_again, false),
        (&join, true),
    ] {
        assert_eq!(test.sees(&room, &bob, event).await, visible, "{event}");
        assert!(test.sees(&room, &alice, event).await);
    }
}

#[tokio::test]
async fn strangers_read_only_what_the_world_may() {
    let test = TestRooms::open().await;
    let (alice, eve) = (user("alice"), user("eve"));
    let (closed, open) =
        (test.public_room(&alice).await, test.with_visibility(&alice, "world_readable").await);
    let event = test.message(&closed, &alice, "x").await;
    assert!(!test.sees(&closed, &eve, &event).await);
    assert!(matches!(test.rooms.access(&closed, &eve).await, Err(RoomError::Forbidden(_))));
    assert!(matches!(test.rooms.access(&open, &eve).await, Ok(Access::Peeking(None))));
    let unknown = RoomId::parse("!nothing").unwrap();
    assert!(matches!(test.rooms.access(&unknown, &eve).await, Err(RoomError::Forbidden(_))));
    test.invite(&closed, &alice, &eve).await;
    assert!(test.rooms.access(&closed, &eve).await.is_err(), "asked in, not in");
}

#[tokio::test]
async fn who_left_sees_the_state_of_that_time_and_nothing_once_forgotten() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    test.join(&room, &bob).await;
    test.state(&room, &alice, "m.room.topic", "", json!({"topic": "then"})).await;
    test.rooms.leave(&room, &bob, None).await.unwrap();
    test.state(&room, &alice, "m.room.topic", "", json!({"topic": "now"})).await;
    test.join(&room, &user("carol")).await;
    let topic = async |reader: &UserId| {
        let event = test.rooms.readable_state_event(&room, reader, "m.room.topic", "").await?;
        Ok::<_, RoomError>(event.pdu.content().get().to_owned())
    };
    assert_eq!(topic(&bob).await.unwrap(), r#"{"topic":"then"}"#);
    assert_eq!(topic(&alice).await.unwrap(), r#"{"topic":"now"}"#);
    let missing = test.rooms.readable_state_event(&room, &alice, "m.room.name", "").await;
    assert!(matches!(missing, Err(RoomError::UnknownEvent)));

    let left = MembersRequest { membership: Some(Membership::Leave), ..Default::default() };
    let seen = test.rooms.members(&room, &bob, &left).await.unwrap();
    assert_eq!(seen[0].pdu.state_key(), Some(bob.as_str()));
    let all = test.rooms.members(&room, &bob, &MembersRequest::default()).await.unwrap();
    assert_eq!(all.len(), 2, "who came later is not seen");
    let whole = test.rooms.readable_state(&room, &alice).await.unwrap();
    assert_eq!(whole.iter().filter(|event| event.pdu.state_key() != Some("")).count(), 3);

    test.rooms.forget(&room, &bob).await.unwrap();
    assert!(matches!(topic(&bob).await, Err(RoomError::Forbidden(_))));
}

#[tokio::test]
async fn members_are_listed_as_of_a_place() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = test.public_room(&alice).await;
    let before = test.message(&room, &alice, "before").await;
    let at = test.event(&room, &before).await.index.unwrap();
    let profile = MemberProfile { displayname: Some("Bob".to_owned()), ..MemberProfile::default() };
    test.rooms.join(&room, &bob, &profile, None).await.unwrap();
    let request = MembersRequest {
        at: Some(hearth_rooms::read::TimelineToken::after(at)),
        ..MembersRequest::default()
    };
    let then = test.rooms.members(&room, &alice, &request).await.unwrap();
    assert_eq!(then.len(), 1);
    let request =
        MembersRequest { not_membership: Some(Membership::Join), ..MembersRequest::default() };
    assert!(ids(&test.rooms.members(&room, &alice, &request).await.unwrap()).is_empty());
    let joined = test.rooms.joined_members(&room, &alice).await.unwrap();
    assert_eq!(joined[&bob].display_name.as_deref(), Some("Bob"));
    let outsider = test.rooms.joined_members(&room, &user("eve")).await;
    assert!(matches!(outsider, Err(RoomError::NotJoined)));
    assert_eq!(test.rooms.joined_rooms(&bob).await.unwrap(), std::slice::from_ref(&room));
    assert_eq!(test.rooms.mutual_rooms(&alice, &bob).await.unwrap(), [room]);
}
