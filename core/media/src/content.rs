//! Reading content.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use ruma::UserId;
use tokio::time::timeout;

use crate::{
    ContentUri, Media, MediaError,
    schema::{ContentRow, ITEMS, Origin},
};

/// Bytes in order, some hundred KiB at a time.
pub type ContentStream = BoxStream<'static, Result<Bytes, io::Error>>;

/// An item, ready to be read.
pub struct Content {
    /// How many bytes it has.
    pub bytes: u64,
    /// Its type, which can stand in a header.
    pub content_type: String,
    /// The name that the uploader gave it.
    pub file_name: Option<String>,
    /// May browsers show it in place (CS "Serving inline content")?
    pub inline: bool,
    /// The bytes.
    pub body: ContentStream,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("bytes", &self.bytes)
            .field("content_type", &self.content_type)
            .field("inline", &self.inline)
            .finish_non_exhaustive()
    }
}

/// Requests that wait for uploads at once. Further ones are answered at once that there is none yet.
pub(crate) const MAX_WAITING: usize = 256;

impl Media {
    /// What is behind a URI: of this server, or fetched from another one for this user. Waits so long for what is not
    /// uploaded yet, wherever that is.
    pub async fn content(
        &self,
        user_id: &UserId,
        uri: &ContentUri,
        wait: Duration,
    ) -> Result<Content, MediaError> {
        if uri.server_name() == self.identity().server_name() {
            self.local_content(uri, wait).await
        } else {
            self.remote_content(user_id, uri, wait).await
        }
    }

    /// What is behind a URI of this server.
    pub async fn local_content(
        &self,
        uri: &ContentUri,
        wait: Duration,
    ) -> Result<Content, MediaError> {
        match self.uploaded(uri).await {
            Err(MediaError::NotYetUploaded) => {}
            found => return self.served_and_noted(uri, found?).await,
        }
        let Ok(_place) = self.inner().waiting.try_acquire() else {
            return Err(MediaError::NotYetUploaded);
        };
        let arrives = async {
            let mut arrivals = self.inner().arrivals.subscribe();
            loop {
                match self.uploaded(uri).await {
                    Err(MediaError::NotYetUploaded) => {}
                    found => return found,
                }
                if arrivals.changed().await.is_err() {
                    return Err(MediaError::NotYetUploaded);
                }
            }
        };
        let found = timeout(wait, arrives).await.unwrap_or(Err(MediaError::NotYetUploaded))?;
        self.served_and_noted(uri, found).await
    }

    /// The bytes that a row of this server tells of. What this server fetched itself, for a preview, is kept as long as
    /// it is asked for.
    async fn served_and_noted(
        &self,
        uri: &ContentUri,
        (row, origin): (ContentRow, Origin),
    ) -> Result<Content, MediaError> {
        let content = self.served(uri, row).await?;
        self.note_use(uri, &origin).await?;
        Ok(content)
    }

    /// What is known of the content of an item of this server, and how it came here.
    async fn uploaded(&self, uri: &ContentUri) -> Result<(ContentRow, Origin), MediaError> {
        let row = self.store().get(&ITEMS, &uri.key(), &()).await?.ok_or(MediaError::NotFound)?;
        match (row.content, row.origin) {
            (Some(content), origin) => Ok((content, origin)),
            (None, Origin::Created(_, expires_ms)) if self.now_ms() < expires_ms => {
                Err(MediaError::NotYetUploaded)
            }
            (None, _) => Err(MediaError::NotFound),
        }
    }

    /// The bytes that a row tells of, if they may be seen.
    pub(crate) async fn served(
        &self,
        uri: &ContentUri,
        row: ContentRow,
    ) -> Result<Content, MediaError> {
        if self.is_quarantined(row.hash).await? {
            return Err(MediaError::NotFound);
        }
        let (bytes, body) = self.blobs().read(row.hash).await?.ok_or_else(|| {
            MediaError::Internal(format!("the bytes of {uri} ({}) are lost", row.hash))
        })?;
        if bytes != row.bytes {
            let reason = format!("{uri} has {} bytes, and {bytes} are kept", row.bytes);
            return Err(MediaError::Internal(reason));
        }
        let (content_type, file_name) = (row.content_type, row.file_name);
        Ok(Content { bytes, content_type, file_name, inline: row.inline, body })
    }
}
