//! Content of other servers' users (SS "Content Repository").

use std::{io, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hearth_media::{
    About, ContentStream, ContentUri, RemoteContent, RemoteMedia, RemoteMediaError,
    multipart::{self, Found},
};
use http::{HeaderMap, Request, Response, header};
use ruma::api::federation::authenticated_media::get_content;
use url::Url;

use super::Remote;
use crate::{
    RemoteError,
    transport::{BodyStream, Limits, TransportError},
};

/// Bytes of an answer beside the content: headers of the parts, and what stands before the first.
const ENVELOPE_BYTES: usize = 256 * 1024;

#[async_trait]
impl RemoteMedia for Remote {
    async fn fetch(
        &self,
        uri: &ContentUri,
        max_bytes: u64,
        wait: Duration,
        timeout: Duration,
    ) -> Result<RemoteContent, RemoteMediaError> {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let limits = Limits { timeout, max_bytes: max_bytes.saturating_add(ENVELOPE_BYTES) };
        match self.media_now(uri, wait, limits).await {
            Err(RemoteError::Matrix { errcode, .. }) if errcode == "M_UNRECOGNIZED" => {
                self.media_of_old(uri, wait, limits).await.map_err(|error| failure(&error))
            }
            Err(error) => Err(failure(&error)),
            Ok(answer) => {
                let kind = header_text(answer.headers(), &header::CONTENT_TYPE);
                let boundary = multipart::boundary(kind).ok_or_else(|| {
                    RemoteMediaError::Failed("its answer has no parts".to_owned())
                })?;
                match multipart::content(&boundary, body_of(answer)).await? {
                    Found::Content(about, body) => {
                        Ok(RemoteContent { about, announced_bytes: None, body })
                    }
                    Found::Location(location) => self.elsewhere(uri, &location, limits).await,
                }
            }
        }
    }
}

impl Remote {
    /// `GET /_matrix/federation/v1/media/download/{mediaId}`
    async fn media_now(
        &self,
        uri: &ContentUri,
        wait: Duration,
        limits: Limits,
    ) -> Result<Response<BodyStream>, RemoteError> {
        let mut request = get_content::v1::Request::new(uri.media_id().to_owned());
        request.timeout_ms = wait;
        self.federation().client().open(uri.server_name(), request, limits).await
    }

    /// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`, of servers that know nothing newer. They must have
    /// it themselves, so that nobody is sent in circles.
    async fn media_of_old(
        &self,
        uri: &ContentUri,
        wait: Duration,
        limits: Limits,
    ) -> Result<RemoteContent, RemoteError> {
        let (server, id, wait_ms) = (uri.server_name(), uri.media_id(), wait.as_millis());
        let query = format!("allow_remote=false&timeout_ms={wait_ms}");
        let path = format!("/_matrix/media/v3/download/{server}/{id}?{query}");
        let request = Request::get(path).body(Bytes::new());
        let request = request.map_err(|error| RemoteError::BadAnswer {
            server: server.to_owned(),
            reason: format!("the request cannot be written: {error}"),
        })?;
        let answer = self.federation().client().open_written(server, request, limits).await?;
        Ok(plain(answer))
    }

    /// What the server says is to be found at this address.
    async fn elsewhere(
        &self,
        uri: &ContentUri,
        location: &str,
        limits: Limits,
    ) -> Result<RemoteContent, RemoteMediaError> {
        let failed = |reason: String| RemoteMediaError::Failed(reason);
        let url = Url::parse(location).map_err(|_| failed("its Location is no URL".to_owned()))?;
        let client = self.federation().client();
        let answer = client.fetch(uri.server_name(), &url, limits).await;
        let answer = answer.map_err(|error| failure(&error))?;
        if !answer.status().is_success() {
            return Err(failed(format!("its Location answers {}", answer.status())));
        }
        Ok(plain(answer))
    }
}

/// Content that is the whole body of an answer.
fn plain(answer: Response<BodyStream>) -> RemoteContent {
    let headers = answer.headers();
    let disposition = headers.get(header::CONTENT_DISPOSITION);
    let length = header_text(headers, &header::CONTENT_LENGTH).parse().ok();
    let about = About::of(
        header_text(headers, &header::CONTENT_TYPE),
        disposition.map_or(&[], |value| value.as_bytes()),
    );
    RemoteContent { about, announced_bytes: length, body: body_of(answer) }
}

fn body_of(answer: Response<BodyStream>) -> ContentStream {
    answer.into_body().map_err(io::Error::other).boxed()
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn failure(error: &RemoteError) -> RemoteMediaError {
    match error {
        RemoteError::Matrix { errcode, .. } if errcode == "M_NOT_YET_UPLOADED" => {
            RemoteMediaError::NotYetUploaded
        }
        RemoteError::Matrix { errcode, .. } if errcode == "M_TOO_LARGE" => {
            RemoteMediaError::TooLarge
        }
        RemoteError::Matrix { status, .. } if *status == http::StatusCode::NOT_FOUND => {
            RemoteMediaError::NotFound
        }
        RemoteError::Transport(TransportError::TooLarge(_)) => RemoteMediaError::TooLarge,
        other => RemoteMediaError::Failed(other.to_string()),
    }
}
