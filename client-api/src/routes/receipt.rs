//! `/rooms/{roomId}/receipt` and `/read_markers` (CS "Receipts", "Fully read markers").

use hearth_http::{MatrixError, Ruma};
use hearth_rooms::StoredEvent;
use hearth_users::ReceiptUpdate;
use ruma::{
    EventId, OwnedEventId, RoomId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType as Requested},
    },
    events::receipt::{ReceiptThread, ReceiptType},
};
use serde::Deserialize;

use crate::{ApiError, ClientApi, LocalUser, routes::membership::must_be_joined};

/// `POST /_matrix/client/*/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_receipt::v3::Request, LocalUser>,
) -> Result<create_receipt::v3::Response, ApiError> {
    let (caller, room_id, event_id) = (&request.identity, &request.room_id, &request.event_id);
    match request.receipt_type {
        Requested::Read => {
            mark(&app, caller, room_id, event_id, ReceiptType::Read, &request.thread).await?;
        }
        Requested::ReadPrivate => {
            mark(&app, caller, room_id, event_id, ReceiptType::ReadPrivate, &request.thread)
                .await?;
        }
        Requested::FullyRead if request.thread != ReceiptThread::Unthreaded => {
            return Err(MatrixError::invalid_param("m.fully_read has no thread_id").into());
        }
        Requested::FullyRead => fully_read(&app, caller, room_id, event_id).await?,
        _ => return Err(MatrixError::invalid_param("Unknown receipt type").into()),
    }
    Ok(create_receipt::v3::Response::new())
}

/// `POST /_matrix/client/*/rooms/{roomId}/read_markers`
pub(crate) async fn set_markers(
    app: ClientApi,
    request: Ruma<set_read_marker::v3::Request, LocalUser>,
) -> Result<set_read_marker::v3::Response, ApiError> {
    let (caller, room_id) = (&request.identity, &request.room_id);
    must_be_joined(&app, room_id, caller.user_id()).await?;
    let unthreaded = &ReceiptThread::Unthreaded;
    if let Some(event_id) = &request.read_receipt {
        mark(&app, caller, room_id, event_id, ReceiptType::Read, unthreaded).await?;
    }
    if let Some(event_id) = &request.private_read_receipt {
        mark(&app, caller, room_id, event_id, ReceiptType::ReadPrivate, unthreaded).await?;
    }
    if let Some(event_id) = &request.fully_read {
        fully_read(&app, caller, room_id, event_id).await?;
    }
    Ok(set_read_marker::v3::Response::new())
}

/// Moves a receipt of the caller's, if it moves forward.
pub(crate) async fn mark(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    event_id: &EventId,
    receipt_type: ReceiptType,
    thread: &ReceiptThread,
) -> Result<(), ApiError> {
    must_be_joined(app, room_id, caller.user_id()).await?;
    let (ReceiptThread::Unthreaded | ReceiptThread::Main | ReceiptThread::Thread(_)) = thread
    else {
        return Err(
            MatrixError::invalid_param("thread_id is neither `main` nor an event ID").into()
        );
    };
    let event = app.rooms().event_by_id(room_id, event_id).await?;
    let Some(index) = event.as_ref().and_then(|event| event.index) else {
        return Err(MatrixError::not_found("There is no such event in the room").into());
    };
    if !is_in(app, room_id, event.as_deref(), thread).await? {
        return Err(MatrixError::invalid_param("The event is not in the thread thread_id").into());
    }
    app.users()
        .set_receipt(ReceiptUpdate {
            room_id: room_id.to_owned(),
            user_id: caller.user_id().to_owned(),
            receipt_type,
            thread: thread.clone(),
            event_id: event_id.to_owned(),
            timeline_position: index.position().get(),
            fan_out: !app.sync().is_large(room_id).await?,
            ts_ms: None,
        })
        .await?;
    app.users().presence_active(caller.user_id());
    app.sync().viewed(caller.user_id(), room_id);
    Ok(())
}

async fn fully_read(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(), ApiError> {
    must_be_joined(app, room_id, caller.user_id()).await?;
    app.users().set_fully_read(caller.user_id(), room_id, event_id).await?;
    Ok(())
}

/// Relations followed from an event to the root of its thread (CS "Threaded read receipts").
const MAX_HOPS: usize = 3;

#[derive(Default, Deserialize)]
struct Related {
    #[serde(default, rename = "m.relates_to")]
    relates_to: Relation,
}

#[derive(Default, Deserialize)]
struct Relation {
    rel_type: Option<String>,
    event_id: Option<OwnedEventId>,
}

/// May a receipt for this thread stand at this event? A root belongs to the main timeline and to its
/// thread.
async fn is_in(
    app: &ClientApi,
    room_id: &RoomId,
    event: Option<&StoredEvent>,
    thread: &ReceiptThread,
) -> Result<bool, ApiError> {
    let Some(event) = event else { return Ok(false) };
    let relation =
        |event: &StoredEvent| event.pdu.content_as::<Related>().unwrap_or_default().relates_to;
    let is_thread = |relation: &Relation| relation.rel_type.as_deref() == Some("m.thread");
    let mut parent = relation(event);
    let root = match thread {
        ReceiptThread::Main => return Ok(!is_thread(&parent)),
        ReceiptThread::Thread(root) => root,
        _ => return Ok(true),
    };
    if event.pdu.id() == root {
        return Ok(true);
    }
    for _ in 0..MAX_HOPS {
        let (Some(_), Some(event_id)) = (&parent.rel_type, &parent.event_id) else { break };
        if is_thread(&parent) {
            return Ok(event_id == root);
        }
        let Some(next) = app.rooms().event_by_id(room_id, event_id).await? else { break };
        parent = relation(&next);
    }
    Ok(false)
}
