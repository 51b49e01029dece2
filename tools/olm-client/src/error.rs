//! What can go wrong.

/// Why something did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server did not do what it was asked.
    #[error("{0}")]
    Server(Box<dyn std::error::Error + Send + Sync>),
    /// An answer lacks something.
    #[error("an answer lacks {0}")]
    Answer(&'static str),
    /// Somebody's keys cannot be used: they are malformed, or do not verify.
    #[error("keys of {whose}: {why}")]
    Keys {
        /// Whose keys they are said to be.
        whose: String,
        /// What is wrong with them.
        why: String,
    },
    /// There is no Megolm session in this room to encrypt with.
    #[error("no room key was made for {0}")]
    NoOutboundSession(String),
}

impl Error {
    pub(crate) fn keys(whose: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Keys { whose: whose.into(), why: why.into() }
    }
}

/// Why a message cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecryptable {
    /// It is not of the form that its algorithm has, or not for this device.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// What it says about who sent it is not true.
    #[error("forged: {0}")]
    Forged(String),
    /// No Olm session with the sender reads it, and it starts none.
    #[error("no Olm session with the device whose key is {sender_key}: {why}")]
    NoOlmSession {
        /// The Curve25519 key of the device that sent it.
        sender_key: String,
        /// What the sessions said.
        why: String,
    },
    /// The room key has not come.
    #[error("no room key")]
    NoRoomKey,
    /// The room key opens only what was said later.
    #[error("the room key opens only what was said later")]
    BeforeRoomKey,
}
