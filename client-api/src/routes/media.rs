//! `/_matrix/media/*/upload`, `/_matrix/client/v1/media/*`: what users upload (CS "Content repository").
//!
//! The download paths without authentication are frozen, as the specification asks since v1.12. This server never
//! served them: whatever it has was uploaded after the freeze, so that they know nothing.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, BodyDataStream},
    extract::{Path, Request, State, rejection::PathRejection},
};
use futures_util::StreamExt as _;
use hearth_http::{ApiState as _, Caller, Class, Lane, MatrixError, RawResponse, Ruma};
use hearth_media::{About, Content, ContentUri, Thumbnail, Upload};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, UInt,
    api::client::{
        authenticated_media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
        },
        media::{self, create_mxc_uri},
    },
    http_headers::{ContentDisposition, ContentDispositionType},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{ApiError, ClientApi, LocalUser};

/// How long the rest of a refused upload is read and dropped. Closing at once would make many clients see a broken
/// connection instead of the refusal.
const LINGER: Duration = Duration::from_secs(5);

/// The longest that a download waits for its upload, whatever the client says.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// What browsers may do with content: the policy that the specification recommends.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
     style-src 'unsafe-inline'; object-src 'self';",
);
/// Content never changes; it is kept by whoever asked for it, and by nobody in between.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("private, max-age=86400, immutable");

/// `POST /_matrix/media/*/upload`, streamed: the body is never in memory as a whole.
pub(crate) async fn upload(
    State(app): State<ClientApi>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let uri = take(&app, None, request).await?;
    Ok(Json(json!({ "content_uri": uri.to_mxc() })))
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`, streamed as well.
pub(crate) async fn upload_to(
    State(app): State<ClientApi>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let Path((server_name, media_id)) =
        path.map_err(|_| MatrixError::invalid_param("The path cannot be decoded"))?;
    let server_name = OwnedServerName::try_from(server_name)
        .map_err(|_| MatrixError::invalid_param("This cannot be a server name"))?;
    take(&app, Some(uri(server_name, media_id)?), request).await?;
    Ok(Json(json!({})))
}

/// `POST /_matrix/media/v1/create`
pub(crate) async fn create(
    app: ClientApi,
    request: Ruma<create_mxc_uri::v1::Request, LocalUser>,
) -> Result<create_mxc_uri::v1::Response, ApiError> {
    let user_id = request.identity.may_write()?.user_id();
    let created = app.media().create(user_id).await?;
    let mut response = create_mxc_uri::v1::Response::new(created.uri.to_mxc());
    let expires_at = UInt::new_saturating(created.unused_expires_at_ms);
    response.unused_expires_at = Some(MilliSecondsSinceUnixEpoch(expires_at));
    Ok(response)
}

/// Takes the body of a request as content, to a URI that was made for it or to one of its own.
async fn take(
    app: &ClientApi,
    uri: Option<ContentUri>,
    request: Request,
) -> Result<ContentUri, ApiError> {
    let (head, body) = request.into_parts();
    let _place = app.http().admit(Lane::Short)?;
    let caller: Caller<LocalUser> = Caller::of(app, &head, Class::Upload).await?;
    let user_id = caller.session.may_write()?.user_id();
    let mut body = body.into_data_stream();
    let announced = announced_bytes(&head.headers);
    let received = match app.media().upload(user_id, uri, about(&head), announced).await {
        Ok(upload) => receive(app, &mut body, upload).await,
        Err(error) => Err(error.into()),
    };
    match received {
        Ok(upload) => Ok(upload.finish().await?),
        Err(error) => {
            let error = MatrixError::from(error);
            if error.status() != StatusCode::REQUEST_TIMEOUT {
                drop_rest(&head.headers, body).await;
            }
            Err(error.into())
        }
    }
}

/// `GET /_matrix/client/v1/media/config`
pub(crate) async fn config(
    app: ClientApi,
    _request: Ruma<get_media_config::v1::Request, LocalUser>,
) -> Result<get_media_config::v1::Response, ApiError> {
    Ok(get_media_config::v1::Response::new(max_upload_bytes(&app)))
}

/// `GET /_matrix/media/*/config`
#[expect(deprecated, reason = "clients still ask here")]
pub(crate) async fn old_config(
    app: ClientApi,
    _request: Ruma<media::get_media_config::v3::Request, LocalUser>,
) -> Result<media::get_media_config::v3::Response, ApiError> {
    Ok(media::get_media_config::v3::Response::new(max_upload_bytes(&app)))
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}`
pub(crate) async fn download(
    app: ClientApi,
    request: Ruma<get_content::v1::Request, LocalUser>,
) -> Result<RawResponse, ApiError> {
    let get_content::v1::Request { server_name, media_id, timeout_ms, .. } = request.body;
    let (user_id, uri) = (request.identity.user_id(), uri(server_name, media_id)?);
    let content = app.media().content(user_id, &uri, timeout_ms.min(MAX_WAIT)).await?;
    let name = content.file_name.clone();
    served(content, name)
}

/// `GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}`
pub(crate) async fn download_as(
    app: ClientApi,
    request: Ruma<get_content_as_filename::v1::Request, LocalUser>,
) -> Result<RawResponse, ApiError> {
    let get_content_as_filename::v1::Request {
        server_name, media_id, filename, timeout_ms, ..
    } = request.body;
    let (user_id, uri) = (request.identity.user_id(), uri(server_name, media_id)?);
    let content = app.media().content(user_id, &uri, timeout_ms.min(MAX_WAIT)).await?;
    served(content, Some(filename))
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
pub(crate) async fn thumbnail(
    app: ClientApi,
    request: Ruma<get_content_thumbnail::v1::Request, LocalUser>,
) -> Result<RawResponse, ApiError> {
    let (identity, request) = (request.identity, request.body);
    let uri = uri(request.server_name, request.media_id)?;
    let method = request.method.as_ref();
    let wanted = Thumbnail::new(request.width, request.height, method, request.animated)
        .ok_or_else(|| MatrixError::invalid_param("A thumbnail has a width and a height"))?;
    let wait = request.timeout_ms.min(MAX_WAIT);
    let content = app.media().thumbnail(identity.user_id(), &uri, wanted, wait).await?;
    let name = content.file_name.clone();
    served(content, name)
}

/// `GET /_matrix/media/*/download/{serverName}/{mediaId}`
#[expect(deprecated, reason = "the paths that are frozen")]
pub(crate) async fn old_download(
    _app: ClientApi,
    _request: Ruma<media::get_content::v3::Request>,
) -> Result<RawResponse, ApiError> {
    Err(frozen())
}

/// `GET /_matrix/media/*/download/{serverName}/{mediaId}/{fileName}`
#[expect(deprecated, reason = "the paths that are frozen")]
pub(crate) async fn old_download_as(
    _app: ClientApi,
    _request: Ruma<media::get_content_as_filename::v3::Request>,
) -> Result<RawResponse, ApiError> {
    Err(frozen())
}

/// `GET /_matrix/media/*/thumbnail/{serverName}/{mediaId}`
#[expect(deprecated, reason = "the paths that are frozen")]
pub(crate) async fn old_thumbnail(
    _app: ClientApi,
    _request: Ruma<media::get_content_thumbnail::v3::Request>,
) -> Result<RawResponse, ApiError> {
    Err(frozen())
}

fn frozen() -> ApiError {
    MatrixError::not_found("Content is served at /_matrix/client/v1/media only").into()
}

fn max_upload_bytes(app: &ClientApi) -> UInt {
    UInt::new_saturating(app.media().config().max_upload_bytes)
}

fn uri(server_name: OwnedServerName, media_id: String) -> Result<ContentUri, MatrixError> {
    ContentUri::new(server_name, media_id)
        .ok_or_else(|| MatrixError::invalid_param("This cannot be a media ID"))
}

/// What the request says of the content that it brings.
fn about(head: &Parts) -> About {
    let query = head.uri.query().unwrap_or_default();
    let file_name = url::form_urlencoded::parse(query.as_bytes())
        .find_map(|(name, value)| (name == "filename").then(|| value.into_owned()));
    let content_type = head.headers.get(header::CONTENT_TYPE);
    About {
        content_type: content_type.and_then(|kind| kind.to_str().ok()).map(ToOwned::to_owned),
        file_name: file_name.filter(|name| !name.is_empty()),
    }
}

fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads the body to its end into the upload, as long as it comes on and does not take too long altogether.
async fn receive(
    app: &ClientApi,
    body: &mut BodyDataStream,
    mut upload: Upload,
) -> Result<Upload, ApiError> {
    let late = |_| {
        MatrixError::bad_request("The upload did not arrive in time")
            .with_status(StatusCode::REQUEST_TIMEOUT)
    };
    let body_timeout = app.http().config().body_timeout();
    let received = async {
        while let Some(chunk) = timeout(body_timeout, body.next()).await.map_err(late)? {
            let chunk = chunk.map_err(|_| MatrixError::bad_request("The upload was cut short"))?;
            upload.write(chunk).await?;
        }
        Ok::<_, ApiError>(upload)
    };
    timeout(app.media().config().upload_timeout(), received).await.map_err(late)?
}

/// Reads what is still to come of a refused upload, for a moment. Who waits to be asked for it is not asked.
async fn drop_rest(headers: &HeaderMap, mut body: BodyDataStream) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    if timeout(LINGER, rest).await.is_err() {
        tracing::debug!("gave up on the rest of a refused upload");
    }
}

/// The content as it is served, under this name.
fn served(content: Content, file_name: Option<String>) -> Result<RawResponse, ApiError> {
    let disposition = if content.inline {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    let disposition = ContentDisposition::new(disposition).with_filename(file_name);
    let response = Response::builder()
        .header(header::CONTENT_TYPE, content.content_type)
        .header(header::CONTENT_LENGTH, content.bytes)
        .header(header::CONTENT_DISPOSITION, disposition.to_string())
        .header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header("Cross-Origin-Resource-Policy", "cross-origin")
        .header(header::CACHE_CONTROL, CACHE_CONTROL)
        .body(Body::from_stream(content.body));
    Ok(RawResponse(response.map_err(|error| MatrixError::internal(&error))?))
}
