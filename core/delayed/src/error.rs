//! What callers can act on.

use hearth_storage::{CommitError, StoreError};

use crate::Refusal;

/// Why something about a delayed event did not happen. Unless it says otherwise nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DelayedError {
    /// A parameter has a value that cannot be.
    #[error("{0}")]
    InvalidParam(&'static str),
    /// The content is larger than an event can be.
    #[error("the event is too large")]
    TooLarge,
    /// The delay is longer than is allowed.
    #[error("the requested delay exceeds the allowed maximum")]
    DelayTooLong {
        /// What is allowed, in milliseconds.
        max_ms: u64,
    },
    /// The user has as many scheduled events as one may have.
    #[error("the maximum number of delayed events has been reached")]
    TooMany {
        /// In how many milliseconds the next of them is sent.
        next_in_ms: u64,
    },
    /// No such event, or none of this user's.
    #[error("there is no such delayed event")]
    NotFound,
    /// The event was sent, or will never be: the opposite of what was asked.
    #[error("{0}")]
    Finalised(&'static str),
    /// The event is refused now; it stays scheduled.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// A row could not be read.
    #[error("delayed events: {0}")]
    Store(#[from] StoreError),
    /// A change could not be made durable; whether it happened is known after a restart.
    #[error("delayed events: {0}")]
    Commit(#[from] CommitError),
    /// The server's fault.
    #[error("delayed events: {0}")]
    Internal(String),
}
