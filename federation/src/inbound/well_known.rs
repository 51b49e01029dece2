//! Where this server is, told at its own name (SS "Resolving server names").

use hearth_http::{Endpoints, MatrixError, Ruma};
use ruma::api::federation::discovery::discover_homeserver;

use super::Api;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(server)
}

/// `GET /.well-known/matrix/server`
async fn server(
    app: Api,
    _request: Ruma<discover_homeserver::Request>,
) -> Result<discover_homeserver::Response, MatrixError> {
    let delegated = app.federation.config().well_known.clone();
    let delegated =
        delegated.ok_or_else(|| MatrixError::not_found("This name delegates to no other"))?;
    Ok(discover_homeserver::Response::new(delegated))
}
