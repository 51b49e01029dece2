//! How delayed events get into their rooms: the way of all others, in the name of who left them here.

use async_trait::async_trait;
use hearth_delayed::{Due, Refusal, Sender, Unsent};
use hearth_http::MatrixError;
use hearth_rooms::{Draft, schema::TransactionKey};
use ruma::{OwnedEventId, events::TimelineEventType};

use crate::{ApiError, ClientApi, routes::state};

/// The scope of the transactions of delayed events, whose IDs they are.
const SCOPE: &str = "delayed";

/// What is plugged into the delayed events.
pub(crate) struct DelayedSender(pub(crate) ClientApi);

#[async_trait]
impl Sender for DelayedSender {
    async fn send(&self, due: Due) -> Result<OwnedEventId, Refusal> {
        let app = &self.0;
        match app.users().account(&due.event.user_id).await {
            Ok(Some(account)) if account.is_suspended => {
                return Err(refusal(MatrixError::suspended("The account is suspended").into()));
            }
            Ok(Some(account)) if account.is_locked => {
                return Err(refusal(MatrixError::user_locked().into()));
            }
            Ok(Some(account)) if !account.is_deactivated => {}
            Ok(_) => {
                let gone = MatrixError::user_deactivated("The account is deactivated");
                return Err(Refusal { is_orphaned: true, ..refusal(gone.into()) });
            }
            Err(error) => return Err(refusal(error.into())),
        }
        into_room(app, due).await.map_err(refusal)
    }
}

async fn into_room(app: &ClientApi, due: Due) -> Result<OwnedEventId, ApiError> {
    let Unsent { user_id, device_id, room_id, event_type, state_key, content } = due.event;
    let transaction = Some(TransactionKey {
        user_id: user_id.clone(),
        device_id,
        scope: SCOPE.to_owned(),
        transaction_id: due.delay_id.into(),
    });
    let event_type = TimelineEventType::from(event_type);
    if let Some(state_key) = state_key {
        return state::set(app, &user_id, &room_id, event_type, state_key, content, transaction)
            .await;
    }
    let draft = Draft::message(user_id, event_type, content);
    Ok(app.rooms().send(&room_id, draft, transaction).await?)
}

/// The error as whoever sends the event at once would see it.
fn refusal(error: ApiError) -> Refusal {
    let error = MatrixError::from(error);
    if let Some(cause) = error.cause() {
        tracing::error!(cause, "a delayed event could not be sent");
    }
    Refusal {
        status: error.status().as_u16(),
        errcode: error.errcode().unwrap_or("M_UNKNOWN").to_owned(),
        message: error.message().to_owned(),
        retry_after: error.retry_after(),
        is_orphaned: false,
    }
}
