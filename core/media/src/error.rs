//! What callers can act on.

use hearth_storage::{CommitError, StoreError};

/// Why something about content did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// There is no such content (`M_NOT_FOUND`).
    #[error("There is no such content")]
    NotFound,
    /// Its URI was made, but nothing has been uploaded to it (`M_NOT_YET_UPLOADED`).
    #[error("The content has not been uploaded yet")]
    NotYetUploaded,
    /// Something has been uploaded to this URI before (`M_CANNOT_OVERWRITE_MEDIA`).
    #[error("Something has been uploaded to this URI already")]
    CannotOverwrite,
    /// Somebody else made this URI (`M_FORBIDDEN`).
    #[error("This URI is for another user's upload")]
    NotYours,
    /// The server that the content is from could not give it.
    #[error("The content cannot be fetched: {0}")]
    Remote(String),
    /// It has more than this server fetches (502 `M_TOO_LARGE`).
    #[error("The content is larger than this server fetches")]
    RemoteTooLarge,
    /// The upload is larger than uploads may be (`M_TOO_LARGE`).
    #[error("An upload may have at most {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The user has no room left (`M_FORBIDDEN`).
    #[error("You have uploaded as much as you may: {max_bytes} bytes")]
    QuotaExceeded {
        /// The quota.
        max_bytes: u64,
    },
    /// A name or type that cannot be kept (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(&'static str),
    /// No thumbnail can be made of it (`M_UNKNOWN`).
    #[error("No thumbnail can be made of this content")]
    NoPicture,
    /// A picture of this server is too large for a thumbnail to be made of it (`M_TOO_LARGE`).
    #[error("The content is too large for a thumbnail")]
    PictureTooLarge,
    /// This server makes no previews of pages (`M_UNRECOGNIZED`).
    #[error("This server makes no previews")]
    PreviewsOff,
    /// A URL of which this server makes no preview; the text says why (`M_FORBIDDEN`).
    #[error("{0}")]
    PreviewRefused(&'static str),
    /// There is no page behind a URL that this server can show. Not said why: a user could find out by it what is in
    /// this server's network (502 `M_UNKNOWN`).
    #[error("The page cannot be fetched")]
    NoPreview,
    /// Too much of a kind is under way (`M_LIMIT_EXCEEDED`).
    #[error("{0}")]
    Busy(&'static str),
    /// The bytes cannot be written or read.
    #[error("content: {0}")]
    Bytes(#[from] object_store::Error),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Anything else that is this server's fault.
    #[error("{0}")]
    Internal(String),
}
