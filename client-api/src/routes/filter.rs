//! `/user/{userId}/filter`: stored filters (CS "Filtering").

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use ruma::api::client::filter::{create_filter, get_filter};
use serde_json::value::RawValue;

use crate::{ApiError, ClientApi, LocalUser};

/// `POST /_matrix/client/*/user/{userId}/filter`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_filter::v3::Request, LocalUser>,
) -> Result<create_filter::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    // The extractor has checked the definition; what is kept is what the client wrote, so that fields
    // this server does not know yet come back too.
    let filter: Box<RawValue> =
        serde_json::from_slice(&request.json).map_err(|_| MatrixError::bad_json("Not a filter"))?;
    let filter_id = app.users().create_filter(&request.user_id, &filter).await?;
    Ok(create_filter::v3::Response::new(filter_id))
}

/// `GET /_matrix/client/*/user/{userId}/filter/{filterId}`
pub(crate) async fn get(
    app: ClientApi,
    request: Ruma<get_filter::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let filter = app.users().filter(&request.user_id, &request.filter_id).await?;
    let filter = filter.ok_or_else(|| MatrixError::not_found("You have no such filter"))?;
    Ok(RawJson(Bytes::from(Box::<str>::from(filter).into_string())))
}
