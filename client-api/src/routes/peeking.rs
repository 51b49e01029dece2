//! `/initialSync` and `/events` of a room that the user is not in: they have left it, or look into it
//! (CS "Room Previews").

use std::time::Duration;

use hearth_http::{ApiState, MatrixError, RawJson};
use hearth_rooms::{
    format::membership_name,
    read::{MessagesPage, MessagesRequest, TimelineFilter, TimelineToken},
};
use hearth_storage::Direction;
use ruma::RoomId;
use tokio::time::{Instant, timeout_at};

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        events::{body, client_events, ignored},
        message::token,
        watch::Watch,
    },
};

/// Events in one answer of `/events`.
const MAX_EVENTS: usize = 100;

/// The room as the user may see it: its state and the newest messages. Nothing of who is there now.
pub(crate) async fn snapshot(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    limit: u32,
) -> Result<RawJson, ApiError> {
    let state = app.rooms().readable_state(room_id, caller.user_id()).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = page(app, caller, room_id, None, Direction::Backward, limit).await?;
    let state = client_events(app, caller, room_id, &state).await?;
    let mut chunk = client_events(app, caller, room_id, &page.events).await?;
    chunk.reverse();
    let mut messages = body();
    messages.text("start", &page.end.unwrap_or(TimelineToken::START).to_string());
    messages.text("end", &page.start.to_string());
    messages.events("chunk", &chunk);
    let mut answer = body();
    answer.text("room_id", room_id.as_str());
    if let Some(row) = app.rooms().user_room(caller.user_id(), room_id).await? {
        answer.text("membership", membership_name(row.details.membership));
    }
    answer.raw("messages", &messages.into_raw()?);
    answer.events("state", &state);
    let visibility = if app.rooms().is_published(room_id).await? { "public" } else { "private" };
    answer.text("visibility", visibility);
    let data = app.users().room_account_data(caller.user_id(), room_id).await?;
    let data = data.into_iter().map(|entry| {
        let mut event = body();
        event.text("type", &entry.event_type);
        event.raw("content", &entry.content);
        event.into_raw()
    });
    answer.events("account_data", &data.collect::<Result<Vec<_>, _>>()?);
    answer.events("presence", &[]);
    answer.events("receipts", &[]);
    Ok(answer.finish())
}

/// New events of the room, waiting for them if need be.
pub(crate) async fn follow(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    from: Option<&str>,
    timeout: Duration,
) -> Result<RawJson, ApiError> {
    app.rooms().access(room_id, caller.user_id()).await?;
    let notifier = app.rooms().store().notifier();
    let now = TimelineToken::at_position(notifier.published());
    let from = token(from, "from")?.unwrap_or(now);
    let deadline = Instant::now() + timeout;
    let room = Watch::new(app, room_id.as_str());
    let shutdown = app.http().shutdown();
    let found = loop {
        // Registered above, so that nothing is missed between this look and the wait.
        let look = page(app, caller, room_id, Some(from), Direction::Forward, MAX_EVENTS).await;
        match look {
            Ok(page) if page.events.is_empty() => {}
            found => break found,
        }
        tokio::select! {
            woken = timeout_at(deadline, room.changed()) => if woken.is_err() {
                break page(app, caller, room_id, Some(from), Direction::Forward, MAX_EVENTS).await;
            },
            () = shutdown.requested() => break Err(
                MatrixError::limit_exceeded(Duration::from_secs(1)).into()
            ),
        }
    };
    let page = found?;
    let chunk = client_events(app, caller, room_id, &page.events).await?;
    let mut answer = body();
    answer.text("start", &from.to_string());
    let last = page.events.last().and_then(|event| event.index);
    answer.text("end", &last.map_or(from, TimelineToken::after).to_string());
    answer.events("chunk", &chunk);
    Ok(answer.finish())
}

async fn page(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    from: Option<TimelineToken>,
    direction: Direction,
    limit: usize,
) -> Result<MessagesPage, ApiError> {
    let request =
        MessagesRequest { from, to: None, direction, limit, filter: TimelineFilter::default() };
    let ignored = ignored(app, caller).await?;
    Ok(app.rooms().messages(room_id, caller.user_id(), &ignored, &request).await?)
}
