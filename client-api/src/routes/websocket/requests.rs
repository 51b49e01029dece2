//! Requests over a socket: the same calls that the HTTP endpoints make.

use std::time::Duration;

use hearth_http::{ApiState, Class, MatrixError};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedTransactionId, TransactionId,
    events::{
        TimelineEventType,
        receipt::{ReceiptThread, ReceiptType},
    },
    presence::PresenceState,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{message, receipt, state, sync::known, typing},
};

/// Greatest length of a request's ID, in bytes.
const MAX_ID_BYTES: usize = 255;
/// Longest time that one request keeps a user typing, and how long if it does not say.
const TYPING_TIMEOUT: Duration = Duration::from_secs(30);

/// A request as it came.
pub(super) struct Request {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) params: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct SendParams {
    room_id: OwnedRoomId,
    event_type: String,
    content: Box<RawValue>,
    txn_id: Option<OwnedTransactionId>,
}

#[derive(Deserialize)]
struct StateParams {
    room_id: OwnedRoomId,
    event_type: String,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
}

#[derive(Deserialize)]
struct ReceiptParams {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    receipt_type: ReceiptType,
    #[serde(default, rename = "thread_id")]
    thread: Option<String>,
}

#[derive(Deserialize)]
struct TypingParams {
    room_id: OwnedRoomId,
    typing: bool,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct PresenceParams {
    presence: PresenceState,
    status_msg: Option<String>,
}

/// Does what is asked and puts the answer into words.
pub(super) async fn answer(app: ClientApi, caller: LocalUser, request: Request) -> String {
    let outcome = if request.id.len() > MAX_ID_BYTES {
        Err(MatrixError::invalid_param("The id is longer than 255 bytes").into())
    } else {
        perform(&app, &caller, &request).await
    };
    let answer = match outcome {
        Ok(result) => json!({ "id": request.id, "result": result }),
        Err(error) => {
            let error = MatrixError::from(error);
            let code = error.errcode().unwrap_or("M_UNKNOWN");
            let body = json!({ "errcode": code, "error": error.message() });
            json!({ "id": request.id, "error": body })
        }
    };
    answer.to_string()
}

async fn perform(
    app: &ClientApi,
    caller: &LocalUser,
    request: &Request,
) -> Result<Value, ApiError> {
    match request.method.as_str() {
        "ping" => Ok(json!({})),
        "send" => {
            charge(app, caller, Class::Message)?;
            let SendParams { room_id, event_type, content, txn_id } = parameters(request)?;
            let event_type = TimelineEventType::from(event_type);
            let own_id: &TransactionId = request.id.as_str().into();
            let txn_id = txn_id.as_deref().unwrap_or(own_id);
            let event_id =
                message::send_event(app, caller, &room_id, event_type, txn_id, content).await?;
            Ok(json!({ "event_id": event_id }))
        }
        "state" => {
            charge(app, caller, Class::Message)?;
            let StateParams { room_id, event_type, state_key, content } = parameters(request)?;
            let event_type = TimelineEventType::from(event_type);
            let event_id =
                state::send_event(app, caller, &room_id, event_type, state_key, content).await?;
            Ok(json!({ "event_id": event_id }))
        }
        "receipt" => {
            charge(app, caller, Class::General)?;
            let ReceiptParams { room_id, event_id, receipt_type, thread } = parameters(request)?;
            if !matches!(receipt_type, ReceiptType::Read | ReceiptType::ReadPrivate) {
                return Err(MatrixError::invalid_param("Unknown receipt type").into());
            }
            let thread = ReceiptThread::try_from(thread)
                .map_err(|_| MatrixError::invalid_param("thread_id is not an event ID"))?;
            receipt::mark(app, caller, &room_id, &event_id, receipt_type, &thread).await?;
            Ok(json!({}))
        }
        "typing" => {
            charge(app, caller, Class::General)?;
            let TypingParams { room_id, typing, timeout } = parameters(request)?;
            let timeout = timeout.map_or(TYPING_TIMEOUT, Duration::from_millis);
            typing::apply(app, caller, &room_id, typing.then_some(timeout)).await?;
            Ok(json!({}))
        }
        "presence" => {
            charge(app, caller, Class::General)?;
            let PresenceParams { presence, status_msg } = parameters(request)?;
            app.users().set_presence(caller.user_id(), known(presence)?, status_msg).await?;
            Ok(json!({}))
        }
        _ => Err(MatrixError::unrecognized("Unknown method").into()),
    }
}

fn charge(app: &ClientApi, caller: &LocalUser, class: Class) -> Result<(), MatrixError> {
    app.http().limiter().charge_user(class, caller.user_id())
}

fn parameters<T: DeserializeOwned>(request: &Request) -> Result<T, MatrixError> {
    let json = request.params.as_deref().map_or("{}", RawValue::get);
    serde_json::from_str(json).map_err(|error| MatrixError::bad_json(error.to_string()))
}
