//! How push reaches its gateways.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_federation::{FederationConfig, discovery::guard::AddressGuard, transport::Limits};
use hearth_push::{Gateway, GatewayAnswer, GatewayError, MAX_PER_GATEWAY, PushConfig};
use url::Url;

use crate::web::LazyClient;

/// Push gateways over the network.
#[derive(Debug)]
pub(crate) struct Gateways {
    client: LazyClient,
}

impl Gateways {
    /// Gateways in the networks that push may go to, with the certificates that federation trusts.
    pub(crate) fn new(trust: FederationConfig, config: PushConfig) -> Self {
        let PushConfig { allow_networks, allow_http, .. } = config;
        let guard = AddressGuard::of_setting(allow_networks, "push.allow_networks");
        // Under load a connection is used again at once: all of them are worth keeping.
        Self { client: LazyClient::new(trust, guard, allow_http, MAX_PER_GATEWAY) }
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
        let client = self.client.get().await.map_err(GatewayError)?;
        let answer = client.post_json(url, body, Limits { timeout, max_bytes }).await;
        let answer = answer.map_err(|error| GatewayError(error.to_string()))?;
        Ok(GatewayAnswer { status: answer.status().as_u16(), body: answer.into_body() })
    }
}
