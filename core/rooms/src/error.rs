//! What can go wrong, in terms that callers act on.

use hearth_storage::{CommitError, StoreError};
use ruma::{OwnedRoomAliasId, OwnedUserId};

use crate::{resolve::ResolveError, schema::EventOrdinal, state::NodeError};

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
    /// The change does not fit what is there, such as the unban of a user who is not banned
    /// (`M_BAD_STATE`).
    #[error("{0}")]
    BadState(String),
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
    /// An `m.room.canonical_alias` names an alias that does not lead to the room (`M_BAD_ALIAS`).
    #[error("{0} does not lead to this room")]
    BadAlias(OwnedRoomAliasId),
    /// The sender has annotated the event with the same key before (`M_DUPLICATE_ANNOTATION`).
    #[error("you have sent the same annotation before")]
    DuplicateAnnotation,
    /// A restricted join that no local user can vouch for.
    #[error("{0}")]
    UnableToGrantJoin(String),
    /// A restricted join whose conditions this server cannot check (`M_UNABLE_TO_AUTHORISE_JOIN`).
    #[error("{0}")]
    UnableToAuthoriseJoin(String),
    /// The asking server does not serve the room's version, which is named
    /// (`M_INCOMPATIBLE_ROOM_VERSION`).
    #[error("the room's version is {0}")]
    IncompatibleVersion(String),
    /// Another server's refusal, to be passed on as it is: the policy server's.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// `errcode`.
        errcode: String,
        /// `error`.
        message: String,
    },
    /// No other server could do what was asked; the text says why.
    #[error("{0}")]
    Remote(String),
    /// The user lives on a server that this one cannot reach yet.
    #[error("{0} is on another server, which cannot be reached")]
    RemoteUser(OwnedUserId),
    /// The room's mailbox or the writer table is full; worth trying again.
    #[error("the room is busy")]
    Busy,
    /// The room's rows are damaged, or the store failed. Logged where it happened.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a question about a room has no answer. The same terms, without those of writing.
pub type ReadError = RoomError;

/// A room whose rows do not hang together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DamagedRoom {
    /// Named by another row, and not there.
    #[error("event {0} is missing")]
    MissingEvent(EventOrdinal),
    /// Bytes in the store that are not an event.
    #[error("event {0} cannot be read: {1}")]
    UnreadableEvent(EventOrdinal, String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl RoomError {
    /// An internal error of this text.
    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self::Internal(Box::new(DamagedRoom::Other(text.into())))
    }
}

impl From<DamagedRoom> for RoomError {
    fn from(error: DamagedRoom) -> Self {
        Self::Internal(Box::new(error))
    }
}

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

impl From<NodeError> for RoomError {
    fn from(error: NodeError) -> Self {
        Self::Internal(Box::new(error))
    }
}

impl From<ResolveError> for RoomError {
    fn from(error: ResolveError) -> Self {
        Self::Internal(Box::new(error))
    }
}
