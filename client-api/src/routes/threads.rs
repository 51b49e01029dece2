//! `/rooms/{roomId}/threads` (CS "Threading").

use hearth_http::{MatrixError, RawJson, Ruma};
use hearth_rooms::read::ThreadsRequest;
use ruma::api::client::threads::get_threads::{self, v1::IncludeThreads};

use crate::{
    ApiError, ClientApi, LocalUser,
    routes::{
        events::{body, client_events, ignored},
        message::{limit, token},
    },
};

/// Threads in one answer, if the client does not say.
const DEFAULT_LIMIT: u32 = 20;

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
pub(crate) async fn list(
    app: ClientApi,
    request: Ruma<get_threads::v1::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    let (caller, room_id) = (&request.identity, &request.room_id);
    let participated = match request.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(MatrixError::invalid_param("include is all or participated").into()),
    };
    let asked = ThreadsRequest {
        participated,
        from: token(request.from.as_deref(), "from")?,
        limit: limit(request.limit.unwrap_or(DEFAULT_LIMIT.into())),
    };
    let ignored = ignored(&app, caller).await?;
    let page = app.rooms().threads(room_id, caller.user_id(), &ignored, &asked).await?;
    let chunk = client_events(&app, caller, room_id, &page.roots).await?;
    let mut answer = body();
    answer.events("chunk", &chunk);
    if let Some(next) = page.next {
        answer.text("next_batch", &next.to_string());
    }
    Ok(answer.finish())
}
