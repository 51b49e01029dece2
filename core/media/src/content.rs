//! Reading content.

use std::{fmt, io};

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::{ContentUri, Media, MediaError, schema::ITEMS};

/// Bytes in order, at most [`PART_BYTES`](crate::PART_BYTES) at a time.
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

impl Media {
    /// What is behind a URI.
    pub async fn content(&self, uri: &ContentUri) -> Result<Content, MediaError> {
        let row = self.store().get(&ITEMS, &uri.key(), &()).await?;
        let row = row.ok_or(MediaError::NotFound)?.content;
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
