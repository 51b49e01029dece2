//! How delayed events get into their rooms: the way of all others, in the name of who left them here.

use async_trait::async_trait;
use hearth_delayed::{Due, Fate, Refusal, Sender, Unsent};
use hearth_http::{ApiState as _, Class, MatrixError};
use hearth_rooms::{Draft, schema::TransactionKey};
use http::StatusCode;
use ruma::{OwnedEventId, UserId, events::TimelineEventType};

use crate::{ApiError, ClientApi, routes::state};

/// The scope of the transactions of delayed events, whose IDs they are.
const SCOPE: &str = "delayed";

/// What is plugged into the delayed events.
pub(crate) struct DelayedSender(pub(crate) ClientApi);

#[async_trait]
impl Sender for DelayedSender {
    async fn sent(&self, due: &Due) -> Result<Option<OwnedEventId>, Refusal> {
        let sent = self.0.rooms().sent_by(&due.event.room_id, &transaction(due)).await;
        sent.map_err(|error| refusal(error.into()))
    }

    async fn check_account(&self, user_id: &UserId) -> Result<(), Refusal> {
        match self.0.users().account(user_id).await {
            Ok(Some(account)) if account.is_suspended => {
                Err(refusal(MatrixError::suspended("The account is suspended").into()))
            }
            Ok(Some(account)) if account.is_locked => {
                Err(refusal(MatrixError::user_locked().into()))
            }
            Ok(Some(account)) if !account.is_deactivated => Ok(()),
            Ok(_) => {
                let gone = MatrixError::user_deactivated("The account is deactivated");
                Err(Refusal { fate: Fate::Orphaned, ..refusal(gone.into()) })
            }
            Err(error) => Err(refusal(error.into())),
        }
    }

    fn charge(&self, user_id: &UserId) -> Result<(), Refusal> {
        let charged = self.0.http().limiter().charge_user(Class::Message, user_id);
        charged.map_err(|error| Refusal { fate: Fate::Refused, ..refusal(error.into()) })
    }

    async fn send(&self, due: Due) -> Result<OwnedEventId, Refusal> {
        into_room(&self.0, due).await.map_err(refusal)
    }
}

/// By what a room knows a delayed event.
fn transaction(due: &Due) -> TransactionKey {
    TransactionKey {
        user_id: due.event.user_id.clone(),
        device_id: due.event.device_id.clone(),
        scope: SCOPE.to_owned(),
        transaction_id: due.delay_id.as_str().into(),
    }
}

async fn into_room(app: &ClientApi, due: Due) -> Result<OwnedEventId, ApiError> {
    let transaction = Some(transaction(&due));
    let Unsent { user_id, room_id, event_type, state_key, content, .. } = due.event;
    let event_type = TimelineEventType::from(event_type);
    if let Some(state_key) = state_key {
        return state::set(app, &user_id, &room_id, event_type, state_key, content, transaction)
            .await;
    }
    let draft = Draft::message(user_id, event_type, content);
    Ok(app.rooms().send(&room_id, draft, transaction).await?)
}

/// The error as whoever sends the event at once would see it. A busy room and a fault of the server's pass.
fn refusal(error: ApiError) -> Refusal {
    let error = MatrixError::from(error);
    if let Some(cause) = error.cause() {
        tracing::error!(cause, "a delayed event could not be sent");
    }
    let status = error.status();
    let may_pass = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    Refusal {
        status: status.as_u16(),
        errcode: error.errcode().unwrap_or("M_UNKNOWN").to_owned(),
        message: error.message().to_owned(),
        retry_after: error.retry_after(),
        fate: if may_pass { Fate::Later } else { Fate::Refused },
    }
}
