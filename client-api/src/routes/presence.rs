//! `/presence/{userId}/status` (CS "Presence").

use std::time::Duration;

use hearth_http::{MatrixError, Ruma};
use ruma::api::client::presence::{get_presence, set_presence};

use crate::{ApiError, ClientApi, LocalUser, routes::sync::known};

/// `GET /_matrix/client/*/presence/{userId}/status`: for oneself and those one shares a room with.
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_presence::v3::Request, LocalUser>,
) -> Result<get_presence::v3::Response, ApiError> {
    let caller = request.identity.user_id();
    if caller != request.user_id
        && app.rooms().mutual_rooms(caller, &request.user_id).await?.is_empty()
    {
        return Err(MatrixError::forbidden("You share no room with this user").into());
    }
    let presence = app.users().presence(&request.user_id).await?;
    let mut response = get_presence::v3::Response::new(presence.state);
    response.status_msg = presence.status_msg;
    response.currently_active = Some(presence.currently_active);
    response.last_active_ago = presence
        .last_active_ms
        .map(|at_ms| Duration::from_millis(app.clock().now_ms().saturating_sub(at_ms)));
    Ok(response)
}

/// `PUT /_matrix/client/*/presence/{userId}/status`
pub(crate) async fn set(
    app: ClientApi,
    request: Ruma<set_presence::v3::Request, LocalUser>,
) -> Result<set_presence::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let set_presence::v3::Request { user_id, presence, status_msg, .. } = request.body;
    app.users().set_presence(&user_id, known(presence)?, status_msg).await?;
    Ok(set_presence::v3::Response::new())
}
