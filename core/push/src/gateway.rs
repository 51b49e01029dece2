//! How push gateways are reached: declared here, plugged in by the binary.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

/// A whole answer of a gateway.
#[derive(Clone, Debug)]
pub struct GatewayAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Why there is no whole answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct GatewayError(pub String);

/// A way to speak to push gateways. Refuses addresses that are private or loopback, unless they are allowed;
/// follows no redirects.
#[async_trait]
pub trait Gateway: Send + Sync + 'static {
    /// Posts a body of JSON, and reads the whole answer of at most so many bytes within the time.
    async fn post(
        &self,
        url: &Url,
        body: Bytes,
        timeout: Duration,
        max_bytes: usize,
    ) -> Result<GatewayAnswer, GatewayError>;
}
