//! What callers can act on.

use hearth_storage::{CommitError, StoreError};

use crate::push_rules::PushRuleError;

/// Why something about a user did not happen. Nothing was changed unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The user ID is taken, perhaps by a deactivated account (`M_USER_IN_USE`).
    #[error("the user ID is taken")]
    UserInUse,
    /// Not a user name of the specification's grammar (`M_INVALID_USERNAME`; Appendices "User
    /// Identifiers").
    #[error("not a valid user name: {0}")]
    InvalidUsername(&'static str),
    /// The password is shorter than the configuration asks for (`M_WEAK_PASSWORD`).
    #[error("the password is shorter than {min_length} characters")]
    WeakPassword {
        /// The least number of characters.
        min_length: usize,
    },
    /// The password is longer than anything sensible (`M_INVALID_PARAM`).
    #[error("the password is too long")]
    PasswordTooLong,
    /// No such account on this server (`M_NOT_FOUND`).
    #[error("no such user")]
    UserNotFound,
    /// User name, password or login token is wrong; which one is not told (`M_FORBIDDEN`).
    #[error("wrong user name or password")]
    WrongCredentials,
    /// Too many wrong passwords of this user came from there (`M_LIMIT_EXCEEDED`).
    #[error("too many wrong passwords")]
    TooManyGuesses {
        /// Milliseconds until more are checked.
        retry_in_ms: u64,
    },
    /// The account was deactivated (`M_USER_DEACTIVATED`).
    #[error("the account is deactivated")]
    Deactivated,
    /// An administrator has locked the account (`M_USER_LOCKED`).
    #[error("the account is locked")]
    Locked,
    /// No such device of this user (`M_NOT_FOUND`).
    #[error("no such device")]
    DeviceNotFound,
    /// A device ID that cannot be used: empty, longer than 255 bytes, with a NUL, or the star that means
    /// all devices (`M_INVALID_PARAM`).
    #[error("not a usable device ID")]
    InvalidDeviceId,
    /// The refresh or access token is unknown or has expired (`M_UNKNOWN_TOKEN`).
    #[error("unknown or expired token")]
    UnknownToken {
        /// May the client log in again and keep its state?
        soft_logout: bool,
    },
    /// The registration token is unknown, used up or expired (`M_UNAUTHORIZED` within UIA).
    #[error("the registration token is not valid")]
    InvalidRegistrationToken,
    /// Shared-secret registration is not configured (`M_UNRECOGNIZED` or `M_FORBIDDEN`).
    #[error("registration by shared secret is not enabled")]
    SharedSecretDisabled,
    /// The nonce was not issued, is used or has expired (`M_UNKNOWN`, 400).
    #[error("unrecognized nonce")]
    UnknownNonce,
    /// The MAC does not match the request (`M_FORBIDDEN`).
    #[error("the MAC is wrong")]
    WrongMac,
    /// A profile field's key breaks its grammar (`M_INVALID_PARAM`).
    #[error("not a valid profile field: {0}")]
    InvalidProfileKey(&'static str),
    /// A profile field's key is longer than 255 bytes (`M_KEY_TOO_LARGE`).
    #[error("the profile field's key is too long")]
    ProfileKeyTooLarge,
    /// A profile field's value has the wrong type (`M_BAD_JSON`).
    #[error("not a valid value of a profile field: {0}")]
    InvalidProfileValue(&'static str),
    /// The whole profile would exceed 64 KiB (`M_PROFILE_TOO_LARGE`).
    #[error("the profile would be too large")]
    ProfileTooLarge,
    /// This account data type is managed by the server: not through the generic endpoint (405
    /// `M_BAD_JSON`; CS "Client Config").
    #[error("this account data type is managed by the server")]
    ManagedAccountData,
    /// An account data type or tag name is empty or too long (`M_INVALID_PARAM`).
    #[error("not a usable name: {0}")]
    InvalidName(&'static str),
    /// A content is not what its type must be (`M_BAD_JSON`).
    #[error("not a valid content: {0}")]
    InvalidContent(String),
    /// The content is larger than this server stores (`M_TOO_LARGE`).
    #[error("the content is larger than {max_bytes} bytes")]
    TooLarge {
        /// The most that is accepted.
        max_bytes: usize,
    },
    /// A push rule operation that the specification refuses.
    #[error(transparent)]
    PushRule(#[from] PushRuleError),
    /// The user's server, another one, does not answer; the text says why.
    #[error("{0}")]
    Remote(String),
    /// A bounded table is full; try again later (`M_LIMIT_EXCEEDED`).
    #[error("too many {0} at the moment")]
    Busy(&'static str),
    /// A row could not be read.
    #[error("users: {0}")]
    Store(#[from] StoreError),
    /// A change could not be made durable; whether it happened is known after a restart.
    #[error("users: {0}")]
    Commit(#[from] CommitError),
    /// Something that should not fail did: the random source, a task, a stored record.
    #[error("users: {0}")]
    Internal(String),
}

/// Why a request's access token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Unknown or expired (`M_UNKNOWN_TOKEN`, 401).
    #[error("unknown or expired access token")]
    UnknownToken {
        /// Did it merely expire, so that the client may refresh or log in again and keep its state?
        soft_logout: bool,
    },
    /// The store could not answer.
    #[error(transparent)]
    Internal(Box<UsersError>),
}

impl From<UsersError> for AuthError {
    fn from(error: UsersError) -> Self {
        match error {
            UsersError::UnknownToken { soft_logout } => Self::UnknownToken { soft_logout },
            other => Self::Internal(Box::new(other)),
        }
    }
}
