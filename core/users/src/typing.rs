//! Who is typing (CS "Typing Notifications"): in memory only.

use std::time::Duration;

use ruma::{OwnedUserId, RoomId, UserId};

use crate::Users;

/// The count of typing changes within one run of the process.
pub type TypingSerial = u64;

/// Who is typing in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typing {
    /// The serial of the room's last change; 0: none since the process started.
    pub serial: TypingSerial,
    /// Who is typing now, by ID.
    pub user_ids: Vec<OwnedUserId>,
}

impl Users {
    /// A random number of this run of the process. Typing and presence serials mean something only
    /// together with it: a sync token that carries another one knows of no change.
    #[must_use]
    pub fn boot_id(&self) -> u32 {
        todo!()
    }

    /// The user types in a room for so long (at most two minutes), or, with `None`, stops. The caller
    /// has checked that they are joined. Wakes the room's listeners if who is typing changed.
    pub fn set_typing(&self, room_id: &RoomId, user_id: &UserId, timeout: Option<Duration>) {
        todo!()
    }

    /// Who is typing in a room, and since which serial. Changed since a token's serial, if greater.
    #[must_use]
    pub fn typing(&self, room_id: &RoomId) -> Typing {
        todo!()
    }

    /// The serial of a room's last typing change, without the list.
    #[must_use]
    pub fn room_typing_serial(&self, room_id: &RoomId) -> TypingSerial {
        todo!()
    }

    /// The serial of the last typing change in any room: what a sync token carries.
    #[must_use]
    pub fn typing_serial(&self) -> TypingSerial {
        todo!()
    }
}
