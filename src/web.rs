//! The web client that push and previews are plugged into: the one that federation has for addresses that strangers name.

use hearth_federation::{FederationConfig, discovery::guard::AddressGuard, transport::WebClient};
use tokio::sync::OnceCell;

/// A web client, made when it is first needed: reading the certificates that the system trusts takes a while.
#[derive(Debug)]
pub(crate) struct LazyClient {
    trust: FederationConfig,
    guard: AddressGuard,
    allow_http: bool,
    max_idle: usize,
    client: OnceCell<WebClient>,
}

impl LazyClient {
    /// A client that trusts the certificates that federation trusts, and goes where the guard lets it. It keeps so
    /// many unused connections to one server.
    pub(crate) fn new(
        trust: FederationConfig,
        guard: AddressGuard,
        allow_http: bool,
        max_idle: usize,
    ) -> Self {
        Self { trust, guard, allow_http, max_idle, client: OnceCell::new() }
    }

    /// The client, or why it cannot be made; the next caller tries again.
    pub(crate) async fn get(&self) -> Result<&WebClient, String> {
        self.client.get_or_try_init(|| self.make()).await
    }

    async fn make(&self) -> Result<WebClient, String> {
        let (trust, guard) = (self.trust.clone(), self.guard.clone());
        let (allow_http, max_idle) = (self.allow_http, self.max_idle);
        let make = move || WebClient::new(&trust, guard, allow_http, max_idle);
        let ended = tokio::task::spawn_blocking(make).await.map_err(|error| error.to_string())?;
        ended.map_err(|error| error.to_string())
    }
}
