//! What can go wrong between servers.

use std::time::Duration;

use hearth_e2ee::E2eeError;
use hearth_storage::{CommitError, StoreError};
use http::StatusCode;
use ruma::OwnedServerName;

use crate::transport::TransportError;

/// Why the crate could not be opened or its rows not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The configuration cannot be used.
    #[error("[federation]: {0}")]
    Config(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store refused a commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// What waits for other servers could not be read.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
}

/// Why another server did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteError {
    /// The configuration forbids speaking to it.
    #[error("{0} is not allowed by this server's configuration")]
    NotAllowed(OwnedServerName),
    /// It was unreachable a moment ago; the next attempt is due in so many milliseconds.
    #[error("{server} was unreachable; the next attempt is in {retry_in_ms} ms")]
    BackingOff {
        /// The server.
        server: OwnedServerName,
        /// Until when it is left alone.
        retry_in_ms: u64,
    },
    /// It was not reached, or broke off.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It answered with an error.
    #[error("{server} answered {status} {errcode}: {message}")]
    Matrix {
        /// The server.
        server: OwnedServerName,
        /// The status.
        status: StatusCode,
        /// `errcode`, or nothing.
        errcode: String,
        /// `error`, shortened.
        message: String,
        /// The whole body, if it was JSON, for fields such as `room_version`.
        body: Option<Box<serde_json::Value>>,
        /// How long it asks to be spared.
        retry_after: Option<Duration>,
    },
    /// It answered with what is no answer.
    #[error("{server} answered with what this endpoint does not have: {reason}")]
    BadAnswer {
        /// The server.
        server: OwnedServerName,
        /// What is wrong with it.
        reason: String,
    },
}
