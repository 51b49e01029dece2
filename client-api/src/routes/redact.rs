//! `/rooms/{roomId}/redact` (CS "Redactions").

use hearth_http::{MatrixError, Ruma};
use hearth_rooms::Draft;
use ruma::{api::client::redact::redact_event, events::TimelineEventType};
use serde_json::{json, value::to_raw_value};

use crate::{ApiError, ClientApi, LocalUser, routes::message::transaction};

/// `PUT /_matrix/client/*/rooms/{roomId}/redact/{eventId}/{txnId}`
pub(crate) async fn redact(
    app: ClientApi,
    request: Ruma<redact_event::v3::Request, LocalUser>,
) -> Result<redact_event::v3::Response, ApiError> {
    let caller = &request.identity;
    let (room_id, target) = (&request.room_id, &request.event_id);
    if let Err(suspended) = caller.may_write() {
        // One's own events may be redacted all the same (CS "Account suspension").
        let event = app.rooms().event_by_id(room_id, target).await?;
        if event.is_none_or(|event| event.pdu.sender() != caller.user_id()) {
            return Err(suspended.into());
        }
    }
    let content = match &request.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let content = to_raw_value(&content).map_err(|error| MatrixError::internal(&error))?;
    let mut draft =
        Draft::message(caller.user_id().to_owned(), TimelineEventType::RoomRedaction, content);
    draft.redacts = Some(target.clone());
    let key = transaction(caller, format!("redact/{target}"), &request.txn_id);
    let event_id = app.rooms().send(room_id, draft, Some(key)).await?;
    Ok(redact_event::v3::Response::new(event_id))
}
