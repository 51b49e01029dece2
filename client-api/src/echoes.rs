//! Endpoints whose answer goes before what they made: the device's syncs wait for it.

use axum::response::Response;
use hearth_http::{Handler, Ruma, until_sent};

use crate::{ClientApi, LocalUser};

/// A handler that puts events into rooms: see `hearth_sync`'s `SyncService::unanswered`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnsweredFirst<H>(pub(crate) H);

impl<H, T> Handler<ClientApi, T, LocalUser> for AnsweredFirst<H>
where
    H: Handler<ClientApi, T, LocalUser>,
    T: Send + 'static,
{
    async fn call(self, app: ClientApi, request: Ruma<T, LocalUser>) -> Response {
        let caller = &request.identity;
        let unanswered = app.sync().unanswered(caller.user_id(), caller.device_id());
        until_sent(self.0.call(app, request).await, unanswered)
    }
}
