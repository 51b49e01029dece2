//! What callers can act on.

use hearth_rooms::RoomError;
use hearth_storage::{CommitError, StoreError};
use hearth_users::UsersError;

/// Why something about keys or messages to devices did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum E2eeError {
    /// A field does not say what it must (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(String),
    /// A field is missing (`M_MISSING_PARAM`).
    #[error("{0}")]
    MissingParam(String),
    /// A content is not what its type must be (`M_BAD_JSON`).
    #[error("{0}")]
    BadJson(String),
    /// A signature is missing or does not verify (`M_INVALID_SIGNATURE`).
    #[error("{0}")]
    InvalidSignature(String),
    /// There is no such thing (`M_NOT_FOUND`).
    #[error("{0}")]
    NotFound(String),
    /// Not allowed (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(String),
    /// Larger than this server stores (`M_TOO_LARGE`).
    #[error("{0}")]
    TooLarge(String),
    /// Keys can be added to the current version of a backup alone (`M_WRONG_ROOM_KEYS_VERSION`).
    #[error("the current version of the backup is {current}")]
    WrongBackupVersion {
        /// The version that is current.
        current: String,
    },
    /// A bounded table is full; try again later (`M_LIMIT_EXCEEDED`).
    #[error("too many {0} at the moment")]
    Busy(&'static str),
    /// About the user or device.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// About the rooms that are shared.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// A row could not be read.
    #[error("e2ee: {0}")]
    Store(#[from] StoreError),
    /// A change could not be made durable; whether it happened is known after a restart.
    #[error("e2ee: {0}")]
    Commit(#[from] CommitError),
    /// Something that should not fail did: a task, a stored record.
    #[error("e2ee: {0}")]
    Internal(String),
}
