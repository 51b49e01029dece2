//! What this crate asks of other servers: declared here, implemented by the federation crate, plugged in by the
//! binary. A server without federation has none.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{About, ContentStream, ContentUri, Media, MediaError};

/// Content as another server gives it.
pub struct RemoteContent {
    /// What it says of it.
    pub about: About,
    /// How many bytes it says there are.
    pub announced_bytes: Option<u64>,
    /// The bytes. The stream ends without an error only if all of them came.
    pub body: ContentStream,
}

impl fmt::Debug for RemoteContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteContent")
            .field("about", &self.about)
            .field("announced_bytes", &self.announced_bytes)
            .finish_non_exhaustive()
    }
}

/// Why another server did not give content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteMediaError {
    /// It has no such content.
    #[error("it has no such content")]
    NotFound,
    /// It is not uploaded there yet.
    #[error("it is not uploaded there yet")]
    NotYetUploaded,
    /// It is larger than it may be.
    #[error("it is too large")]
    TooLarge,
    /// Anything else; the text says what.
    #[error("{0}")]
    Failed(String),
}

/// Content of other servers.
#[async_trait]
pub trait RemoteMedia: Send + Sync + 'static {
    /// Asks the server of the URI for its content, of at most so many bytes, and to wait so long for what is not
    /// uploaded yet (SS `timeout_ms`). Answers when the content begins. All of it must have come within `timeout`; whoever
    /// reads it sees to it that it comes on.
    async fn fetch(
        &self,
        uri: &ContentUri,
        max_bytes: u64,
        wait: Duration,
        timeout: Duration,
    ) -> Result<RemoteContent, RemoteMediaError>;
}

impl From<RemoteMediaError> for MediaError {
    fn from(error: RemoteMediaError) -> Self {
        match error {
            RemoteMediaError::NotFound => Self::NotFound,
            RemoteMediaError::NotYetUploaded => Self::NotYetUploaded,
            RemoteMediaError::TooLarge => Self::RemoteTooLarge,
            RemoteMediaError::Failed(reason) => Self::Remote(reason),
        }
    }
}

impl Media {
    /// Plugs in the way to other servers.
    pub fn set_remote(&self, remote: Arc<dyn RemoteMedia>) {
        *self.inner().remote.write() = Some(remote);
    }

    /// Takes it out again when the server stops: what is plugged in may hold this in its turn.
    pub fn unset_remote(&self) {
        let taken = self.inner().remote.write().take();
        drop(taken);
    }

    /// The way to other servers, if there is one.
    pub(crate) fn remote(&self) -> Option<Arc<dyn RemoteMedia>> {
        self.inner().remote.read().clone()
    }
}
