//! `/rooms/{roomId}/typing/{userId}` (CS "Typing Notifications").

use std::time::Duration;

use hearth_http::Ruma;
use ruma::api::client::typing::create_typing_event::{self, v3::Typing};

use crate::{ApiError, ClientApi, LocalUser, routes::membership::must_be_joined};

/// Longest time that one request keeps a user typing.
const MAX_TIMEOUT: Duration = Duration::from_mins(2);

/// `PUT /_matrix/client/*/rooms/{roomId}/typing/{userId}`
pub(crate) async fn set(
    app: ClientApi,
    request: Ruma<create_typing_event::v3::Request, LocalUser>,
) -> Result<create_typing_event::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?.may_write()?;
    let timeout = match &request.state {
        Typing::Yes(info) => Some(info.timeout),
        Typing::No => None,
    };
    apply(&app, &request.identity, &request.room_id, timeout).await?;
    Ok(create_typing_event::v3::Response::new())
}

/// Starts (with a timeout) or stops typing, for members only.
pub(crate) async fn apply(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &ruma::RoomId,
    timeout: Option<Duration>,
) -> Result<(), ApiError> {
    must_be_joined(app, room_id, caller.user_id()).await?;
    let timeout = timeout.map(|timeout| timeout.min(MAX_TIMEOUT));
    app.users().set_typing(room_id, caller.user_id(), timeout);
    // Who leaves stops typing; one who left between these lines would not.
    if timeout.is_some()
        && let Err(error) = must_be_joined(app, room_id, caller.user_id()).await
    {
        app.users().set_typing(room_id, caller.user_id(), None);
        return Err(error);
    }
    app.sync().viewed(caller.user_id(), room_id);
    app.users().presence_active(caller.user_id());
    Ok(())
}
