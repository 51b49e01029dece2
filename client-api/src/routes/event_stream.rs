//! `/events` and `/initialSync`: how clients followed their rooms before `/sync` (CS "Events", deprecated).
//!
//! The same log and the same tokens as `/sync`, written the old way: the answers of
//! [`SyncService::events`](hearth_sync::SyncService::events), unpacked into lists of events.

mod initial;
mod sections;

use std::time::Duration;

use axum::extract::{FromRequestParts as _, Query, Request, State};
use hearth_http::{ApiState as _, Caller, Class, Lane, MatrixError, Policy, RawJson};
use hearth_rooms::schema::Membership;
use hearth_sync::{SyncRequest, SyncToken};
use ruma::{
    OwnedRoomId, RoomId,
    api::client::{filter::FilterDefinition, sync::sync_events::v3::Filter},
    presence::PresenceState,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{events::body, peeking, sync::end_of},
};

pub(crate) use self::initial::{of_room, of_user};

use self::sections::Answer;

/// Events of a room in one answer of `/events`. A client that missed more of a room, within one poll,
/// gets the newest of them.
const MAX_EVENTS: u32 = 500;
/// Longest wait of `/events`.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_mins(1);

/// The parameters of `/events`.
#[derive(Deserialize)]
struct Parameters {
    from: Option<String>,
    room_id: Option<OwnedRoomId>,
    /// In milliseconds.
    timeout: Option<u64>,
}

/// `GET /_matrix/client/*/events`: what happened since `from` in the user's rooms, or in the one that is
/// named, which may also be one that they only look into.
pub(crate) async fn events(
    State(app): State<ClientApi>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let _place = app.http().admit(Lane::LongPoll)?;
    let (caller, asked): (_, Parameters) = read(&app, request).await?;
    let timeout = Duration::from_millis(asked.timeout.unwrap_or_default()).min(MAX_TIMEOUT);
    let Some(room_id) = asked.room_id else {
        return poll(&app, &caller, asked.from, None, timeout).await;
    };
    // A token of pagination leads through one room only.
    let paginates = asked.from.as_ref().is_some_and(|from| from.parse::<SyncToken>().is_err());
    let row = app.rooms().user_room(caller.user_id(), &room_id).await?;
    if paginates || row.is_none_or(|row| row.details.membership != Membership::Join) {
        return peeking::follow(&app, &caller, &room_id, asked.from.as_deref(), timeout).await;
    }
    poll(&app, &caller, asked.from, Some(&room_id), timeout).await
}

/// Who asks, and what: guests may read events and initial syncs (CS "Guest Access").
async fn read<T: DeserializeOwned>(
    app: &ClientApi,
    request: Request,
) -> Result<(LocalUser, T), ApiError> {
    let (mut head, _) = request.into_parts();
    let policy = Policy::from(Class::General).allow_guests();
    let caller: Caller<LocalUser> = Caller::of(app, &head, policy).await?;
    let Query(asked) = Query::from_request_parts(&mut head, app)
        .await
        .map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    Ok((caller.session, asked))
}

/// Waits for news in the rooms that the user is in.
async fn poll(
    app: &ClientApi,
    caller: &LocalUser,
    from: Option<String>,
    room_id: Option<&RoomId>,
    timeout: Duration,
) -> Result<RawJson, ApiError> {
    let start = from.unwrap_or_else(|| app.sync().now().to_string());
    let deadline = Instant::now() + timeout;
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(MAX_EVENTS.into());
    filter.room.rooms = room_id.map(|room_id| vec![room_id.to_owned()]);
    let mut end = start.clone();
    let chunk = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let question = question(caller, Some(end), filter.clone(), left);
        let waits = !left.is_zero();
        let response = tokio::select! {
            biased;
            refusal = async { if waits { end_of(app, caller).await } else { std::future::pending().await } }
                => return Err(refusal.into()),
            response = app.sync().events(question) => response?,
        };
        let answer = Answer::read(&response.body)?;
        let chunk = answer.chunk(caller.user_id())?;
        end = response.next_batch;
        // What ends a poll of `/sync` need not be anything that is shown here.
        if !chunk.is_empty() || response.is_empty || Instant::now() >= deadline {
            break chunk;
        }
    };
    let mut answer = body();
    answer.text("start", &start);
    answer.text("end", &end);
    answer.events("chunk", &chunk);
    Ok(answer.finish())
}

/// What to ask `/sync`. Who listens is online.
fn question(
    caller: &LocalUser,
    since: Option<String>,
    filter: FilterDefinition,
    timeout: Duration,
) -> SyncRequest {
    SyncRequest {
        user_id: caller.user_id().to_owned(),
        device_id: caller.device_id().to_owned(),
        since,
        filter: Some(Filter::FilterDefinition(filter)),
        full_state: false,
        set_presence: PresenceState::Online,
        timeout,
        use_state_after: true,
        unstable_state_after: false,
    }
}
