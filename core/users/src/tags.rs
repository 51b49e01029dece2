//! Room tags: the room account data `m.tag`, changed tag by tag (CS "Room Tagging").

use std::{collections::HashMap, ops::Bound};

use hearth_types::limits::MAX_ID_BYTES;
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{AccountDataScope, Users, UsersError, account_data::ACCOUNT_DATA};

const TAG: &str = "m.tag";

/// Rooms with tags, and their tags' names.
pub type TaggedRooms = HashMap<OwnedRoomId, Vec<String>>;

impl Users {
    /// The user's tags of a room: name to a JSON object, perhaps with an `order`.
    pub async fn tags(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Map<String, Value>, UsersError> {
        let scope = AccountDataScope::Room(room_id);
        let mut content = self.account_data_object(user_id, scope, TAG).await?;
        match content.remove("tags") {
            Some(Value::Object(tags)) => Ok(tags),
            _ => Ok(Map::new()),
        }
    }

    /// All rooms that the user has tagged. Costs a look at all of their rooms' account data.
    pub async fn tagged_rooms(&self, user_id: &UserId) -> Result<TaggedRooms, UsersError> {
        // What begins as a room ID does; global data has no scope.
        let range = (
            Bound::Included(("!".to_owned(), String::new())),
            Bound::Excluded(("\"".to_owned(), String::new())),
        );
        let rows = self.store().page_all(&ACCOUNT_DATA, &user_id.to_owned(), range).await?;
        let contents = rows.into_iter().filter(|((_, event_type), _)| event_type == TAG);
        let tagged = contents.filter_map(|((scope, _), row)| {
            let content: Map<String, Value> = serde_json::from_str(&row.record.json).ok()?;
            let tags: Vec<String> = content.get("tags")?.as_object()?.keys().cloned().collect();
            (!tags.is_empty()).then_some((RoomId::parse(scope).ok()?, tags))
        });
        Ok(tagged.collect())
    }

    /// Adds a tag to a room or replaces it. `info` is the tag's content.
    pub async fn set_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
        info: Map<String, Value>,
    ) -> Result<(), UsersError> {
        if tag.is_empty() || tag.len() > MAX_ID_BYTES {
            return Err(UsersError::InvalidName("tags have 1 to 255 bytes"));
        }
        let tag = tag.to_owned();
        self.change_tags(user_id, room_id, move |tags| {
            tags.insert(tag, Value::Object(info));
            true
        })
        .await
    }

    /// Takes a tag off a room; taking off what is not there is no error.
    pub async fn delete_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
    ) -> Result<(), UsersError> {
        let tag = tag.to_owned();
        self.change_tags(user_id, room_id, move |tags| tags.remove(&tag).is_some()).await
    }

    pub(crate) async fn change_tags(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        change: impl FnOnce(&mut Map<String, Value>) -> bool + Send + 'static,
    ) -> Result<(), UsersError> {
        let room_id = room_id.to_owned();
        self.exclusive(user_id, move |users, user_id| async move {
            let mut tags = users.tags(&user_id, &room_id).await?;
            if !change(&mut tags) {
                return Ok(());
            }
            let key = (room_id.to_string(), TAG.to_owned());
            let json = json!({ "tags": tags }).to_string();
            users.write_account_data_now(&user_id, key, json).await?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, room_id};

    use super::*;
    use crate::users::testing::Bench;

    fn info(order: f64) -> Map<String, Value> {
        Map::from_iter([("order".to_owned(), json!(order))])
    }

    #[tokio::test]
    async fn tags_come_and_go_one_by_one() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let users = &bench.users;
        let room_id = room_id!("!one:hearth.test");
        users.set_tag(&alice, room_id, "m.favourite", info(0.5)).await.unwrap();
        users.set_tag(&alice, room_id, "u.work", Map::new()).await.unwrap();
        users.set_tag(&alice, room_id, "m.favourite", info(0.25)).await.unwrap();
        let tags = users.tags(&alice, room_id).await.unwrap();
        assert_eq!(Value::Object(tags), json!({"m.favourite": {"order": 0.25}, "u.work": {}}));
        let all = users.tagged_rooms(&alice).await.unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[room_id], ["m.favourite", "u.work"]);
        users.delete_tag(&alice, room_id, "m.favourite").await.unwrap();
        users.delete_tag(&alice, room_id, "m.favourite").await.unwrap();
        let entries = users.room_account_data(&alice, room_id).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].content.get(), r#"{"tags":{"u.work":{}}}"#);
        let long = users.set_tag(&alice, room_id, &"x".repeat(256), Map::new()).await;
        assert!(matches!(long, Err(UsersError::InvalidName(_))));
    }

    #[tokio::test]
    async fn tags_set_at_the_same_time_are_all_kept() {
        let bench = Bench::new().await;
        let alice = bench.user("alice").await;
        let room_id = owned_room_id!("!one:hearth.test");
        let setting: Vec<_> = (0..20)
            .map(|number| {
                let (users, alice, room_id) = (bench.users.clone(), alice.clone(), room_id.clone());
                tokio::spawn(async move {
                    let tag = format!("u.{number}");
                    users.set_tag(&alice, &room_id, &tag, Map::new()).await
                })
            })
            .collect();
        for set in setting {
            set.await.unwrap().unwrap();
        }
        assert_eq!(bench.users.tags(&alice, &room_id).await.unwrap().len(), 20);
    }
}
