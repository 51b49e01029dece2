//! The public room directory (CS "Published room directory").

use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomId, UserId};

use crate::{Rooms, error::RoomError};

/// What the directory remembers.
#[derive(Debug, Default)]
pub(crate) struct Directory;

/// A room as the directory shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicRoom {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Its name.
    pub name: Option<String>,
    /// Its topic.
    pub topic: Option<String>,
    /// Its canonical alias.
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// The `mxc://` URI of its avatar.
    pub avatar_url: Option<String>,
    /// Its joined members.
    pub joined_members: u64,
    /// Its join rule, as the specification names it.
    pub join_rule: String,
    /// Its type, such as `m.space`.
    pub room_type: Option<String>,
    /// May everybody read it?
    pub world_readable: bool,
    /// May guests join it?
    pub guest_can_join: bool,
}

/// Which rooms of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryQuery {
    /// A text that the name, topic or canonical alias must contain; letter case does not matter.
    pub search_term: Option<String>,
    /// Types that are wanted, `None` among them standing for rooms without one. Empty: all.
    pub room_types: Vec<Option<String>>,
    /// How many rooms at most; the server's own bound if `None`.
    pub limit: Option<usize>,
    /// A token of an earlier page.
    pub since: Option<String>,
}

/// A page of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryPage {
    /// The rooms, those with the most members first.
    pub rooms: Vec<PublicRoom>,
    /// The token of the next page, if there is one.
    pub next_batch: Option<String>,
    /// The token of the page before, if there is one.
    pub prev_batch: Option<String>,
    /// How many rooms there are on all pages.
    pub total_estimate: u64,
}

impl Rooms {
    /// Is a room published in the directory?
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, RoomError> {
        let _ = room_id;
        todo!("the next step of this branch")
    }

    /// Publishes a room, or takes it off the directory: for joined users with the power to send
    /// `m.room.canonical_alias`.
    pub async fn set_published(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        published: bool,
    ) -> Result<(), RoomError> {
        let _ = (room_id, user_id, published);
        todo!("the next step of this branch")
    }

    /// Lists and searches the directory.
    pub async fn public_rooms(&self, query: &DirectoryQuery) -> Result<DirectoryPage, RoomError> {
        let _ = query;
        todo!("the next step of this branch")
    }
}
