//! How previews reach pages of the web.

use std::{io, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hearth_federation::{FederationConfig, discovery::guard::AddressGuard, transport::Limits};
use hearth_media::{ContentStream, PreviewConfig, Web, WebError};
use http::{Request, Response};

use crate::web::LazyClient;

/// Unused connections kept to one page's server: its pictures follow the page.
const MAX_IDLE: usize = 4;

/// Pages over the network.
#[derive(Debug)]
pub(crate) struct Pages {
    client: LazyClient,
}

impl Pages {
    /// Pages in the networks that previews may be made of, with the certificates that federation trusts.
    pub(crate) fn new(trust: FederationConfig, config: PreviewConfig) -> Self {
        let PreviewConfig { allow_networks, deny_networks, .. } = config;
        let guard = AddressGuard::of_setting(allow_networks, "media.previews.allow_networks");
        Self { client: LazyClient::new(trust, guard.denying(deny_networks), true, MAX_IDLE) }
    }
}

#[async_trait]
impl Web for Pages {
    async fn get(
        &self,
        request: Request<()>,
        timeout: Duration,
    ) -> Result<Response<ContentStream>, WebError> {
        let client = self.client.get().await.map_err(WebError)?;
        // Whoever reads it stops where it becomes too much.
        let limits = Limits { timeout, max_bytes: usize::MAX };
        let answer = client.get(request, limits).await;
        let answer = answer.map_err(|error| WebError(error.to_string()))?;
        Ok(answer.map(|body| body.map_err(io::Error::other).boxed()))
    }
}
