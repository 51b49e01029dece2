use hearth_rooms::{CreateRoomOptions, DirectoryQuery, RoomError, json_object};
use ruma::RoomAliasId;
use serde_json::json;

use crate::fixture::{Server, raw, user};

async fn published(
    server: &Server,
    name: &str,
    members: usize,
    kind: Option<&str>,
) -> ruma::OwnedRoomId {
    let content = kind.map_or(json!({}), |kind| json!({ "type": kind }));
    let options = CreateRoomOptions {
        public: true,
        name: Some(name.to_owned()),
        creation_content: json_object(&raw(&content)).unwrap(),
        ..CreateRoomOptions::default()
    };
    let room = server.rooms.create_room(&user("alice"), options).await.unwrap();
    for n in 1..members {
        server.join(&room, &user(&format!("u{n}"))).await.unwrap();
    }
    room
}

async fn names(server: &Server, query: DirectoryQuery) -> Vec<String> {
    let page = server.rooms.public_rooms(&query).await.unwrap();
    page.rooms.into_iter().map(|room| room.name.unwrap_or_default()).collect()
}

#[tokio::test]
async fn lists_the_largest_first_in_pages_both_ways() {
    let server = Server::new().await;
    for (name, members) in [("c", 1), ("a", 4), ("d", 1), ("b", 2), ("e", 3)] {
        published(&server, name, members, None).await;
    }
    server.room(&user("alice")).await;
    let get = async |since: Option<String>| {
        let query = DirectoryQuery { limit: Some(2), since, ..DirectoryQuery::default() };
        server.rooms.public_rooms(&query).await.unwrap()
    };
    let first = get(None).await;
    assert_eq!(first.total_estimate, 5);
    assert_eq!(first.prev_batch, None);
    let second = get(first.next_batch.clone()).await;
    let third = get(second.next_batch.clone()).await;
    assert_eq!(third.next_batch, None);
    let sizes: Vec<u64> = [&first, &second, &third]
        .iter()
        .flat_map(|page| &page.rooms)
        .map(|r| r.joined_members)
        .collect();
    assert_eq!(sizes, [4, 3, 2, 1, 1]);
    assert_eq!(get(third.prev_batch).await.rooms, second.rooms);
    assert_eq!(get(second.prev_batch).await.rooms, first.rooms);
    let bad = DirectoryQuery { since: Some("x".to_owned()), ..DirectoryQuery::default() };
    assert!(matches!(server.rooms.public_rooms(&bad).await, Err(RoomError::InvalidParam(_))));
}

#[tokio::test]
async fn searches_by_term_and_type_and_follows_changes() {
    let server = Server::new().await;
    let alice = user("alice");
    let garden = published(&server, "Garden", 2, None).await;
    published(&server, "Space", 1, Some("m.space")).await;
    let term = |term: &str| DirectoryQuery {
        search_term: Some(term.to_owned()),
        ..DirectoryQuery::default()
    };
    assert_eq!(names(&server, term("gArD")).await, ["Garden"]);
    let spaces = DirectoryQuery {
        room_types: vec![Some("m.space".to_owned())],
        ..DirectoryQuery::default()
    };
    assert_eq!(names(&server, spaces).await, ["Space"]);
    let plain = DirectoryQuery { room_types: vec![None], ..DirectoryQuery::default() };
    assert_eq!(names(&server, plain).await, ["Garden"]);
    server.put(&garden, &alice, ("m.room.topic", ""), json!({ "topic": "Roses" })).await.unwrap();
    assert_eq!(names(&server, term("rose")).await, ["Garden"]);
    assert!(matches!(
        server.rooms.set_published(&garden, &user("u1"), false).await,
        Err(RoomError::Forbidden(_))
    ));
    server.rooms.set_published(&garden, &alice, false).await.unwrap();
    assert_eq!(names(&server, term("rose")).await, Vec::<String>::new());
}

#[tokio::test]
async fn aliases_are_made_once_and_deleted_by_who_may() {
    let server = Server::new().await;
    let (alice, bob) = (user("alice"), user("bob"));
    let room = published(&server, "r", 1, None).await;
    server.join(&room, &bob).await.unwrap();
    let alias = RoomAliasId::parse("#one:hs.test").unwrap();
    server.rooms.create_alias(&alias, &room, &bob).await.unwrap();
    let again = server.rooms.create_alias(&alias, &room, &alice).await;
    assert!(matches!(again, Err(RoomError::AliasInUse)));
    assert_eq!(server.rooms.room_aliases(&room).await.unwrap(), std::slice::from_ref(&alias));
    let carol = server.rooms.delete_alias(&alias, &user("carol")).await;
    assert!(matches!(carol, Err(RoomError::Forbidden(_))));
    server.rooms.delete_alias(&alias, &bob).await.unwrap();
    let gone = server.rooms.resolve_alias(&alias).await;
    assert!(matches!(gone, Err(RoomError::UnknownAlias)));
    assert_eq!(
        server.rooms.room_aliases(&room).await.unwrap(),
        Vec::<ruma::OwnedRoomAliasId>::new()
    );
    let foreign = RoomAliasId::parse("#one:other.test").unwrap();
    let foreign = server.rooms.create_alias(&foreign, &room, &alice).await;
    assert!(matches!(foreign, Err(RoomError::InvalidParam(_))));
    server.rooms.create_alias(&alias, &room, &bob).await.unwrap();
    server.rooms.delete_alias(&alias, &alice).await.unwrap();
}
