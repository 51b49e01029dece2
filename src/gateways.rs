//! How push reaches its gateways: over the web client that federation has for addresses that strangers name.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_federation::{
    FederationConfig, FederationError,
    discovery::guard::AddressGuard,
    transport::{Limits, WebClient},
};
use hearth_push::{Gateway, GatewayAnswer, GatewayError, PushConfig};
use tokio::sync::OnceCell;
use url::Url;

/// Push gateways over the network.
#[derive(Debug)]
pub(crate) struct Gateways {
    trust: FederationConfig,
    config: PushConfig,
    /// Made for the first push: reading the certificates that the system trusts takes a while.
    client: OnceCell<WebClient>,
}

impl Gateways {
    /// Gateways in the networks that push may go to, with the certificates that federation trusts.
    pub(crate) fn new(trust: FederationConfig, config: PushConfig) -> Self {
        Self { trust, config, client: OnceCell::new() }
    }

    async fn make_client(&self) -> Result<WebClient, GatewayError> {
        let (trust, config) = (self.trust.clone(), self.config.clone());
        let make = move || {
            let PushConfig { allow_networks, allow_http, .. } = config;
            let guard = AddressGuard::of_setting(allow_networks, "push.allow_networks");
            WebClient::new(&trust, guard, allow_http)
        };
        let ended = tokio::task::spawn_blocking(make).await;
        let client: Result<WebClient, FederationError> =
            ended.map_err(|error| GatewayError(error.to_string()))?;
        client.map_err(|error| GatewayError(error.to_string()))
    }
}

#[async_trait]
impl Gateway for Gateways {
    async fn post(
        &self,
        url: &Url,
        body: Bytes,
        timeout: Duration,
        max_bytes: usize,
    ) -> Result<GatewayAnswer, GatewayError> {
        let client = self.client.get_or_try_init(|| self.make_client()).await?;
        let answer = client.post_json(url, body, Limits { timeout, max_bytes }).await;
        let answer = answer.map_err(|error| GatewayError(error.to_string()))?;
        Ok(GatewayAnswer { status: answer.status().as_u16(), body: answer.into_body() })
    }
}
