//! What only application services may ask. This server has none yet, so that nobody who asks is one.

use axum::extract::State;
use hearth_http::{Caller, MatrixError};

use crate::{ApiError, ClientApi, LocalUser};

/// `POST /_matrix/client/v1/appservice/{appserviceId}/ping` and
/// `PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}`
pub(crate) async fn refuse(
    State(_app): State<ClientApi>,
    _caller: Caller<LocalUser>,
) -> Result<(), ApiError> {
    Err(MatrixError::forbidden("This is for application services").into())
}
