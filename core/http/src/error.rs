//! Errors as clients see them.

use std::{borrow::Cow, fmt, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use ruma::api::client::uiaa::UiaaInfo;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::reply::JSON;

/// An error response of a Matrix API: `{"errcode": …, "error": …}` and an HTTP status
/// (CS "Standard error response").
///
/// It also carries the 401 body of user-interactive authentication (from a [`UiaaInfo`]), so that every
/// handler has one error type.
#[derive(Clone, Debug)]
pub struct MatrixError {
    status: StatusCode,
    errcode: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    extra: Option<Box<Map<String, Value>>>,
    retry_after: Option<Duration>,
    cause: Option<Box<str>>,
}

/// Why the server failed; travels beside the response to the one place that logs it.
#[derive(Clone, Debug)]
pub(crate) struct InternalCause(pub(crate) Box<str>);

impl MatrixError {
    /// An error with the code that the specification names for it. The message is for people: it must
    /// hold no secret and nothing of the server's insides.
    #[must_use]
    pub fn new(
        status: StatusCode,
        errcode: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            errcode: Some(errcode.into()),
            message: message.into(),
            extra: None,
            retry_after: None,
            cause: None,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The error code; `None` for a request to authenticate interactively.
    #[must_use]
    pub fn errcode(&self) -> Option<&str> {
        self.errcode.as_deref()
    }

    /// The message for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Why the server failed, for a log line where no HTTP response carries it there. Never send it.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// How long the client is asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
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
    /// The sliding sync connection is not known (any more): begin anew.
    unknown_pos => BAD_REQUEST, "M_UNKNOWN_POS";
    /// Anything that has no code of its own.
    bad_request => BAD_REQUEST, "M_UNKNOWN";
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
        Self::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account is locked")
            .with("soft_logout", true)
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

    /// A fault of the server's: 500 `M_UNKNOWN`. `cause` goes to the request's log line and is never
    /// sent.
    #[must_use]
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        let message = "Internal server error";
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", message);
        error.cause = Some(cause.to_string().into());
        error
    }
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errcode = self.errcode.as_deref().unwrap_or("authentication required");
        write!(f, "{} {errcode}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for MatrixError {}

impl From<UiaaInfo> for MatrixError {
    /// The 401 that asks for (more) user-interactive authentication. An `auth_error` of the info keeps
    /// its `errcode` and `error` beside the flows.
    fn from(info: UiaaInfo) -> Self {
        match serde_json::to_value(&info) {
            Ok(Value::Object(body)) => Self {
                status: StatusCode::UNAUTHORIZED,
                errcode: None,
                message: Cow::Borrowed(""),
                extra: Some(Box::new(body)),
                retry_after: None,
                cause: None,
            },
            Ok(_) => Self::internal(&"authentication flows are not an object"),
            Err(error) => Self::internal(&error),
        }
    }
}

/// The body, in the order in which people read it.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    errcode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(flatten)]
    extra: Option<&'a Map<String, Value>>,
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        let body = Body {
            errcode: self.errcode.as_deref(),
            error: self.errcode.as_ref().map(|_| &*self.message),
            retry_after_ms: self.retry_after.map(as_millis_up),
            extra: self.extra.as_deref(),
        };
        // Strings, numbers and JSON values cannot fail to serialize; keep the status if they do.
        let body = serde_json::to_vec(&body).unwrap_or_else(|_| b"{}".to_vec());
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        if let Some(retry_after) = self.retry_after {
            let seconds = as_millis_up(retry_after).div_ceil(1_000);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(InternalCause(cause));
        }
        response
    }
}

/// Milliseconds, rounded up so that whoever waits that long has waited long enough.
fn as_millis_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}
