//! Errors as clients see them.

use std::{borrow::Cow, fmt, time::Duration};

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use ruma::api::client::uiaa::UiaaInfo;
use serde_json::{Map, Value};

/// An error response of a Matrix API: `{"errcode": …, "error": …}` and an HTTP status
/// (CS "Standard error response").
///
/// It also carries the 401 body of user-interactive authentication (from a [`UiaaInfo`]), so that every
/// handler has one error type.
#[derive(Clone, Debug)]
pub struct MatrixError {
    status: StatusCode,
    errcode: Option<&'static str>,
    message: Cow<'static, str>,
    extra: Option<Box<Map<String, Value>>>,
    retry_after: Option<Duration>,
}

impl MatrixError {
    /// An error with the code that the specification names for it. The message is for people: it must
    /// hold no secret and nothing of the server's insides.
    #[must_use]
    pub fn new(
        status: StatusCode,
        errcode: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            errcode: Some(errcode),
            message: message.into(),
            extra: None,
            retry_after: None,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The error code; `None` for a request to authenticate interactively.
    #[must_use]
    pub fn errcode(&self) -> Option<&'static str> {
        self.errcode
    }

    /// The message for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Adds a field to the body, such as `soft_logout` or `room_version`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.extra.get_or_insert_default().insert(field.to_owned(), value.into());
        self
    }

    /// The same error with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident => $status:ident, $errcode:literal;)+) => {
        impl MatrixError {
            $(
                $(#[$doc])*
                #[doc = concat!("\n\n`", $errcode, "`, status `", stringify!($status), "`.")]
                #[must_use]
                pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                    Self::new(StatusCode::$status, $errcode, message)
                }
            )+
        }
    };
}

errors! {
    /// The user may not do this.
    forbidden => FORBIDDEN, "M_FORBIDDEN";
    /// What was asked for does not exist, or may not be seen.
    not_found => NOT_FOUND, "M_NOT_FOUND";
    /// No such endpoint.
    unrecognized => NOT_FOUND, "M_UNRECOGNIZED";
    /// An endpoint that knows other methods.
    method_not_allowed => METHOD_NOT_ALLOWED, "M_UNRECOGNIZED";
    /// No access token was sent.
    missing_token => UNAUTHORIZED, "M_MISSING_TOKEN";
    /// The body is not JSON.
    not_json => BAD_REQUEST, "M_NOT_JSON";
    /// The body is JSON of the wrong shape.
    bad_json => BAD_REQUEST, "M_BAD_JSON";
    /// A parameter has a value that is not allowed.
    invalid_param => BAD_REQUEST, "M_INVALID_PARAM";
    /// A required parameter was not sent.
    missing_param => BAD_REQUEST, "M_MISSING_PARAM";
    /// The request or the event is too large.
    too_large => PAYLOAD_TOO_LARGE, "M_TOO_LARGE";
    /// Anything that has no code of its own.
    bad_request => BAD_REQUEST, "M_UNKNOWN";
    /// The account is locked; sent with a soft logout by [`MatrixError::user_locked`]'s caller.
    locked => UNAUTHORIZED, "M_USER_LOCKED";
    /// The account is suspended and may not do this.
    suspended => FORBIDDEN, "M_USER_SUSPENDED";
    /// The account was deactivated.
    user_deactivated => FORBIDDEN, "M_USER_DEACTIVATED";
    /// The user ID is taken.
    user_in_use => BAD_REQUEST, "M_USER_IN_USE";
    /// The user ID has characters that are not allowed.
    invalid_username => BAD_REQUEST, "M_INVALID_USERNAME";
    /// The password is too weak.
    weak_password => BAD_REQUEST, "M_WEAK_PASSWORD";
    /// The alias is taken.
    room_in_use => BAD_REQUEST, "M_ROOM_IN_USE";
    /// The initial state of a room contradicts itself.
    invalid_room_state => BAD_REQUEST, "M_INVALID_ROOM_STATE";
    /// The change cannot be made in the current state, such as unbanning who is not banned.
    bad_state => FORBIDDEN, "M_BAD_STATE";
    /// The server does not make rooms of this version.
    unsupported_room_version => BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION";
    /// The room has a version that the server does not know; add `room_version`.
    incompatible_room_version => BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION";
    /// An alias in `m.room.canonical_alias` does not point to the room.
    bad_alias => BAD_REQUEST, "M_BAD_ALIAS";
    /// The name is reserved for an application service.
    exclusive => BAD_REQUEST, "M_EXCLUSIVE";
    /// Guests may not do this.
    guest_access_forbidden => FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN";
    /// A limit of the server's is reached.
    resource_limit_exceeded => FORBIDDEN, "M_RESOURCE_LIMIT_EXCEEDED";
    /// The same user has reacted with the same key before.
    duplicate_annotation => BAD_REQUEST, "M_DUPLICATE_ANNOTATION";
    /// None of a restricted room's conditions can be checked here.
    unable_to_authorise_join => BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN";
    /// Another server should be asked to admit the user.
    unable_to_grant_join => BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN";
    /// The invited user does not want the invite.
    invite_blocked => FORBIDDEN, "M_INVITE_BLOCKED";
    /// A profile key has more than 255 bytes.
    key_too_large => BAD_REQUEST, "M_KEY_TOO_LARGE";
    /// A profile would exceed 64 KiB.
    profile_too_large => BAD_REQUEST, "M_PROFILE_TOO_LARGE";
    /// The third-party identifier may not be used here.
    threepid_denied => FORBIDDEN, "M_THREEPID_DENIED";
    /// The identity server is not trusted.
    server_not_trusted => BAD_REQUEST, "M_SERVER_NOT_TRUSTED";
}

impl MatrixError {
    /// The access token is not known, or (`soft_logout`) has expired while its device lives on
    /// (CS "Soft logout").
    #[must_use]
    pub fn unknown_token(soft_logout: bool) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN", "The access token is not valid")
            .with("soft_logout", soft_logout)
    }

    /// The account is locked (CS "Account locking"): 401 with a soft logout.
    #[must_use]
    pub fn user_locked() -> Self {
        Self::locked("This account is locked").with("soft_logout", true)
    }

    /// Too many requests: 429 with `retry_after_ms` in the body and the `Retry-After` header in whole
    /// seconds, rounded up.
    #[must_use]
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let message = "Too many requests";
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", message);
        error.retry_after = Some(retry_after);
        error
    }

    /// A fault of the server's. `cause` is logged here, once, and never sent.
    #[must_use]
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Internal server error")
    }
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errcode = self.errcode.unwrap_or("authentication required");
        write!(f, "{} {errcode}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for MatrixError {}

impl From<UiaaInfo> for MatrixError {
    /// The 401 that asks for (more) user-interactive authentication. An `auth_error` of the info keeps
    /// its `errcode` and `error` beside the flows.
    fn from(info: UiaaInfo) -> Self {
        _ = info;
        todo!()
    }
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        todo!()
    }
}
