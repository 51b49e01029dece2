//! What can go wrong, in terms that callers act on.

use hearth_e2ee::E2eeError;
use hearth_rooms::RoomError;
use hearth_storage::StoreError;
use hearth_users::UsersError;

/// Why a sync has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The token, the filter or another parameter can never be right (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(String),
    /// The request's body has another shape than the endpoint's (`M_BAD_JSON`).
    #[error("{0}")]
    BadJson(String),
    /// The connection that this `pos` belongs to is not remembered, or is beyond it (`M_UNKNOWN_POS`).
    #[error("unknown pos: begin anew without one")]
    UnknownPos,
    /// No filter of this ID (`M_NOT_FOUND`).
    #[error("unknown filter")]
    UnknownFilter,
    /// The store failed, or rows do not hang together. Logged where it happened.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<RoomError> for SyncError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::InvalidParam(text) => Self::InvalidParam(text),
            other => Self::Internal(Box::new(other)),
        }
    }
}

impl From<UsersError> for SyncError {
    fn from(error: UsersError) -> Self {
        Self::Internal(Box::new(error))
    }
}

impl From<E2eeError> for SyncError {
    fn from(error: E2eeError) -> Self {
        Self::Internal(Box::new(error))
    }
}

impl From<StoreError> for SyncError {
    fn from(error: StoreError) -> Self {
        Self::Internal(Box::new(error))
    }
}

impl From<serde_json::Error> for SyncError {
    fn from(error: serde_json::Error) -> Self {
        Self::Internal(Box::new(error))
    }
}
