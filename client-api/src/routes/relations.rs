//! `/rooms/{roomId}/relations/{eventId}` (CS "Querying child events").

use hearth_http::{RawJson, Ruma};
use hearth_rooms::read::RelationsRequest;
use ruma::{
    RoomId, UInt,
    api::{
        Direction,
        client::relations::{
            get_relating_events, get_relating_events_with_rel_type,
            get_relating_events_with_rel_type_and_event_type,
        },
    },
};

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        events::{body, client_events, ignored},
        message::{direction, limit, token},
    },
};

/// Children in one answer, if the client does not say.
const DEFAULT_LIMIT: u32 = 20;

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
pub(crate) async fn all(
    app: ClientApi,
    request: Ruma<get_relating_events::v1::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let Ruma { body: asked, identity, .. } = request;
    let page = Page {
        from: asked.from.as_deref(),
        to: asked.to.as_deref(),
        dir: asked.dir,
        limit: asked.limit,
        recurse: asked.recurse,
    };
    let request = page.request(asked.event_id.clone(), None, None)?;
    answer(&app, &identity, &asked.room_id, &request).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
pub(crate) async fn of_type(
    app: ClientApi,
    request: Ruma<get_relating_events_with_rel_type::v1::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let Ruma { body: asked, identity, .. } = request;
    let page = Page {
        from: asked.from.as_deref(),
        to: asked.to.as_deref(),
        dir: asked.dir,
        limit: asked.limit,
        recurse: asked.recurse,
    };
    let rel_type = Some(asked.rel_type.to_string());
    let request = page.request(asked.event_id.clone(), rel_type, None)?;
    answer(&app, &identity, &asked.room_id, &request).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub(crate) async fn of_type_and_event_type(
    app: ClientApi,
    request: Ruma<get_relating_events_with_rel_type_and_event_type::v1::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let Ruma { body: asked, identity, .. } = request;
    let page = Page {
        from: asked.from.as_deref(),
        to: asked.to.as_deref(),
        dir: asked.dir,
        limit: asked.limit,
        recurse: asked.recurse,
    };
    let rel_type = Some(asked.rel_type.to_string());
    let event_type = Some(asked.event_type.to_string());
    let request = page.request(asked.event_id.clone(), rel_type, event_type)?;
    answer(&app, &identity, &asked.room_id, &request).await
}

/// What the three requests have in common.
struct Page<'a> {
    from: Option<&'a str>,
    to: Option<&'a str>,
    dir: Direction,
    limit: Option<UInt>,
    recurse: bool,
}

impl Page<'_> {
    fn request(
        &self,
        parent: ruma::OwnedEventId,
        rel_type: Option<String>,
        event_type: Option<String>,
    ) -> Result<RelationsRequest, ApiError> {
        Ok(RelationsRequest {
            parent,
            rel_type,
            event_type,
            from: token(self.from, "from")?,
            to: token(self.to, "to")?,
            direction: direction(self.dir),
            limit: limit(self.limit.unwrap_or(DEFAULT_LIMIT.into())),
            recurse: self.recurse,
        })
    }
}

async fn answer(
    app: &ClientApi,
    caller: &LocalUser,
    room_id: &RoomId,
    request: &RelationsRequest,
) -> Result<RawJson, ApiError> {
    let ignored = ignored(app, caller).await?;
    let page = app.rooms().relations(room_id, caller.user_id(), &ignored, request).await?;
    let chunk = client_events(app, caller, room_id, &page.events).await?;
    let mut answer = body();
    answer.events("chunk", &chunk);
    if let Some(next) = page.next {
        answer.text("next_batch", &next.to_string());
    }
    if let Some(previous) = page.previous {
        answer.text("prev_batch", &previous.to_string());
    }
    if let Some(depth) = page.recursion_depth {
        answer.number("recursion_depth", depth.into());
    }
    Ok(answer.finish())
}
