//! From a configuration to a running server, and back.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use hearth_client_api::{ClientApi, GuestKeeper};
use hearth_federation::{
    Federation, FederationParts,
    outbound::Outbound,
    transport::{HttpTransport, Transport},
};
use hearth_http::{Http, HttpConfigError, Shutdown};
use hearth_types::SystemClock;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    Config, ConfigError,
    admin::{AdminSocket, AdminSocketError, Administered},
    background::Requests,
    gateways::Gateways,
    pages::Pages,
    parts::{OpenError, Parts, StartOptions},
    serve::{self, ListenError, Listeners},
};

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            replace_lost_key: false,
            transport: None,
            background: None,
        }
    }
}

/// Why the server did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The `[http]` section cannot be used.
    #[error(transparent)]
    Http(#[from] HttpConfigError),
    /// A part cannot be opened or closed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An address is taken or not this machine's.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The administration socket cannot be made.
    #[error(transparent)]
    Admin(#[from] AdminSocketError),
}

/// A server that listens. Stop it with [`RunningServer::shutdown`].
#[derive(Debug)]
pub struct RunningServer {
    listeners: Listeners,
    admin: AdminSocket,
    shutdown: Shutdown,
    router: Router,
    federation: Option<Federation>,
    guests: Option<JoinHandle<()>>,
    parts: Parts,
}

/// Opens the store and serves, as configured. Everything is checked and opened before any address is
/// bound.
pub async fn start(config: Config, options: StartOptions) -> Result<RunningServer, StartError> {
    config.validate()?;
    let shutdown = Shutdown::new();
    let http = Http::new(config.http.clone(), Arc::clone(&options.clock), shutdown.clone())?;
    let parts = Parts::open(&config, &options).await?;
    let surfaces = match surfaces(&config, &options, &parts, http).await {
        Ok(surfaces) => surfaces,
        Err(error) => {
            parts.close().await?;
            return Err(error);
        }
    };
    let Surfaces { listeners, admin, router, federation, guests } = surfaces;
    tracing::info!(
        server_name = %config.server.name,
        addresses = ?listeners.addresses(),
        tls_addresses = ?listeners.tls_addresses(),
        "Hearth {} is ready",
        env!("CARGO_PKG_VERSION"),
    );
    let guests = guests.map(|keeper| tokio::spawn(keeper.run(shutdown.clone())));
    Ok(RunningServer { listeners, admin, shutdown, router, federation, guests, parts })
}

/// What the outside reaches, and what reaches outside.
struct Surfaces {
    listeners: Listeners,
    admin: AdminSocket,
    router: Router,
    federation: Option<Federation>,
    guests: Option<GuestKeeper>,
}

/// Opens the addresses, all of them or none, and the administration socket. Last of all starts to
/// speak with other servers, which cannot fail any more.
async fn surfaces(
    config: &Config,
    options: &StartOptions,
    parts: &Parts,
    http: Http,
) -> Result<Surfaces, StartError> {
    let guests = GuestKeeper::open(parts.rooms.clone(), parts.users.clone());
    let guests = guests.await.map_err(OpenError::from)?;
    let federation = federation(config, options, parts).await?;
    let bound = serve::bind(&config.listen).await?;
    let client_api = client_api(config, parts, http.clone());
    let router = router(client_api.clone(), federation.as_ref(), http);
    let administered = Administered { parts: parts.clone(), federation: federation.clone() };
    let admin = AdminSocket::open(&config.admin_socket_path(), administered)?;
    if let Some(federation) = &federation {
        federation.start();
    }
    let gateways = Gateways::new(config.federation.clone(), config.push.clone());
    let requests = Handle::current();
    let foreground =
        options.background.is_some().then(|| Arc::new(Requests(requests.clone())) as _);
    let background = options.background.clone().unwrap_or(requests);
    let started = parts.push.start(Arc::new(gateways), background, foreground).await;
    started.map_err(OpenError::from)?;
    client_api.start_delayed();
    let pages = Pages::new(config.federation.clone(), config.media.previews.clone());
    parts.media.set_web(Arc::new(pages));
    let listeners = bound.serve(&config.listen, router.clone());
    Ok(Surfaces { listeners, admin, router, federation, guests })
}

/// Federation, opened but not started, if the configuration wants it.
pub(crate) async fn federation(
    config: &Config,
    options: &StartOptions,
    parts: &Parts,
) -> Result<Option<Federation>, OpenError> {
    if !config.federation.enabled {
        Outbound::forget(&parts.store).await?;
        return Ok(None);
    }
    let transport: Arc<dyn Transport> = match &options.transport {
        Some(transport) => Arc::clone(transport),
        None => Arc::new(HttpTransport::new(&config.federation)?),
    };
    let federation = Federation::open(FederationParts {
        store: parts.store.clone(),
        identity: Arc::clone(&parts.identity),
        clock: Arc::clone(&options.clock),
        users: parts.users.clone(),
        rooms: parts.rooms.clone(),
        e2ee: parts.e2ee.clone(),
        media: parts.media.clone(),
        transport,
        config: config.federation.clone(),
    });
    Ok(Some(federation.await?))
}

fn client_api(config: &Config, parts: &Parts, http: Http) -> ClientApi {
    ClientApi::new(
        http,
        Arc::clone(&parts.identity),
        Arc::clone(parts.rooms.clock()),
        parts.users.clone(),
        parts.rooms.clone(),
        parts.e2ee.clone(),
        parts.media.clone(),
        parts.sync.clone(),
        parts.push.clone(),
        parts.delayed.clone(),
        config.client.clone(),
    )
}

fn router(client_api: ClientApi, federation: Option<&Federation>, http: Http) -> Router {
    let mut router = hearth_client_api::router(client_api);
    if let Some(federation) = federation {
        router = router.merge(federation.router(http));
    }
    hearth_http::finish(router)
}

impl RunningServer {
    /// The addresses that the server listens on, with their real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listeners.addresses()
    }

    /// The addresses on which it speaks TLS, with their real ports.
    #[must_use]
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        self.listeners.tls_addresses()
    }

    /// The first of [`Self::addresses`], or of [`Self::tls_addresses`] if there are no others.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let first = self.addresses().iter().chain(self.tls_addresses()).next().copied();
        // A configuration without addresses does not pass its checks.
        first.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Reads the certificate again, as upon SIGHUP. One that cannot be used is logged, and the old
    /// one stays.
    pub async fn reload_certificate(&self) {
        self.listeners.reload_certificate().await;
    }

    /// All endpoints as a service, for callers in the same process: requests reach it without a
    /// network. It holds the server's parts: drop it before [`Self::shutdown`] returns.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Stops: answers waiting syncs, lets running requests end, stops speaking with other servers,
    /// writes what is only in memory and closes the store.
    pub async fn shutdown(self) -> Result<(), StartError> {
        self.shutdown.request();
        // Who types is not stored: the last thing that clients hear of it is that nobody does.
        self.parts.users.stop_all_typing();
        self.parts.sync.close();
        self.listeners.close().await;
        self.admin.close().await;
        drop(self.router);
        if let Some(guests) = self.guests
            && let Err(error) = guests.await
        {
            tracing::error!(%error, "who sees guests out had failed");
        }
        if let Some(federation) = self.federation {
            federation.close().await;
        }
        self.parts.close().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn starts_again_in_the_same_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = folder.path().join("data");
        config.listen.addresses = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        config.federation.enabled = false;
        for _ in 0..3 {
            let running = start(config.clone(), StartOptions::default()).await.unwrap();
            running.shutdown().await.unwrap();
        }
    }
}
