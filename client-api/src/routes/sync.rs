//! `/sync` by long-poll. The answers are made in `hearth-sync`.

use std::{future::pending, time::Duration};

use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_sync::SyncRequest;
use ruma::{
    api::client::sync::sync_events::{self, v3::Filter},
    presence::PresenceState,
};

use crate::{ApiError, ClientApi, LocalUser, routes::watch::Watch};

/// `GET /_matrix/client/*/sync`
pub(crate) async fn sync(
    app: ClientApi,
    request: Ruma<sync_events::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let unstable_state_after = !request.use_state_after && asks_unstable_state_after(&request.uri);
    let use_state_after = request.use_state_after || unstable_state_after;
    // Nothing of the request's own bytes may outlast this line: the URI is a piece of the connection's
    // read buffer, and a request that waits would keep all 8 KiB of it.
    let (body, identity) = taken(request);
    let set_presence = known(body.set_presence)?;
    // Ruma takes a broken definition for the ID of a filter.
    if let Some(Filter::FilterId(text)) = &body.filter
        && text.starts_with('{')
    {
        return Err(MatrixError::invalid_param("filter: not a filter definition").into());
    }
    let question = SyncRequest {
        user_id: identity.user_id().to_owned(),
        device_id: identity.device_id().to_owned(),
        since: body.since,
        filter: body.filter,
        full_state: body.full_state,
        set_presence,
        timeout: body.timeout.unwrap_or(Duration::ZERO),
        use_state_after,
        unstable_state_after,
    };
    let waits = !question.timeout.is_zero();
    // Watched from before the first look: a session that ends meanwhile gets nothing any more.
    let end = async { if waits { end_of(&app, &identity).await } else { pending().await } };
    // On shutdown the service is closed, and what waits answers with what there is.
    tokio::select! {
        biased;
        refusal = end => Err(refusal.into()),
        response = app.sync().sync(question) => Ok(RawJson(response?.body)),
    }
}

/// Waits for the end of the session; what a request of it gets from then on.
pub(crate) async fn end_of(app: &ClientApi, caller: &LocalUser) -> MatrixError {
    // The end of a session is among what changes a user.
    let user = Watch::new(app, caller.user_id().as_str());
    loop {
        user.changed().await;
        if let Err(refusal) = app.must_last(caller).await {
            return refusal;
        }
    }
}

/// The parameter's name before the specification took it (MSC4222).
fn asks_unstable_state_after(uri: &http::Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "org.matrix.msc4222.use_state_after" && value == "true")
}

fn taken<T, I>(request: Ruma<T, I>) -> (T, I) {
    let Ruma { body, identity, .. } = request;
    (body, identity)
}

/// Refuses presence states that the specification does not have.
pub(crate) fn known(presence: PresenceState) -> Result<PresenceState, MatrixError> {
    match presence {
        PresenceState::Online | PresenceState::Offline | PresenceState::Unavailable => Ok(presence),
        _ => Err(MatrixError::invalid_param("There is no such presence")),
    }
}
