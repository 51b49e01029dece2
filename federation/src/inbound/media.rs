//! Content that this server's users have uploaded (SS "Content Repository").

use std::time::Duration;

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_http::{Endpoints, MatrixError, RawResponse, Ruma};
use hearth_media::{Content, ContentUri, Thumbnail};
use http::header;
use rand::{RngExt as _, distr::Alphanumeric};
use ruma::{
    api::federation::authenticated_media::{get_content, get_content_thumbnail},
    http_headers::{ContentDisposition, ContentDispositionType},
};

use super::{Api, Origin, error::ApiError};

/// The longest that a request waits for its upload, whatever the other server says.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// Characters between the parts of an answer: too many for content to have them by accident.
const BOUNDARY_CHARS: usize = 40;

/// The endpoints of this module.
pub(super) fn endpoints() -> Endpoints<Api> {
    Endpoints::new().ruma(download).ruma(thumbnail)
}

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
async fn download(
    api: Api,
    request: Ruma<get_content::v1::Request, Origin>,
) -> Result<RawResponse, ApiError> {
    let get_content::v1::Request { media_id, timeout_ms, .. } = request.body;
    let uri = uri(&api, media_id)?;
    let content = api.federation.media().local_content(&uri, timeout_ms.min(MAX_WAIT)).await?;
    multipart(content)
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
async fn thumbnail(
    api: Api,
    request: Ruma<get_content_thumbnail::v1::Request, Origin>,
) -> Result<RawResponse, ApiError> {
    let request = request.body;
    let uri = uri(&api, request.media_id)?;
    let method = request.method.as_ref();
    let wanted = Thumbnail::new(request.width, request.height, method, request.animated)
        .ok_or_else(|| MatrixError::invalid_param("A thumbnail has a width and a height"))?;
    let wait = request.timeout_ms.min(MAX_WAIT);
    multipart(api.federation.media().local_thumbnail(&uri, wanted, wait).await?)
}

/// The URI of content of this server.
fn uri(api: &Api, media_id: String) -> Result<ContentUri, ApiError> {
    let own_name = api.federation.identity().server_name().to_owned();
    let uri = ContentUri::new(own_name, media_id);
    Ok(uri.ok_or_else(|| MatrixError::invalid_param("This cannot be a media ID"))?)
}

/// The two parts of the answer: an object that says nothing, and the content.
fn multipart(content: Content) -> Result<RawResponse, ApiError> {
    let boundary: String =
        rand::rng().sample_iter(Alphanumeric).take(BOUNDARY_CHARS).map(char::from).collect();
    let disposition = if content.inline {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    let disposition = ContentDisposition::new(disposition).with_filename(content.file_name);
    let before = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
         Content-Type: {}\r\nContent-Disposition: {disposition}\r\n\r\n",
        content.content_type
    );
    let after = format!("\r\n--{boundary}--\r\n");
    let around = u64::try_from(before.len() + after.len()).unwrap_or(u64::MAX);
    let whole = |text: String| stream::iter([Ok(Bytes::from(text))]);
    let body = whole(before).chain(content.body).chain(whole(after));
    let response = Response::builder()
        .header(header::CONTENT_TYPE, format!("multipart/mixed; boundary={boundary}"))
        .header(header::CONTENT_LENGTH, content.bytes.saturating_add(around))
        .body(Body::from_stream(body));
    Ok(RawResponse(response.map_err(|error| MatrixError::internal(&error))?))
}
