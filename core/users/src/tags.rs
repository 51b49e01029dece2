//! Room tags: the room account data `m.tag`, changed tag by tag (CS "Room Tagging").

use ruma::{RoomId, UserId};
use serde_json::{Map, Value};

use crate::{Users, UsersError};

impl Users {
    /// The user's tags of a room: name to a JSON object, perhaps with an `order`.
    pub async fn tags(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Map<String, Value>, UsersError> {
        todo!()
    }

    /// Adds a tag to a room or replaces it. `info` is the tag's content.
    pub async fn set_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
        info: Map<String, Value>,
    ) -> Result<(), UsersError> {
        todo!()
    }

    /// Takes a tag off a room; taking off what is not there is no error.
    pub async fn delete_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
    ) -> Result<(), UsersError> {
        todo!()
    }
}
