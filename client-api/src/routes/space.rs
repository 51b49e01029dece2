//! `/rooms/{roomId}/hierarchy` (CS "Spaces").

use hearth_http::Ruma;
use hearth_rooms::read::HierarchyRequest;
use ruma::{
    api::client::space::{SpaceHierarchyRoomsChunk, get_hierarchy},
    serde::Raw,
};

use crate::{ApiError, ClientApi, LocalUser, routes::message::limit};

/// Rooms in one answer, if the client does not say.
const DEFAULT_LIMIT: u32 = 50;

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub(crate) async fn hierarchy(
    app: ClientApi,
    request: Ruma<get_hierarchy::v1::Request, LocalUser>,
) -> Result<get_hierarchy::v1::Response, ApiError> {
    let asked = HierarchyRequest {
        from: request.from.clone(),
        limit: limit(request.limit.unwrap_or(DEFAULT_LIMIT.into())),
        max_depth: request.max_depth.map(u64::from),
        suggested_only: request.suggested_only,
    };
    let caller = request.identity.user_id();
    let page = app.rooms().hierarchy(&request.room_id, caller, &asked).await?;
    let rooms = page.rooms.into_iter().map(|room| {
        let children = room.children_state.into_iter().map(Raw::from_json).collect();
        SpaceHierarchyRoomsChunk::new(room.summary, children)
    });
    let mut response = get_hierarchy::v1::Response::new();
    response.rooms = rooms.collect();
    response.next_batch = page.next_batch;
    Ok(response)
}
