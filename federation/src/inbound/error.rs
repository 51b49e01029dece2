//! From what the domain crates say to what the specification says to servers.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use hearth_e2ee::E2eeError;
use hearth_http::MatrixError;
use hearth_media::MediaError;
use hearth_rooms::RoomError;
use hearth_users::UsersError;
use http::StatusCode;

use crate::check::Dropped;

/// How long a server should wait when a bounded table or mailbox was full.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// The error of every handler of this API.
#[derive(Debug)]
pub(crate) struct ApiError(MatrixError);

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

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        use RoomError as E;
        let text = error.to_string();
        Self(match error {
            E::UnknownRoom | E::UnknownEvent | E::UnknownAlias => MatrixError::not_found(text),
            E::Forbidden(_) | E::NotJoined | E::Refused { .. } => MatrixError::forbidden(text),
            E::InvalidParam(_) => MatrixError::invalid_param(text),
            E::BadJson(_) | E::InvalidRoomState(_) => MatrixError::bad_json(text),
            E::TooLarge => MatrixError::too_large(text),
            E::UnsupportedVersion(version) | E::IncompatibleVersion(version) => {
                let text = format!("the room's version is {version}");
                MatrixError::incompatible_room_version(text).with("room_version", version)
            }
            E::UnableToAuthoriseJoin(_) => MatrixError::unable_to_authorise_join(text),
            E::UnableToGrantJoin(_) => MatrixError::unable_to_grant_join(text),
            E::Remote(_) => MatrixError::bad_request(text).with_status(StatusCode::BAD_GATEWAY),
            E::Busy => MatrixError::limit_exceeded(BUSY_RETRY),
            E::BadState(_) => MatrixError::bad_state(text),
            // What only this server's own users can bring about.
            E::AliasInUse | E::BadAlias(_) | E::DuplicateAnnotation | E::RemoteUser(_) => {
                MatrixError::bad_request(text)
            }
            E::Internal(source) => MatrixError::internal(&source),
        })
    }
}

impl From<UsersError> for ApiError {
    fn from(error: UsersError) -> Self {
        let text = error.to_string();
        Self(match error {
            UsersError::UserNotFound => MatrixError::not_found(text),
            UsersError::Busy(_) => MatrixError::limit_exceeded(BUSY_RETRY),
            // The queries of other servers change nothing, and can fail in no other way.
            _ => MatrixError::internal(&text),
        })
    }
}

impl From<MediaError> for ApiError {
    fn from(error: MediaError) -> Self {
        let text = error.to_string();
        Self(match error {
            MediaError::NotFound => MatrixError::not_found(text),
            MediaError::NotYetUploaded => {
                MatrixError::new(StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED", text)
            }
            MediaError::NoPicture => MatrixError::bad_request(text),
            MediaError::PictureTooLarge => MatrixError::too_large(text),
            MediaError::Busy(_) => MatrixError::limit_exceeded(BUSY_RETRY),
            // Reading what this server has can fail in no other way.
            _ => MatrixError::internal(&text),
        })
    }
}

impl From<E2eeError> for ApiError {
    fn from(error: E2eeError) -> Self {
        match error {
            E2eeError::Users(error) => error.into(),
            E2eeError::Rooms(error) => error.into(),
            E2eeError::Busy(_) => Self(MatrixError::limit_exceeded(BUSY_RETRY)),
            E2eeError::InvalidParam(text) => Self(MatrixError::invalid_param(text)),
            E2eeError::TooLarge(text) => Self(MatrixError::too_large(text)),
            // The queries of other servers can fail in no other way.
            error => Self(MatrixError::internal(&error)),
        }
    }
}

/// An event that did not pass the first three checks. What nobody signed who must have is not permitted, as
/// with other servers (the specification names no error for it). What has not even an ID is not canonical
/// JSON, which has an error code of its own since room version 6.
impl From<Dropped> for ApiError {
    fn from(dropped: Dropped) -> Self {
        let text = format!("the event is not valid: {}", dropped.reason);
        Self(match dropped.event_id {
            _ if dropped.unproven => MatrixError::forbidden(text),
            Some(_) => MatrixError::invalid_param(text),
            None => MatrixError::bad_json(text),
        })
    }
}
