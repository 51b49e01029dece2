//! What this crate asks of the web: declared here, implemented and plugged in by the binary.

use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response};

use crate::ContentStream;

/// Why nothing was read; the text says it, for the log only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WebError(pub String);

/// A way to pages of the web.
#[async_trait]
pub trait Web: Send + Sync + 'static {
    /// Asks once for what is at this URL, which is `http` or `https`. Follows no redirects, and decodes nothing.
    ///
    /// Whoever implements it connects only to addresses that strangers may have this server connect to, judged after the
    /// name was resolved, and to the very address that was judged.
    ///
    /// The body must end within the time, too. It may be dropped before its end.
    async fn get(
        &self,
        request: Request<()>,
        timeout: Duration,
    ) -> Result<Response<ContentStream>, WebError>;
}
