//! Replacing a room by one of another version (CS "Room upgrades").

use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};

use crate::{MemberProfile, Rooms, error::RoomError};

impl Rooms {
    /// Replaces a room by a new one of another version, with the old one's essential state, and
    /// points to it with a tombstone. Aliases and the directory entry move. Returns the new room.
    ///
    /// # Errors
    ///
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::Forbidden`] if the user may not send the
    /// tombstone.
    pub async fn upgrade(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        profile: &MemberProfile,
        new_version: RoomVersionId,
        additional_creators: Vec<OwnedUserId>,
    ) -> Result<OwnedRoomId, RoomError> {
        let _ = (room_id, user_id, profile, new_version, additional_creators);
        todo!("the next step of this branch")
    }
}
