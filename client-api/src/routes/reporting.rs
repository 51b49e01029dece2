//! `/report`: users, rooms and events that the operator should look at (CS "Reporting Content").
//!
//! Every report is taken: whether there is such a user, room or event is told neither by the answer nor by
//! its time.

use hearth_http::Ruma;
use hearth_rooms::RoomError;
use hearth_users::{ReportSubject, ReportedEvent};
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{ApiError, ClientApi, LocalUser};

/// `POST /_matrix/client/*/users/{userId}/report`
pub(crate) async fn user(
    app: ClientApi,
    request: Ruma<report_user::v3::Request, LocalUser>,
) -> Result<report_user::v3::Response, ApiError> {
    let Ruma { body, identity, .. } = request;
    let subject = ReportSubject::User(body.user_id);
    app.users().report(identity.user_id().to_owned(), subject, None, body.reason).await?;
    Ok(report_user::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/report`
pub(crate) async fn room(
    app: ClientApi,
    request: Ruma<report_room::v3::Request, LocalUser>,
) -> Result<report_room::v3::Response, ApiError> {
    let Ruma { body, identity, .. } = request;
    let subject = ReportSubject::Room(body.room_id);
    app.users().report(identity.user_id().to_owned(), subject, None, body.reason).await?;
    Ok(report_room::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/report/{eventId}`. An event that its reporter could see is kept
/// with the report, as it may be redacted before the operator looks.
pub(crate) async fn event(
    app: ClientApi,
    request: Ruma<report_content::v3::Request, LocalUser>,
) -> Result<report_content::v3::Response, ApiError> {
    let Ruma { body, identity, .. } = request;
    let reporter = identity.user_id();
    let seen = match app.rooms().readable_event(&body.room_id, reporter, &body.event_id).await {
        Ok(event) => Some(ReportedEvent {
            sender: event.pdu.sender().to_owned(),
            event_type: event.pdu.kind().to_string(),
            content: event.pdu.content().get().to_owned(),
        }),
        Err(error @ (RoomError::Internal(_) | RoomError::Busy)) => return Err(error.into()),
        Err(_) => None,
    };
    let subject = ReportSubject::Event(body.room_id, body.event_id);
    let reason = body.reason.unwrap_or_default();
    app.users().report(reporter.to_owned(), subject, seen, reason).await?;
    Ok(report_content::v3::Response::new())
}
