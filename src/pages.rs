//! How previews reach pages of the web: over the web client that federation has for addresses that strangers name.

use std::{io, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hearth_federation::{
    FederationConfig, FederationError,
    discovery::guard::AddressGuard,
    transport::{Limits, WebClient},
};
use hearth_media::{ContentStream, PreviewConfig, Web, WebError};
use http::{Request, Response};
use tokio::sync::OnceCell;

/// Pages over the network.
#[derive(Debug)]
pub(crate) struct Pages {
    trust: FederationConfig,
    config: PreviewConfig,
    /// Made for the first preview: reading the certificates that the system trusts takes a while.
    client: OnceCell<WebClient>,
}

impl Pages {
    /// Pages in the networks that previews may be made of, with the certificates that federation trusts.
    pub(crate) fn new(trust: FederationConfig, config: PreviewConfig) -> Self {
        Self { trust, config, client: OnceCell::new() }
    }

    async fn make_client(&self) -> Result<WebClient, WebError> {
        let (trust, config) = (self.trust.clone(), self.config.clone());
        let make = move || {
            let PreviewConfig { allow_networks, deny_networks, .. } = config;
            let setting = "media.previews.allow_networks";
            let guard = AddressGuard::of_setting(allow_networks, setting).denying(deny_networks);
            WebClient::new(&trust, guard, true)
        };
        let ended = tokio::task::spawn_blocking(make).await;
        let client: Result<WebClient, FederationError> =
            ended.map_err(|error| WebError(error.to_string()))?;
        client.map_err(|error| WebError(error.to_string()))
    }
}

#[async_trait]
impl Web for Pages {
    async fn get(
        &self,
        request: Request<()>,
        timeout: Duration,
    ) -> Result<Response<ContentStream>, WebError> {
        let client = self.client.get_or_try_init(|| self.make_client()).await?;
        // Whoever reads it stops where it becomes too much.
        let limits = Limits { timeout, max_bytes: usize::MAX };
        let answer = client.get(request, limits).await;
        let answer = answer.map_err(|error| WebError(error.to_string()))?;
        Ok(answer.map(|body| body.map_err(io::Error::other).boxed()))
    }
}
