//! `/hierarchy` and `/room_summary` over real rooms.

use hearth_rooms::{
    CreateRoomOptions, MemberProfile, RoomError, json_object,
    read::{HierarchyPage, HierarchyRequest},
    schema::Membership,
};
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use super::support::{TestRooms, initial, public, user};

const WHOLE: HierarchyRequest =
    HierarchyRequest { from: None, limit: 50, max_depth: None, suggested_only: false };

fn space(mut options: CreateRoomOptions) -> CreateRoomOptions {
    let content = to_raw_value(&json!({ "type": "m.space" })).unwrap();
    options.creation_content = json_object(&content).unwrap();
    options
}

impl TestRooms {
    async fn add_child(&self, space: &RoomId, sender: &UserId, child: &RoomId, mut content: Value) {
        content["via"] = json!(["example.org"]);
        self.state(space, sender, "m.space.child", child.as_str(), content).await;
    }

    async fn walk(
        &self,
        space: &RoomId,
        reader: &UserId,
        request: &HierarchyRequest,
    ) -> HierarchyPage {
        self.rooms.hierarchy(space, reader, request).await.unwrap()
    }
}

fn found(page: &HierarchyPage) -> Vec<OwnedRoomId> {
    page.rooms.iter().map(|room| room.summary.room_id.clone()).collect()
}

#[tokio::test]
async fn a_space_is_walked_depth_first_in_the_order_of_its_children() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let top = test.room(&alice, space(public())).await;
    let sub = test.room(&alice, space(public())).await;
    let mut rooms = Vec::new();
    for _ in 0..4 {
        rooms.push(test.public_room(&alice).await);
    }
    // By time alone it would be 0, sub, 1.
    test.add_child(&top, &alice, &rooms[0], json!({})).await;
    test.add_child(&top, &alice, &sub, json!({ "order": "b", "suggested": true })).await;
    test.add_child(&top, &alice, &rooms[1], json!({ "order": "a" })).await;
    test.add_child(&sub, &alice, &rooms[2], json!({})).await;
    test.add_child(&sub, &alice, &rooms[3], json!({ "suggested": true, "order": "\u{e9}" })).await;
    // A loop, a room that is not here, and a child that was taken out again.
    test.add_child(&sub, &alice, &top, json!({})).await;
    test.add_child(&top, &alice, ruma::room_id!("!gone:elsewhere.org"), json!({})).await;
    test.state(&top, &alice, "m.space.child", "!old:example.org", json!({})).await;

    let page = test.walk(&top, &alice, &WHOLE).await;
    let all: Vec<_> =
        [&top, &rooms[1], &sub, &rooms[2], &rooms[3], &rooms[0]].into_iter().cloned().collect();
    assert_eq!(found(&page), all);
    assert_eq!(page.next_batch, None);
    let children: Vec<Value> = page.rooms[0]
        .children_state
        .iter()
        .map(|child| serde_json::from_str(child.get()).unwrap())
        .collect();
    let keys: Vec<_> = children.iter().map(|child| child["state_key"].clone()).collect();
    assert_eq!(keys, [rooms[1].as_str(), sub.as_str(), rooms[0].as_str(), "!gone:elsewhere.org"]);
    let fields: Vec<_> = children[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["content", "origin_server_ts", "sender", "state_key", "type"]);
    assert!(page.rooms[1].children_state.is_empty());

    let shallow = HierarchyRequest { max_depth: Some(1), ..WHOLE };
    let page = test.walk(&top, &alice, &shallow).await;
    assert_eq!(found(&page).len(), 4);
    let only_top = HierarchyRequest { max_depth: Some(0), ..WHOLE };
    let page = test.walk(&top, &alice, &only_top).await;
    assert_eq!(found(&page), std::slice::from_ref(&top));
    assert_eq!(page.rooms[0].children_state.len(), 4);
    let suggested = HierarchyRequest { suggested_only: true, ..WHOLE };
    let page = test.walk(&top, &alice, &suggested).await;
    assert_eq!(found(&page), [&top, &sub, &rooms[3]].map(Clone::clone));

    let mut request = HierarchyRequest { limit: 4, ..WHOLE };
    let page = test.walk(&top, &alice, &request).await;
    assert_eq!(found(&page), all[..4]);
    request.from = page.next_batch;
    let changed = HierarchyRequest { max_depth: Some(1), ..request.clone() };
    let refused = test.rooms.hierarchy(&top, &alice, &changed).await;
    assert!(matches!(refused, Err(RoomError::InvalidParam(_))));
    let page = test.walk(&top, &alice, &request).await;
    assert_eq!(found(&page), all[4..]);
    assert_eq!(page.next_batch, None);
}

#[tokio::test]
async fn rooms_are_told_of_to_who_may_enter_or_read_them() {
    let test = TestRooms::open().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let top = test.room(&alice, space(public())).await;
    let private = CreateRoomOptions::default;
    let with = |event_type: &str, content| CreateRoomOptions {
        initial_state: vec![initial(event_type, content)],
        ..private()
    };
    let rule = |rule: &str| with("m.room.join_rules", json!({ "join_rule": rule }));
    let closed = test.room(&alice, private()).await;
    let invited = test.room(&alice, private()).await;
    let knock = test.room(&alice, rule("knock")).await;
    let readable = json!({ "history_visibility": "world_readable" });
    let readable = test.room(&alice, with("m.room.history_visibility", readable)).await;
    let allow = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "org.example" }, { "type": "m.room_membership", "room_id": top }],
    });
    let restricted = test.room(&alice, with("m.room.join_rules", allow)).await;
    for child in [&closed, &invited, &knock, &readable, &restricted] {
        test.add_child(&top, &alice, child, json!({})).await;
    }
    test.rooms
        .invite(&invited, &alice, &bob, &MemberProfile::default(), None, false)
        .await
        .unwrap();

    let page = test.walk(&top, &bob, &WHOLE).await;
    assert_eq!(found(&page), [&top, &invited, &knock, &readable].map(Clone::clone));
    test.join(&top, &bob).await;
    let page = test.walk(&top, &bob, &WHOLE).await;
    assert_eq!(found(&page), [&top, &invited, &knock, &readable, &restricted].map(Clone::clone));
    let page = test.walk(&top, &alice, &WHOLE).await;
    assert_eq!(page.rooms.len(), 6);

    for unknown in [closed.as_str(), "!nothing:example.org"] {
        let unknown = RoomId::parse(unknown).unwrap();
        let refused = test.rooms.hierarchy(&unknown, &bob, &WHOLE).await;
        assert!(matches!(refused, Err(RoomError::Forbidden(_))));
        let refused = test.rooms.preview(&unknown, Some(&bob)).await;
        assert!(matches!(refused, Err(RoomError::UnknownRoom)));
    }
    // Without an account: what everybody may read or knock on.
    assert_eq!(test.rooms.preview(&readable, None).await.unwrap().membership, None);
    assert!(test.rooms.preview(&knock, None).await.is_ok());
    assert!(test.rooms.preview(&restricted, None).await.is_err());
    assert!(test.rooms.preview(&invited, None).await.is_err());
    let preview = test.rooms.preview(&invited, Some(&bob)).await.unwrap();
    assert_eq!(preview.membership, Some(Membership::Invite));
    let preview = test.rooms.preview(&restricted, Some(&bob)).await.unwrap();
    assert_eq!(preview.membership, Some(Membership::Leave));
    let summary = serde_json::to_value(&preview.summary).unwrap();
    assert_eq!(summary["join_rule"], "restricted");
    assert_eq!(summary["allowed_room_ids"], json!([top]));
}

#[tokio::test]
async fn a_summary_tells_what_the_state_says() {
    let test = TestRooms::open().await;
    let alice = user("alice");
    let options = CreateRoomOptions {
        name: Some("Tea".to_owned()),
        topic: Some("Leaves".to_owned()),
        alias_localpart: Some("tea".to_owned()),
        initial_state: vec![
            initial("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
            initial("m.room.avatar", json!({ "url": "mxc://example.org/cup" })),
            initial("m.room.guest_access", json!({ "guest_access": "can_join" })),
        ],
        ..public()
    };
    let room = test.room(&alice, space(options)).await;
    test.join(&room, &user("bob")).await;
    let summary = test.rooms.room_summary(&room).await.unwrap().unwrap();
    assert_eq!(
        serde_json::to_value(&summary).unwrap(),
        json!({
            "room_id": room, "name": "Tea", "topic": "Leaves", "canonical_alias": "#tea:example.org",
            "avatar_url": "mxc://example.org/cup", "room_type": "m.space", "num_joined_members": 2,
            "world_readable": false, "guest_can_join": true, "encryption": "m.megolm.v1.aes-sha2",
            "room_version": "12",
        })
    );
    assert!(test.rooms.room_summary(ruma::room_id!("!no:example.org")).await.unwrap().is_none());
}
