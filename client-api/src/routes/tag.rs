//! `/user/{userId}/rooms/{roomId}/tags` (CS "Room Tagging").

use bytes::Bytes;
use hearth_http::{MatrixError, RawJson, Ruma};
use ruma::api::client::tag::{create_tag, delete_tag, get_tags};
use serde_json::{Map, Value, json};

use crate::{ApiError, ClientApi, LocalUser};

/// `GET /_matrix/client/*/user/{userId}/rooms/{roomId}/tags`
pub(crate) async fn list(
    app: ClientApi,
    request: Ruma<get_tags::v3::Request, LocalUser>,
) -> Result<RawJson, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let tags = app.users().tags(&request.user_id, &request.room_id).await?;
    Ok(RawJson(Bytes::from(json!({ "tags": tags }).to_string())))
}

/// `PUT /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_tag::v3::Request, LocalUser>,
) -> Result<create_tag::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    let info: Map<String, Value> =
        serde_json::from_slice(&request.json).map_err(|_| MatrixError::bad_json("Not a tag"))?;
    app.users().set_tag(&request.user_id, &request.room_id, &request.tag, info).await?;
    Ok(create_tag::v3::Response::new())
}

/// `DELETE /_matrix/client/*/user/{userId}/rooms/{roomId}/tags/{tag}`
pub(crate) async fn delete(
    app: ClientApi,
    request: Ruma<delete_tag::v3::Request, LocalUser>,
) -> Result<delete_tag::v3::Response, ApiError> {
    request.identity.must_be(&request.user_id)?;
    app.users().delete_tag(&request.user_id, &request.room_id, &request.tag).await?;
    Ok(delete_tag::v3::Response::new())
}
