//! What callers can act on.

use hearth_rooms::RoomError;
use hearth_storage::{CommitError, StoreError};
use hearth_sync::SyncError;
use hearth_users::UsersError;

/// Why something about push did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// A field does not say what it must (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(String),
    /// The user has as many pushers as one may have (`M_TOO_LARGE`).
    #[error("too many pushers")]
    TooMany,
    /// About the user.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// About a room.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// About what is unread.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// A row could not be read.
    #[error("push: {0}")]
    Store(#[from] StoreError),
    /// A change could not be made durable; whether it happened is known after a restart.
    #[error("push: {0}")]
    Commit(#[from] CommitError),
}

impl PushError {
    /// Would it be the same if it were tried again? Rows that do not hang together stay so; a store that
    /// fails may come back with the next start.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Rooms(_) | Self::Sync(_) | Self::InvalidParam(_))
    }
}
