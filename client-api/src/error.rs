//! From what the domain crates say to what the specification says: codes and statuses in exhaustive
//! matches, and nowhere else.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use hearth_delayed::{DelayedError, Refusal};
use hearth_e2ee::E2eeError;
use hearth_http::MatrixError;
use hearth_media::MediaError;
use hearth_push::PushError;
use hearth_rooms::RoomError;
use hearth_sync::SyncError;
use hearth_users::{PushRuleError, UsersError};
use http::StatusCode;

use crate::routes::delayed_events::MAX_DELAY;

/// The error of every handler.
#[derive(Debug)]
pub struct ApiError(MatrixError);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<MatrixError> for ApiError {
    fn from(error: MatrixError) -> Self {
        Self(error)
    }
}

impl From<ApiError> for MatrixError {
    fn from(error: ApiError) -> Self {
        error.0
    }
}

/// How long a client should wait when a bounded table or mailbox was full.
const BUSY_RETRY: Duration = Duration::from_secs(2);

impl From<UsersError> for ApiError {
    fn from(error: UsersError) -> Self {
        use UsersError as E;
        let text = error.to_string();
        Self(match error {
            E::UserInUse => MatrixError::user_in_use(text),
            E::InvalidUsername(_) => MatrixError::invalid_username(text),
            E::WeakPassword { .. } => MatrixError::weak_password(text),
            E::PasswordTooLong
            | E::InvalidDeviceId
            | E::InvalidProfileKey(_)
            | E::InvalidName(_) => MatrixError::invalid_param(text),
            E::UserNotFound | E::DeviceNotFound => MatrixError::not_found(text),
            E::WrongCredentials | E::WrongMac => MatrixError::forbidden(text),
            E::Deactivated => MatrixError::user_deactivated(text),
            E::Locked => MatrixError::user_locked(),
            E::UnknownToken { soft_logout } => MatrixError::unknown_token(soft_logout),
            E::InvalidRegistrationToken => {
                MatrixError::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", text)
            }
            E::SharedSecretDisabled => MatrixError::unrecognized(text),
            E::UnknownNonce => MatrixError::bad_request(text),
            E::ProfileKeyTooLarge => MatrixError::key_too_large(text),
            E::InvalidProfileValue(_) | E::InvalidContent(_) => MatrixError::bad_json(text),
            E::ProfileTooLarge => MatrixError::profile_too_large(text),
            E::ManagedAccountData => {
                MatrixError::bad_json(text).with_status(StatusCode::METHOD_NOT_ALLOWED)
            }
            E::TooLarge { .. } => MatrixError::too_large(text),
            E::PushRule(refused) => push_rule(refused, text),
            E::Remote(_) => MatrixError::bad_request(text).with_status(StatusCode::BAD_GATEWAY),
            E::Busy(_) => MatrixError::limit_exceeded(BUSY_RETRY),
            E::TooManyGuesses { retry_in_ms } => {
                MatrixError::limit_exceeded(Duration::from_millis(retry_in_ms))
            }
            E::Store(_) | E::Commit(_) | E::Internal(_) => MatrixError::internal(&text),
        })
    }
}

fn push_rule(error: PushRuleError, text: String) -> MatrixError {
    match error {
        PushRuleError::NotFound => MatrixError::not_found(text),
        PushRuleError::ServerDefault | PushRuleError::InvalidRuleId => {
            MatrixError::invalid_param(text)
        }
        PushRuleError::UnknownRelative
        | PushRuleError::RelativeToServerDefault
        | PushRuleError::BeforeHigherThanAfter => MatrixError::bad_request(text),
        PushRuleError::TooMany => MatrixError::too_large(text),
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        use RoomError as E;
        let text = error.to_string();
        Self(match error {
            E::UnknownRoom | E::UnknownEvent | E::UnknownAlias => MatrixError::not_found(text),
            E::Forbidden(_) | E::NotJoined => MatrixError::forbidden(text),
            E::BadState(_) => MatrixError::bad_state(text),
            E::BadAlias(_) => MatrixError::bad_alias(text),
            E::DuplicateAnnotation => MatrixError::duplicate_annotation(text),
            E::RemoteUser(_) => MatrixError::bad_request(text),
            E::InvalidParam(_) => MatrixError::invalid_param(text),
            E::BadJson(_) => MatrixError::bad_json(text),
            E::TooLarge => MatrixError::too_large(text),
            E::UnsupportedVersion(_) => MatrixError::unsupported_room_version(text),
            E::InvalidRoomState(_) => MatrixError::invalid_room_state(text),
            E::AliasInUse => MatrixError::room_in_use(text),
            E::UnableToAuthoriseJoin(_) => MatrixError::unable_to_authorise_join(text),
            E::IncompatibleVersion(version) => {
                MatrixError::incompatible_room_version(text).with("room_version", version)
            }
            E::Remote(_) => MatrixError::bad_request(text).with_status(StatusCode::BAD_GATEWAY),
            E::Refused { status, errcode, message } => passed_on(status, errcode, message),
            E::UnableToGrantJoin(_) => MatrixError::unable_to_grant_join(text),
            E::Busy => MatrixError::limit_exceeded(BUSY_RETRY),
            E::Internal(source) => MatrixError::internal(&source),
        })
    }
}

/// Another server's refusal in its own words; what is none is an error of that server.
fn passed_on(status: u16, errcode: String, message: String) -> MatrixError {
    let status = StatusCode::from_u16(status).ok().filter(StatusCode::is_client_error);
    MatrixError::new(status.unwrap_or(StatusCode::BAD_GATEWAY), errcode, message)
}

impl From<E2eeError> for ApiError {
    fn from(error: E2eeError) -> Self {
        use E2eeError as E;
        let text = error.to_string();
        Self(match error {
            E::InvalidParam(_) => MatrixError::invalid_param(text),
            E::MissingParam(_) => MatrixError::missing_param(text),
            E::BadJson(_) => MatrixError::bad_json(text),
            E::InvalidSignature(_) => {
                MatrixError::new(StatusCode::BAD_REQUEST, "M_INVALID_SIGNATURE", text)
            }
            E::NotFound(_) => MatrixError::not_found(text),
            E::Forbidden(_) => MatrixError::forbidden(text),
            E::TooLarge(_) => MatrixError::too_large(text),
            E::WrongBackupVersion { current } => {
                let wrong = "M_WRONG_ROOM_KEYS_VERSION";
                MatrixError::new(StatusCode::FORBIDDEN, wrong, text)
                    .with("current_version", current)
            }
            E::Busy(_) => MatrixError::limit_exceeded(BUSY_RETRY),
            E::Users(error) => return error.into(),
            E::Rooms(error) => return error.into(),
            E::Store(_) | E::Commit(_) | E::Internal(_) => MatrixError::internal(&text),
        })
    }
}

impl From<MediaError> for ApiError {
    fn from(error: MediaError) -> Self {
        use MediaError as E;
        let text = error.to_string();
        Self(match error {
            E::NotFound => MatrixError::not_found(text),
            E::TooLarge { .. } | E::PictureTooLarge => MatrixError::too_large(text),
            E::QuotaExceeded { .. } | E::NotYours | E::PreviewRefused(_) => {
                MatrixError::forbidden(text)
            }
            E::CannotOverwrite => {
                MatrixError::new(StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA", text)
            }
            E::NotYetUploaded => {
                MatrixError::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", text)
            }
            E::NoPicture => MatrixError::bad_request(text),
            E::Remote(_) | E::NoPreview => {
                MatrixError::bad_request(text).with_status(StatusCode::BAD_GATEWAY)
            }
            E::RemoteTooLarge => MatrixError::too_large(text).with_status(StatusCode::BAD_GATEWAY),
            E::InvalidParam(_) => MatrixError::invalid_param(text),
            E::PreviewsOff => MatrixError::unrecognized(text),
            E::Busy(_) => MatrixError::limit_exceeded(BUSY_RETRY),
            E::Bytes(_) | E::Store(_) | E::Commit(_) | E::Internal(_) => {
                MatrixError::internal(&text)
            }
        })
    }
}

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        use PushError as E;
        let text = error.to_string();
        Self(match error {
            E::InvalidParam(_) => MatrixError::invalid_param(text),
            E::TooMany => MatrixError::too_large(text),
            E::Users(error) => return error.into(),
            E::Rooms(error) => return error.into(),
            E::Sync(error) => return error.into(),
            E::Store(_) | E::Commit(_) => MatrixError::internal(&text),
        })
    }
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        Self(match error {
            SyncError::InvalidParam(text) => MatrixError::invalid_param(text),
            SyncError::BadJson(text) => MatrixError::bad_json(text),
            SyncError::UnknownPos => MatrixError::unknown_pos(error.to_string()),
            SyncError::UnknownFilter => MatrixError::not_found(error.to_string()),
            SyncError::Internal(source) => MatrixError::internal(&source),
        })
    }
}

/// Where MSC4140's own error codes stand while it is unstable, beside `M_UNKNOWN`.
const DELAYED_ERRCODE: &str = "org.matrix.msc4140.errcode";

impl From<DelayedError> for ApiError {
    fn from(error: DelayedError) -> Self {
        use DelayedError as E;
        let text = error.to_string();
        Self(match error {
            E::InvalidParam(_) => MatrixError::invalid_param(text),
            E::TooLarge => MatrixError::too_large(text),
            E::DelayTooLong { max_ms } => MatrixError::bad_request(text)
                .with(DELAYED_ERRCODE, "M_MAX_DELAY_EXCEEDED")
                .with(MAX_DELAY, max_ms),
            E::TooMany { next_in_ms } => {
                MatrixError::limit_exceeded(Duration::from_millis(next_in_ms))
                    .with(DELAYED_ERRCODE, "M_MAX_DELAYED_EVENTS_EXCEEDED")
            }
            E::NotFound => MatrixError::not_found(text),
            E::Finalised(_) => MatrixError::bad_request(text).with_status(StatusCode::CONFLICT),
            E::Refused(refusal) => refused_by_hand(refusal),
            E::Store(_) | E::Commit(_) | E::Internal(_) => MatrixError::internal(&text),
        })
    }
}

/// What sending the event at once would have been answered.
fn refused_by_hand(refusal: Refusal) -> MatrixError {
    if let Some(retry_after) = refusal.retry_after {
        return MatrixError::limit_exceeded(retry_after);
    }
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    MatrixError::new(status, refusal.errcode, refusal.message)
}

#[cfg(test)]
mod tests {
    use hearth_delayed::Fate;

    use super::*;

    #[test]
    fn who_sends_a_delayed_event_by_hand_is_told_what_sending_it_would_have_told() {
        for (status, errcode) in
            [(403, "M_FORBIDDEN"), (413, "M_TOO_LARGE"), (500, "M_UNKNOWN"), (502, "M_UNKNOWN")]
        {
            let (message, retry_after, fate) = ("no".to_owned(), None, Fate::Later);
            let refusal =
                Refusal { status, errcode: errcode.to_owned(), message, retry_after, fate };
            let error = MatrixError::from(ApiError::from(DelayedError::Refused(refusal)));
            let told = (error.status().as_u16(), error.errcode(), error.message());
            assert_eq!(told, (status, Some(errcode), "no"));
        }
    }
}
