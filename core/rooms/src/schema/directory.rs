//! Names of rooms.

use hearth_storage::postcard_record;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

/// The row of [`ALIASES`](super::ALIASES).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// Where the alias leads.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}
postcard_record!(AliasRow, version = 1);
