//! What can go wrong, in terms that callers act on.

use hearth_storage::{CommitError, StoreError};

/// Why a change to a room did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// No such room here, or none that this user may know of.
    #[error("unknown room")]
    UnknownRoom,
    /// No such event, or none that this user may see.
    #[error("unknown event")]
    UnknownEvent,
    /// The room's rules do not allow it; the text says which.
    #[error("{0}")]
    Forbidden(String),
    /// The user is not in the room.
    #[error("you are not in this room")]
    NotJoined,
    /// A parameter that can never be right.
    #[error("{0}")]
    InvalidParam(String),
    /// JSON that canonical JSON does not admit.
    #[error("{0}")]
    BadJson(String),
    /// More than 65,536 bytes, or an identifier of more than 255.
    #[error("the event is too large")]
    TooLarge,
    /// A room version that this server does not know.
    #[error("unsupported room version {0}")]
    UnsupportedVersion(String),
    /// The initial state of a new room does not fit together.
    #[error("{0}")]
    InvalidRoomState(String),
    /// The alias is taken.
    #[error("the alias is in use")]
    AliasInUse,
    /// No such alias.
    #[error("unknown alias")]
    UnknownAlias,
    /// A restricted join that no local user can vouch for.
    #[error("{0}")]
    UnableToGrantJoin(String),
    /// The room's mailbox or the writer table is full; worth trying again.
    #[error("the room is busy")]
    Busy,
    /// The room's rows are damaged, or the store failed. Logged where it happened.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a question about a room has no answer. The same terms, without those of writing.
pub type ReadError = RoomError;

impl From<StoreError> for RoomError {
    fn from(error: StoreError) -> Self {
        Self::Internal(Box::new(error))
    }
}

impl From<CommitError> for RoomError {
    fn from(error: CommitError) -> Self {
        Self::Internal(Box::new(error))
    }
}
